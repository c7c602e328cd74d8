"""Rows that machines share: shards of the feature cache at an address, `$EFFTUNE_SHARED_CACHE`.

A shard has the same name there, the SHA-256 of its content. Beside it lie the digests of its
pictures, written after it, so that a machine fetches only what it needs. No run depends on them:
once an address fails, this process goes on without it.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
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

Result = TypeVar("Result")
_failed = set[str]()  # addresses


def require_usable() -> None:
    """Check what can be checked before anything is computed.

    Raises:
        UsageError: the variable holds no address, or one whose library is not installed.
    """
    if given := os.environ.get(_VARIABLE):
        _storage(given, "")


def shared(key: str, known: Collection[str]) -> "SharedCache | None":
    """What is shared of a cache; None if nothing is to be, or nothing can be.

    Args:
        key: the name of the cache's folder.
        known: names of shards that are on this machine.
    """
    given = os.environ.get(_VARIABLE)
    return SharedCache(given, key, known) if given and given not in _failed else None


class SharedCache:
    """Shards at an address, found by the digests of pictures."""

    def __init__(self, address: str, key: str, known: Collection[str]):
        """List the shards; see `shared`.

        Args:
            address: of all that is shared.
            key: the name of the folder there.
            known: names of shards that are not fetched.
        """
        self._address, self._storage = address, _storage(address, key)
        self._shards: dict[bytes, str] = {}
        self._sizes: dict[str, int] = {}  # of shards that were not fetched
        self._attempt(lambda: self._list(known))

    def fetch(self, digest: bytes, folder: Path) -> Path | None:
        """Fetch the shard that has a picture's row.

        Returns:
            The file, whose content may be damaged; None if there is none, it was fetched before, or
            it cannot be.
        """
        name = self._shards.get(digest, "")
        size = self._sizes.pop(name, None)
        return None if size is None else self._attempt(lambda: self._fetched(folder / name, size))

    def add(self, shard: Path, digests: Sequence[bytes]) -> None:
        """Share a shard with the rows of some pictures."""

        def put() -> None:
            self._storage.make_folder()
            self._storage.put(shard)
            with tempfile.TemporaryDirectory() as place:
                listed = Path(place) / f"{shard.stem}.sha256s"
                listed.write_bytes(b"".join(digests))
                self._storage.put(listed)

        self._attempt(put)

    def _list(self, known: Collection[str]) -> None:
        try:
            there = {each.name: each for each in self._storage.files()}
        except Missing:  # nobody has shared anything yet
            return
        lists = [
            entry
            for name, entry in there.items()
            if (shard := _shard_of(name)) in there and shard not in known
        ]
        with (
            tempfile.TemporaryDirectory() as place,
            ThreadPoolExecutor(self._storage.at_once) as do,
        ):
            listed = do.map(partial(self._digests, Path(place)), lists)
            for entry, digests in zip(lists, listed, strict=True):
                shard = _shard_of(entry.name)
                self._shards |= dict.fromkeys(digests, shard)
                self._sizes[shard] = there[shard].size or 0

    def _digests(self, place: Path, entry: Entry) -> list[bytes]:
        path = place / entry.name
        self._storage.fetch(entry, path, lambda _: None)
        content = path.read_bytes()
        starts = range(0, len(content) - _DIGEST_BYTES + 1, _DIGEST_BYTES)
        return [content[start : start + _DIGEST_BYTES] for start in starts]

    def _fetched(self, path: Path, size: int) -> Path | None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not files.has_room(path.parent, size):
            return None
        with files.written_whole(path, flush=False) as partial:
            self._storage.fetch(self._storage.inside(path.name), partial, lambda _: None)
        return path

    def _attempt(self, function: Callable[[], Result]) -> Result | None:
        """What a function returns; None if the address fails, or has failed before."""
        if self._address in _failed:
            return None
        try:
            return function()
        except (DataError, UsageError, OSError) as error:
            _failed.add(self._address)
            reason = str(error).partition(" Start again")[0]  # which is no advice here
            warnings.warn(
                f"Features are not shared any more: {reason} This process goes on without.",
                EfftuneWarning,
                stacklevel=2,
            )
            return None


def _shard_of(name: str) -> str:
    """The name of the shard that a list of digests belongs to; empty if it is no list."""
    match = _LIST.fullmatch(name)
    return f"{match[1]}.npy" if match else ""


def _storage(address: str, key: str) -> Storage:
    """Where a cache is shared.

    Raises:
        UsageError: it is no address, or its library is not installed.
    """
    if not addresses.is_address(address):
        raise UsageError(
            f"{_VARIABLE} is {address}, but must be an address, such as s3://bucket/cache. A "
            "folder of this machine is set by EFFTUNE_CACHE."
        )
    return Storage(f"{address.rstrip('/')}/features/{key}")
