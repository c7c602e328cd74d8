"""Finished runs side by side."""

from collections.abc import Sequence
from pathlib import Path

from efftune.evaluation import comparison
from efftune.evaluation.comparison import ComparedRun, Comparison
from efftune.report import comparison_plot
from efftune.runs import loading
from efftune.runs.run import Run
from efftune.system import files


def compare(
    runs: Sequence[str | Path | Run], split: str = "test", *, out: str | Path | None = None
) -> Comparison:
    """Compare runs on the pictures that all of them were evaluated on.

    Args:
        runs: two or more runs or run folders; the first is the baseline for the others.
        split: `test` or `val`.
        out: the path of a PNG to write, accuracy against training seconds.

    Raises:
        UsageError: fewer than two runs, a missing folder or an unknown split.
        DataError: a folder is not a finished run, or the runs have no picture in common.
    """
    loaded = [each if isinstance(each, Run) else Run.load(each) for each in runs]
    for each in loaded:
        loading.require_pictures(each.folder, each.record)
    summaries = [(each.folder, each.summary) for each in loaded]
    result = comparison.compare(
        [
            ComparedRun(folder, summary["model"], summary["recipe"], summary["seconds"])
            for folder, summary in summaries
        ],
        split,
    )
    if out is not None:
        comparison_plot.draw(result, files.output_path(out))
    return result
