"""The record of what was sorted into a folder, by which all of it can be taken away again."""

import filecmp
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from filelock import BaseFileLock, FileLock, Timeout

from efftune.errors import DataError, UsageError
from efftune.system import files

UNDO = "undo.jsonl"
_MOST_LINE = 2**20  # bytes, and more
PhotoState = tuple[str, int, int]  # of a photo: its path, size, and time of last change


@dataclass(frozen=True)
class Placed:
    """A file that was placed in a folder of sorted photos.

    Attributes:
        photo: the path of the photo, resolved.
        path: of what was placed, relative to the folder.
        way: `link`, a hard link to the photo; `copy`; or `sidecar`, its keywords.
        size: in bytes.
        changed: when the photo was last modified, in nanoseconds since 1970; a disk may round that.
    """

    photo: str
    path: str
    way: str
    size: int = 0
    changed: int = 0

    @property
    def state(self) -> PhotoState:
        """The photo as it was when it was placed."""
        return self.photo, self.size, self.changed


@dataclass(frozen=True)
class Undone:
    """What became of the files that were placed in a folder.

    Attributes:
        removed: their number.
        kept: those that are there still, by path, with the reason.
    """

    removed: int
    kept: Mapping[str, str]


def held(into: Path) -> BaseFileLock:
    """A lock, which is held: one process of a user sorts into a folder, or unsorts it.

    Raises:
        UsageError: another does.
    """
    folder = files.cache_folder() / "sorting"  # nothing is left among people's photos
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256(os.fsencode(into.resolve())).hexdigest()
    lock = FileLock(folder / f"{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"Another efftune sorts into {into}, or unsorts it. Wait until it has ended, or choose "
            "another folder."
        ) from None
    return lock


@contextmanager
def record_of(into: Path) -> Iterator[TextIO]:
    """The record of a folder, to be gone on with, without a last line that was cut off."""
    into.mkdir(parents=True, exist_ok=True)
    with (into / UNDO).open("a+b") as stream:
        start = stream.seek(max(0, stream.seek(0, os.SEEK_END) - _MOST_LINE))
        stream.truncate(start + stream.read().rfind(b"\n") + 1)
    with (into / UNDO).open("a", encoding="ascii") as record:
        yield record


def note(record: TextIO, placed: Placed) -> None:
    """Write down what is going to be placed."""
    record.write(_line(placed))
    record.flush()


def undo(into: Path) -> Undone:
    """Take away what was placed in a folder; a file that is the last of its kind stays.

    Args:
        into: the folder.

    Raises:
        UsageError: nothing was sorted into it, it cannot be written to, or another process sorts.
        DataError: its record is damaged.
    """
    with held(into):
        return _undone(into)


def _undone(into: Path) -> Undone:
    if not (into / UNDO).is_file():
        raise UsageError(f"{into} has no {UNDO}: nothing was sorted into it.")
    placed = {each.path: each for each in recorded(into)}
    kept, removed = dict[str, Placed](), 0
    reasons = dict[str, str]()
    try:
        for path, each in placed.items():
            reason = _why_kept(into, each)
            if reason:
                kept[path], reasons[path] = each, reason
            elif os.path.lexists(into / path):
                (into / path).unlink()
                removed += 1
        for folder in {(into / path).parent for path in placed}:
            with suppress(OSError):  # it holds other files
                folder.rmdir()
        if kept:
            files.write(into / UNDO, "".join(map(_line, kept.values())))
        else:
            (into / UNDO).unlink()
            with suppress(OSError):  # it holds other files
                into.rmdir()
    except OSError as error:
        raise UsageError(f"Cannot write to {into}: {error.strerror or error}.") from None
    return Undone(removed, reasons)


def _why_kept(into: Path, placed: Placed) -> str:
    """Why a file has to stay; empty if it may be removed, or is gone."""
    path = into / placed.path
    if not os.path.lexists(path):
        return ""
    status = path.lstat()
    is_ours = stat.S_ISREG(status.st_mode) and path.resolve().is_relative_to(into.resolve())
    is_sidecar = placed.way == "sidecar"
    if not is_ours or status.st_size != placed.size:
        return "it is another file now"
    is_true_copy = placed.way == "copy" and _is_alike(path, placed)
    if is_sidecar or not (is_true_copy or status.st_mtime_ns == placed.changed):
        return "" if is_sidecar else "it has changed"
    try:
        original = Path(placed.photo).stat()
    except OSError:
        return f"{placed.photo} is gone, and this is what is left of it"
    known = (placed.size, placed.changed)
    is_same = is_true_copy or known == (original.st_size, original.st_mtime_ns)
    if os.path.samestat(original, status) and status.st_nlink == 1:  # found through a link
        return f"{placed.photo} is this file, and there is no other"
    return "" if is_same else f"{placed.photo} has changed, and this is how it was"


def _is_alike(path: Path, placed: Placed) -> bool:
    """Whether a copy holds what its photo holds, if their times do not tell.

    Disks such as those of cameras keep times to 2 s, and some change with the clock in summer.
    """
    try:
        times = {path.stat().st_mtime_ns, Path(placed.photo).stat().st_mtime_ns}
        return times != {placed.changed} and filecmp.cmp(placed.photo, path, shallow=False)
    except OSError:
        return False


def _line(placed: Placed) -> str:
    return json.dumps(asdict(placed)) + "\n"


def recorded(into: Path) -> list[Placed]:
    """What was placed in a folder; nothing that its record says is trusted.

    Raises:
        DataError: it is damaged.
    """
    path = into / UNDO
    if not os.path.lexists(path):
        return []
    lines = files.inside(into, UNDO, most=2**31).read_text(encoding="ascii", errors="replace")
    found = list[Placed]()
    for number, line in enumerate(lines.splitlines(keepends=True), 1):
        try:
            values = Placed(**json.loads(line))
            _require_whole(values)
        except (ValueError, TypeError, AttributeError, RecursionError):
            if not line.endswith("\n"):  # the last one was cut off, before anything was placed
                break
            raise DataError(f"{path} is damaged in line {number}. Restore it.") from None
        found.append(values)
    return found


def _require_whole(placed: Placed) -> None:
    """Check what was read.

    Raises:
        ValueError: it is not what is written here.
    """
    folder, name = placed.path.split("/")
    is_whole = (
        all(each not in ("", ".", "..") for each in (folder, name))
        and isinstance(placed.photo, str)
        and isinstance(placed.size, int)
        and isinstance(placed.changed, int)
    )
    if not is_whole:
        raise ValueError
