"""Where examples come from: folders of class folders, archives, tables and named sets.

Nothing is dropped in silence: each file met becomes a row, and what cannot be used carries the
reason.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from efftune.data import images
from efftune.data.examples import (
    HIDDEN,
    MACOS,
    WINDOWS,
    Example,
    Split,
    Undecided,
)
from efftune.errors import BadImage, DataError

SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_WINDOWS_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db"}


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)


def folder_rows(root: Path) -> Iterator[Example]:
    """Every file of a folder of class folders, or of split folders of those."""
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


def archive_rows(root: Path) -> Iterator[Example]:
    """The same for an unpacked archive, in which all may lie in a folder of its own."""
    inner = _wrapped(root)
    while inner:
        for entry in _entries(root):
            if entry != inner:
                yield _set_aside(entry, root, _leftover(entry) or "not in a class folder")
        root, inner = inner, _wrapped(inner)
    yield from folder_rows(root)


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
            yield from files_below(entry, root, label, split)


def files_below(
    folder: Path, root: Path, label: str, split: Split | Undecided
) -> Iterator[Example]:
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
