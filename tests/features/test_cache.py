import hashlib
import os
import shutil
import time
from collections import namedtuple

import ml_dtypes
import numpy as np
import pytest

from efftune.features import cache
from efftune.features.cache import CachedRows, FeatureCache
from efftune.system import files


def digests(count, start=0):
    return [hashlib.sha256(bytes([i])).digest() for i in range(start, start + count)]


def values(count, dtype="float32", start=0):
    rows = np.arange(start, start + count, dtype=np.float32)[:, None, None]
    return np.broadcast_to(rows, (count, 2, 3)).astype(getattr(ml_dtypes, dtype, dtype))


def has_free(monkeypatch, size):
    """Pretend that a disk has so many bytes free."""
    free = namedtuple("free", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: free(size))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_come_back_from_disk(tmp_path, dtype):
    FeatureCache(tmp_path, dtype, (2, 3)).add(digests(5), values(5, dtype))
    again = FeatureCache(tmp_path, dtype, (2, 3))
    rows = CachedRows(again, digests(5)[::-1])
    assert (len(rows), rows.shape, rows.dtype.name) == (5, (2, 3), dtype)
    assert [float(rows[i][1, 2]) for i in range(5)] == [4, 3, 2, 1, 0]
    assert digests(1, 7)[0] not in again
    with pytest.raises(KeyError):
        again.row(digests(1, 7)[0])


def test_no_rows_make_no_shard(tmp_path):
    FeatureCache(tmp_path, "float32", (2, 3)).add([], values(0))
    assert list(tmp_path.iterdir()) == []


def test_shard_of_another_shape_is_left_alone(tmp_path):
    FeatureCache(tmp_path, "float32", (2, 3)).add(digests(2), values(2))
    other = FeatureCache(tmp_path, "float16", (2, 3))
    assert digests(2)[0] not in other
    assert len(list(tmp_path.iterdir())) == 1


def test_few_shards_are_in_memory_at_a_time(tmp_path):
    store = FeatureCache(tmp_path, "float32", (2, 3), mapped_bytes=3 * (32 + 24))
    for i in range(10):
        store.add(digests(1, i), values(1, start=i))
    assert [float(store.row(digest)[0, 0]) for digest in digests(10)] == list(range(10))
    assert len(store._mapped) == 3
    assert sum(shard.nbytes for shard in store._mapped.values()) <= 3 * (32 + 24)


def test_one_shard_is_in_memory_however_little_may_be(tmp_path):
    store = FeatureCache(tmp_path, "float32", (2, 3), mapped_bytes=0)
    store.add(digests(3), values(3))
    store.add(digests(3, 3), values(3, start=3))
    assert [float(store.row(digest)[0, 0]) for digest in digests(6)] == list(range(6))
    assert len(store._mapped) == 1


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_MAPPED_SHARDS", 2)
    store = FeatureCache(tmp_path, "float32", (2, 3))
    for i in range(5):
        store.add(digests(1, i), values(1, start=i))
    assert [float(store.row(digest)[0, 0]) for digest in digests(5)] == list(range(5))
    assert len(store._mapped) == 2


def test_rows_that_cannot_be_written_stay_in_memory(tmp_path):
    (tmp_path / "blocked").write_text("in the way")
    store = FeatureCache(tmp_path / "blocked" / "store", "float16", (2, 3))
    with pytest.warns(UserWarning, match="could not be cached in .* next run computes them again"):
        store.add(digests(3), values(3, "float16"))
    assert float(store.row(digests(3)[2])[0, 0]) == 2


def test_room_that_a_run_needs_to_be_saved_is_not_taken(tmp_path, monkeypatch):
    store, size = FeatureCache(tmp_path / "store", "float16", (2, 3)), 3 * (32 + 12)
    monkeypatch.setattr(files, "_RUN_BYTES", size)
    has_free(monkeypatch, 2 * size - 1)
    with pytest.warns(UserWarning, match="could not be cached in .*No space left"):
        store.add(digests(3), values(3, "float16"))
    assert not list((tmp_path / "store").iterdir())
    has_free(monkeypatch, 2 * size)
    store.add(digests(3, 3), values(3, "float16", start=3))
    assert len(list((tmp_path / "store").iterdir())) == 1
    assert [float(store.row(digest)[0, 0]) for digest in digests(6)] == list(range(6))


def test_stores_not_used_for_longest_are_pruned(own_cache, monkeypatch):
    own_cache.mkdir()
    for age in (5, 1, 3, 0):
        folder = own_cache / "features" / str(age)
        FeatureCache(folder, "float32", (2, 3)).add(digests(4), values(4))
        os.utime(folder, times=(time.time() - 100_000 * age,) * 2)
    has_free(monkeypatch, 0)
    cache.prune(own_cache / "features", share=0.5)
    assert {path.name for path in (own_cache / "features").iterdir()} == {"0", "1"}
    FeatureCache(own_cache / "features" / "1", "float32", (2, 3))  # opened: in use
    cache.prune(own_cache / "features", share=0.0)
    assert {path.name for path in (own_cache / "features").iterdir()} == {"0", "1"}


def test_store_of_a_long_run_is_in_use(own_cache, monkeypatch):
    folder = own_cache / "features" / "store"
    store = FeatureCache(folder, "float32", (2, 3), mapped_bytes=1)
    for start in (0, 4):
        store.add(digests(4, start), values(4, start=start))
    has_free(monkeypatch, 0)
    for digest in digests(8)[::4]:
        os.utime(folder, times=(0, 0))  # opened long ago
        store.row(digest)
        cache.prune(own_cache / "features", share=0.0)
        assert len(list(folder.iterdir())) == 2


def test_nothing_is_pruned_while_there_is_room(own_cache):
    folder = own_cache / "features" / "old"
    FeatureCache(folder, "float32", (2, 3)).add(digests(4), values(4))
    os.utime(folder, times=(0, 0))
    cache.prune(own_cache / "features")
    cache.prune(own_cache / "nothing here")
    assert folder.is_dir()
