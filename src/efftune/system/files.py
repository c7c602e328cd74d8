"""Files appear whole or not at all, and say when they were altered since."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from efftune.errors import UsageError

_SUMS = "sha256.json"


def user_path(path: str | Path) -> Path:
    """A path as the user means it: `~` is the home folder. Unknown users' `~name` stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path's own raises for unknown users)


def cache_folder() -> Path:
    """Where efftune keeps what it can make again: `$EFFTUNE_CACHE`, or the user's cache folder.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    folder = user_path(os.environ.get("EFFTUNE_CACHE") or platformdirs.user_cache_dir("efftune"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise UsageError(
            f"Cannot write to the cache folder {folder}. Set EFFTUNE_CACHE to a folder of yours."
        )
    return folder


@contextmanager
def written_whole(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Hand out a temporary path beside `path`; move what was written there into place at the end.

    If the block raises, `path` stays as it was and the temporary file is removed. The temporary
    name keeps the suffix, since some writers choose their format by it. Without `flush` a power
    cut may leave a file with holes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=path.suffix)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        # mkstemp makes private files; a run should be as readable as any file its owner makes.
        partial.chmod(0o666 & ~_umask())
        if flush:
            _flush_to_disk(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Like `written_whole`, for a folder that does not exist yet; files in it are flushed.

    If another process finishes the same folder first, that one is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=".partial-"))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        for file in filter(Path.is_file, partial.iterdir()):
            _flush_to_disk(file)
        try:
            partial.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def reserved_folder(candidates: Iterable[Path]) -> Iterator[Path]:
    """Make the first of `candidates` that does not exist yet, and remove it if the block raises.

    Two processes never get the same folder.

    Raises:
        UsageError: the folder cannot be made, or all candidates are taken.
    """
    folder = _made(candidates)
    try:
        yield folder
    except BaseException:  # Ctrl-C too leaves nothing half-written behind
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _made(candidates: Iterable[Path]) -> Path:
    taken = None
    for taken in candidates:
        try:
            taken.parent.mkdir(parents=True, exist_ok=True)
            if _made_now(taken):
                return taken
        except OSError as error:  # the parent may be a file, closed, or on a full disk
            raise UsageError(
                f"Cannot make the run folder {taken}: {error.strerror}. Name another with --run."
            ) from None
    raise UsageError(f"{taken} exists already, and runs are never overwritten. Name another.")


def _made_now(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def write(path: Path, content: str | bytes, *, flush: bool = True) -> None:
    """Write `content` to `path`, whole or not at all. Text is UTF-8 with plain newlines."""
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")  # file names may hold any bytes
    with written_whole(path, flush=flush) as partial:
        partial.write_bytes(content)


def temporary_array(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros in a file without a name, which goes when the array goes: memory is not the limit."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(dir=cache_folder()) as stream:
        if hasattr(os, "posix_fallocate"):
            # A full disk must be an error here, not a crash when the array is written to.
            os.posix_fallocate(stream.fileno(), 0, size)
        return np.memmap(stream, dtype, "w+", shape=shape)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Note the checksums of the files in a folder, for `is_intact`."""
    inside = (path for path in folder.rglob("*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): sha256(path) for path in inside}
    write(folder / _SUMS, json.dumps(sums))


def is_intact(folder: Path) -> bool:
    """Whether a sealed folder is there, whole and unaltered."""
    try:
        sums = json.loads((folder / _SUMS).read_text())
        return bool(sums) and all(sha256(folder / name) == sums[name] for name in sums)
    except (OSError, ValueError):
        return False


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
