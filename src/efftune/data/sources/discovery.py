"""Selects the reader for a source: folder, archive, table or named data set."""

from collections.abc import Iterator
from pathlib import Path

from efftune.data.examples import Example, Examples
from efftune.data.sources import archives, hf, tables, tfds
from efftune.data.sources.folders import SPLIT_FOLDERS, archive_rows, folder_rows
from efftune.data.sources.samples import digits_folder
from efftune.data.sources.tables import Columns
from efftune.errors import DataError, UsageError, unknown_name
from efftune.system import files
from efftune.system.progress import Progress, silent


def find(
    source: str | Path,
    on_progress: Progress = silent,
    columns: Columns = Columns(),  # noqa: B008  (frozen)
) -> Examples:
    """Find the examples in a source.

    Args:
        source: a folder with one folder per class; a folder with `train`, and perhaps `val` (or
            `valid`, `validation`) and `test`, folders of class folders; a `.zip`, `.tar`, `.tar.gz`
            or `.tgz` archive of either, possibly inside a single top-level folder; a `.csv`,
            `.tsv` or `.parquet` table; `sample:NAME`; `tfds:NAME[/CONFIG][:VERSION]`, from
            TensorFlow Datasets; or `hf:NAME[:CONFIG]` or `hf:FOLDER`, a Hugging Face data set.
        on_progress: called with `unpack`, the number of pictures, archive members or bytes
            unpacked, and the total; before a Hugging Face data set is loaded by name, also with
            `download`.
        columns: column names of a table or of a Hugging Face data set.

    Returns:
        One example per file, sorted by name, or one per row of a table, in its order. Splits are
        set where the source defines them.

    Raises:
        UsageError: the source does not exist, or a package that it needs is not installed.
        DataError: a folder, archive or table cannot be read, split folders are ambiguous, or a
            data set cannot be downloaded.
    """
    name = str(source)
    if name.startswith(tfds.PREFIX):
        return Examples(name, tuple(folder_rows(tfds.unpacked(name, SPLIT_FOLDERS, on_progress))))
    if name.startswith(hf.PREFIX):
        folder = hf.unpacked(name, SPLIT_FOLDERS, columns, on_progress)
        return Examples(name, tuple(folder_rows(folder)))
    if name.startswith("sample:"):
        return _sample(name)
    root = files.user_path(source)
    try:
        return Examples(name, tuple(_rows_of(name, root, on_progress, columns)))
    except PermissionError as error:
        raise DataError(
            f"No permission to access {error.filename}. Change its permissions, or move it out."
        ) from None


def _rows_of(name: str, root: Path, on_progress: Progress, columns: Columns) -> Iterator[Example]:
    is_table = root.suffix.casefold() in tables.SUFFIXES
    if root.is_dir():
        return folder_rows(root)
    if root.is_file() and is_table:
        return tables.rows(root, columns, SPLIT_FOLDERS)
    if root.is_file() and archives.is_archive(root):
        return archive_rows(archives.unpacked(root, on_progress))
    if root.exists():
        raise UsageError(
            f"{name!r} is a file. Give a folder with one folder per class, an archive of such a "
            f"folder ({', '.join(archives.SUFFIXES)}), or a table ({', '.join(tables.SUFFIXES)})."
        )
    kind = "file" if is_table or archives.is_archive(root) else "folder"
    raise UsageError(f"There is no {kind} {name!r}. Give a folder with one folder per class.")


def _sample(name: str) -> Examples:
    samples = {"sample:digits": digits_folder}
    if name not in samples:
        raise unknown_name("sample", name, samples)
    root = samples[name]()
    return Examples(name, tuple(folder_rows(root)))
