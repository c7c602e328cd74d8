"""Resolves files, folders and glob patterns to pictures, for commands that take pictures."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from efftune.data import formats, picture_bytes
from efftune.data.examples import LEFTOVERS, Example
from efftune.data.sources import addresses, copies
from efftune.data.sources.folders import files_below
from efftune.errors import BadImage, DataError, UsageError
from efftune.system import files
from efftune.system.progress import Progress, silent


def pictures(
    names: Sequence[str | Path], on_progress: Progress = silent
) -> tuple[list[Path], dict[Path, str]]:
    """Resolve files, folders, addresses and glob patterns to pictures.

    Args:
        names: paths or patterns. A folder stands for all pictures below it. `-` reads paths from
            standard input: one per line, or NUL-terminated if the input contains a NUL. What is at
            an address is copied first; `addresses.shown` tells the address of a copy.
        on_progress: called with `list` and `copy`; see `copies`.

    Returns:
        The pictures in order without duplicates, and reasons by path for files that cannot be read.
        Files in a folder that are not pictures are ignored, unless their suffix is one of pictures.

    Raises:
        UsageError: a name matches no file or folder, or standard input is empty.
        DataError: a folder cannot be read, or contains no readable picture.
    """
    paths: dict[Path, None] = {}
    failures: dict[Path, str] = {}
    expanded = list(_expand_stdin(names))
    single = copies.of_files(filter(_is_picture_at_address, expanded), on_progress)
    for name in expanded:
        for path in [single[name]] if name in single else _matches(name, on_progress):
            if path.is_dir():
                _add_folder(path, paths, failures)
                continue
            try:
                picture_bytes.sniff(path)
                paths[path] = None
            except BadImage as error:
                failures[path] = error.reason
    return list(paths), failures


def _expand_stdin(names: Sequence[str | Path]) -> Iterator[str]:
    """The names, with `-` replaced by the paths from standard input."""
    for name in dict.fromkeys(map(str, names)):
        if name != "-":
            yield name
            continue
        content = sys.stdin.buffer.read()
        lines = content.split(b"\0") if b"\0" in content else content.splitlines()
        if not any(lines):
            raise UsageError("Standard input is empty. Give one path per line.")
        yield from map(os.fsdecode, filter(None, lines))


def _is_picture_at_address(name: str) -> bool:
    suffix = PurePosixPath(addresses.path_of(name)).suffix if addresses.is_address(name) else ""
    return suffix.casefold() in formats.SUFFIXES


def _matches(name: str, on_progress: Progress) -> list[Path]:
    if addresses.is_address(name):
        return [copies.of_folder(name, on_progress)]
    path = files.user_path(name)
    if path.exists() or path.is_symlink():
        return [path]
    matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
    if not matches:
        raise UsageError(f"There is no file or folder {name!r}.")
    return matches


def _add_folder(folder: Path, paths: dict[Path, None], failures: dict[Path, str]) -> None:
    rows = list(files_below(folder, folder, "", ""))
    if not any(row.usable for row in rows):
        raise DataError(f"{addresses.shown(folder)} holds no picture that can be read.")
    for row in rows:
        if row.usable:
            paths[row.path] = None
        elif row.reason not in LEFTOVERS and not _is_something_else(row):
            failures[row.path] = row.reason


def _is_something_else(row: Example) -> bool:
    """Whether a file neither is a picture nor has the suffix of one."""
    is_named = row.path.suffix.casefold() in formats.SUFFIXES
    return row.reason.startswith(formats.NOT_AN_IMAGE) and not is_named
