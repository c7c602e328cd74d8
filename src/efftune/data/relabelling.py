"""Label decisions from a review, applied to the examples and not to the source files."""

import csv
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from efftune.data import picture_bytes
from efftune.data.examples import Example, Examples
from efftune.errors import BadImage, DataError, UsageError
from efftune.system import files

Choice = Literal["keep", "relabel", "drop"]
COLUMNS = ("path", "label", "decision", "new_label")
LABELS_FILE = "labels.csv"  # in a run folder
DROPPED = "dropped in review"
_DELIMITERS = (",", ";", "\t")  # Excel writes semicolons in many European locales


@dataclass(frozen=True)
class Decision:
    """The decision about the label of one picture.

    Attributes:
        label: the label at the time of the review.
        choice: `keep` the label, `relabel` the picture, or `drop` the picture.
        new_label: the new label if relabelled, else empty.
    """

    label: str
    choice: Choice
    new_label: str = ""


@dataclass(frozen=True, slots=True)
class Decided(Example):
    """An example about which there is a decision.

    Attributes:
        decision: about it.
        listed: its name in the labels file of a run, by which it is found again: that of the
            example, or the whole path of a picture that lies beside another labels file.
    """

    decision: Decision = Decision("", "keep")
    listed: str = ""


def read(path: str | Path) -> dict[str, Decision]:
    """Read label decisions.

    Args:
        path: a CSV file with the columns path, label, decision and new_label, as saved from the
            review page that `efftune review` writes; a spreadsheet may have written semicolons.

    Returns:
        Decisions by picture name, as in `examples.csv`.

    Raises:
        UsageError: the file cannot be opened.
        DataError: the table is invalid; the message gives the line.
    """
    file = files.user_path(path)
    found, line_of = dict[str, Decision](), dict[str, int]()
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(stream)  # once, since it may be a pipe
        table = csv.DictReader(lines, delimiter=_delimiter(lines), strict=True)
        _require_columns(file, table.fieldnames)
        for row in table:
            name, decision = _parse_row(file, table.line_num, row)
            if found.setdefault(name, decision) != decision:
                both = f"Lines {line_of[name]} and {table.line_num} of {file}"
                raise DataError(f"{both} decide differently about {name}. Remove one of them.")
            line_of.setdefault(name, table.line_num)
        return found
    except OSError as error:
        raise UsageError(f"Cannot read the labels file {file}: {error.strerror}.") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not a CSV table in UTF-8: {error}.") from None


def write(path: Path, decisions: Mapping[str, Decision]) -> None:
    """Write label decisions in the format that `read` expects."""
    with (
        files.written_whole(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        writer = files.csv_writer(stream)
        writer.writerow(COLUMNS)
        for name, each in decisions.items():
            writer.writerow([name, each.label, each.choice, each.new_label])


def made(examples: Examples) -> dict[str, Decision]:
    """The decisions that were applied to examples, for a labels file in any folder."""
    return {row.listed: row.decision for row in examples.rows if isinstance(row, Decided)}


def of_source(
    examples: Examples, decisions: Mapping[str, Decision], folder: Path
) -> dict[str, Decision]:
    """The decisions with the names and the classes that the source has for them.

    A labels file may name pictures of the source by their paths, as seen from its folder: they
    would else count as further pictures, under both labels. Classes are compared as tables read
    them, since a spreadsheet leaves blanks in cells.

    Args:
        examples: of the source.
        decisions: by picture name, as read.
        folder: of the labels file.

    Raises:
        DataError: there are different decisions about one picture.
    """
    names = {_table_name(row.name) for row in examples.rows}
    at: dict[str, str] = {}
    for row, place in zip(
        examples.rows, files.places(row.path for row in examples.rows), strict=True
    ):
        at.setdefault(place, _table_name(row.name))
    classes = {row.label for row in examples.rows}
    spelling = {
        written(name): name for written in (_tidy, _table_name, str) for name in sorted(classes)
    }
    found = dict[str, Decision]()
    for listed, each in decisions.items():
        name = listed if listed in names else at.get(_place(folder, listed), listed)
        label, new = (
            spelling.get(text, spelling.get(_tidy(text), _tidy(text)))
            for text in (each.label, each.new_label)
        )
        decision = replace(each, label=label, new_label=new)
        if found.setdefault(name, decision) != decision:
            raise DataError(
                f"The labels file decides differently about {listed} and {name}, which are the "
                "same picture. Remove one of the lines."
            )
    return found


def _tidy(label: str) -> str:
    """A class as tables and folders give it."""
    return unicodedata.normalize("NFC", label.strip())


def _place(folder: Path, name: str) -> str:
    """Where the file of that name is, seen from a folder; empty if no file can have it."""
    try:
        return next(files.places([folder / name])) if name and "\0" not in name else ""
    except (OSError, ValueError, RuntimeError):
        return ""


def further(examples: Examples, decisions: Mapping[str, Decision], folder: Path) -> list[Example]:
    """Examples for decided pictures that are not in the source, but beside the labels file.

    So a server keeps the pictures that people have corrected; see `efftune serve --feedback`. The
    labels file of a run that was trained with them has their whole paths.

    Args:
        examples: of the source.
        decisions: by picture name.
        folder: of the labels file; names that lead out of it are not looked for.
    """
    names = {_table_name(row.name) for row in examples.rows}
    found = list[Example]()
    for name, each in decisions.items():
        if name in names or not _is_in(folder, name):
            continue
        reason = DROPPED if each.choice == "drop" else ""
        try:
            picture_bytes.sniff(folder / name)
        except BadImage as error:
            reason = error.reason
        path, label = folder / name, each.new_label or each.label
        listed = _table_name(str(path.absolute()))
        found.append(Decided(path, name, label, reason=reason, decision=each, listed=listed))
    return found


def _is_in(folder: Path, name: str) -> bool:
    """Whether there is such a file in a folder, or anywhere if the name is its whole path."""
    try:
        path = (folder / name).resolve()
        is_in = Path(name).is_absolute() or path.is_relative_to(folder.resolve())
        return is_in and path.is_file()
    except (OSError, ValueError, RuntimeError):  # a name that cannot be, or a loop of links
        return False


def relabelled(examples: Examples, decisions: Mapping[str, Decision]) -> Examples:
    """Apply label decisions to examples.

    Pictures to be dropped are not removed here; see `dropped`. Splits are unchanged, so that runs
    with and without the decisions are evaluated on the same pictures.

    Raises:
        DataError: a picture does not exist, or its label has changed since the review.
    """
    names = {_table_name(row.name) for row in examples.rows}
    for name in decisions:
        if name not in names:
            raise DataError(
                f"The labels file has a decision about {name}, which is not in {examples.source}, "
                "nor beside that file. If that picture lies in another folder, give its whole path "
                "there. Else remove that line, or use the file with the source it was made for."
            )
    matched = [(row, decisions.get(_table_name(row.name))) for row in examples.rows]
    rows = tuple(
        row if decision is None else _apply(row, decision, examples.source)
        for row, decision in matched
    )
    confirmed = {
        row.path for row, decision in matched if decision is not None and decision.choice != "drop"
    }
    return replace(examples, rows=rows, confirmed=frozenset(confirmed))


def dropped(examples: Examples, decisions: Mapping[str, Decision]) -> Examples:
    """Set aside the examples whose decision is `drop`."""
    names = {name for name, each in decisions.items() if each.choice == "drop"}
    paths = [row.path for row in examples.rows if row.usable and _table_name(row.name) in names]
    return examples.as_read({}, dict.fromkeys(paths, DROPPED))


def _table_name(name: str) -> str:
    """A name as written in the tables of a run; file names may contain any bytes."""
    return name.encode(errors="backslashreplace").decode()


def _apply(row: Example, decision: Decision, source: str) -> Example:
    if row.label not in (decision.label, decision.new_label):
        raise DataError(
            f"The labels file lists {row.name} as {decision.label!r}, but its label in {source} is "
            f"now {row.label!r}. Remove that line, or review the picture again."
        )
    if not isinstance(row, Decided):
        values = {each.name: getattr(row, each.name) for each in fields(row)}
        row = Decided(**values, decision=decision, listed=_table_name(row.name))
    return replace(row, label=decision.new_label) if decision.choice == "relabel" else row


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter with which most of the columns are found in the header."""

    def found(delimiter: str) -> int:
        return len({*COLUMNS} & {*next(csv.reader(lines[:1], delimiter=delimiter), [])})

    return max(_DELIMITERS, key=found)


def _require_columns(path: Path, columns: Sequence[str] | None) -> None:
    missing = [name for name in COLUMNS if name not in (columns or ())]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}. A labels file has the columns "
            f"{', '.join(COLUMNS)}; `efftune review RUN` creates one."
        )


def _parse_row(path: Path, line: int, row: Mapping[str, str | None]) -> tuple[str, Decision]:
    """The name of a picture, and the decision about it; a row may lack its last cells."""
    cells = {name: row[name] or "" for name in COLUMNS}
    choice = cells["decision"]
    choices = get_args(Choice)
    if choice not in choices:
        raise DataError(
            f"Line {line} of {path}: a decision must be one of {', '.join(choices)}. "
            f"Received: {choice!r}."
        )
    if choice == "relabel" and not cells["new_label"].strip():
        raise DataError(
            f"Line {line} of {path}: the decision relabel needs a new_label. Fill in that column."
        )
    if not cells["path"]:
        raise DataError(f"Line {line} of {path} has no path. Fill in that column.")
    new_label = cells["new_label"] if choice == "relabel" else ""
    return cells["path"], Decision(cells["label"], choice, new_label)  # type: ignore[arg-type]  # checked above
