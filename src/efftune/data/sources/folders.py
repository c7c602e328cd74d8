"""Reads folders of class folders, with or without split folders.

No file is dropped silently: each becomes an example, and an unusable file has a reason.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from efftune.data import images
from efftune.data.examples import HIDDEN, MACOS, WINDOWS, Example, Split, Undecided
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
    """Examples for all files in class folders, which may be inside split folders."""
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
    """Like `folder_rows`, for an unpacked archive that may have a single top-level folder."""
    inner = _top_level_folder(root)
    while inner:
        for entry in _entries(root):
            if entry != inner:
                yield _set_aside(entry, root, _leftover(entry) or "not in a class folder")
        root, inner = inner, _top_level_folder(inner)
    yield from folder_rows(root)


def _top_level_folder(root: Path) -> Path | None:
    """The only folder in `root`, if it contains folders and no pictures."""
    folders = [entry for entry in _entries(root) if entry.is_dir() and not _leftover(entry)]
    if len(folders) != 1 or SPLIT_FOLDERS.get(folders[0].name.casefold()) == "train":
        return None
    entries = [entry for entry in _entries(folders[0]) if not _leftover(entry)]
    other_files = [entry for entry in entries if not entry.is_dir()]
    return (
        folders[0]
        if len(other_files) < len(entries) and not any(map(_is_picture, other_files))
        else None
    )


def _is_picture(path: Path) -> bool:
    try:
        images.sniff(path)
    except BadImage:
        return False
    return True


def _split_folders(root: Path) -> dict[Path, Split]:
    """The split folders of `root` with their splits; empty if it has no split folders."""
    splits_by_folder = {
        entry: SPLIT_FOLDERS[entry.name.casefold()]
        for entry in _entries(root)
        if entry.name.casefold() in SPLIT_FOLDERS and entry.is_dir()
    }
    # A class may be named "test", so split folders count only if there is a train folder.
    if "train" not in splits_by_folder.values():
        return {}
    others = [
        entry.name
        for entry in _entries(root)
        if entry.is_dir() and entry not in splits_by_folder and not _leftover(entry)
    ]
    if others:
        raise DataError(
            f"{root} contains both split folders ({_names(splits_by_folder)}) and others "
            f"({', '.join(others)}). "
            "Move the others out, or, if all are classes, rename those named like splits."
        )
    for split in set(splits_by_folder.values()):
        duplicates = [folder.name for folder, name in splits_by_folder.items() if name == split]
        if len(duplicates) > 1:
            raise DataError(
                f"{root} has several {split} splits: {', '.join(duplicates)}. Keep one."
            )
    return splits_by_folder


def _class_folders(folder: Path, root: Path, split: Split | Undecided) -> Iterator[Example]:
    for entry in _entries(folder):
        if not entry.is_dir():
            yield _set_aside(entry, root, _leftover(entry) or "not in a class folder")
        elif reason := _leftover(entry):
            yield _set_aside(entry, root, reason)
        else:
            # macOS stores é as two characters, other systems as one; both mean the same class.
            label = unicodedata.normalize("NFC", entry.name)
            yield from files_below(entry, root, label, split)


def files_below(
    folder: Path, root: Path, label: str, split: Split | Undecided
) -> Iterator[Example]:
    """Examples for all files in a class folder and its subfolders."""
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


def _walk(folder: Path, ancestors: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Files below `folder`, following links, but not into leftovers or link loops."""
    status = folder.stat()
    ancestors = ancestors | {(status.st_dev, status.st_ino)}
    for entry in _entries(folder):
        if not entry.is_dir() or _leftover(entry):
            yield entry
            continue
        inner = entry.stat()
        if (inner.st_dev, inner.st_ino) in ancestors:
            yield entry
        else:
            yield from _walk(entry, ancestors)


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
    """The reason if the name is that of a hidden or operating-system file, else empty."""
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
