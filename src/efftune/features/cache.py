"""A cache on disk for outputs of the frozen backbone, keyed by the content of the pictures.

Rows are stored in shards, files named by the SHA-256 of their contents. A shard that does not match
its name is damaged or incomplete: it is removed, and its rows are computed again.
"""

import errno
import hashlib
import io
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib.format import header_data_from_array_1_0, open_memmap, write_array_header_1_0
from numpy.typing import NDArray

from efftune.errors import EfftuneWarning
from efftune.features import shared_cache
from efftune.features.shared_cache import SharedCache
from efftune.system import files, pruning

Digest = bytes  # SHA-256 of a picture's file, 32 bytes
SHARD_ROWS = 4096  # at most; shards are also limited by `extraction.WAITING_BYTES`
MAPPED_BYTES = 4 * 2**30  # default limit of the bytes of a cache that are memory-mapped at once
_MAPPED_SHARDS = 128  # limit of the shards mapped at once; each holds a file open
CACHE_SHARE = 0.25  # of the disk space that is free or taken by the cache


class FeatureCache:
    """Rows of one shape and type, looked up by the digest of a picture.

    Attributes:
        dtype: type of the values: float32, float16 or bfloat16.
        shape: shape of one row.
    """

    def __init__(
        self, folder: Path, dtype: str, shape: tuple[int, ...], mapped_bytes: int = MAPPED_BYTES
    ):
        """Open a cache folder, which need not exist; every shard is checked against its name.

        Args:
            folder: the folder of the shards.
            dtype: type of the values.
            shape: shape of one row.
            mapped_bytes: limit of the bytes that are memory-mapped at once; one shard always is.
        """
        self.dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype, dtype))
        self.shape = shape
        # The .npy format does not support bfloat16, so its bits are stored as integers.
        self._raw = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
        self._record = np.dtype([("sha256", "V32"), ("values", self._raw, shape)])
        self._folder = folder
        self._places: dict[Digest, tuple[Path, int]] = {}
        self._unwritten: dict[Path, NDArray[np.void]] = {}
        self._mapped_bytes = mapped_bytes
        self._mapped: OrderedDict[Path, NDArray[np.void]] = OrderedDict()
        self._shared: SharedCache | None = None
        self._fetching = threading.Lock()
        self._new: list[tuple[Path, Sequence[Digest]]] = []
        if folder.is_dir():
            pruning.note_use(folder)
        for path in sorted(folder.glob("[0-9a-f]*.npy")):
            self._open(path)

    def begin_to_share(self) -> None:
        """Fetch rows from other machines from now on, if that is asked for."""
        known = {path.name for path, _ in self._places.values()}
        self._shared = shared_cache.shared(self._folder.name, known)

    def share(self) -> None:
        """Give other machines what was added since."""
        while self._new and self._shared is not None:
            self._shared.add(*self._new.pop(0))

    def __contains__(self, digest: Digest) -> bool:
        """Whether a picture's row is cached; it is fetched if another machine has shared it."""
        if digest in self._places or self._shared is None:
            return digest in self._places
        with self._fetching:
            path = None if digest in self._places else self._shared.fetch(digest, self._folder)
            if path is not None and not self._open(path):
                path.unlink(missing_ok=True)
        return digest in self._places

    def row(self, digest: Digest) -> NDArray[Any]:
        """The memory-mapped row of a picture.

        Raises:
            KeyError: the picture has no row.
        """
        path, number = self._places[digest]
        row: NDArray[Any] = self._shard(path)["values"][number].view(self.dtype)
        return row

    @property
    def place(self) -> tuple[Path, str, tuple[int, ...]]:
        """Folder, type and shape: what another process needs to open the cache."""
        return self._folder, self.dtype.name, self.shape

    def room(self, count: int) -> NDArray[np.void]:
        """Room for so many rows, to be filled (see `values_in`) and added."""
        return np.empty(count, self._record)

    def values_in(self, room: NDArray[np.void]) -> NDArray[Any]:
        """The values of rows, as `dtype`, where they can be set."""
        values: NDArray[Any] = room["values"].view(self.dtype)
        return values

    def add(self, digests: Sequence[Digest], values: NDArray[Any]) -> None:
        """Add the rows of some pictures; see `add_filled`."""
        room = self.room(len(digests))
        self.values_in(room)[:] = values
        self.add_filled(digests, room)

    def add_filled(self, digests: Sequence[Digest], records: NDArray[np.void]) -> None:
        """Add the rows of some pictures as one shard.

        If the shard cannot be written, or would take the room that a run needs to be saved, its
        rows stay in memory and a warning is issued.

        Args:
            digests: of the pictures.
            records: from `room`, as many, with their values.
        """
        if not digests:
            return
        records["sha256"] = np.frombuffer(b"".join(digests), "V32")
        # In two parts, as the .npy format has them: a copy would take longer than writing does.
        header, content = io.BytesIO(), records.view(np.uint8)
        write_array_header_1_0(header, header_data_from_array_1_0(records))
        name = hashlib.sha256(header.getbuffer())
        name.update(content.data)
        path = self._folder / f"{name.hexdigest()}.npy"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not files.has_room(self._folder, records.nbytes):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # A shard damaged by a power cut is computed again, so there is no need to sync.
            with (
                files.written_whole(path, flush=False) as partial,
                partial.open("wb") as stream,
            ):
                stream.write(header.getbuffer())
                stream.write(content.data)
        except OSError as error:
            self._unwritten[path] = records
            warnings.warn(
                f"Features could not be cached in {self._folder}: {error.strerror}. They are kept "
                "in memory; the next run computes them again.",
                EfftuneWarning,
                stacklevel=2,
            )
        self._places |= {digest: (path, i) for i, digest in enumerate(digests)}
        if self._shared is not None and path not in self._unwritten:
            self._new.append((path, digests))

    def _shard(self, path: Path) -> NDArray[np.void]:
        """A shard's records, memory-mapped; the least recently used shards are unmapped."""
        if path in self._unwritten:
            return self._unwritten[path]
        if path not in self._mapped:
            self._mapped[path] = _mapped(path)
            pruning.note_use(self._folder)  # by a run that may last for days
            total = sum(shard.nbytes for shard in self._mapped.values())
            while len(self._mapped) > 1 and (
                total > self._mapped_bytes or len(self._mapped) > _MAPPED_SHARDS
            ):
                total -= self._mapped.popitem(last=False)[1].nbytes
        self._mapped.move_to_end(path)
        return self._mapped[path]

    def _open(self, path: Path) -> bool:
        """Whether a file is a shard of this cache. Rows that are there already stay."""
        try:
            if files.sha256(path) != path.stem:
                path.unlink()
                return False
            shard = _mapped(path)
        except Exception:  # noqa: BLE001  (one that another machine has shared may hold anything)
            return False  # or no permission, or removed in the meantime
        if shard.dtype != self._record or shard.ndim != 1:
            return False
        digests = shard["sha256"].tobytes()
        for i in range(len(shard)):
            self._places.setdefault(digests[32 * i : 32 * (i + 1)], (path, i))
        return len(shard) > 0


def bytes_in(folder: Path) -> int:
    """Bytes of disk that all caches in a folder take."""
    total = 0
    for path in folder.glob("*/*.npy"):
        with suppress(OSError):  # another process has just renamed or removed it
            total += path.stat().st_size
    return total


def prune(folder: Path, share: float = CACHE_SHARE) -> None:
    """Remove the least recently used caches until the others are within their share of the disk.

    Args:
        folder: the parent of the cache folders.
        share: share of the disk space that is free or taken by the caches.
    """
    pruning.prune(folder, share, lambda cache: sum(p.stat().st_size for p in cache.glob("*.npy")))


class RowsInMemory:
    """Rows as those of a cache, without its files.

    Attributes:
        dtype: type of the values.
        shape: shape of one row.
    """

    def __init__(self, digests: Sequence[Digest], values: NDArray[Any]):
        """The row of each picture, by its digest."""
        self.dtype, self.shape = values.dtype, values.shape[1:]
        self._values = values
        self._numbers = {digest: number for number, digest in enumerate(digests)}

    def __contains__(self, digest: Digest) -> bool:
        """Whether a picture's row is among them."""
        return digest in self._numbers

    def row(self, digest: Digest) -> NDArray[Any]:
        """The row of a picture."""
        row: NDArray[Any] = self._values[self._numbers[digest]]
        return row


class CachedRows:
    """The cached rows of a sequence of pictures.

    Attributes:
        shape: shape of one row.
        dtype: type of the values.
        cache: where the rows are.
        digests: of the pictures.
    """

    def __init__(self, cache: FeatureCache | RowsInMemory, digests: Sequence[Digest]):
        """Rows of a cache, which must have one for each digest."""
        self.shape = cache.shape
        self.dtype = cache.dtype
        self.cache = cache
        self.digests = digests

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.digests)

    def __getitem__(self, picture: int) -> NDArray[Any]:
        """A picture's row."""
        return self.cache.row(self.digests[picture])

    def subset(self, pictures: NDArray[np.int64]) -> "CachedRows":
        """The rows of some pictures, in the order given."""
        return CachedRows(self.cache, [self.digests[picture] for picture in pictures])


def _mapped(path: Path) -> NDArray[np.void]:
    return np.asarray(open_memmap(path, mode="r"))
