"""Rows that machines share: shards of the feature cache at an address, `$EFFTUNE_SHARED_CACHE`.

A shard has the same name there, the SHA-256 of its content. Beside it lie the digests of its
pictures, written after it, so that a machine fetches only what it needs. No run depends on them:
it goes on without an address that fails. Who can write there is not trusted with more than the
values of rows.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from efftune.data.sources import addresses
from efftune.data.sources.storage import Entry, Missing, Storage
from efftune.errors import DataError, EfftuneWarning, UsageError
from efftune.system import files

_VARIABLE = "EFFTUNE_SHARED_CACHE"
_LIST = re.compile(r"([0-9a-f]{64})\.sha256s")  # the name of a list of digests
_DIGEST_BYTES = 32
_MOST_LISTED = 2**18  # bytes; twice those of the largest shard
_MOST_BYTES = 2**29  # of a shard; twice those of the largest
_FETCH, _SHARE = "fetched", "shared"

Result = TypeVar("Result")
_failed = set[str]()  # what is not tried again in this run
_lists: dict[str, bytes] = {}  # contents by address, which never change


def begin_run() -> None:
    """Check what can be checked before anything is computed; try again what failed before.

    Raises:
        UsageError: the variable holds no address, or one whose library is not installed.
    """
    _failed.clear()
    if given := os.environ.get(_VARIABLE):
        with suppress(DataError):  # nobody answers: of which the first use will tell
            _storage(given)


def shared(key: str, known: Collection[str]) -> "SharedCache | None":
    """What is shared of a cache; None if nothing is to be, or nothing can be.

    Args:
        key: the name of the cache's folder.
        known: names of shards that are on this machine.
    """
    given = os.environ.get(_VARIABLE)
    if not given:
        return None
    return _attempt(_FETCH, lambda: SharedCache(f"{given.rstrip('/')}/features/{key}", known))


class SharedCache:
    """Shards at an address, found by the digests of pictures."""

    def __init__(self, address: str, known: Collection[str]):
        """List the shards; see `shared`.

        Args:
            address: of the shards.
            known: names of shards that are not fetched.
        """
        self._address, self._storage = address, _storage(address)
        self._shards: dict[bytes, Entry] = {}
        self._tried = set[str]()
        try:
            there = {each.name: each for each in self._storage.files()}
        except Missing:  # nobody has shared anything yet
            return
        lists = {
            entry: shard
            for entry in there.values()
            if (shard := there.get(_shard_of(entry.name)))
            and shard.name not in known
            and 0 < (entry.size or 0) <= _MOST_LISTED
            and 0 < (shard.size or 0) <= _MOST_BYTES
        }
        with (
            tempfile.TemporaryDirectory() as place,
            ThreadPoolExecutor(self._storage.at_once) as pool,
        ):
            found = pool.map(partial(self._digests, Path(place)), lists)
            for shard, digests in zip(lists.values(), found, strict=True):
                self._shards |= dict.fromkeys(digests, shard)

    def fetch(self, digest: bytes, folder: Path) -> Path | None:
        """Fetch the shard that has a picture's row.

        Returns:
            The file, whose content may be anything; None if there is none, it was fetched before,
            or it cannot be.
        """
        shard = self._shards.get(digest)
        if shard is None or shard.name in self._tried:
            return None
        self._tried.add(shard.name)
        return _attempt(_FETCH, lambda: self._fetched(shard, folder))

    def add(self, shard: Path, digests: Sequence[bytes]) -> None:
        """Share a shard with the rows of some pictures."""

        def put() -> None:
            self._storage.make_folder()
            self._storage.put(shard)
            with tempfile.TemporaryDirectory() as place:
                listed = Path(place) / f"{shard.stem}.sha256s"
                listed.write_bytes(b"".join(digests))
                self._storage.put(listed)

        _attempt(_SHARE, put)

    def _digests(self, place: Path, entry: Entry) -> list[bytes]:
        """What a list holds; nothing if it is gone."""
        known = f"{self._address}/{entry.name}"
        if known not in _lists:
            path = place / entry.name
            with suppress(Missing):  # half a list is as good as a whole one
                self._storage.fetch(replace(entry, size=None), path, lambda _: None)
                _lists[known] = path.read_bytes()[:_MOST_LISTED]
        content = _lists.get(known, b"")
        starts = range(0, len(content) - _DIGEST_BYTES + 1, _DIGEST_BYTES)
        return [content[start : start + _DIGEST_BYTES] for start in starts]

    def _fetched(self, shard: Entry, folder: Path) -> Path | None:
        path = folder / shard.name
        folder.mkdir(parents=True, exist_ok=True)
        if not files.has_room(folder, shard.size or 0):
            return None
        try:
            with files.written_whole(path, flush=False) as unchecked:
                self._storage.fetch(shard, unchecked, lambda _: None)
        except Missing:  # its owner has removed it
            return None
        return path


def _attempt(what: str, function: Callable[[], Result]) -> Result | None:
    """What a function returns; None if it fails, of which the user is told, or has failed before.

    Who may not write may still read; where nothing can be read, nothing is written.
    """
    if _FETCH in _failed or what in _failed:
        return None
    try:
        return function()
    except (DataError, UsageError, OSError) as error:
        _failed.add(what)
        reason = str(error).partition(" Start again")[0].rstrip(".")  # which is no advice here
        warnings.warn(
            f"Features are not {what} any more in this run: {reason}.", EfftuneWarning, stacklevel=2
        )
        return None


def _shard_of(name: str) -> str:
    """The name of the shard that a list of digests belongs to; empty if it is no list."""
    match = _LIST.fullmatch(name)
    return f"{match[1]}.npy" if match else ""


def _storage(address: str) -> Storage:
    """The file system of an address.

    Raises:
        UsageError: it is no address, or its library is not installed.
        DataError: nobody answers there.
    """
    if not addresses.is_address(address):
        raise UsageError(
            f"{_VARIABLE} is {address}, but must be an address, such as s3://bucket/cache. A "
            "folder of this machine is set by EFFTUNE_CACHE."
        )
    return Storage(address)
