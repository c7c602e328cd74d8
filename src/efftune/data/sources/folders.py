"""Where examples come from: folders of class folders, archives, tables and named sets.

Nothing is dropped in silence: each file met becomes a row, and what cannot be used carries the
reason.
"""

import glob
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from efftune.data import images
from efftune.data.examples import (
    HIDDEN,
    LEFTOVERS,
    MACOS,
    WINDOWS,
    Example,
    Examples,
    Split,
    Undecided,
)
from efftune.data.sources import archives, hf, tables, tfds
from efftune.data.sources.tables import Columns
from efftune.errors import BadImage, DataError, UsageError, unknown_name
from efftune.system import files
from efftune.system.progress import Progress, silent

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_WINDOWS_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db"}


def find(
    source: str | Path,
    on_progress: Progress = silent,
    columns: Columns = Columns(),  # noqa: B008  (frozen)
) -> Examples:
    """Find the examples in a source.

    Args:
        source: a folder with one folder per class; a folder with `train`, and perhaps `val` (or
            `valid`, `validation`) and `test`, folders of class folders; a `.zip`, `.tar`, `.tar.gz`
            or `.tgz` archive of either, in which it may lie in a folder of its own; a `.csv`,
            `.tsv` or `.parquet` table; `sample:NAME`; `tfds:NAME[/CONFIG][:VERSION]`, a set of
            TensorFlow Datasets; or `hf:NAME[:CONFIG]` or `hf:FOLDER`, a set of Hugging Face.
        on_progress: called with `unpack`, what is unpacked, be it pictures, members of an archive
            or bytes, and its total.
        columns: what those of a table are called, or of a set of Hugging Face.

    Returns:
        One row per file, sorted by name, or one per row of a table, in its order. Splits are set
        where the source brings them.

    Raises:
        UsageError: there is no such source, or a package that it needs is not installed.
        DataError: a folder, archive or table cannot be read, it is not clear which split is meant,
            or a set cannot be downloaded.
    """
    name = str(source)
    if name.startswith(tfds.PREFIX):
        return Examples(name, tuple(_rows(tfds.unpacked(name, SPLIT_FOLDERS, on_progress))))
    if name.startswith(hf.PREFIX):
        folder = hf.unpacked(name, SPLIT_FOLDERS, columns, on_progress)
        return Examples(name, tuple(_rows(folder)))
    if name.startswith("sample:"):
        return _sample(name)
    root = files.user_path(source)
    try:
        return Examples(name, tuple(_rows_of(name, root, on_progress, columns)))
    except PermissionError as error:
        raise DataError(
            f"No permission to look at {error.filename}. Change its permissions, or move it out."
        ) from None


def _rows_of(name: str, root: Path, on_progress: Progress, columns: Columns) -> Iterator[Example]:
    is_table = root.suffix.casefold() in tables.SUFFIXES
    if root.is_dir():
        return _rows(root)
    if root.is_file() and is_table:
        return tables.rows(root, columns, SPLIT_FOLDERS)
    if root.is_file() and archives.is_archive(root):
        return _rows_in_archive(archives.unpacked(root, on_progress))
    if root.exists():
        raise UsageError(
            f"{name!r} is a file. Give a folder with one folder per class, an archive of one "
            f"({', '.join(archives.SUFFIXES)}), or a table ({', '.join(tables.SUFFIXES)})."
        )
    kind = "file" if is_table or archives.is_archive(root) else "folder"
    raise UsageError(f"There is no {kind} {name!r}. Give a folder with one folder per class.")


def pictures(names: Sequence[str | Path]) -> tuple[list[Path], dict[Path, str]]:
    """The pictures meant by files, folders and glob patterns.

    Args:
        names: paths or patterns. A folder means every picture below it. `-` means the paths in
            standard input: one a line, or, if there is a NUL, with a NUL after each.

    Returns:
        The pictures, in order, each once; and the reasons, by path, of files that cannot be used.
        Files in a folder that are something else than pictures are not mentioned.

    Raises:
        UsageError: a name means nothing that exists, or standard input is empty.
        DataError: a folder cannot be read, or holds no picture.
    """
    found: dict[Path, None] = {}
    failures: dict[Path, str] = {}
    for name in _named(names):
        for path in _meant(name):
            if path.is_dir():
                _look_below(path, found, failures)
                continue
            try:
                images.sniff(path)
                found[path] = None
            except BadImage as error:
                failures[path] = error.reason
    return list(found), failures


def _named(names: Sequence[str | Path]) -> Iterator[str]:
    """The names, with those in standard input where `-` is."""
    for name in dict.fromkeys(map(str, names)):
        if name != "-":
            yield name
            continue
        told = sys.stdin.buffer.read()
        lines = told.split(b"\0") if b"\0" in told else told.splitlines()
        if not any(lines):
            raise UsageError("There is nothing in standard input. Give a path on each line.")
        yield from map(os.fsdecode, filter(None, lines))


def _meant(name: str) -> list[Path]:
    path = files.user_path(name)
    if path.exists() or path.is_symlink():
        return [path]
    matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
    if not matches:
        raise UsageError(f"There is no file or folder {name!r}.")
    return matches


def _look_below(folder: Path, found: dict[Path, None], failures: dict[Path, str]) -> None:
    rows = list(_pictures(folder, folder, "", ""))
    if not any(row.usable for row in rows):
        raise DataError(f"{folder} holds no picture that can be read.")
    for row in rows:
        if row.usable:
            found[row.path] = None
        elif row.reason not in LEFTOVERS | {images.NOT_AN_IMAGE}:
            failures[row.path] = row.reason


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _rows(root: Path) -> Iterator[Example]:
    splits = _split_folders(root)
    if not splits:
        yield from _class_folders(root, root, "")
        return
    for entry in _entries(root):
        split = splits.get(entry)
        if split:
            yield from _class_folders(entry, root, split)
        else:
            yield _set_aside(entry, root, _leftover(entry) or "not in a split folder")


def _rows_in_archive(root: Path) -> Iterator[Example]:
    """The same for an unpacked archive, in which all may lie in a folder of its own."""
    inner = _wrapped(root)
    while inner:
        for entry in _entries(root):
            if entry != inner:
                yield _set_aside(entry, root, _leftover(entry) or "not in a class folder")
        root, inner = inner, _wrapped(inner)
    yield from _rows(root)


def _wrapped(root: Path) -> Path | None:
    """The only folder in `root`, if it holds folders, and no picture beside them."""
    folders = [entry for entry in _entries(root) if entry.is_dir() and not _leftover(entry)]
    if len(folders) != 1 or SPLIT_FOLDERS.get(folders[0].name.casefold()) == "train":
        return None
    entries = [entry for entry in _entries(folders[0]) if not _leftover(entry)]
    beside = [entry for entry in entries if not entry.is_dir()]
    return folders[0] if len(beside) < len(entries) and not any(map(_opens, beside)) else None


def _opens(path: Path) -> bool:
    try:
        images.sniff(path)
    except BadImage:
        return False
    return True


def _split_folders(root: Path) -> dict[Path, Split]:
    """The split folders of `root`, if it is laid out by splits."""
    found = {
        entry: SPLIT_FOLDERS[entry.name.casefold()]
        for entry in _entries(root)
        if entry.name.casefold() in SPLIT_FOLDERS and entry.is_dir()
    }
    # A class may be called "test"; a source laid out by splits always has a train folder.
    if "train" not in found.values():
        return {}
    others = [
        entry.name
        for entry in _entries(root)
        if entry.is_dir() and entry not in found and not _leftover(entry)
    ]
    if others:
        raise DataError(
            f"{root} holds both split folders ({_names(found)}) and others ({', '.join(others)}). "
            "Move the others out, or, if these are all classes, rename those called like splits."
        )
    for split in set(found.values()):
        same = [folder.name for folder, of in found.items() if of == split]
        if len(same) > 1:
            raise DataError(f"{root} has several {split} splits: {', '.join(same)}. Keep one.")
    return found


def _class_folders(folder: Path, root: Path, split: Split | Undecided) -> Iterator[Example]:
    for entry in _entries(folder):
        if not entry.is_dir():
            yield _set_aside(entry, root, _leftover(entry) or "not in a class folder")
        elif reason := _leftover(entry):
            yield _set_aside(entry, root, reason)
        else:
            # macOS writes é as two characters, others as one: they are one class.
            label = unicodedata.normalize("NFC", entry.name)
            yield from _pictures(entry, root, label, split)


def _pictures(folder: Path, root: Path, label: str, split: Split | Undecided) -> Iterator[Example]:
    """Every file below a class folder, subfolders too."""
    count = 0
    for path in _walk(folder, frozenset()):
        count += 1
        reason = _leftover(path) or ("folder links back to itself" if path.is_dir() else "")
        if not reason:
            try:
                images.sniff(path)
            except BadImage as error:
                reason = error.reason
        yield Example(path, _name(path, root), label, split, reason)
    if not count:
        yield _set_aside(folder, root, "empty folder")


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Files below `folder`, following links; leftovers and link loops are not entered."""
    status = folder.stat()
    above = above | {(status.st_dev, status.st_ino)}
    for entry in _entries(folder):
        if not entry.is_dir() or _leftover(entry):
            yield entry
            continue
        inner = entry.stat()
        if (inner.st_dev, inner.st_ino) in above:
            yield entry
        else:
            yield from _walk(entry, above)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda entry: entry.name)
    except PermissionError:
        raise DataError(
            f"No permission to read the folder {folder}. Change its permissions, or move it out."
        ) from None
    except OSError as error:
        raise DataError(f"Cannot read the folder {folder}: {error.strerror}.") from None


def _leftover(path: Path) -> str:
    """Why a file or folder is no user's picture, judged by its name; empty if it may be one."""
    if path.name.startswith("."):
        return HIDDEN
    if path.name == "__MACOSX":
        return MACOS
    if path.name.casefold() in _WINDOWS_FILES:
        return WINDOWS
    return ""


def _set_aside(path: Path, root: Path, reason: str) -> Example:
    return Example(path, _name(path, root), reason=reason)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _sample(name: str) -> Examples:
    samples = {"sample:digits": _digits}
    if name not in samples:
        raise unknown_name("sample", name, samples)
    root = samples[name]()
    return Examples(name, tuple(_rows(root)))


def _digits() -> Path:
    """The UCI digits that scikit-learn carries: 1,797 real scans of 8 by 8 pixels, as PNG files."""
    import sklearn
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = files.cache_folder() / "samples" / f"digits-{sklearn.__version__}"
    if not folder.exists():
        digits = load_digits()
        with files.folder_written_whole(folder) as partial:
            for i, (scan, label) in enumerate(zip(digits.images, digits.target, strict=True)):
                (partial / str(label)).mkdir(exist_ok=True)
                pixels = (scan * (255 / 16)).round().astype(np.uint8)
                Image.fromarray(pixels).save(partial / str(label) / f"{i:04}.png")
    return folder
