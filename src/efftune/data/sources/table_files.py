"""Files of tables as rows of named cells: CSV, TSV and Parquet."""

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol, TextIO

from efftune.errors import DataError, UsageError
from efftune.system import packages

_DELIMITERS = (",", ";", "\t")  # Excel writes semicolons in many European locales
_DELIMITER_HINT = "sep="  # with the delimiter, a first line that is Excel's own and no header
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class TableFile(Protocol):
    """A table.

    Attributes:
        path: of the file.
        names: of all columns.
        text_names: of the columns that may hold text or numbers.
    """

    path: Path
    names: Sequence[str]
    text_names: Sequence[str]

    def rows(self, wanted: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Line numbers, and the cells of the wanted columns by their names."""


class CsvTable:
    """A CSV or TSV file; see `TableFile`."""

    def __init__(self, path: Path, required: Set[str]):
        """Read the header.

        Args:
            path: of the file.
            required: column names. Of the usual delimiters the one is used with which most of
                these are found, and then most columns, unless the first line names one (`sep=;`).

        Raises:
            DataError: the file cannot be read, or is empty.
        """
        self.path = path
        with _open(path) as stream:
            hint = stream.readline().strip(" \r\n").strip('"').casefold()  # it may end with a tab
        self._has_hint = hint.startswith(_DELIMITER_HINT) and len(hint) == len(_DELIMITER_HINT) + 1
        delimiters = hint[-1:] if self._has_hint else _DELIMITERS
        headers = {each: _header(path, each, skip=self._has_hint) for each in delimiters}
        if not any(headers.values()):
            raise DataError(
                f"{path} is empty. Its first line must contain the column names: path,label or, "
                "with splits, path,label,split."
            )
        self.delimiter = max(
            headers, key=lambda each: (len(required & {*headers[each]}), len(headers[each]))
        )
        self.names: Sequence[str] = headers[self.delimiter]
        self.text_names: Sequence[str] = self.names

    def rows(self, wanted: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Line numbers, and the cells of the wanted columns by their names.

        Raises:
            DataError: a line has another number of cells than the header, or wrong quotes.
        """
        positions = {name: self.names.index(name) for name in wanted}
        start = 1 + self._has_hint  # first line of the row: quoted cells may span several
        has_header = False
        with _open(self.path) as stream:
            if self._has_hint:
                stream.readline()
            reader = csv.reader(stream, delimiter=self.delimiter, strict=True)
            try:
                for cells in reader:
                    if cells and has_header:
                        self._require_width(cells, start)
                        yield start, {name: cells[i] for name, i in positions.items()}
                    has_header = has_header or bool(cells)
                    start = reader.line_num + 1 + self._has_hint
            except csv.Error as error:
                raise DataError(
                    f"{self.path}, line {start}, cannot be read: {error}. Quote cells that contain "
                    "quotation marks, and double the quotation marks inside."
                ) from None

    def _require_width(self, cells: Sequence[str], line: int) -> None:
        if len(cells) != len(self.names):
            raise DataError(
                f"{self.path}, line {line}, has {len(cells)} cells, but there are "
                f"{len(self.names)} columns. The delimiter is {self.delimiter!r}; quote cells that "
                "contain it."
            )


def _header(path: Path, delimiter: str, *, skip: bool) -> list[str]:
    with _open(path) as stream:
        if skip:
            stream.readline()
        try:
            cells = next(filter(None, csv.reader(stream, delimiter=delimiter)), [])
        except csv.Error:
            return []
        return [cell.strip() for cell in cells]


def _open(path: Path) -> TextIO:
    """Open a table as text; bytes that are not UTF-8 are preserved, as in file names."""
    try:
        with path.open("rb") as stream:
            is_utf16 = stream.read(2) in _UTF16
        if not is_utf16:
            return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None
    raise DataError(f"{path} is encoded in UTF-16. Save it as CSV in UTF-8.")


class ParquetTable:
    """A Parquet file; see `TableFile`."""

    def __init__(self, path: Path):
        """Read the schema.

        Raises:
            UsageError: pyarrow is not installed.
            DataError: the file cannot be read.
        """
        try:
            import pyarrow
            from pyarrow import parquet, types
        except ImportError:
            raise UsageError(
                f"{path} needs pyarrow. Run: {packages.install('efftune[parquet]')}"
            ) from None
        self.path = path
        self._errors = (pyarrow.ArrowException, OSError, UnicodeDecodeError)
        self._open = parquet.ParquetFile
        try:
            with self._open(path) as file:
                self._schema = file.schema_arrow
        except self._errors as error:
            raise self._unreadable(error) from None
        self.names: Sequence[str] = self._schema.names
        no_text = (types.is_nested, types.is_binary, types.is_large_binary)
        self.text_names: Sequence[str] = [
            field.name for field in self._schema if not any(each(field.type) for each in no_text)
        ]

    def rows(self, wanted: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Line numbers, and the cells of the wanted columns by their names.

        Raises:
            DataError: the file cannot be read, or a wanted column holds no text.
        """
        for name in wanted:
            if name not in self.text_names:
                kind = str(self._schema.field(name).type)[:80]
                raise DataError(
                    f"Column {name!r} of {self.path} holds {kind}, not text. A table lists the "
                    "paths of pictures; a folder of Parquet files with pictures inside is read as "
                    "hf:FOLDER."
                )
        line = itertools.count(2)
        try:
            with self._open(self.path) as file:
                for batch in file.iter_batches(columns=list(wanted)):
                    cells = [batch.column(name).to_pylist() for name in wanted]
                    for values in zip(*cells, strict=True):
                        yield next(line), dict(zip(wanted, map(_text, values), strict=True))
        except self._errors as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> DataError:
        reason = str(error).strip().split("\n")[0]
        return DataError(f"{self.path} cannot be read as a Parquet file: {reason}.")


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)  # noqa: PLR0124  (NaN)
