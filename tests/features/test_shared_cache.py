"""Rows that machines share; a machine is a cache folder, and what they share another one."""

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import fill
from efftune.data.sources.storage import Storage
from efftune.errors import DataError, EfftuneWarning, UsageError
from efftune.features import extraction, shared_cache
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import Backbone

SETTINGS = ExtractionSettings(fit="crop", precision="f32")
OUTPUTS = ["block6a", "features"]
FEATURES = ["features"]


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-lite0", 32)


@pytest.fixture
def paths(tmp_path):
    return sorted(fill(tmp_path / "photos", count=4).rglob("*.*g"))


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """The folder whose address is shared."""
    monkeypatch.setattr(shared_cache, "_failed", set())
    monkeypatch.setattr(shared_cache, "_lists", {})
    monkeypatch.setenv("EFFTUNE_SHARED_CACHE", f"file://{tmp_path}/shared/")
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.fixture
def on(monkeypatch, tmp_path, backbone):
    """A function that extracts on a machine, and tells its shards besides."""

    def extract(machine, paths, outputs=OUTPUTS):
        monkeypatch.setenv("EFFTUNE_CACHE", str(tmp_path / machine))
        found = extraction.extract(paths, backbone, SETTINGS, outputs=outputs)
        return found, {path.name for path in (tmp_path / machine).glob("features/*/*.npy")}

    return extract


def test_what_one_machine_computes_others_fetch(on, paths):
    first, made = on("a", paths)
    second, fetched = on("b", paths[::-1])
    assert (first.computed, second.computed) == (12, 0)
    assert made == fetched
    assert (second.pooled()[::-1] == first.pooled()).all()
    rows = [each.rows["block6a", 0] for each in (first, second)]
    assert all((rows[0][i] == rows[1][11 - i]).all() for i in range(12))


def test_only_what_is_needed_is_fetched(on, paths, place):
    on("a", paths[:5])
    on("a", paths[5:])
    found, fetched = on("b", paths[2:5])
    assert found.computed == 0
    assert len(fetched) == 2  # of two outputs, for the first five pictures
    assert len(list(place.glob("features/*/*.npy"))) == 4
    again, more = on("b", paths)
    assert again.computed == 0
    assert len(more) == 4


def test_a_machine_shares_only_what_is_new(on, paths, place):
    on("a", paths[:5])
    before = set(place.rglob("*.npy"))
    found, _ = on("b", paths)
    assert found.computed == 7
    assert before < set(place.rglob("*.npy"))
    on("c", paths)
    assert {len(each.read_bytes()) for each in place.rglob("*.sha256s")} == {5 * 32, 7 * 32}


def test_damaged_shards_are_computed_again(on, paths, place):
    first, _ = on("a", paths)
    for path in place.rglob("*.npy"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    second, _ = on("b", paths)
    assert second.computed == 12
    assert (second.pooled() == first.pooled()).all()


def test_a_shard_that_is_gone_is_computed_again(on, paths, place):
    on("a", paths)
    for path in place.rglob("*.npy"):
        path.unlink()
    assert on("b", paths)[0].computed == 12
    assert on("c", paths)[0].computed == 0  # `b` has put it back


@given(st.binary(max_size=200))
def test_lists_may_hold_anything(content):
    """Digests that no shard has, or parts of one, lead nowhere."""
    import fsspec

    system = fsspec.filesystem("memory")
    name = f"/cache/features/key/{64 * '0'}"
    system.pipe(f"{name}.sha256s", content)
    system.pipe(f"{name}.npy", b"nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared = shared_cache.SharedCache("memory://cache/features/key", set())
        shared_cache._lists.clear()
    assert len(shared._shards) == len(
        {content[i : i + 32] for i in range(0, len(content) - 31, 32)}
    )


@pytest.mark.parametrize("name", ["../../../evil", "evil", 64 * "0" + "/../../evil"])
def test_names_that_lead_elsewhere_are_left_alone(name):
    """Who writes there must not choose where others write."""
    import fsspec

    digest = 32 * b"d"
    system = fsspec.filesystem("memory")
    system.pipe(f"/evil/features/key/{name}.sha256s", digest)
    system.pipe(f"/evil/features/key/{name}.npy", b"nothing")
    shared = shared_cache.SharedCache("memory://evil/features/key", set())
    assert shared.fetch(digest, Path("/nowhere")) is None
    assert not shared._shards


def test_an_address_that_fails_is_told_once(on, paths, monkeypatch):
    monkeypatch.setenv("EFFTUNE_SHARED_CACHE", "file:///dev/null/cache")
    with pytest.warns(
        EfftuneWarning, match=r"Features are not shared any more .*null.*\.$"
    ) as told:
        found, _ = on("a", paths)
    assert len(told) == 1
    assert found.computed == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert on("b", paths)[0].computed == 12


def test_what_is_removed_meanwhile_is_computed(on, paths, place, backbone, monkeypatch):
    on("a", paths[:6])
    on("a", paths[6:])
    key = SETTINGS.key(backbone, ("features", 0), OUTPUTS)
    shared = shared_cache.shared(key, set())
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    for path in place.glob(f"features/{key}/*.npy"):
        if digests[0] in path.read_bytes():
            path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shared.fetch(digests[0], place / "here") is None
        assert shared.fetch(digests[-1], place / "here").is_file()


def test_who_may_only_read_still_fetches(on, paths, place, monkeypatch):
    """Written is nothing any more after a failure; read is what others have shared."""
    on("a", paths[:6])
    on("b", paths[6:])

    def refuse(storage, _file):
        raise DataError(f"{storage.address} cannot be written: Access Denied.")

    monkeypatch.setattr(Storage, "put", refuse)
    new = sorted(fill(place.parent / "new", count=2, offset=50).rglob("*.*g"))
    with pytest.warns(EfftuneWarning, match="not shared any more .*Access Denied") as told:
        assert on("c", new)[0].computed == 6
        assert on("c", paths)[0].computed == 0
    assert len(told) == 1


def shared_as(content, place):
    """Share a content under its right name, as a shard of all the digests given."""
    name = hashlib.sha256(content).hexdigest()
    (place / f"{name}.npy").write_bytes(content)
    return place / f"{name}.sha256s"


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


RECORD = np.dtype([("sha256", "V32"), ("values", "f4", (1280,))])


@pytest.mark.parametrize(
    "content",
    [
        *(b"PK", b"PK\x03\x04" + bytes(40), b"\x93NUMPY\x01\x00v\x00" + b"(" * 118, bytes(128)),
        *(npy(np.zeros(())), npy(np.zeros((2, 2), RECORD)), npy(np.zeros(0, RECORD))),
        npy(np.zeros(3, "f4")).replace(b"(3,)", b"(9" + 20 * b"9" + b",)"),
    ],
    ids=range(8),
)
def test_shards_of_others_may_hold_anything(on, paths, place, backbone, content, tmp_path):
    """Whoever can write there, and choose the name after the content, breaks nothing."""
    key = SETTINGS.key(backbone, ("features", 0), FEATURES)
    (place / "features" / key).mkdir(parents=True)
    digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)
    shared_as(content, place / "features" / key).write_bytes(digests)
    found, kept = on("a", paths, FEATURES)
    assert found.computed == 12
    assert f"{hashlib.sha256(content).hexdigest()}.npy" not in kept
    assert on("a", paths, FEATURES)[0].computed == 0


def test_rows_that_are_here_stay(on, paths, place, backbone, tmp_path):
    """A shard that is fetched for a picture may have rows of others, too."""
    first, _ = on("a", paths[:6], FEATURES)
    key = SETTINGS.key(backbone, ("features", 0), FEATURES)
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    other = np.zeros(12, RECORD)
    other["sha256"] = np.frombuffer(b"".join(digests), "V32")
    shared_as(npy(other), place / "features" / key).write_bytes(b"".join(digests))
    again, _ = on("a", paths, FEATURES)
    assert (again.rows["features", 0][0] == first.rows["features", 0][0]).all()


def test_links_at_an_address_lead_no_writer_elsewhere(tmp_path, place):
    victim, file = tmp_path / "victim", tmp_path / "x.npy"
    victim.write_text("precious")
    file.write_text("features")
    (place / "x.npy").symlink_to(victim)
    Storage(f"file://{place}").put(file)
    assert victim.read_text() == "precious"
    assert (place / "x.npy").read_text() == "features"
    assert len(list(place.iterdir())) == 1


@pytest.mark.parametrize(("listed", "shard"), [(2**18 + 1, 9), (32, 2**29 + 1), (0, 9), (32, 0)])
def test_files_of_impossible_sizes_are_not_fetched(tmp_path, place, listed, shard):
    for name, size in ((64 * "0" + ".sha256s", listed), (64 * "0" + ".npy", shard)):
        with (place / name).open("wb") as stream:
            stream.truncate(size)
    assert not shared_cache.SharedCache(f"file://{place}", set())._shards


def test_measurements_share_nothing(paths, place, backbone, monkeypatch, tmp_path):
    from efftune.training import estimation

    monkeypatch.setenv("EFFTUNE_CACHE", str(tmp_path / "a"))
    assert estimation._frozen_seconds(paths, backbone, SETTINGS, OUTPUTS, (0,)) >= 0
    assert not list(place.iterdir())


def test_who_does_not_answer_at_the_start_is_told_later(paths, monkeypatch, on):
    def refuse(_address):
        raise DataError("ftp://photos.example cannot be reached: refused.")

    monkeypatch.setattr(shared_cache, "Storage", refuse)
    shared_cache.begin_run()
    with pytest.warns(EfftuneWarning, match="not fetched any more in this run: ftp://.* refused"):
        assert on("a", paths)[0].computed == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/tmp/cache", "must be an address, such as s3://bucket/cache"),
        ("s3://", "s3:// names no place"),
        ("s3://me:secret@bucket/cache", "An address with a password"),
        ("nothing-of-ours://bucket/cache", "cannot be read|no address"),
    ],
)
def test_what_is_no_address_is_told_at_the_start(monkeypatch, tmp_path, paths, given, message):
    import efftune

    monkeypatch.setenv("EFFTUNE_SHARED_CACHE", given)
    with pytest.raises(UsageError, match=message):
        efftune.train(paths[0].parents[1], run=tmp_path / "run", recipe="quick", on_progress=None)
    assert not Path(tmp_path / "run").exists()


def test_nothing_is_shared_unless_asked_for(on, paths, place, monkeypatch):
    monkeypatch.delenv("EFFTUNE_SHARED_CACHE")
    assert on("a", paths)[0].computed == 12
    assert not list(place.iterdir())
    assert np.isfinite(on("b", paths)[0].pooled()).all()
