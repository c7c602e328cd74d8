"""`efftune check`: the contents and problems of a source. It changes nothing in the source."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efftune.data import inspection, near_duplicates, splitting
from efftune.data.examples import Examples
from efftune.data.inspection import Finding
from efftune.data.sources import discovery
from efftune.data.sources.table_columns import Columns
from efftune.errors import DataError, UsageError
from efftune.report import plots
from efftune.system import files
from efftune.system.progress import OnProgress, Timer, showing
from efftune.system.text import counted


@dataclass(frozen=True, repr=False)
class Check:
    """The result of checking a source.

    Attributes:
        examples: every file of the source, whether used or set aside.
        numbers: pictures by class and split, sizes and formats.
        findings: problems first, then notes.
    """

    examples: Examples
    numbers: dict[str, Any]
    findings: tuple[Finding, ...]

    def __repr__(self) -> str:
        """The numbers of pictures, classes and problems."""
        return f"Check({self.examples.source!r}: {self.counts}, {len(self.problems):,} problems)"

    @property
    def counts(self) -> str:
        """The numbers of pictures and classes, in words."""
        classes = counted(len(self.numbers["classes"]), "class", "classes")
        return f"{counted(self.numbers['pictures'], 'picture')} of {classes}"

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that should be fixed."""
        return tuple(each for each in self.findings if each.is_problem)

    def to_dict(self) -> dict[str, Any]:
        """The output of `efftune check --json`."""
        findings = [{**asdict(each), "problem": each.is_problem} for each in self.findings]
        kinds = Counter(each.kind for each in self.findings)
        source = {"source": self.examples.source}
        return source | self.numbers | {"kinds": dict(kinds), "findings": findings}


def check(
    source: str | Path,
    *,
    out: str | Path | None = None,
    columns: Columns = Columns(),  # noqa: B008  (frozen)
    on_progress: OnProgress = "auto",
) -> Check:
    """Check the files, classes, duplicates and splits of a source.

    Args:
        source: as for `train`.
        out: a folder for `findings.csv` and plots: `samples.png` (of each class),
            `augmented.png` (augmented views of one picture), `sizes.png`, `classes.png` and
            `duplicates.png`. It is created if it does not exist.
        columns: the column names of a table.
        on_progress: as for `train`.

    Raises:
        UsageError: the source does not exist, or `out` cannot be written to.
        DataError: the source cannot be read, or contains no file.
    """
    with showing(on_progress) as report:
        timer = Timer(report)
        with timer.phase("find"):
            examples = discovery.find(source, timer.on_progress, columns)
        # After the source is read, in which it may lie.
        folder = None if out is None else _writable(files.output_path(out))
        if not examples.rows:
            raise DataError(f"{examples.source} is empty: put class folders there.")
        with timer.phase("inspect"):
            examples, measurements, thumbnails = inspection.inspect(examples, timer.count)
        rows = [row for row in examples.rows if row.usable]
        with timer.phase("compare"):
            pairs = near_duplicates.pairs(
                rows, measurements, thumbnails, examples.depth, timer.count
            )
        findings = splitting.findings(examples, measurements, pairs)
        findings.sort(key=lambda each: not each.is_problem)
        result = Check(examples, inspection.described(examples, measurements), tuple(findings))
        if folder is not None:
            with timer.phase("plots"):
                files.write(folder / "findings.csv", inspection.to_csv(findings))
                plots.draw_source(folder, rows, measurements, pairs, examples.depth)
    return result


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot create the folder {folder}: {error.strerror}.") from None
    return folder
