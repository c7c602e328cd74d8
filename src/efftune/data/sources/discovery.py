"""Selects the reader for a source: folder, archive, table or named data set."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from efftune.data.examples import Example, Examples
from efftune.data.sources import archives, folders, hf, tables, tfds
from efftune.data.sources.folders import SPLIT_FOLDERS, Layout
from efftune.data.sources.samples import digits_folder
from efftune.data.sources.table_columns import Columns
from efftune.errors import DataError, UsageError, unknown_name
from efftune.system import files
from efftune.system.progress import Progress, silent

_LOGGER = logging.getLogger(__name__)
_LABEL_TABLES = {
    f"{name}{suffix}"
    for name in ("labels", "annotations", "metadata", "train", "train_labels")
    for suffix in tables.SUFFIXES
}


def find(
    source: str | Path,
    on_progress: Progress = silent,
    columns: Columns = Columns(),  # noqa: B008  (frozen)
    held_out: Mapping[Literal["val", "test"], str] = MappingProxyType({}),
) -> Examples:
    """Find the examples in a source.

    Args:
        source: a folder as `folders.read` takes it, or one with a table such as `labels.csv`
            beside the pictures; a `.zip`, `.tar`, `.tar.gz` or `.tgz` archive of such a folder; a
            `.csv`, `.tsv` or `.parquet` table; `sample:NAME`; `tfds:NAME[/CONFIG][:VERSION]`, from
            TensorFlow Datasets; or `hf:NAME[:CONFIG]` or `hf:FOLDER`, a Hugging Face data set.
        on_progress: called with `unpack`, the number of pictures, archive members or bytes
            unpacked, and the total; before a Hugging Face data set is loaded by name, also with
            `download`.
        columns: column names of a table or of a Hugging Face data set.
        held_out: further sources, of the pictures of the splits `val` and `test`. Their names get
            the source in front.

    Returns:
        One example per file, sorted by name, or one per row of a table, in its order. Splits are
        set where the source defines them.

    Raises:
        UsageError: a source does not exist, or a package that it needs is not installed; or both
            the source and `held_out` have pictures of a split.
        DataError: a folder, archive or table cannot be read, split folders are ambiguous, or a
            data set cannot be downloaded.
    """
    rows = _rows(source, on_progress, columns)
    splits = {row.split for row in rows if row.usable}
    for split, other in held_out.items():
        if split in splits:
            raise UsageError(
                f"{source} has {split} pictures already: omit --{split} {other}, or train on "
                "the folder of its training pictures only."
            )
        further = _rows(other, on_progress, columns)
        own = {row.split for row in further} - {""}
        if own - {split} and split not in own:
            raise UsageError(
                f"--{split} {other} is divided into splits, and none is {split}: give the folder "
                "of one of them."
            )
        paths, folder = {row.path for row in further}, other.rstrip("/\\")
        rows = [row for row in rows if row.path not in paths]  # it may lie in the source
        if splits and not any(row.usable for row in rows):
            raise UsageError(
                f"--{split} {other} holds all pictures of {source}: none are left to train on."
            )
        rows += [
            replace(row, name=f"{folder}/{row.name}", split=split)
            for row in further
            if not own or row.split == split
        ]
    return Examples(str(source), tuple(rows))


def _rows(source: str | Path, on_progress: Progress, columns: Columns) -> list[Example]:
    try:
        layout = _layout(str(source), source, on_progress, columns)
    except PermissionError as error:
        raise DataError(
            f"No permission to access {error.filename}. Change its permissions, or move it out."
        ) from None
    _LOGGER.info("%s: %s", source, layout.description)
    return list(layout.rows)


def _layout(name: str, source: str | Path, on_progress: Progress, columns: Columns) -> Layout:
    if name.startswith(tfds.PREFIX):
        return folders.read(tfds.unpacked(name, SPLIT_FOLDERS, on_progress))
    if name.startswith(hf.PREFIX):
        return folders.read(hf.unpacked(name, SPLIT_FOLDERS, columns, on_progress))
    if name.startswith("sample:"):
        return folders.read(_sample(name))
    root = files.user_path(source)
    is_table = root.suffix.casefold() in tables.SUFFIXES
    if root.is_dir():
        return _folder(root, columns)
    if root.is_file() and is_table:
        return _table(root, columns)
    if root.is_file() and archives.is_archive(root):
        return _folder(archives.unpacked(root, on_progress), columns)
    if root.exists():
        raise UsageError(
            f"{name!r} is a file. Give a folder with one folder per class, an archive of such a "
            f"folder ({', '.join(archives.SUFFIXES)}), or a table ({', '.join(tables.SUFFIXES)})."
        )
    kind = "file" if is_table or archives.is_archive(root) else "folder"
    raise UsageError(f"There is no {kind} {name!r}. Give a folder with one folder per class.")


def _folder(root: Path, columns: Columns) -> Layout:
    """A folder of class folders; or, if there are no two of them, one with a table of labels."""
    named = [path for path in sorted(root.iterdir()) if path.name.casefold() in _LABEL_TABLES]
    try:
        layout = folders.read(root, splits=columns.splits == "auto")
    except DataError:
        if len(named) != 1:
            raise
        return _table(named[0], columns)
    return _table(named[0], columns) if layout.is_weak and len(named) == 1 else layout


def _table(path: Path, columns: Columns) -> Layout:
    rows, description = tables.read(path, columns, SPLIT_FOLDERS)
    return Layout(tuple(rows), f"table {path.name} with {description}")


def _sample(name: str) -> Path:
    samples = {"sample:digits": digits_folder}
    if name not in samples:
        raise unknown_name("sample", name, samples)
    return samples[name]()
