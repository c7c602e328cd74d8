"""Reads folders of class folders, with or without split folders.

No file is dropped silently: each becomes an example, and an unusable file has a reason.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from efftune.data import picture_bytes
from efftune.data.examples import (
    FINDINGS,
    HEAT_MAPS,
    HIDDEN,
    MACOS,
    NO_CLASS_FOLDER,
    RUN,
    WINDOWS,
    Example,
    Split,
    Undecided,
)
from efftune.errors import BadImage, DataError

SPLIT_FOLDERS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_WINDOWS_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db"}
_HEAT_MAP = re.compile(r".+-explained(-\d+)?\.png")
_FINDINGS = "findings.csv"
_PLOTS = {"samples.png", "augmented.png", "sizes.png", "classes.png", "duplicates.png"}
_CLASS_AND_NUMBER = re.compile(
    r"(.*[^\W\d_].*?)(?:[ ._-]+\d+(?: \(\d+\))?|[ ._-]*\(\d+\))", re.DOTALL
)
# What cameras and programs write before a number is no class.
_NO_CLASSES = {
    *("img", "dsc", "dscn", "dscf", "dscf_", "p", "pxl", "mvimg", "gopr", "dji", "sam", "cimg"),
    *("image", "images", "photo", "picture", "pic", "file", "scan", "page", "frame", "screenshot"),
    *("untitled", "whatsapp image", "signal", "fb_img", "received", "download"),
}


@dataclass(frozen=True)
class Layout:
    """What of a folder was taken for what.

    Attributes:
        rows: one example per file.
        description: for the user, such as "class folders" or "classes from the file names".
        from_names: whether the classes are from the names of files.
        columns: attributes of `Columns` that were looked at.
    """

    rows: tuple[Example, ...]
    description: str
    from_names: bool = False
    columns: frozenset[str] = frozenset()

    @property
    def is_weak(self) -> bool:
        """Whether a table of labels in the same folder would be the better source."""
        classes = {row.label for row in self.rows if row.usable}
        return len(classes) < 2 or self.from_names


def read(root: Path, *, splits: bool = True) -> Layout:
    """Examples for all files in a folder of class folders, with or without split folders.

    Folders that hold nothing but one other folder of folders are looked through. If a folder has
    pictures but no folders, the classes are read from names such as `cat.17.jpg`, if that fits.

    Args:
        root: the folder. Archives unpack to such folders, too.
        splits: whether folders named `train`, `test` and so on are splits rather than classes.
    """
    rows: list[Example] = []
    found = root
    while inner := _only_folder(found, splits=splits):
        for entry in _entries(found):
            if entry != inner:
                rows.append(_set_aside(entry, root, _leftover(entry) or NO_CLASS_FOLDER))
        found = inner
    where = "" if found == root else f" in {found.relative_to(root).as_posix()}/"
    split_folders = _split_folders(found) if splits else {}
    if not split_folders:
        classes = _Classes(found, found, "")
        return Layout((*rows, *classes.rows), f"{classes.description}{where}", classes.from_names)
    inner_folders = _same_only_folders(split_folders)
    descriptions: dict[str, None] = {}
    from_names = False
    for entry in _entries(found):
        if entry in split_folders:
            classes = _Classes(inner_folders.get(entry, entry), found, split_folders[entry])
            rows += classes.rows
            descriptions[classes.description] = None
            from_names |= classes.from_names
        else:
            rows.append(_set_aside(entry, found, _leftover(entry) or "not in a split folder"))
    names = (
        folder.name if folder.name == split else f"{folder.name} (as {split})"
        for folder, split in split_folders.items()
    )
    splits_and_classes = f"split folders {', '.join(names)} with {' and '.join(descriptions)}"
    return Layout(tuple(rows), f"{splits_and_classes}{where}", from_names)


def _same_only_folders(split_folders: Iterable[Path]) -> dict[Path, Path]:
    """For split folders that all hold one folder of the same name, such as `images`, that one."""
    inner = {folder: _only_folder(folder, splits=False) for folder in split_folders}
    names = {each.name.casefold() for each in inner.values() if each}
    found = {folder: each for folder, each in inner.items() if each}
    return found if len(names) == 1 and len(found) == len(inner) else {}


class _Classes:
    """The classes in a folder, as folders or in the names of its files."""

    def __init__(self, folder: Path, root: Path, split: Split | Undecided):
        entries = _entries(folder)
        visible = [entry for entry in entries if not _leftover(entry)]
        self.description = "class folders"
        self.rows: list[Example] = []
        labels: dict[Path, str] = {}
        if not any(entry.is_dir() for entry in visible):
            labels = _labels_in_names(visible)
            self.description = "no class folders"
        if labels:
            path, label = next(iter(labels.items()))
            self.description = f"classes from the file names ({path.name} is {label!r})"
        self.from_names = bool(labels)
        for entry in entries:
            if entry in labels:
                self.rows.append(Example(entry, _name(entry, root), labels[entry], split))
            elif reason := _leftover(entry):
                self.rows.append(_set_aside(entry, root, reason))
            elif entry.is_dir():
                # macOS stores é as two characters, other systems as one; both mean the same class.
                label = unicodedata.normalize("NFC", entry.name)
                self.rows.extend(files_below(entry, root, label, split))
            else:
                reason = "no class in its name" if labels else NO_CLASS_FOLDER
                self.rows.append(_set_aside(entry, root, reason))


def _labels_in_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Classes of pictures by names such as `cat.17.jpg`; empty unless nearly all have one."""
    pictures = [path for path in paths if _is_picture(path)]
    labels = {}
    for path in pictures:
        match = _CLASS_AND_NUMBER.fullmatch(unicodedata.normalize("NFC", path.stem))
        if match and match[1].casefold() not in _NO_CLASSES:
            labels[path] = match[1]
    counts = Counter(labels.values())
    fits = len(labels) > 0.9 * len(pictures) and len(counts) > 1 and min(counts.values()) > 1
    return labels if fits else {}


def _only_folder(root: Path, *, splits: bool) -> Path | None:
    """The only folder in `root`, if it contains classes, as folders or in names of files."""
    folders = [entry for entry in _entries(root) if entry.is_dir() and not _leftover(entry)]
    is_split = splits and bool(folders) and folders[0].name.casefold() in SPLIT_FOLDERS
    if len(folders) != 1 or (is_split and SPLIT_FOLDERS[folders[0].name.casefold()] == "train"):
        return None
    entries = [entry for entry in _entries(folders[0]) if not _leftover(entry)]
    other_files = [entry for entry in entries if not entry.is_dir()]
    if len(other_files) == len(entries):
        return folders[0] if _labels_in_names(entries) else None
    return None if any(map(_is_picture, other_files)) else folders[0]


def _is_picture(path: Path) -> bool:
    try:
        picture_bytes.sniff(path)
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
            f"({', '.join(others)}). Move the others out, or, if all are classes, pass "
            "--splits none."
        )
    for split in set(splits_by_folder.values()):
        duplicates = [folder.name for folder, name in splits_by_folder.items() if name == split]
        if len(duplicates) > 1:
            raise DataError(
                f"{root} has several {split} splits: {', '.join(duplicates)}. Keep one, or, if all "
                "are classes, pass --splits none."
            )
    return splits_by_folder


def files_below(
    folder: Path, root: Path, label: str, split: Split | Undecided
) -> Iterator[Example]:
    """Examples for all files in a class folder and its subfolders."""
    count = 0
    above = [each for each in folder.parents if each == root or root in each.parents]
    for path in _walk(folder, frozenset(map(_identity, above))):
        count += 1
        if path.is_dir():
            reason = _leftover(path) or "folder links back to itself"
        else:
            reason = _left_by_system(path)
        if not reason:
            try:
                picture_bytes.sniff(path)
            except BadImage as error:
                reason = error.reason
        yield Example(path, _name(path, root), label, split, reason)
    if not count:
        yield _set_aside(folder, root, "empty folder")


def _walk(folder: Path, ancestors: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Files below `folder`, following links, but not into leftovers or link loops."""
    ancestors |= {_identity(folder)}
    for entry in _entries(folder):
        if not entry.is_dir() or _leftover(entry) or _identity(entry) in ancestors:
            yield entry
        else:
            yield from _walk(entry, ancestors)


def _identity(folder: Path) -> tuple[int, int]:
    """Device and number of a folder, which are the same under all its names."""
    status = folder.stat()
    return status.st_dev, status.st_ino


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
    """The reason if it is left by the operating system, or by this package in this folder."""
    return _left_by_system(path) or (_left_by_efftune(path) if path.is_dir() else "")


def _left_by_efftune(folder: Path) -> str:
    """The reason if a folder is a run, or holds runs, heat maps or findings and nothing else."""
    kinds = {RUN: _is_run, HEAT_MAPS: _is_heat_map}
    try:
        if _is_run(folder):
            return RUN
        if (folder / _FINDINGS).is_file():
            kinds = {FINDINGS: _is_finding}
        with os.scandir(folder) as entries:
            visible = (each for each in entries if not each.name.startswith("."))
            if first := next(visible, None):
                for reason, is_left in kinds.items():
                    if is_left(first) and all(map(is_left, visible)):
                        return reason
    except OSError:  # as whoever reads the folder is going to find out
        pass
    return ""


def _is_run(folder: os.PathLike[str]) -> bool:
    place = Path(folder)
    others = (place / "recipe.toml", place / "unfinished")
    return (place / "run.json").is_file() and any(each.exists() for each in others)


def _is_heat_map(file: os.DirEntry[str]) -> bool:
    return bool(_HEAT_MAP.fullmatch(file.name))


def _is_finding(file: os.DirEntry[str]) -> bool:
    return file.name == _FINDINGS or file.name in _PLOTS


def _left_by_system(path: Path) -> str:
    """The reason if the name is that of a hidden or operating-system file, else empty."""
    if path.name.startswith(".") or path.name == "Icon\r":  # of a folder, under macOS
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


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)
