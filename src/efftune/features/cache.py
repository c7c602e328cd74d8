"""What the frozen part computed, kept on disk by the content of the picture it belongs to.

Rows lie in shards, files named by the SHA-256 of their own bytes. A shard that does not match its
name was damaged or half-written: it is removed, and its rows are computed again.
"""

import hashlib
import io
import os
import shutil
import time
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from efftune.system import files

Digest = bytes  # SHA-256 of a picture's file, 32 bytes
SHARD_ROWS = 4096  # at most; a shard is also never larger than what may wait in memory
MAPPED_BYTES = 4 * 2**30  # of a store, mapped into memory at a time, unless less is asked for
_MAPPED_SHARDS = 128  # each holds a file open
CACHE_SHARE = 0.25  # of the free disk and what is kept already
_IN_USE_SECONDS = 24 * 3600  # another process may be using what was opened since


class FeatureCache:
    """Rows of one shape and type, found by digest.

    Attributes:
        dtype: of the rows' values: float32, float16 or bfloat16.
        shape: of one row.
    """

    def __init__(
        self, folder: Path, dtype: str, shape: tuple[int, ...], mapped_bytes: int = MAPPED_BYTES
    ):
        """Open what is there of a store; every shard is checked against its name.

        Args:
            folder: where its shards lie.
            dtype: of the rows' values.
            shape: of one row.
            mapped_bytes: how much of it may be in memory at a time, one shard at least.
        """
        self.dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype, dtype))
        self.shape = shape
        # NumPy's own files know no bfloat16: its bits lie there as integers.
        self._raw = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
        self._record = np.dtype([("sha256", "V32"), ("values", self._raw, shape)])
        self._folder = folder
        self._places: dict[Digest, tuple[Path, int]] = {}
        self._unwritten: dict[Path, NDArray[np.void]] = {}
        self._mapped_bytes = mapped_bytes
        self._mapped: OrderedDict[Path, NDArray[np.void]] = OrderedDict()
        if folder.is_dir():
            with suppress(OSError):
                os.utime(folder)  # for `prune`: used now
        for path in sorted(folder.glob("[0-9a-f]*.npy")):
            self._open(path)

    def __contains__(self, digest: Digest) -> bool:
        """Whether there is a row for a picture."""
        return digest in self._places

    def row(self, digest: Digest) -> NDArray[Any]:
        """The row of a picture; lies on disk.

        Raises:
            KeyError: there is none.
        """
        path, number = self._places[digest]
        row: NDArray[Any] = self._shard(path)["values"][number].view(self.dtype)
        return row

    def add(self, digests: Sequence[Digest], values: NDArray[Any]) -> None:
        """Keep the rows of some pictures as one shard.

        Where they cannot be written they stay in memory, and a warning says so.
        """
        if not digests:
            return
        shard = np.empty(len(digests), self._record)
        shard["sha256"] = np.frombuffer(b"".join(digests), "V32")
        shard["values"] = values.view(self._raw)
        content = io.BytesIO()
        np.save(content, shard, allow_pickle=False)
        path = self._folder / f"{hashlib.sha256(content.getbuffer()).hexdigest()}.npy"
        try:
            # Nothing is lost with a shard that a power cut damages, so none is waited for.
            files.write(path, content.getvalue(), flush=False)
        except OSError as error:
            self._unwritten[path] = shard
            warnings.warn(
                f"Features are not kept for next time in {self._folder}: {error.strerror}.",
                stacklevel=2,
            )
        self._places |= {digest: (path, i) for i, digest in enumerate(digests)}

    def _shard(self, path: Path) -> NDArray[np.void]:
        """A shard's records, mapped; those not asked for longest are let go."""
        if path in self._unwritten:
            return self._unwritten[path]
        if path not in self._mapped:
            self._mapped[path] = _mapped(path)
            total = sum(shard.nbytes for shard in self._mapped.values())
            while len(self._mapped) > 1 and (
                total > self._mapped_bytes or len(self._mapped) > _MAPPED_SHARDS
            ):
                total -= self._mapped.popitem(last=False)[1].nbytes
        self._mapped.move_to_end(path)
        return self._mapped[path]

    def _open(self, path: Path) -> None:
        try:
            if files.sha256(path) != path.stem:
                path.unlink()
                return
            shard = _mapped(path)
        except (OSError, ValueError):  # not ours to read, or removed meanwhile
            return
        if shard.dtype == self._record:
            digests = shard["sha256"].tobytes()
            for i in range(len(shard)):
                self._places[digests[32 * i : 32 * (i + 1)]] = (path, i)


def prune(folder: Path, share: float = CACHE_SHARE) -> None:
    """Remove the stores not used for longest, until the rest take no more than their share.

    Args:
        folder: where the stores lie, a folder each.
        share: of the disk space that is free or taken by the stores.
    """
    stores = [path for path in folder.glob("*") if path.is_dir()]
    used = {path: path.stat().st_mtime for path in stores}
    sizes = {path: sum(each.stat().st_size for each in path.glob("*.npy")) for path in stores}
    total = sum(sizes.values())
    allowed = share * (total + shutil.disk_usage(files.cache_folder()).free)
    for path in sorted(stores, key=used.__getitem__):
        if total <= allowed or used[path] > time.time() - _IN_USE_SECONDS:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]


class CachedRows:
    """The rows of many pictures, in the pictures' order.

    Attributes:
        shape: of one row.
        dtype: of its values.
    """

    def __init__(self, store: FeatureCache, digests: Sequence[Digest]):
        """Rows of a store; there must be one for each digest."""
        self.shape = store.shape
        self.dtype = store.dtype
        self._store = store
        self._digests = digests

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._digests)

    def __getitem__(self, picture: int) -> NDArray[Any]:
        """A picture's row."""
        return self._store.row(self._digests[picture])


def _mapped(path: Path) -> NDArray[np.void]:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
