"""ZIP and tar archives of pictures, unpacked once into the cache folder.

Archives are untrusted input. Members with paths outside the target folder are refused; hard links
become copies; other links, devices and pipes are left out, and a warning tells; size limits apply
to the bytes written, not to the sizes in headers.
"""

import gzip
import stat
import tarfile
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PureWindowsPath
from typing import IO

from efftune.errors import DataError, EfftuneError, EfftuneWarning
from efftune.system import files, pruning
from efftune.system.progress import Progress, silent

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

MOST_BYTES = 50 * 10**9  # maximum unpacked size
MOST_TIMES = 200  # maximum compression ratio; pictures hardly compress
ALWAYS_BYTES = 10**9  # unpacked size allowed for every archive
MOST_MEMBERS = 5_000_000
MOST_DEPTH = 50  # nested folders
_ZIP = {b"PK\x03\x04", b"PK\x05\x06"}  # signatures of ZIP files; the second is that of an empty one
_CHUNK = 2**20
_VERSION = 2  # of what is made of an archive
_LARGEST_READ = 2**24  # bytes per read; a valid tar header never needs more

# A name and its content; None for a folder; text for what has none of its own: the name of the
# member that a hard link stands for, or nothing.
_Member = tuple[str, IO[bytes] | str | None]


def unpacked(archive: Path, on_progress: Progress = silent, parent: Path | None = None) -> Path:
    """Unpack an archive and return its folder.

    Args:
        archive: a `.zip`, `.tar`, `.tar.gz` or `.tgz` file. The content determines the format.
        parent: of the folder; by default one in the cache folder.
        on_progress: called with `unpack`, the amount done and the total: members of a ZIP file,
            bytes of a tar file.

    Raises:
        DataError: the archive cannot be read, is damaged, encrypted or too large, or a member
            would be written outside the folder.
    """
    with readable_errors(archive):
        name = archive.name[: -len(_suffix(archive))][:80]
        place = parent or files.cache_folder() / "archives"
        folder = place / f"{name}-{files.sha256(archive)[:16]}-{_VERSION}"
        if folder.is_dir():  # written atomically, so it is complete if it exists
            pruning.note_use(folder)
        else:
            if parent is None:
                pruning.prune_sources(place)
            with archive.open("rb") as stream:
                members = _zip_members if stream.read(4) in _ZIP else _tar_members
            with files.folder_written_whole(folder) as partial:
                _write(members(archive, on_progress), partial, archive)
    return folder


def is_archive(path: PurePath) -> bool:
    """Whether a file has the suffix of an archive."""
    return bool(_suffix(path))


def _suffix(path: PurePath) -> str:
    name = path.name.casefold()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


@contextmanager
def readable_errors(archive: Path) -> Iterator[None]:
    """Convert all exceptions for unreadable archives to `DataError`."""
    try:
        yield
    except EfftuneError:
        raise
    except OSError as error:
        if error.strerror:
            where = f" (at {error.filename})" if error.filename else ""
            raise DataError(f"Cannot unpack {archive}: {error.strerror}{where}.") from None
        raise DataError(_damaged(archive, error)) from None
    # The readers raise many exceptions for damaged files: BadZipFile, TarError, zlib.error,
    # EOFError, NotImplementedError, ValueError and more.
    except Exception as error:  # noqa: BLE001
        raise DataError(_damaged(archive, error)) from None


def _damaged(archive: Path, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return (
        f"{archive} is damaged, truncated or not an archive ({reason}). Copy or download it again."
    )


def _write(members: Iterator[_Member], folder: Path, archive: Path) -> None:
    limit = min(MOST_BYTES, max(ALWAYS_BYTES, MOST_TIMES * archive.stat().st_size))
    written = left_out = 0
    spelled: dict[str, str] = {}
    ignores_capitals = folder.with_name(folder.name.swapcase()).exists()
    for number, (name, found) in enumerate(members, start=1):
        if number > MOST_MEMBERS:
            raise DataError(
                f"{archive} has more than {MOST_MEMBERS:,} members. Unpack it yourself and "
                "give the folder."
            )
        places = parts(name, archive) if found != "" else []
        target = folder.joinpath(*places)
        content = _linked(found, target, folder) if isinstance(found, str) else found
        if content is None and found is not None:
            left_out += 1
            continue
        if ignores_capitals:
            _require_one_spelling(places, spelled, archive)
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        written += _copy(content, target, limit - written)
        if written > limit:
            raise DataError(
                f"{archive} unpacks to more than {limit / 1e9:,.3g} GB, which is unusual "
                "for pictures. If you trust it, unpack it yourself and give the folder."
            )
    if left_out:
        warnings.warn(
            f"{left_out:,} members of {archive} are left out: links, or no files.",
            EfftuneWarning,
            stacklevel=2,
        )


def _copy(content: IO[bytes], target: Path, most: int) -> int:
    """Write a member and close it, but stop past `most` bytes; returns how many were written."""
    written = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as stream:
        while written <= most and (chunk := content.read(_CHUNK)):
            written += len(chunk)
            stream.write(chunk)
    return written


def _linked(name: str, target: Path, folder: Path) -> IO[bytes] | None:
    """The content of the other file that a hard link stands for; None if none was unpacked."""
    try:
        path = folder.joinpath(*parts(name, "")) if name else target
    except DataError:  # it would lie elsewhere
        return None
    return path.open("rb") if path.is_file() and path != target else None


def _require_one_spelling(places: Sequence[str], spelled: dict[str, str], archive: Path) -> None:
    """Check, for a disk that ignores capitals, that they do not make the only difference.

    Args:
        places: the path of a member.
        spelled: the paths of those before and of their folders, by what such a disk sees.
        archive: named in errors.

    Raises:
        DataError: two files or classes would become one.
    """
    for end in range(1, len(places) + 1):
        name = unicodedata.normalize("NFC", "/".join(places[:end]))
        first = spelled.setdefault(name.casefold(), name)
        if first != name:
            raise DataError(
                f"{archive} has {first!r} and {name!r}, which are one on this disk: it does not "
                "tell capitals apart. Rename one of them, or set EFFTUNE_CACHE to another disk."
            )


def parts(name: str, archive: Path | str) -> list[str]:
    """Split the name of a member of an archive, or of something like that, into path components.

    Raises:
        DataError: the path would lead out of a folder.
    """
    found = [part for part in name.split("/") if part not in {"", "."}]
    invalid = "\0" in name or any(PureWindowsPath(part).anchor for part in found)
    outside = any(".." in PureWindowsPath(part).parts for part in found)  # also behind backslashes
    if name.startswith("/") or outside or invalid:
        raise DataError(
            f"{archive} has a member that would be written outside its folder: {name!r}. Do not "
            "trust it."
        )
    if len(found) > MOST_DEPTH:
        raise DataError(
            f"{archive} has more than {MOST_DEPTH} nested folders: {name!r}. "
            "Unpack it yourself and give the folder."
        )
    return found


def _zip_members(archive: Path, on_progress: Progress) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for done, member in enumerate(members, start=1):
            name = _zip_name(member)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.flag_bits & 1:
                raise DataError(f"{archive} is encrypted. Unpack it yourself and give the folder.")
            if name.endswith("/") or kind == stat.S_IFDIR:
                yield name, None
            elif kind in {0, stat.S_IFREG}:  # 0 if the archive does not record it
                with file.open(member) as content:
                    yield name, content
            else:
                yield name, ""
            on_progress("unpack", done, len(members))


def _zip_name(member: zipfile.ZipInfo) -> str:
    name = member.filename
    if not member.flag_bits & 0x800:  # macOS writes UTF-8 without setting the flag
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")  # written by some Windows programs


def _tar_members(archive: Path, on_progress: Progress) -> Iterator[_Member]:
    for file, member in tar_members(archive, on_progress):
        if member.isdir():
            yield member.name, None
        elif member.isreg() and (content := file.extractfile(member)):
            yield member.name, content
        else:
            yield member.name, member.linkname if member.islnk() else ""


def tar_members(
    archive: Path, on_progress: Progress
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a tar file, in order; and the file, of which the last one can be read.

    Args:
        archive: perhaps compressed.
        on_progress: called with `unpack`, the bytes read and their total.

    Raises:
        Exception: of many kinds, if it is damaged; see `readable_errors`.
    """
    size = archive.stat().st_size
    with archive.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _LimitedReader(gzip.GzipFile(fileobj=raw) if compressed else raw)
        with tarfile.open(fileobj=stream, mode="r:") as file:  # type: ignore[call-overload]
            while member := file.next():
                file.members.clear()  # tarfile would keep all members in memory
                yield file, member
                on_progress("unpack", raw.tell(), size)
            if stream.last != bytes(tarfile.BLOCKSIZE):  # the end marker
                raise tarfile.ReadError("its end is missing")
    on_progress("unpack", size, size)


class _LimitedReader:
    """A stream that limits the size of each read: a forged header can request gigabytes."""

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
