"""Reads CSV, TSV and Parquet tables with one picture per row.

No row is dropped silently: each becomes an example, and an unusable one has a reason.
"""

import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from efftune.data import picture_bytes, relabelling
from efftune.data.examples import Example, Split, Undecided
from efftune.data.sources import addresses, copies, table_columns
from efftune.data.sources.table_columns import Columns, Meaning, PictureFiles
from efftune.data.sources.table_files import CsvTable, ParquetTable, TableFile
from efftune.errors import BadImage, DataError, UsageError
from efftune.system.progress import Progress, silent

SUFFIXES = (".csv", ".tsv", ".parquet")
_DECIDED = ("decision", "new_label")  # columns of a labels file, whose decisions count


class _Record(NamedTuple):
    """One row of a table, unprocessed."""

    line: int
    path: str
    label: str
    split: str
    group: str
    is_dropped: bool


def read(
    table: Path,
    columns: Columns,
    splits: Mapping[str, Split],
    on_progress: Progress = silent,
) -> tuple[list[Example], str]:
    """Examples for the rows of a table, in its order.

    Of a labels file, as `efftune review` and `efftune serve` make it, the decisions count.

    Args:
        table: a `.csv`, `.tsv` or `.parquet` file.
        columns: names of its columns, or the default names, which `table_columns.find` replaces
            where the table has others.
        splits: maps split names in the table, in lower case, to ours.
        on_progress: called with `copy`, the number of pictures at addresses that were copied, and
            their total.

    Returns:
        One example per row. `line` is the line number in the file; in a Parquet file, the row
        number plus 1, as in a CSV file with a header. And a description of what the columns mean.

    Raises:
        UsageError: the table is a Parquet file and pyarrow is not installed.
        DataError: the table is invalid, or a split is unknown.
    """
    file = _opened(table, columns)
    meaning = table_columns.find(file, columns)
    cells = (row[meaning.path].strip() for _, row in file.rows([meaning.path]))
    at_addresses = [cell for cell in cells if addresses.is_address(cell)]
    meaning.files.copies = copies.of_files(at_addresses, on_progress, keep=columns.keeps_copies)
    listed: dict[str, tuple[int, str]] = {}
    rows = [
        _example(record, table, meaning.files, _split(record, table, splits), listed)
        for record in _records(file, meaning)
    ]
    if not rows:
        raise DataError(f"{table} has a header but has no rows. Add one row per picture.")
    return rows, str(meaning)


def paths(table: Path, columns: Columns) -> set[str]:
    """The paths, with slashes, of all files that the cells of a table may mean; no addresses.

    For the arguments and exceptions, see `read`.
    """
    file = _opened(table, columns)
    unique = [name for name in file.text_names if list(file.names).count(name) == 1]
    chosen = [columns.path] if columns.path in unique else unique
    return {
        cell.strip().replace("\\", "/")
        for _, cells in file.rows(chosen)
        for cell in cells.values()
        if cell.strip() and not addresses.is_address(cell.strip())
    }


def has_chosen(table: Path, columns: Columns) -> bool:
    """Whether columns were chosen by name, and a table that can be read has them all."""
    chosen = [getattr(columns, role) for role in columns.chosen if role != "root"]
    names = {name for each in chosen for name in ((each,) if isinstance(each, str) else each)}
    try:
        return bool(names) and names <= set(_opened(table, columns).names)
    except (DataError, UsageError):
        return False


def _opened(table: Path, columns: Columns) -> TableFile:
    if table.suffix.casefold() == ".parquet":
        return ParquetTable(table)
    return CsvTable(table, {columns.path, columns.label})


def _records(file: TableFile, meaning: Meaning) -> Iterator[_Record]:
    optional = [name for name in (meaning.split, meaning.group) if name]
    is_labels_file = set(relabelling.COLUMNS) <= set(file.names) and meaning.labels == ("label",)
    decided = _DECIDED if is_labels_file else ()
    for line, values in file.rows([meaning.path, *meaning.labels, *optional, *decided]):
        cells = {"": "", "decision": "", **values}
        label = (
            cells[meaning.labels[0]]
            if len(meaning.labels) == 1
            else _marked(file.path, line, {name: cells[name] for name in meaning.labels})
        )
        if is_labels_file and cells["decision"] == "relabel":
            label = cells["new_label"]
        is_dropped = is_labels_file and cells["decision"] == "drop"
        others = cells[meaning.split], cells[meaning.group], is_dropped
        yield _Record(line, cells[meaning.path], label, *others)


def _marked(table: Path, line: int, cells: Mapping[str, str]) -> str:
    """The class whose column has a 1; empty if none has."""
    marks = {name: table_columns.mark(cell) for name, cell in cells.items()}
    unknown = [name for name, mark in marks.items() if mark is None]
    if unknown:
        raise DataError(
            f"{table}, line {line}: {cells[unknown[0]]!r} in column {unknown[0]!r} is neither 0 "
            "nor 1. Choose the columns of the classes with --label-columns."
        )
    marked = [name for name, mark in marks.items() if mark]
    if len(marked) > 1:
        raise DataError(
            f"{table}, line {line}, has a 1 in several columns: {', '.join(marked)}. Pictures with "
            "several labels are not supported."
        )
    return marked[0] if marked else ""


def _example(
    record: _Record,
    table: Path,
    found: PictureFiles,
    split: Split | Undecided,
    listed: dict[str, tuple[int, str]],
) -> Example:
    path = table.parent if "\0" in record.path else found.path(record.path)
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
        return picture_bytes.NO_SUCH_FILE
    line, earlier_label = listed.setdefault(os.path.normpath(path), (record.line, label))
    if line != record.line:
        conflict = "" if earlier_label == label else " with another label"
        return f"listed before{conflict}, on line {line}"
    try:
        picture_bytes.sniff(path)
    except BadImage as error:
        return error.reason
    return relabelling.DROPPED if record.is_dropped else ""


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
