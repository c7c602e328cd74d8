"""Finds out what the columns of a table mean, and where its pictures are."""

import itertools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from efftune.data.formats import SUFFIXES
from efftune.data.sources import addresses
from efftune.data.sources.folders import SPLIT_FOLDERS
from efftune.data.sources.table_files import TableFile
from efftune.errors import DataError, UsageError
from efftune.recipe.recipe import Recipe
from efftune.system import files

_MAX_LISTED = 20  # columns listed in an error message
_SAMPLE = 100  # rows that are looked at
_MAX_PLACES = 50  # folders beside a table that are looked into
OPTIONS = {  # by attribute of `Columns`
    "path": "--path-column",
    "label": "--label-column",
    "labels": "--label-columns",
    "split": "--split-column",
    "group": "--group-column",
    "root": "--root",
}
_LABEL_NAMES = {"class", "category", "class_name", "label_name", "species", "breed", "target"}


@dataclass(frozen=True)
class Columns:
    """The column names of a table, where its pictures are, and what names of folders mean.

    Attributes:
        path: column of the paths of pictures.
        label: column of class names.
        split: column of splits; may be missing from the table if this is the default name.
        group: column of groups such as patient, video or session; may be missing likewise.
        root: folder that the paths are relative to; empty if it is that of the table, or one in it.
        labels: columns with 0 and 1, one for each class, instead of a column of class names.
        splits: `auto` if folders called like splits are splits, `none` if they are classes.
        keeps_copies: whether copies of what is at addresses stay in the cache folder.
    """

    path: str = "path"
    label: str = "label"
    split: str = "split"
    group: str = "group"
    root: str = ""
    labels: tuple[str, ...] = ()
    splits: Literal["auto", "none"] = "auto"
    keeps_copies: bool = True

    @property
    def chosen(self) -> dict[str, str]:
        """The options that chose a name, by attribute."""
        usual = Columns()
        return {
            role: option
            for role, option in OPTIONS.items()
            if getattr(self, role) != getattr(usual, role)
        }

    @classmethod
    def of(cls, recipe: Recipe, **choices: Any) -> "Columns":
        """What is set in a recipe, of which some settings are chosen anew.

        A column of classes then replaces columns with 0 and 1, or the other way about.
        """
        usual = {"label_column": cls.label, "label_columns": ()}
        if len(usual.keys() & choices.keys()) == 1:
            choices = usual | choices
        data = recipe.changed(**choices).data
        names = (data.path_column, data.label_column, data.split_column, data.group_column)
        keeps_copies = data.copies == "keep"
        return cls(*names, data.root, data.label_columns, data.splits, keeps_copies)


class PictureFiles:
    """Finds the files that the paths in a table mean.

    Attributes:
        folder: that the paths are relative to.
        copies: paths of the copies of pictures at addresses, by address.
    """

    def __init__(self, folder: Path):
        """Look in `folder`, unless a path is absolute."""
        self.folder = folder
        self.copies: Mapping[str, Path] = {}
        self._by_stem: dict[Path, Mapping[str, Path]] = {}

    def path(self, text: str) -> Path:
        """The file of a path; if there is none, where it would be.

        Windows' separators are read, the suffix may be missing, and blanks may surround the path.
        Accented letters may be one character or two, as archives of macOS have them.
        """
        if text.strip() in self.copies:
            return self.copies[text.strip()]
        if not text.strip():
            return self.folder
        slashed = text.strip().replace("\\", "/")
        forms = (unicodedata.normalize("NFC", slashed), unicodedata.normalize("NFD", slashed))
        for name in dict.fromkeys((text, text.strip(), slashed, *forms)):
            path = self.folder / files.user_path(name)
            if os.path.lexists(path):
                return path
            if path.parent not in self._by_stem:
                self._by_stem[path.parent] = _pictures_by_stem(path.parent)
            if path.name in self._by_stem[path.parent]:
                return self._by_stem[path.parent][path.name]
        return self.folder / files.user_path(text)

    def __contains__(self, text: str) -> bool:
        """Whether there is a file for a path."""
        if not text.strip() or "\0" in text:
            return False
        return os.path.isfile(self.path(text))  # noqa: PTH113  (Path raises for too long names)


def _pictures_by_stem(folder: Path) -> dict[str, Path]:
    """The pictures in a folder, by their names without suffix where no other has the same."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in _entries(folder):
        if path.suffix.lower() in SUFFIXES:
            found[path.stem].append(path)
    return {stem: paths[0] for stem, paths in found.items() if len(paths) == 1}


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing if there is none or it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


@dataclass(frozen=True)
class Meaning:
    """What the columns of a table mean.

    Attributes:
        path: name of the column of paths.
        labels: name of the column of class names, or names of columns with 0 and 1.
        split: name of the column of splits; empty if there is none.
        group: name of the column of groups; empty if there is none.
        files: where the pictures are.
        place: the folder with the pictures, if it is not that of the table.
    """

    path: str
    labels: tuple[str, ...]
    split: str
    group: str
    files: PictureFiles
    place: str = ""

    def __str__(self) -> str:
        """What was found, for the user."""
        columns = "column" if len(self.labels) == 1 else "columns"
        names = ", ".join(map(repr, self.labels[:5])) + (" …" if len(self.labels) > 5 else "")
        place = f" (in {self.place}/)" if self.place else ""
        return f"paths in column {self.path!r}{place}, classes in {columns} {names}"


def find(table: TableFile, columns: Columns) -> Meaning:
    """Find out what the columns of a table mean.

    Columns that were chosen by name are taken as they are. Otherwise the paths are in the column
    whose cells lead to files, from the folder of the table or a folder in that; the classes in the
    only other column or one with a usual name, or in columns of 0 and 1.

    Raises:
        UsageError: the folder that was chosen does not exist, or classes are chosen twice.
        DataError: a column is missing, or several would do.
    """
    if {"label", "labels"} <= columns.chosen.keys():
        raise UsageError(
            "--label-column and --label-columns both name the classes: give one of them. (--set "
            "label_columns=[] drops those of a settings file.)"
        )
    path, split, group = (_chosen(table, columns, role) for role in ("path", "split", "group"))
    if split != columns.split and not _tells_splits(table, split):
        split = ""
    labels = [_required(table, name, "labels") for name in columns.labels]
    labels = labels or [_chosen(table, columns, "label")]
    names = [name for name in table.text_names if name not in (split, group)]
    sample = _sample(table, [path, *labels] if path and all(labels) else names)
    path, place = _paths(table, path, sample, _places(table.path, columns))
    if not all(labels):
        labels = _labels(table, {name: cells for name, cells in sample.items() if name != path})
    name = "" if place.folder == table.path.parent else columns.root or place.folder.name
    return Meaning(path, tuple(labels), split, group, place, name.rstrip("/"))


def mark(cell: str) -> bool | None:
    """Whether a cell holds 1 rather than 0; None if it holds neither."""
    return {"1": True, "1.0": True, "0": False, "0.0": False}.get(cell.strip())


def _sample(table: TableFile, names: Sequence[str]) -> dict[str, list[str]]:
    unique = [name for name in names if list(table.names).count(name) == 1]
    rows = [cells for _, cells in itertools.islice(table.rows(unique), _SAMPLE)]
    return {name: [cells[name] for cells in rows] for name in unique}


def _places(table: Path, columns: Columns) -> list[PictureFiles]:
    """Folders in which the pictures may be, the likeliest first."""
    if columns.root:
        root = files.user_path(columns.root)
        if not root.is_dir():
            raise UsageError(f"There is no folder {columns.root!r}. Set --root to another one.")
        return [PictureFiles(root)]
    folders = [each for each in _entries(table.parent) if each.is_dir()]
    beside = [folder for folder in folders if not folder.name.startswith(".")]
    return [PictureFiles(folder) for folder in (table.parent, *beside[:_MAX_PLACES])]


def _paths(
    table: TableFile,
    chosen: str,
    sample: Mapping[str, Sequence[str]],
    places: Sequence[PictureFiles],
) -> tuple[str, PictureFiles]:
    """The column of paths, and where they lead to."""
    names = [chosen] if chosen else list(sample)
    for place in places:
        counts = {name: sum(cell in place for cell in sample.get(name, ())) for name in names}
        best = max(counts.values(), default=0)
        fitting = [name for name, count in counts.items() if count == best]
        if best:
            name = _only(table, fitting)
            _require_no_other_place(table, sample[name], place, places)
            return name, place
    at_addresses = [name for name in names if any(map(_is_address, sample.get(name, ())))]
    if at_addresses:
        return _only(table, at_addresses), places[0]
    return chosen or _required(table, Columns().path, "path"), places[0]


def _is_address(cell: str) -> bool:
    return addresses.is_address(cell.strip())


def _only(table: TableFile, names: Sequence[str]) -> str:
    """The only one of columns with paths."""
    if len(names) > 1:
        listing = ", ".join(map(repr, names))
        raise DataError(
            f"Several columns of {table.path} lead to pictures: {listing}. Choose one with "
            "--path-column."
        )
    return names[0]


def _require_no_other_place(
    table: TableFile, cells: Sequence[str], place: PictureFiles, places: Sequence[PictureFiles]
) -> None:
    """Check that pictures in a folder beside the table are in no second one by the same names."""
    if place is places[0]:
        return
    for other in places[1:]:
        shared = next((cell for cell in cells if cell in place and cell in other), None)
        if other is not place and shared:
            raise DataError(
                f"{shared!r} in {table.path} may be in {place.folder.name}/ or in "
                f"{other.folder.name}/. Choose the folder with --root."
            )


def _labels(table: TableFile, others: Mapping[str, Sequence[str]]) -> list[str]:
    """The column of class names, or the columns with 0 and 1, where none was chosen."""
    usual = [name for name in others if name.casefold() in _LABEL_NAMES]
    marks = [name for name, cells in others.items() if None not in map(mark, cells)]
    for names in (list(others), usual):
        if len(names) == 1:
            return names
    is_marked = len(marks) > 1 and len(marks) == len(others)
    return marks if is_marked else [_required(table, Columns().label, "label")]


def _chosen(table: TableFile, columns: Columns, role: str) -> str:
    """The name of a column; empty if it has the default name and the table has no such column.

    The default name may have capitals, if one column only is called so. That of paths is found by
    its cells.
    """
    name, default = getattr(columns, role), getattr(Columns(), role)
    if name != default or name in table.names:
        return _required(table, name, role)
    alike = [each for each in table.names if each.strip().casefold() == default != "path"]
    return alike[0] if len(alike) == 1 else ""


def _tells_splits(table: TableFile, name: str) -> bool:
    """Whether a column that was not chosen has names of splits, or no cells."""
    cells = _sample(table, [name])[name] if name else []
    return all(cell.strip().casefold() in {"", *SPLIT_FOLDERS} for cell in cells)


def _required(table: TableFile, name: str, role: str) -> str:
    """The name of a column, which must be there once."""
    if list(table.names).count(name) == 1:
        return name
    number = "several columns" if name in table.names else "no column"
    more = " …" if len(table.names) > _MAX_LISTED else ""
    listing = ", ".join(map(repr, table.names[:_MAX_LISTED])) + more
    is_optional = role in {"split", "group"}
    optional = f"; only {getattr(Columns(), role)!r} may be missing" if is_optional else ""
    raise DataError(
        f"{table.path} has {number} {name!r}. Its columns: {listing}. Choose "
        f"{'some' if role == 'labels' else 'one'} with {OPTIONS[role]}{optional}."
    )
