"""Atomic writes of files and folders, checksums, and the cache folder."""

import atexit
import csv
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import platformdirs
from numpy.typing import NDArray

from efftune.errors import DataError, DiskFull, EfftuneWarning, UsageError
from efftune.system import machine

_one_at_a_time = threading.Lock()
_CHECKSUMS_FILE = "sha256.json"
_ADDRESS = re.compile(r"([a-z][a-z0-9+.\-]+):/+", re.IGNORECASE)  # Path leaves one slash
_RUN_BYTES = 300 * 2**20  # free bytes of a disk that are left for the run itself


def user_path(path: str | Path) -> Path:
    """Expand `~` to the home folder; `~name` of an unknown user is left as it is.

    Raises:
        UsageError: the path is empty, as that of a script's variable that is not set. `Path` would
            take it for the current folder.
    """
    if not str(path):
        raise UsageError("A path is empty. Name the file or folder; '.' is the current folder.")
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path.expanduser raises for unknown users)


def output_path(path: str | Path) -> Path:
    """The same for what is written, which is no address.

    Raises:
        UsageError: it is one, such as `s3://bucket`.
    """
    if _ADDRESS.match(str(path)):
        address = _ADDRESS.sub(r"\1://", str(path), count=1)
        raise UsageError(f"{address} is an address, but a path of this machine is needed here.")
    return user_path(path)


def inside(folder: Path, name: str, *, most: int) -> Path:
    """The path of a file in a folder that may come from others.

    Args:
        folder: of the file.
        name: of the file, relative to it.
        most: bytes that the file may have.

    Raises:
        DataError: it is missing, a pipe or a device or anything else that is no file, lies outside
            of the folder, or is too large.
    """
    path = folder / name
    try:
        status = path.stat()
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Restore it.") from None
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, or no name at all
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}.") from None
    if not is_inside:
        raise DataError(f"{path} lies outside of {folder}, and is not read.")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a file.")
    if status.st_size > most:
        raise DataError(f"{path} has {status.st_size:,} bytes, and {most:,} are the most.")
    return path


def places(paths: Iterable[Path]) -> Iterator[str]:
    """Where files are, however their folders were named."""
    real = functools.cache(os.path.realpath)
    return (os.path.join(real(path.parent), path.name) for path in paths)  # noqa: PTH118


def cache_folder() -> Path:
    """The folder for files that can be recreated: `$EFFTUNE_CACHE` or the user's cache folder.

    If it is not writable, a temporary folder takes its place until the process ends.
    """
    given = os.environ.get("EFFTUNE_CACHE") or platformdirs.user_cache_dir("efftune")
    if _ADDRESS.match(given):
        raise UsageError(
            f"EFFTUNE_CACHE is {given}, but must be a folder of this machine. "
            "Features are shared at an address by EFFTUNE_SHARED_CACHE."
        )
    folder = user_path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    return folder if writable else _temporary_cache(folder)


@functools.cache
def _temporary_cache(folder: Path) -> Path:
    """A folder for this process, in place of a cache folder that is not writable."""
    warnings.warn(
        f"Cannot write to the cache folder {folder}: what is computed is not kept for the next "
        "run. Set EFFTUNE_CACHE to a writable folder.",
        EfftuneWarning,
        stacklevel=3,
    )
    temporary = Path(tempfile.mkdtemp(prefix="efftune-cache-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


@contextmanager
def written_whole(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path, then rename it to `path`.

    If the block raises, `path` is unchanged and the temporary file is removed. The temporary name
    has the same suffix, because some writers choose their format by it. Without `flush`, a power
    failure may leave an incomplete file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=path.suffix)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        # mkstemp creates private files; a run gets the default permissions.
        partial.chmod(0o666 & ~_umask())
        if flush:
            _flush_to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Like `written_whole`, for a folder; its files are flushed.

    A folder of that name that exists then, perhaps of another process, is kept, or replaced in two
    steps: it is moved away, and back if the new one cannot take its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=".partial-"))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        for file in filter(Path.is_file, partial.rglob("*")):
            _flush_to_disk(file)
        if replace and path.exists():
            with tempfile.TemporaryDirectory(
                dir=path.parent, prefix=".partial-", ignore_cleanup_errors=True
            ) as away:
                old = path.rename(Path(away) / "old")
                try:
                    partial.rename(path)
                except OSError:
                    old.rename(path)
                    raise
            return
        try:
            partial.rename(path)
        except OSError:
            if replace or not path.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def created_folder(candidates: Iterable[Path]) -> Path:
    """Create the first of `candidates` that does not exist.

    Two processes never get the same folder.

    Raises:
        UsageError: the folder cannot be created, or all candidates exist.
    """
    candidate = None
    for candidate in candidates:
        try:
            candidate.parent.mkdir(parents=True, exist_ok=True)
            if _create_folder(candidate):
                return candidate
        except OSError as error:  # the parent may be a file or read-only, or the disk full
            raise UsageError(
                f"Cannot create the run folder {candidate}: {error.strerror}. "
                "Choose another with --run."
            ) from None
    raise _exists(candidate)


def require_free(folder: str | Path | None) -> None:
    """Check early that a run folder, if one is named, can be new.

    Raises:
        UsageError: it exists.
    """
    if folder is not None and user_path(folder).exists():
        raise _exists(user_path(folder))


def _exists(folder: Path | None) -> UsageError:
    return UsageError(
        f"{folder} already exists, and runs are never overwritten. Choose another name."
    )


def _create_folder(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def write(path: Path, content: str | bytes, *, flush: bool = True) -> None:
    """Write `content` to `path` atomically. Text is encoded as UTF-8, newlines unchanged."""
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")  # file names may contain any bytes
    with written_whole(path, flush=flush) as partial:
        partial.write_bytes(content)


def disk_full(error: OSError, place: Path, needed: int = 0) -> DiskFull | None:
    """The error to raise instead of a system's, if that was for lack of space or a file's limit.

    Args:
        error: of the system.
        place: what was to be written.
        needed: bytes, if that is known.
    """
    if error.errno == errno.EFBIG:
        return DiskFull(
            f"{place} cannot be written: a file in it is larger than this session (see ulimit -f) "
            "or its disk allows. Raise that limit, or choose another place, and try again."
        )
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    folder = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    size = f"{needed:,} bytes are needed, " if needed else ""
    room = f"{size}{free:,} {'are' if size else 'bytes are'} free"
    return DiskFull(f"{place} cannot be written: {room}. Make room and try again.")


def csv_writer(stream: TextIO) -> Any:
    """A `csv.writer` for lines that end with a newline, and that quotes carriage returns in cells.

    `csv.writer` itself quotes only those of them that end its lines.
    """
    return csv.writer(_NewlineEnds(stream), lineterminator="\r\n")


class _NewlineEnds:
    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, line: str) -> int:
        return self._stream.write(line.removesuffix("\r\n") + "\n")


def temporary_array(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of zeros, memory-mapped from an unnamed file that is deleted with the array.

    It is in memory if the disk of the cache has little room, of which a warning tells.

    Raises:
        DiskFull: neither has room for it.
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return np.zeros(shape, dtype)
    folder = cache_folder()
    try:
        if not has_room(folder, size) and _fits_memory(size):
            warnings.warn(
                f"{folder} has little room: what is kept while the run lasts is kept in memory.",
                EfftuneWarning,
                stacklevel=2,
            )
            return np.zeros(shape, dtype)
        with tempfile.TemporaryFile(dir=folder) as stream:
            if hasattr(os, "posix_fallocate"):
                # Allocate now: on a full disk, writing to a sparse memory map would crash.
                os.posix_fallocate(stream.fileno(), 0, size)
            return np.memmap(stream, dtype, "w+", shape=shape)
    except OSError as error:
        raise disk_full(error, folder, size) or error from None


def has_room(folder: Path, size: int) -> bool:
    """Whether a disk has room for what is only kept for speed, and for a run besides."""
    return shutil.disk_usage(folder).free - size >= max(size, _RUN_BYTES)


def _fits_memory(size: int) -> bool:
    return size <= machine.free_memory() / 2


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Record the checksums of the files in a folder, for `is_intact`."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    checksums = {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
    write(folder / _CHECKSUMS_FILE, json.dumps(checksums))


def is_intact(folder: Path) -> bool:
    """Whether a sealed folder exists and all its files match their checksums."""
    try:
        checksums = json.loads((folder / _CHECKSUMS_FILE).read_text())
        return bool(checksums) and all(
            sha256(folder / name) == checksums[name] for name in checksums
        )
    except (OSError, ValueError):
        return False


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    with _one_at_a_time:  # between both calls another thread would read 0, and leave that
        current = os.umask(0)
        os.umask(current)
        return current
