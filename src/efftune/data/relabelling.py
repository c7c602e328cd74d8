"""Decisions about labels, made in a review and applied to a source without changing it."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from efftune.data.examples import Example, Examples
from efftune.errors import DataError, UsageError
from efftune.system import files

Choice = Literal["keep", "relabel", "drop"]
COLUMNS = ("path", "label", "decision", "new_label")
LABELS_FILE = "labels.csv"  # of a run folder
DROPPED = "dropped in review"


@dataclass(frozen=True)
class Decision:
    """What was decided about a picture.

    Attributes:
        label: the one it had then.
        choice: `keep` it, `relabel` the picture, or `drop` the picture.
        new_label: the one it gets if relabelled, else empty.
    """

    label: str
    choice: Choice
    new_label: str = ""


def read(path: str | Path) -> dict[str, Decision]:
    """Read decisions by picture, as named in `examples.csv`.

    Args:
        path: a CSV file with the columns path, label, decision and new_label, as the page that
            `efftune review` writes saves it.

    Raises:
        UsageError: there is no such file.
        DataError: it is not such a table; the message names the line.
    """
    place = files.user_path(path)
    try:
        with place.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, strict=True)
            _require_columns(place, table.fieldnames)
            return {row["path"]: _decision(place, table.line_num, row) for row in table}
    except OSError as error:
        raise UsageError(f"Cannot read the labels file {place}: {error.strerror}.") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{place} is not a CSV table in UTF-8: {error}.") from None


def write(path: Path, decisions: Mapping[str, Decision]) -> None:
    """Write decisions; `read` gives them back."""
    with (
        files.written_whole(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, each in decisions.items():
            writer.writerow([name, each.label, each.choice, each.new_label])


def relabelled(examples: Examples, decisions: Mapping[str, Decision]) -> Examples:
    """The same examples with their labels as decided.

    What is to be dropped is still there; see `dropped`. Splits stay as they are, so that a run with
    and a run without the decisions are judged on the same pictures.

    Raises:
        DataError: there is no such picture, or its label is another one by now.
    """
    names = {_written(row.name) for row in examples.rows}
    for name in decisions:
        if name not in names:
            raise DataError(
                f"The labels file has a decision about {name}, which is not in {examples.source}. "
                "Take that line out, or use the file with the source it was made for."
            )
    met = [(row, decisions.get(_written(row.name))) for row in examples.rows]
    rows = tuple(row if each is None else _applied(row, each, examples.source) for row, each in met)
    confirmed = {row.path for row, each in met if each is not None and each.choice != "drop"}
    return replace(examples, rows=rows, confirmed=frozenset(confirmed))


def dropped(examples: Examples, decisions: Mapping[str, Decision]) -> Examples:
    """The same examples without those that are to be dropped: they are set aside."""
    names = {name for name, each in decisions.items() if each.choice == "drop"}
    paths = [row.path for row in examples.rows if row.usable and _written(row.name) in names]
    return examples.as_read({}, dict.fromkeys(paths, DROPPED))


def _written(name: str) -> str:
    """A name as it stands in a run's tables: file names may hold any bytes."""
    return name.encode(errors="backslashreplace").decode()


def _applied(row: Example, decision: Decision, source: str) -> Example:
    if row.label not in (decision.label, decision.new_label):
        raise DataError(
            f"The labels file takes {row.name} for {decision.label!r}, but it is {row.label!r} in "
            f"{source} by now. Take that line out, or review it again."
        )
    return replace(row, label=decision.new_label) if decision.choice == "relabel" else row


def _require_columns(path: Path, found: Sequence[str] | None) -> None:
    missing = [name for name in COLUMNS if name not in (found or ())]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}. A labels file has the columns "
            f"{', '.join(COLUMNS)}; `efftune review RUN` makes one."
        )


def _decision(path: Path, line: int, row: Mapping[str, str | None]) -> Decision:
    cells = {name: row[name] or "" for name in COLUMNS}
    choice = cells["decision"]
    known = get_args(Choice)
    if choice not in known:
        raise DataError(
            f"Line {line} of {path}: a decision is one of {', '.join(known)}. Received: {choice!r}."
        )
    if choice == "relabel" and not cells["new_label"]:
        raise DataError(f"Line {line} of {path}: relabel needs a new_label.")
    new_label = cells["new_label"] if choice == "relabel" else ""
    return Decision(cells["label"], choice, new_label)  # type: ignore[arg-type]  # one of them
