"""Tables of pictures: CSV, TSV and Parquet files with a row for each.

Nothing is dropped in silence here either: each row becomes an example, and what cannot be used
carries the reason.
"""

import csv
import itertools
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from efftune.data import images
from efftune.data.examples import Example, Split, Undecided
from efftune.errors import BadImage, DataError, UsageError
from efftune.recipe.recipe import Recipe
from efftune.system import files

SUFFIXES = (".csv", ".tsv", ".parquet")
_DELIMITERS = (",", ";", "\t")  # European Excel writes semicolons
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_TOLD = 20  # columns that an error lists


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called.

    Attributes:
        path: of the pictures' paths.
        label: of their classes.
        split: of their splits. The table may lack it, unless it was given another name.
        group: of what belongs together: patient, video, session. It may be missing likewise.
    """

    path: str = "path"
    label: str = "label"
    split: str = "split"
    group: str = "group"

    @classmethod
    def of(cls, recipe: Recipe) -> "Columns":
        """As a recipe has them."""
        names = (
            recipe.data.path_column,
            recipe.data.label_column,
            recipe.data.split_column,
            recipe.data.group_column,
        )
        return cls(*names)


class _Record(NamedTuple):
    """A row, as it is written."""

    line: int
    path: str
    label: str
    split: str
    group: str


def rows(table: Path, columns: Columns, splits: Mapping[str, Split]) -> Iterator[Example]:
    """The pictures that a table lists, in its order.

    Args:
        table: a `.csv`, `.tsv` or `.parquet` file. Paths in it are relative to its folder.
        columns: what its columns are called.
        splits: what splits are called here, by what they may be called there, in small letters.

    Yields:
        An example for each row. `line` is its line in the file, or, in a Parquet file, the number
        of the row plus 1: what the line would be in a CSV file.

    Raises:
        UsageError: a Parquet file, and pyarrow is not installed.
        DataError: the file is no such table, or a split is none.
    """
    read = _parquet if table.suffix.casefold() == ".parquet" else _csv
    listed: dict[str, tuple[int, str]] = {}
    record = None
    for record in read(table, columns):
        yield _example(record, table, _split(record, table, splits), listed)
    if record is None:
        raise DataError(f"{table} names its columns, but has no rows. Add one for each picture.")


def _example(
    record: _Record,
    table: Path,
    split: Split | Undecided,
    listed: dict[str, tuple[int, str]],
) -> Example:
    path = table.parent / ("" if "\0" in record.path else files.user_path(record.path))
    label = unicodedata.normalize("NFC", record.label.strip())
    reason = _reason(record, path, label, listed)
    group = record.group.strip()
    return Example(path, record.path, label, split, reason, line=record.line, group=group)


def _reason(record: _Record, path: Path, label: str, listed: dict[str, tuple[int, str]]) -> str:
    """Why a row cannot be used; empty if it can.

    Args:
        record: the row.
        path: of its picture.
        label: of its picture.
        listed: lines and labels of the pictures so far; this one is added.
    """
    if not record.path.strip():
        return "no path"
    if not label:
        return "no label"
    if "\0" in record.path:  # no file is called so
        return images.NO_SUCH_FILE
    line, before = listed.setdefault(os.path.normpath(path), (record.line, label))
    if line != record.line:
        other = "" if before == label else " with another label"
        return f"listed before{other}, on line {line}"
    try:
        images.sniff(path)
    except BadImage as error:
        return error.reason
    return ""


def _split(record: _Record, table: Path, splits: Mapping[str, Split]) -> Split | Undecided:
    name = record.split.strip().casefold()
    if not name:
        return ""
    if name not in splits:
        raise DataError(
            f"{table}, line {record.line}: there is no split {record.split.strip()!r}. Known: "
            f"{', '.join(splits)}; empty means undecided."
        )
    return splits[name]


def _csv(table: Path, columns: Columns) -> Iterator[_Record]:
    delimiter = _delimiter(table, columns)
    start = 1  # line on which a row begins: quoted cells may go over several
    with _opened(table) as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        places: list[int] | None = None
        width = 0
        try:
            for cells in reader:
                if cells and places is None:
                    places, width = _places(table, columns, _stripped(cells)), len(cells)
                elif cells and places is not None:
                    if len(cells) != width:
                        raise DataError(
                            f"{table}, line {start}, has {len(cells)} cells, but there are {width} "
                            f"columns. Cells are parted by {delimiter!r}; quote those that hold it."
                        )
                    yield _Record(start, *(cells[i] if i >= 0 else "" for i in places))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{table}, line {start}, cannot be read: {error}. Put cells that hold quotation "
                "marks between quotation marks, and write those inside twice."
            ) from None


def _delimiter(table: Path, columns: Columns) -> str:
    """What parts the cells: that which finds the columns in the first line, or else the most."""
    headers = {delimiter: _header(table, delimiter) for delimiter in _DELIMITERS}
    if not any(headers.values()):
        raise DataError(
            f"{table} is empty. Its first line must name its columns: path,label or, with splits, "
            "path,label,split."
        )
    sought = {columns.path, columns.label}
    return max(headers, key=lambda each: (len(sought & {*headers[each]}), len(headers[each])))


def _header(table: Path, delimiter: str) -> list[str]:
    with _opened(table) as stream:
        try:
            return _stripped(next(filter(None, csv.reader(stream, delimiter=delimiter)), []))
        except csv.Error:
            return []


def _stripped(cells: Sequence[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _opened(table: Path) -> TextIO:
    """A table as text; bytes that are no UTF-8 stay what they are, as in names of files."""
    try:
        with table.open("rb") as stream:
            wide = stream.read(2) in _UTF16
        if not wide:
            return table.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise DataError(f"Cannot read {table}: {error.strerror}.") from None
    raise DataError(f"{table} is written in UTF-16. Save it as CSV in UTF-8.")


def _places(table: Path, columns: Columns, names: Sequence[str]) -> list[int]:
    """The positions of path, label, split and group; -1 for what a table need not have."""
    places = []
    usual = asdict(Columns())
    for role, name in asdict(columns).items():
        if names.count(name) == 1:
            places.append(names.index(name))
        elif name not in names and role in {"split", "group"} and name == usual[role]:
            places.append(-1)
        else:
            number = "several columns" if name in names else "no column"
            told = ", ".join(map(repr, names[:_TOLD])) + (" …" if len(names) > _TOLD else "")
            only = f"; only {usual[role]!r} may be missing" if role in {"split", "group"} else ""
            raise DataError(
                f"{table} has {number} {name!r}. Its columns: {told}. Say which one it is with "
                f"--{role}-column{only}."
            )
    return places


def _parquet(table: Path, columns: Columns) -> Iterator[_Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError(f'{table} needs pyarrow. Run: pip install "efftune[parquet]".') from None
    line = itertools.count(2)
    try:
        with parquet.ParquetFile(table) as file:
            schema = file.schema_arrow
            places = _places(table, columns, schema.names)
            wanted = [schema.names[i] for i in places if i >= 0]
            for name in wanted:
                _require_text(table, name, schema.field(name).type)
            for batch in file.iter_batches(columns=wanted):
                read = {name: batch.column(name).to_pylist() for name in wanted}
                missing = [None] * batch.num_rows
                cells = (read[schema.names[i]] if i >= 0 else missing for i in places)
                for values in zip(*cells, strict=True):
                    yield _Record(next(line), *map(_text, values))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{table} cannot be read as a Parquet file: {reason}.") from None


def _require_text(table: Path, name: str, kind: Any) -> None:
    from pyarrow import types

    if types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        raise DataError(
            f"Column {name!r} of {table} holds {str(kind)[:80]}, not text. A table lists the paths "
            "of pictures; a folder of Parquet files with pictures inside is read as hf:FOLDER."
        )


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)  # noqa: PLR0124  (not a number)
