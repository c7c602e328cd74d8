"""Files of a finished run, read back: each that is missing or damaged is named."""

import csv
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from efftune.errors import DataError, UsageError

Row = dict[str, str]

_REMEDY = "Restore it, or train again."
# The last two for values nested too deeply, or too large; UsageErrors for settings.
_READ_ERRORS = (
    *(ValueError, LookupError, TypeError, AttributeError, csv.Error, UsageError),
    *(RecursionError, ArithmeticError),
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Attribute errors in the block to this file or folder.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {_REMEDY}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except _READ_ERRORS as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise DataError(f"{path} is damaged: {reason}. {_REMEDY}") from None


def rows(path: Path, columns: Collection[str] | None = None) -> Iterator[Row]:
    """The rows of a CSV file as dictionaries, one at a time.

    Args:
        path: of the file.
        columns: to keep of those that it has, since thousands of others may need gigabytes; by
            default all.

    Raises:
        DataError: the file is missing or damaged.
    """
    # Spreadsheets may add a byte order mark when they save a table.
    with reading(path), path.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream)
        header = next(lines, None)
        if header is None:
            raise ValueError("it is empty")
        kept = [(i, key) for i, key in enumerate(header) if columns is None or key in columns]
        for number, cells in enumerate(filter(None, lines), start=1):  # without empty lines
            if len(cells) != len(header):
                raise ValueError(f"row {number} does not have as many cells as the header")
            yield {key: cells[i] for i, key in kept}
