"""Archives of pictures: ZIP and tar files, unpacked once into the cache folder.

An archive comes from anywhere, so nothing in it is believed. Members that would land elsewhere are
refused. Links, devices and pipes are left out. What is counted is what is written, not what headers
promise.
"""

import gzip
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import IO

from efftune.errors import DataError, EfftuneError
from efftune.system import files
from efftune.system.progress import Progress, silent

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

MOST_BYTES = 50 * 10**9  # that an archive may unpack to
MOST_TIMES = 200  # its own size; pictures hardly shrink
ALWAYS_BYTES = 10**9  # may come of any archive
MOST_MEMBERS = 5_000_000
MOST_DEPTH = 50  # folders in each other
_ZIP = {b"PK\x03\x04", b"PK\x05\x06"}  # what a ZIP file begins with; the latter an empty one
_CHUNK = 2**20
_LARGEST_READ = 2**24  # bytes at once; a tar header that asks for more is none

_Member = tuple[str, IO[bytes] | None]  # a name and its content; None for a folder


def unpacked(archive: Path, on_progress: Progress = silent) -> Path:
    """The folder of what an archive holds.

    Args:
        archive: a `.zip`, `.tar`, `.tar.gz` or `.tgz` file. Its content says which of them it is.
        on_progress: called with `unpack`, what is done and its total: members of a ZIP file, bytes
            of a tar file.

    Raises:
        DataError: the archive cannot be read, is damaged, encrypted or too large, or a member would
            land outside of the folder.
    """
    with _plain_words(archive):
        name = archive.name[: -len(_suffix(archive))][:80]
        folder = files.cache_folder() / "archives" / f"{name}-{files.sha256(archive)[:16]}"
        if not folder.is_dir():  # it appears when it is whole
            with archive.open("rb") as stream:
                members = _zip_members if stream.read(4) in _ZIP else _tar_members
            with files.folder_written_whole(folder) as partial:
                _write(members(archive, on_progress), partial, archive)
    return folder


def is_archive(path: Path) -> bool:
    """Whether a file is called like an archive."""
    return bool(_suffix(path))


def _suffix(path: Path) -> str:
    name = path.name.casefold()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


@contextmanager
def _plain_words(archive: Path) -> Iterator[None]:
    """Turn all the ways in which archives cannot be read into one that a user understands."""
    try:
        yield
    except EfftuneError:
        raise
    except OSError as error:
        if error.strerror:
            where = f" (at {error.filename})" if error.filename else ""
            raise DataError(f"Cannot unpack {archive}: {error.strerror}{where}.") from None
        raise DataError(_damaged(archive, error)) from None
    # Readers of two formats and of several ways to compress fail in their own ways on damaged
    # files: BadZipFile, TarError, zlib.error, EOFError, NotImplementedError, ValueError and more.
    except Exception as error:  # noqa: BLE001
        raise DataError(_damaged(archive, error)) from None


def _damaged(archive: Path, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return f"{archive} is damaged, cut off or no archive ({reason}). Copy or download it again."


def _write(members: Iterator[_Member], folder: Path, archive: Path) -> None:
    most = min(MOST_BYTES, max(ALWAYS_BYTES, MOST_TIMES * archive.stat().st_size))
    written = 0
    for number, (name, content) in enumerate(members, start=1):
        if number > MOST_MEMBERS:
            raise DataError(f"{archive} has more than {MOST_MEMBERS:,} members. Give a folder.")
        target = folder.joinpath(*_parts(name, archive))
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream:
            while chunk := content.read(_CHUNK):
                written += len(chunk)
                if written > most:
                    raise DataError(
                        f"{archive} unpacks to more than {most / 1e9:,.3g} GB, which is more than "
                        "pictures would. If you trust it, unpack it yourself and give the folder."
                    )
                stream.write(chunk)


def _parts(name: str, archive: Path) -> list[str]:
    """The folders and the file that a member's name means, all of them below one folder."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    strange = "\0" in name or any(PureWindowsPath(part).anchor for part in parts)
    if name.startswith("/") or ".." in parts or strange:
        raise DataError(
            f"{archive} holds a member that would be written elsewhere: {name!r}. Do not trust it."
        )
    if len(parts) > MOST_DEPTH:
        raise DataError(f"{archive} holds more than {MOST_DEPTH} folders in each other: {name!r}.")
    return parts


def _zip_members(archive: Path, on_progress: Progress) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for done, member in enumerate(members, start=1):
            name = _zip_name(member)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.flag_bits & 1:
                raise DataError(f"{archive} is encrypted. Unpack it yourself and give the folder.")
            if name.endswith("/"):
                yield name, None
            elif kind in {0, stat.S_IFREG}:  # 0 where the archive does not say
                with file.open(member) as content:
                    yield name, content
            on_progress("unpack", done, len(members))


def _zip_name(member: zipfile.ZipInfo) -> str:
    name = member.filename
    if not member.flag_bits & 0x800:  # macOS writes UTF-8 without saying so
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")  # as some programs for Windows write it


def _tar_members(archive: Path, on_progress: Progress) -> Iterator[_Member]:
    size = archive.stat().st_size
    with archive.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _Cautious(gzip.GzipFile(fileobj=raw) if packed else raw)
        with tarfile.open(fileobj=stream, mode="r:") as file:  # type: ignore[call-overload]
            while member := file.next():
                file.members.clear()  # it would keep them all
                if member.isdir():
                    yield member.name, None
                elif member.isreg() and (content := file.extractfile(member)):
                    yield member.name, content
                on_progress("unpack", raw.tell(), size)
            if stream.last != bytes(tarfile.BLOCKSIZE):  # which marks the end
                raise tarfile.ReadError("its end is missing")
    on_progress("unpack", size, size)


class _Cautious:
    """A stream that gives nobody very much at once: headers can ask for gigabytes."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile):
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.last = b""

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        if not 0 <= size <= _LARGEST_READ:
            raise tarfile.ReadError("a header is too large")
        self.last = self._stream.read(size)
        return self.last
