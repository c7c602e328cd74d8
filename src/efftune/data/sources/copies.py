"""Copies, in the cache folder, of files at addresses.

All else reads files on a disk: pictures are read several times, and the layout of a folder is told
by what is in it. What has not changed at the address is not copied again.
"""

from collections.abc import Iterable, Set
from pathlib import Path, PurePosixPath

from efftune.data.sources import addresses
from efftune.data.sources.copy_folder import CopyFolder
from efftune.data.sources.storage import Entry, Storage
from efftune.system.progress import Progress


def of_folder(address: str, on_progress: Progress, *, keep: bool = True) -> Path:
    """A folder with copies of all files below an address, and with nothing else.

    Args:
        address: such as `s3://bucket/photos`.
        on_progress: called with `list`, the number of files found and 0; then with `copy`, the
            bytes copied and their total, or the files where the bytes are not known.
        keep: leave the copies in the cache folder; if not, they are removed when the process ends.

    Raises:
        UsageError: there is nothing at the address, or its library is not installed.
        DataError: the address cannot be read, or its files cannot lie in one folder.
        DiskFull: there is no room for the copies.
    """
    return beside(address, None, on_progress, keep=keep)


def of_file(address: str, on_progress: Progress, *, keep: bool = True) -> Path:
    """A copy of a file, in the folder of those that `beside` copies from the same folder.

    See `of_folder` for the arguments and exceptions.
    """
    storage = Storage(address)
    entry = storage.file()
    copies = CopyFolder(parent(address), keep=keep)
    copies.bring(storage, [entry], on_progress)
    addresses.note_copy(copies.path(entry.name), address)
    return copies.path(entry.name)


def parent(address: str) -> str:
    """The address of the folder with a file."""
    server, path = _host(address), addresses.path_of(address)
    return f"{server}/{path.rpartition('/')[0]}".rstrip("/")


def beside(
    address: str, names: Set[str] | None, on_progress: Progress, *, keep: bool = True
) -> Path:
    """A folder with copies of those files below an address that may be meant by a name.

    Args:
        address: of the folder.
        names: of files, without their folders, and perhaps without their suffixes; None for all.
        on_progress: as for `of_folder`.
        keep: likewise.

    For the exceptions, see `of_folder`.
    """
    storage = Storage(address)
    entries = storage.files(lambda found: on_progress("list", found, 0))
    copies = CopyFolder(address, keep=keep)
    copies.require_possible(entries)
    copies.remove_others(entries)
    copies.bring(storage, [each for each in entries if _is_meant(each, names)], on_progress)
    addresses.note_copy(copies.folder, address)
    return copies.folder


def named(address: str, names: Iterable[str], on_progress: Progress, *, keep: bool = True) -> Path:
    """A folder with copies of files below an address, where they exist; nothing is listed.

    Args:
        address: of the folder.
        names: of the files, relative to it.
        on_progress: as for `of_files`.
        keep: as for `of_folder`.
    """
    storage, copies = Storage(address), CopyFolder(address, keep=keep)
    entries = [storage.inside(name) for name in dict.fromkeys(names)]
    copies.require_possible(entries)
    copies.bring(storage, entries, on_progress, may_miss=True)
    addresses.note_copy(copies.folder, address)
    return copies.folder


def _is_meant(entry: Entry, names: Set[str] | None) -> bool:
    path = PurePosixPath(entry.name)
    return names is None or path.name in names or path.stem in names


def of_files(wanted: Iterable[str], on_progress: Progress, *, keep: bool = True) -> dict[str, Path]:
    """Copies of single files.

    Args:
        wanted: addresses of the files.
        on_progress: called with `copy`, the number of files done and their total.
        keep: as for `of_folder`.

    Returns:
        The path of each copy by its address. Where there is no file at an address, or one that may
        not be read, there is none at the path.

    Raises:
        UsageError: the library for an address is not installed.
        DataError: a server does not answer.
        DiskFull: there is no room for the copies.
    """
    by_system: dict[str, list[str]] = {}
    for address in dict.fromkeys(wanted):
        by_system.setdefault(_system(address), []).append(address)
    found, total = dict[str, Path](), sum(map(len, by_system.values()))
    for system, group in by_system.items():
        storage, done = Storage(_host(group[0])), len(found)
        copies = CopyFolder(f"{system}/single files", keep=keep)
        entries = {address: storage.entry(address) for address in group}

        def count(phase: str, files: int, _total: int, done: int = done) -> None:
            on_progress(phase, done + files, total)

        copies.bring(storage, list(entries.values()), count, may_miss=True)
        found |= {address: copies.path(entry.name) for address, entry in entries.items()}
    for address, path in found.items():
        addresses.note_copy(path, address)
    return found


def _host(address: str) -> str:
    """The address of a server, or of a bucket there."""
    kind, _, rest = address.partition("://")
    return f"{kind}://{rest.partition('/')[0]}"


def _system(address: str) -> str:
    """What has a file system of its own: a server or bucket; all servers of the web share one."""
    return _host(address) if addresses.is_listed(address) else addresses.protocol_of(address)
