"""A folder of copies in the cache folder, and an index of what they are copies of."""

import atexit
import functools
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from efftune.data.sources import archives
from efftune.data.sources.storage import Entry, Missing, Storage
from efftune.errors import DataError, DiskFull
from efftune.system import files, pruning
from efftune.system.progress import Progress

_LOGGER = logging.getLogger(__name__)
_INDEX = "index.sqlite"
_BATCH = 1000  # files that wait for a thread at a time
_ROOM_BYTES = 500 * 10**6  # that are left on the disk
_CACHE_SHARE = 0.5  # of the disk space that is free or taken by copies
_PARTIAL = ".partial-"  # what is being written
_WRITING_SECONDS = 24 * 3600  # after which nobody writes it any more


class CopyFolder:
    """A folder of copies, and an index of what they are copies of.

    Attributes:
        folder: of the copies.
    """

    def __init__(self, address: str, *, keep: bool):
        self._address = address
        plain = address.rstrip("/").encode(errors="surrogateescape")
        root = files.cache_folder() / "addresses"
        place = root / hashlib.sha256(plain).hexdigest()[:16]
        root.mkdir(exist_ok=True)
        if not keep:
            place = _temporary(place)
        name = re.sub(r"[^\w.-]+", "-", address.rstrip("/").rpartition("/")[2])[:80].strip(".")
        self.folder = place / (name or "files")
        self.folder.mkdir(parents=True, exist_ok=True)
        os.utime(place)  # when it was last used
        self._place = place
        self._lock = threading.Lock()

    def path(self, name: str) -> Path:
        """Where the copy of a file lies."""
        return self.folder.joinpath(*archives.parts(name, self._address))

    def require_possible(self, entries: Sequence[Entry]) -> None:
        """Check that all files can lie in one folder.

        Raises:
            DataError: a name leads out of it, or is that of two files, or of a file and a folder.
        """
        names = {_on_disk(self.path(each.name)) for each in entries}
        folders = {str(path) for path in {Path(name).parent for name in names}}
        both = sorted(names & folders)
        if both:
            name = Path(both[0]).relative_to(_on_disk(self.folder))
            raise DataError(
                f"{self._address} has a file and a folder of the same name, {name}, which no disk "
                "can hold. Move one of them."
            )
        if len(names) < len(entries):
            raise DataError(
                f"{self._address} has files whose names differ only in slashes, or in capitals, "
                "which this disk cannot hold. Rename them."
            )

    def remove_others(self, entries: Iterable[Entry]) -> None:
        """Remove copies of what is no longer there, and folders that are empty then."""
        names = {str(self.path(each.name)) for each in entries}
        for place, _, found in os.walk(self.folder, topdown=False):
            for name in found:
                path = os.path.join(place, name)  # noqa: PTH118  (a million times)
                if path not in names and not (name.startswith(_PARTIAL) and _is_new(path)):
                    Path(path).unlink(missing_ok=True)
            if Path(place) != self.folder:
                with suppress(OSError):  # it is not empty
                    Path(place).rmdir()

    def bring(
        self,
        storage: Storage,
        entries: Sequence[Entry],
        on_progress: Progress,
        *,
        may_miss: bool = False,
    ) -> None:
        """Copy the files that are not here as they are there.

        Args:
            storage: where they are.
            entries: the files.
            on_progress: as for `of_folder`.
            may_miss: leave out files that do not exist or may not be read, and remove their copies.
        """
        pruning.prune(self._place.parent, _CACHE_SHARE, _bytes_of)
        with closing(self._index()) as index, self._index_errors():
            wanted = [each for each in entries if not self._is_here(index, each)]
            self._require_room(wanted)
            count = _Counter(on_progress, wanted, by_files=may_miss)

            def bring(entry: Entry) -> None:
                try:
                    self._bring(index, storage, entry, count)
                except Missing:
                    self.path(entry.name).unlink(missing_ok=True)
                    if not may_miss:
                        raise
                count.file()

            pool = ThreadPoolExecutor(storage.at_once, thread_name_prefix="copies")
            try:
                for start in range(0, len(wanted), _BATCH):
                    for _ in pool.map(bring, wanted[start : start + _BATCH]):
                        pass
            finally:
                count.stops = True
                pool.shutdown(cancel_futures=True)
        if wanted:
            retried = f", {storage.retries:,} requests tried again" if storage.retries else ""
            _LOGGER.info("%s: %s files copied%s", self._address, f"{len(wanted):,}", retried)

    def _bring(
        self, index: sqlite3.Connection, storage: Storage, entry: Entry, count: "_Counter"
    ) -> None:
        """Copy a file, unless it turns out to be here."""
        if not entry.version:  # which a listing of web pages does not tell
            entry = storage.known(entry)
            if self._is_here(index, entry):
                return
        target = self.path(entry.name)
        try:
            with files.written_whole(target, flush=False) as partial:
                size = storage.fetch(entry, partial, count.bytes)
        except OSError as error:
            problem = f"{target} cannot be written: {error.strerror or error}."
            raise files.disk_full(error, target) or DataError(problem) from None
        with self._lock:
            index.execute(
                "INSERT OR REPLACE INTO copies VALUES (?, ?, ?)", (entry.name, size, entry.version)
            )

    def _index(self) -> sqlite3.Connection:
        """Name, size and version of each copy."""
        path = self._place / _INDEX
        with self._index_errors():
            try:
                return _opened(path)
            except sqlite3.OperationalError:  # such as that others use it
                raise
            except sqlite3.DatabaseError:  # it is damaged
                for each in self._place.glob(f"{_INDEX}*"):  # with what SQLite has beside it
                    each.unlink(missing_ok=True)
                return _opened(path)

    @contextmanager
    def _index_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            path = self._place / _INDEX
            raise DataError(f"{path} cannot be used: {error}. Start again, or remove it.") from None

    def _is_here(self, index: sqlite3.Connection, entry: Entry) -> bool:
        """Whether a file was copied as it is there now."""
        with self._lock:
            row = index.execute(
                "SELECT size, version FROM copies WHERE name = ?", (entry.name,)
            ).fetchone()
        if row is None or not entry.version or row[1] != entry.version:
            return False
        try:
            size = self.path(entry.name).stat().st_size
        except OSError:
            return False
        return bool(size == row[0] and entry.size in (None, size))

    def _require_room(self, wanted: Iterable[Entry]) -> None:
        needed = sum(each.size or 0 for each in wanted)
        free = shutil.disk_usage(self.folder).free
        if needed and needed > free - _ROOM_BYTES:
            raise DiskFull(
                f"{self._address}: {needed / 1e9:,.3g} GB are to be copied to {self.folder}, where "
                f"{free / 1e9:,.3g} GB are free. Set EFFTUNE_CACHE to a folder on a larger disk."
            )


def _opened(path: Path) -> sqlite3.Connection:
    """The index, each of whose rows is there for others, and after a crash, once it is written."""
    index = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
    try:
        index.execute("PRAGMA journal_mode=WAL")
        index.execute("PRAGMA synchronous=OFF")  # without power it is damaged, and made anew
        index.execute(
            "CREATE TABLE IF NOT EXISTS copies (name TEXT PRIMARY KEY, size INT, version)"
        )
    except BaseException:
        index.close()
        raise
    return index


def _on_disk(path: Path) -> str:
    """What tells a path from others on the disks that this system usually has."""
    name = os.path.normcase(path)
    return name.casefold() if sys.platform == "darwin" else name


def _is_new(path: str) -> bool:
    """Whether another process may still write a file."""
    try:
        return time.time() - Path(path).stat().st_mtime < _WRITING_SECONDS
    except OSError:
        return True


class _Counter:
    """Counts what was copied, in several threads.

    Attributes:
        stops: whether copying is to stop.
    """

    def __init__(self, on_progress: Progress, wanted: Collection[Entry], *, by_files: bool):
        sizes = [each.size for each in wanted]
        self._by_files = by_files or None in sizes
        self._total = len(wanted) if self._by_files else sum(filter(None, sizes))
        self._done, self._on_progress, self._lock = 0, on_progress, threading.Lock()
        self.stops = False

    def file(self) -> None:
        """A file was copied."""
        if self._by_files:
            self._add(1)

    def bytes(self, count: int) -> None:
        """Some bytes were copied; fewer than none if some came twice.

        Raises:
            InterruptedError: copying is to stop.
        """
        if self.stops:
            raise InterruptedError
        if not self._by_files:
            self._add(count)

    def _add(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._on_progress("copy", min(self._done, self._total), self._total)


@functools.cache
def _temporary(place: Path) -> Path:
    """A folder for this process, in place of one that stays."""
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix="temporary-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _bytes_of(place: Path) -> int:
    """The size of the copies in a folder of the cache."""
    try:
        there = f"{(place / _INDEX).as_uri()}?mode=ro"  # nothing is made where there is none
        with closing(sqlite3.connect(there, uri=True, timeout=5)) as index:
            return int(index.execute("SELECT TOTAL(size) FROM copies").fetchone()[0])
    except sqlite3.Error:
        return 0
