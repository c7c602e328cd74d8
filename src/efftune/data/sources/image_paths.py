"""The pictures meant by files, folders and glob patterns, for commands that take pictures."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from efftune.data import images
from efftune.data.examples import (
    LEFTOVERS,
)
from efftune.data.sources.folders import files_below
from efftune.errors import BadImage, DataError, UsageError
from efftune.system import files


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
    rows = list(files_below(folder, folder, "", ""))
    if not any(row.usable for row in rows):
        raise DataError(f"{folder} holds no picture that can be read.")
    for row in rows:
        if row.usable:
            found[row.path] = None
        elif row.reason not in LEFTOVERS | {images.NOT_AN_IMAGE}:
            failures[row.path] = row.reason
