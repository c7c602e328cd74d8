"""Selects the reader for a source: folder, archive, table or named data set."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal

from efftune.data.examples import Example, Examples
from efftune.data.formats import SUFFIXES
from efftune.data.sources import addresses, archives, copies, folders, hf, shards, tables, tfds
from efftune.data.sources.folders import SPLIT_FOLDERS, Layout
from efftune.data.sources.samples import digits_folder
from efftune.data.sources.table_columns import OPTIONS, Columns
from efftune.errors import DataError, UsageError, unknown_name
from efftune.system import files
from efftune.system.progress import Progress, silent

_LOGGER = logging.getLogger(__name__)
_SHORTENED = re.compile(r"[a-z][a-z0-9+.\-]+:/[^/]", re.IGNORECASE)  # addresses by pathlib
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
    *,
    strict: bool = True,
) -> Examples:
    """Find the examples in a source.

    Args:
        source: a folder as `folders.read` takes it, or one with a table such as `labels.csv`
            beside the pictures; a `.zip`, `.tar`, `.tar.gz` or `.tgz` archive of such a folder; a
            `.csv`, `.tsv` or `.parquet` table; the address of any of these, such as
            `s3://bucket/photos`; `sample:NAME`; `tfds:NAME[/CONFIG][:VERSION]`, from
            TensorFlow Datasets; or `hf:NAME[:CONFIG]` or `hf:FOLDER`, a Hugging Face data set.
        on_progress: called with `unpack`, the number of pictures, archive members or bytes
            unpacked, and the total; before a Hugging Face data set is loaded by name, also with
            `download`; of an address, with `list` and `copy`.
        columns: column names of a table or of a Hugging Face data set.
        held_out: further sources, of the pictures of the splits `val` and `test`. Their names get
            the source in front.
        strict: refuse names of columns that the source has no use for. A run's need not fit
            another source.

    Returns:
        One example per file, sorted by name, or one per row of a table, in its order. Splits are
        set where the source defines them.

    Raises:
        UsageError: a source does not exist, or a package that it needs is not installed; or both
            the source and `held_out` have pictures of a split; or see `strict`.
        DataError: a folder, archive or table cannot be read, split folders are ambiguous, or a
            data set cannot be downloaded.
    """
    layout = _found(source, on_progress, columns)
    rows, used = list(layout.rows), layout.columns
    splits = {row.split for row in rows if row.usable}
    for split, other in held_out.items():
        if split in splits:
            raise UsageError(
                f"{source} has {split} pictures already: omit --{split} {other}, or train on "
                "the folder of its training pictures only."
            )
        found = _found(other, on_progress, columns)
        used |= found.columns
        own = {row.split for row in found.rows} - {""}
        if own - {split} and split not in own:
            raise UsageError(
                f"--{split} {other} is divided into splits, and none is {split}: give the folder "
                "of one of them."
            )
        rows, folder = _outside(rows, found.rows), other.rstrip("/\\")
        if splits and not any(row.usable for row in rows):
            raise UsageError(
                f"--{split} {other} holds all pictures of {source}: none are left to train on."
            )
        rows += [
            replace(row, name=f"{folder}/{row.name}", split=split)
            for row in found.rows
            if not own or row.split == split
        ]
    if strict:
        _require_use(str(source), layout, columns, used)
    return Examples(str(source), tuple(rows))


def _outside(rows: Sequence[Example], others: Iterable[Example]) -> list[Example]:
    """Examples of other files than some: those may lie in the source, too."""
    places = {*files.places(row.path for row in others)}
    at = files.places(row.path for row in rows)
    return [row for row, place in zip(rows, at, strict=True) if place not in places]


def _require_use(source: str, layout: Layout, columns: Columns, used: Set[str]) -> None:
    """Check that columns which were chosen by name are looked at.

    Raises:
        UsageError: one is not, in the source or in what is held out.
    """
    idle = [option for role, option in columns.chosen.items() if role not in used]
    if idle:
        raise UsageError(
            f"{idle[0]} has no effect on {source}, which was read as {layout.description}. Omit "
            "it, also in a settings file, or list the pictures in a table that has what it names."
        )


def _found(source: str | Path, on_progress: Progress, columns: Columns) -> Layout:
    try:
        layout = _layout(str(source), source, on_progress, columns)
    except PermissionError as error:
        raise DataError(
            f"No permission to access {error.filename}. Change its permissions, or move it out."
        ) from None
    _LOGGER.info("%s: %s", source, layout.description)
    return layout


def _layout(name: str, source: str | Path, on_progress: Progress, columns: Columns) -> Layout:
    named = _named(name, on_progress, columns)
    if named is not None:
        used = frozenset({"path", "label"} if name.startswith(hf.PREFIX) else ())
        return replace(folders.read(named), columns=used)
    if shards.is_pattern(name):
        return shards.read(_shards(name, on_progress, columns), on_progress)
    root = files.user_path(source)
    if addresses.is_address(name):
        root = _copied(name, on_progress, columns)
    if root.is_file() and root.suffix.casefold() in tables.SUFFIXES:
        return _table(root, columns, on_progress)
    if root.is_file() and shards.is_shard(root):
        return shards.read([root], on_progress)
    if root.is_file() and archives.is_archive(root):
        is_kept = columns.keeps_copies or not addresses.is_address(name)
        root = archives.unpacked(root, on_progress, None if is_kept else root.parent.parent)
    _require_folder(root, name)
    return _folder(root, columns, on_progress)


def _named(name: str, on_progress: Progress, columns: Columns) -> Path | None:
    """The folder of a data set that has a name; None if it is something else."""
    if name.startswith("sample:"):
        return _sample(name)
    if name.startswith(tfds.PREFIX):
        return tfds.unpacked(name, SPLIT_FOLDERS, on_progress)
    if name.startswith(hf.PREFIX) and not addresses.is_address(name):
        return hf.unpacked(name, SPLIT_FOLDERS, columns, on_progress)
    return None


def _require_folder(root: Path, name: str) -> None:
    """Check that a source is a folder.

    Raises:
        UsageError: it is something else, or nothing.
    """
    if root.is_dir():
        return
    if root.exists():
        raise UsageError(
            f"{name!r} is a file. Give a folder with one folder per class, an archive of such a "
            f"folder ({', '.join(archives.SUFFIXES)}), or a table ({', '.join(tables.SUFFIXES)})."
        )
    if _SHORTENED.match(name):
        raise UsageError(
            f"{name!r} has one slash, and an address two. (pathlib makes one of them: give an "
            "address as text.)"
        )
    is_file = root.suffix.casefold() in tables.SUFFIXES or archives.is_archive(root)
    if is_file:
        raise UsageError(f"There is no file {name!r}.")
    raise UsageError(f"There is no folder {name!r}. Give a folder with one folder per class.")


def _copied(address: str, on_progress: Progress, columns: Columns) -> Path:
    """A copy of what is at an address: a folder, an archive, or a table with its pictures."""
    keep, path = columns.keeps_copies, PurePosixPath(addresses.path_of(address))
    is_table = path.suffix.casefold() in tables.SUFFIXES
    if not is_table and not archives.is_archive(path):
        return copies.of_folder(address, on_progress, keep=keep)
    found = copies.of_file(address, on_progress, keep=keep)
    if is_table and not columns.root:
        _copy_listed(found, copies.parent(address), on_progress, columns)
    return found


def _copy_listed(table: Path, address: str, on_progress: Progress, columns: Columns) -> Path | None:
    """A folder with copies of the pictures that a table lists; None if they are elsewhere."""
    listed, keep = tables.paths(table, columns), columns.keeps_copies
    if not listed:
        return None
    if not addresses.is_listed(address):
        pictures = [
            each
            for each in listed
            if each.casefold().endswith(tuple(SUFFIXES))
            and not each.startswith("/")
            and ".." not in each.split("/")
        ]
        return copies.named(address, pictures, on_progress, keep=keep)
    names = {each.rpartition("/")[2] for each in listed}
    return copies.beside(address, names, on_progress, keep=keep)


def _shards(pattern: str, on_progress: Progress, columns: Columns) -> list[Path]:
    """The paths of shards, or of copies of them."""
    names = shards.expanded(pattern)
    if addresses.is_address(pattern):
        place = copies.parent(pattern)
        wanted = [name.removeprefix(f"{place}/") for name in names]
        folder = copies.named(
            place, [*wanted, shards.MANIFEST], on_progress, keep=columns.keeps_copies
        )
        names = [str(folder / name) for name in wanted]
    found = [files.user_path(name) for name in names]
    missing = next((path for path in found if not path.is_file()), None)
    if missing is not None:
        raise UsageError(f"There is no file {missing.name!r}, for which {pattern} stands, too.")
    return found


def _folder(root: Path, columns: Columns, on_progress: Progress) -> Layout:
    """A folder of shards or class folders; or, without two classes, one with a table of labels."""
    if packed := shards.in_folder(root):
        return shards.read(packed, on_progress)
    named = [path for path in sorted(root.iterdir()) if path.name.casefold() in _LABEL_TABLES]
    try:
        layout = folders.read(root, splits=columns.splits == "auto")
    except DataError:
        if len(named) != 1:
            raise
        return _table(named[0], columns, on_progress)
    is_better = len(named) == 1 and (layout.is_weak or tables.has_chosen(named[0], columns))
    return _table(named[0], columns, on_progress) if is_better else layout


def _table(path: Path, columns: Columns, on_progress: Progress) -> Layout:
    if addresses.is_address(columns.root):
        root = _copy_listed(path, columns.root, on_progress, columns)
        columns = replace(columns, root=str(root or ""))
    rows, description = tables.read(path, columns, SPLIT_FOLDERS, on_progress)
    return Layout(tuple(rows), f"table {path.name} with {description}", columns=frozenset(OPTIONS))


def _sample(name: str) -> Path:
    samples = {"sample:digits": digits_folder}
    if name not in samples:
        raise unknown_name("sample", name, samples)
    return samples[name]()
