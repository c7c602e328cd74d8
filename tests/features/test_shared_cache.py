"""Rows that machines share; a machine is a cache folder, and what they share another one."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import fill
from efftune.errors import EfftuneWarning, UsageError
from efftune.features import extraction, shared_cache
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import Backbone

SETTINGS = ExtractionSettings(fit="crop", precision="f32")
OUTPUTS = ["block6a", "features"]


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
    monkeypatch.setenv("EFFTUNE_SHARED_CACHE", f"file://{tmp_path}/shared/")
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.fixture
def on(monkeypatch, tmp_path, backbone):
    """A function that extracts on a machine, and tells its shards besides."""

    def extract(machine, paths):
        monkeypatch.setenv("EFFTUNE_CACHE", str(tmp_path / machine))
        found = extraction.extract(paths, backbone, SETTINGS, outputs=OUTPUTS)
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
        shared = shared_cache.SharedCache("memory://cache", "key", set())
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
    shared = shared_cache.SharedCache("memory://evil", "key", set())
    assert shared.fetch(digest, Path("/nowhere")) is None
    assert not shared._shards


def test_an_address_that_fails_is_told_once(on, paths, monkeypatch):
    monkeypatch.setenv("EFFTUNE_SHARED_CACHE", "file:///dev/null/cache")
    with pytest.warns(EfftuneWarning, match="Features are not shared any more: .*null") as told:
        found, _ = on("a", paths)
    assert len(told) == 1
    assert found.computed == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert on("b", paths)[0].computed == 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/tmp/cache", "must be an address, such as s3://bucket/cache"),
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
