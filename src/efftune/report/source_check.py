"""`efftune check`: what a source contains, and what is wrong with it. The source is not changed."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efftune.data import inspection, near_duplicates, splitting
from efftune.data.examples import Examples
from efftune.data.inspection import Finding
from efftune.data.sources import discovery
from efftune.data.sources.tables import Columns
from efftune.errors import DataError, UsageError
from efftune.report import plots
from efftune.system import files
from efftune.system.progress import Progress, Timer, silent


@dataclass(frozen=True)
class Check:
    """What a source holds.

    Attributes:
        examples: every file that was met, used or set aside.
        numbers: how many pictures there are by class and split, their sizes and formats.
        findings: what is wrong or worth knowing, worst first.
    """

    examples: Examples
    numbers: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings about which something should be done."""
        return tuple(each for each in self.findings if each.is_problem)

    def to_dict(self) -> dict[str, Any]:
        """What `efftune check --json` prints."""
        listed = [{**asdict(each), "problem": each.is_problem} for each in self.findings]
        kinds = Counter(each.kind for each in self.findings)
        source = {"source": self.examples.source}
        return source | self.numbers | {"kinds": dict(kinds), "findings": listed}


def check(
    source: str | Path,
    *,
    out: str | Path | None = None,
    columns: Columns = Columns(),  # noqa: B008  (frozen)
    on_progress: Progress = silent,
) -> Check:
    """Look at everything in a source: every file, class, copy and split.

    Args:
        source: as for `train`.
        out: a folder, made if need be, for `findings.csv` and pictures: `samples.png` (of each
            class), `augmented.png` (one picture as training may see it), `sizes.png`,
            `classes.png`, `duplicates.png`.
        columns: of a table.
        on_progress: as for `train`.

    Raises:
        UsageError: there is no such source, or `out` cannot be written to.
        DataError: the source cannot be read, or holds no file.
    """
    timer = Timer(on_progress)
    place = None if out is None else _writable(files.user_path(out))
    with timer.phase("find"):
        examples = discovery.find(source, timer.on_progress, columns)
    if not examples.rows:
        raise DataError(f"{examples.source} is empty: put class folders there.")
    with timer.phase("inspect"):
        examples, measurements, thumbnails = inspection.inspect(examples, timer.count)
    rows = [row for row in examples.rows if row.usable]
    with timer.phase("compare"):
        pairs = near_duplicates.pairs(rows, measurements, thumbnails, timer.count)
    findings = splitting.findings(examples, measurements, pairs)
    findings.sort(key=lambda each: not each.is_problem)
    checked = Check(examples, inspection.described(examples, measurements), tuple(findings))
    if place is not None:
        with timer.phase("plots"):
            files.write(place / "findings.csv", inspection.to_csv(findings))
            plots.draw_source(place, rows, measurements, pairs)
    return checked


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot make the folder {folder}: {error.strerror}.") from None
    return folder
