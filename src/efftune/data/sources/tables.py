"""Reads CSV, TSV and Parquet tables with one picture per row.

No row is dropped silently: each becomes an example, and an unusable one has a reason.
"""

import csv
import itertools
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

from efftune.data import images
from efftune.data.examples import Example, Split, Undecided
from efftune.errors import BadImage, DataError, UsageError
from efftune.recipe.recipe import Recipe
from efftune.system import files

SUFFIXES = (".csv", ".tsv", ".parquet")
_DELIMITERS = (",", ";", "\t")  # Excel writes semicolons in many European locales
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_MAX_LISTED = 20  # columns listed in an error message


@dataclass(frozen=True)
class Columns:
    """The column names of a table, and what names of folders mean.

    Attributes:
        path: column of the paths of pictures.
        label: column of class names.
        split: column of splits; may be missing from the table if this is the default name.
        group: column of groups such as patient, video or session; may be missing likewise.
        splits: `auto` if folders called like splits are splits, `none` if they are classes.
    """

    path: str = "path"
    label: str = "label"
    split: str = "split"
    group: str = "group"
    splits: Literal["auto", "none"] = "auto"

    @classmethod
    def of(cls, recipe: Recipe) -> "Columns":
        """What is set in a recipe."""
        data = recipe.data
        names = (data.path_column, data.label_column, data.split_column, data.group_column)
        return cls(*names, data.splits)


class _Record(NamedTuple):
    """One row of a table, unprocessed."""

    line: int
    path: str
    label: str
    split: str
    group: str


def rows(table: Path, columns: Columns, splits: Mapping[str, Split]) -> Iterator[Example]:
    """Examples for the rows of a table, in its order.

    Args:
        table: a `.csv`, `.tsv` or `.parquet` file. Paths in it are relative to its folder.
        columns: names of its columns.
        splits: maps split names in the table, in lower case, to ours.

    Yields:
        One example per row. `line` is the line number in the file; in a Parquet file, the row
        number plus 1, as in a CSV file with a header.

    Raises:
        UsageError: the table is a Parquet file and pyarrow is not installed.
        DataError: the table is invalid, or a split is unknown.
    """
    read = _parquet if table.suffix.casefold() == ".parquet" else _csv
    listed: dict[str, tuple[int, str]] = {}
    record = None
    for record in read(table, columns):
        yield _example(record, table, _split(record, table, splits), listed)
    if record is None:
        raise DataError(f"{table} has a header but has no rows. Add one row per picture.")


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
    """The reason why a row is unusable; empty if it is usable.

    Args:
        record: the row.
        path: of its picture.
        label: of its picture.
        listed: lines and labels of the pictures so far, by path; this one is added.
    """
    if not record.path.strip():
        return "no path"
    if not label:
        return "no label"
    if "\0" in record.path:  # not allowed in file names
        return images.NO_SUCH_FILE
    line, earlier_label = listed.setdefault(os.path.normpath(path), (record.line, label))
    if line != record.line:
        conflict = "" if earlier_label == label else " with another label"
        return f"listed before{conflict}, on line {line}"
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
            f"{table}, line {record.line}: there is no split {record.split.strip()!r}. "
            "Known: train, val, test; leave the cell empty to let efftune choose."
        )
    return splits[name]


def _csv(table: Path, columns: Columns) -> Iterator[_Record]:
    delimiter = _delimiter(table, columns)
    start = 1  # first line of the row: quoted cells may span several
    with _open(table) as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        positions: list[int] | None = None
        width = 0
        try:
            for cells in reader:
                if cells and positions is None:
                    positions, width = (
                        _column_positions(table, columns, _stripped(cells)),
                        len(cells),
                    )
                elif cells and positions is not None:
                    if len(cells) != width:
                        raise DataError(
                            f"{table}, line {start}, has {len(cells)} cells, but there are {width} "
                            f"columns. The delimiter is {delimiter!r}; quote cells that contain it."
                        )
                    yield _Record(start, *(cells[i] if i >= 0 else "" for i in positions))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{table}, line {start}, cannot be read: {error}. Quote cells that contain "
                "quotation marks, and double the quotation marks inside."
            ) from None


def _delimiter(table: Path, columns: Columns) -> str:
    """The delimiter that finds most required columns, then most columns, in the header."""
    headers = {delimiter: _header(table, delimiter) for delimiter in _DELIMITERS}
    if not any(headers.values()):
        raise DataError(
            f"{table} is empty. Its first line must contain the column names: path,label or, with "
            "splits, path,label,split."
        )
    required = {columns.path, columns.label}
    return max(headers, key=lambda each: (len(required & {*headers[each]}), len(headers[each])))


def _header(table: Path, delimiter: str) -> list[str]:
    with _open(table) as stream:
        try:
            return _stripped(next(filter(None, csv.reader(stream, delimiter=delimiter)), []))
        except csv.Error:
            return []


def _stripped(cells: Sequence[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _open(table: Path) -> TextIO:
    """Open a table as text; bytes that are not UTF-8 are preserved, as in file names."""
    try:
        with table.open("rb") as stream:
            is_utf16 = stream.read(2) in _UTF16
        if not is_utf16:
            return table.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise DataError(f"Cannot read {table}: {error.strerror}.") from None
    raise DataError(f"{table} is encoded in UTF-16. Save it as CSV in UTF-8.")


def _column_positions(table: Path, columns: Columns, names: Sequence[str]) -> list[int]:
    """Positions of the path, label, split and group columns; -1 for a missing optional one."""
    positions = []
    defaults = asdict(Columns())
    for role in ("path", "label", "split", "group"):
        name = getattr(columns, role)
        if names.count(name) == 1:
            positions.append(names.index(name))
        elif name not in names and role in {"split", "group"} and name == defaults[role]:
            positions.append(-1)
        else:
            number = "several columns" if name in names else "no column"
            more = " …" if len(names) > _MAX_LISTED else ""
            listing = ", ".join(map(repr, names[:_MAX_LISTED])) + more
            is_optional = role in {"split", "group"}
            optional = f"; only {defaults[role]!r} may be missing" if is_optional else ""
            raise DataError(
                f"{table} has {number} {name!r}. Its columns: {listing}. Choose one with "
                f"--{role}-column{optional}."
            )
    return positions


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
            positions = _column_positions(table, columns, schema.names)
            wanted = [schema.names[i] for i in positions if i >= 0]
            for name in wanted:
                _require_text(table, name, schema.field(name).type)
            for batch in file.iter_batches(columns=wanted):
                read = {name: batch.column(name).to_pylist() for name in wanted}
                missing = [None] * batch.num_rows
                cells = (read[schema.names[i]] if i >= 0 else missing for i in positions)
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
    return "" if value is None or value != value else str(value)  # noqa: PLR0124  (NaN)
