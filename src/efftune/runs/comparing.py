"""Finished runs side by side."""

from collections.abc import Sequence
from pathlib import Path

from efftune.errors import UsageError
from efftune.evaluation import comparison, learning_curve
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
        UsageError: fewer than two runs, one path instead of several, a missing folder or an unknown
            split.
        DataError: a folder is not a finished run, or the runs have no picture in common.
    """
    if isinstance(runs, str | Path | Run):
        raise UsageError(
            "compare takes a list of two or more runs: efftune.compare([first, other])."
        )
    loaded = [each if isinstance(each, Run) else Run.load(each) for each in runs]
    for each in loaded:
        loading.require_pictures(each.folder, each.record)
    result = comparison.compare([_compared(each) for each in loaded], split)
    if out is not None:
        comparison_plot.draw(result, files.output_path(out))
    return result


def _compared(run: Run) -> ComparedRun:
    summary, evaluation = run.summary, run.evaluation
    curve = evaluation.learning_curve if evaluation.cross_validation else None
    gain = learning_curve.gain_to_all(curve) if curve else 0.0
    return ComparedRun(run.folder, summary["model"], summary["recipe"], summary["seconds"], gain)
