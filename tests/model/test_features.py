import itertools
import shutil

import numpy as np
import pytest

from conftest import fill
from efftune import files
from efftune.model import features
from efftune.model.backbone import Backbone
from efftune.model.features import Settings


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-lite0", 32)


@pytest.fixture
def paths(tmp_path):
    return sorted(fill(tmp_path / "photos", count=4).rglob("*.*g"))


def settings(backbone, **changes):
    return Settings.of(backbone, **({"fit": "crop", "precision": "f32"} | changes))


def shards(own_cache):
    return sorted(own_cache.glob("features/*/*.npy"))


def test_features_are_those_of_the_keras_model(backbone, paths):
    from efftune.data import images

    pixels = np.stack([images.decode(images.read(path), 32, "crop") for path in paths])
    expected = backbone.keras_model.predict(pixels.astype(np.float32), verbose=0)
    found = features.extract(paths, backbone, settings(backbone))
    assert found.values.shape == (12, 1, 1280)
    assert np.abs(found.values[:, 0] - expected).max() <= 1e-4
    assert found.sha256s == {path: files.sha256(path) for path in paths}


def test_second_time_nothing_is_computed(backbone, paths, own_cache):
    first = features.extract(paths, backbone, settings(backbone))
    again = features.extract(paths[::-1], backbone, settings(backbone))
    assert (first.computed, again.computed) == (12, 0)
    assert (again.values[::-1] == first.values).all()


def test_only_new_pictures_are_computed(backbone, paths, own_cache):
    features.extract(paths[:8], backbone, settings(backbone))
    found = features.extract(paths, backbone, settings(backbone))
    assert found.computed == 4
    assert (features.extract(paths, backbone, settings(backbone)).values == found.values).all()


def test_renamed_picture_is_known_and_changed_picture_is_not(backbone, paths, own_cache):
    features.extract(paths, backbone, settings(backbone))
    renamed = paths[0].rename(paths[0].with_name("renamed.jpg"))
    shutil.copy(paths[2], paths[1])
    shutil.copy(paths[11], paths[2])
    paths[2].write_bytes(paths[2].read_bytes() + b"\0")
    assert features.extract([renamed, *paths[1:]], backbone, settings(backbone)).computed == 1


@pytest.mark.parametrize(
    "changes", [{"fit": "stretch"}, {"views": 1}, {"precision": "bf16"}, {"views": 1, "seed": 1}]
)
def test_other_settings_share_nothing(backbone, changes):
    assert settings(backbone).key != settings(backbone, **changes).key
    assert settings(backbone, views=1).key != settings(backbone, views=1, seed=1).key


def test_other_sizes_share_nothing(backbone):
    assert settings(backbone).key != settings(Backbone("efficientnet-lite0", 64)).key


def test_seed_matters_only_to_views(backbone):
    assert settings(backbone, seed=1).key == settings(backbone, seed=2).key


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_shard_is_noticed_and_rebuilt(backbone, paths, own_cache, damage):
    good = features.extract(paths, backbone, settings(backbone)).values.copy()
    (shard,) = shards(own_cache)
    content = shard.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 64]) + content[-8:]
    shard.write_bytes({"flip": flipped, "cut": content[: len(content) // 2], "empty": b""}[damage])
    found = features.extract(paths, backbone, settings(backbone))
    assert found.computed == 12
    assert (found.values == good).all()
    assert shards(own_cache) == [shard]
    assert features.extract(paths, backbone, settings(backbone)).computed == 0


def test_half_written_shard_is_not_read(backbone, paths, own_cache):
    features.extract(paths, backbone, settings(backbone))
    (shard,) = shards(own_cache)
    shard.rename(shard.with_name(f".partial-{shard.name}"))
    assert features.extract(paths, backbone, settings(backbone)).computed == 12


def test_interrupted_run_keeps_what_it_computed(backbone, tmp_path, own_cache):
    many = sorted(fill(tmp_path / "many", count=80).rglob("*.*g"))

    class Stopped(Exception):
        pass

    done = itertools.count(1)

    def fail():
        if next(done) == 7:
            raise Stopped

    with pytest.raises(Stopped):
        features.extract(many, backbone, settings(backbone), fail)
    assert 1 <= features.extract(many, backbone, settings(backbone)).computed <= 240 - 6


def test_cache_that_cannot_be_written_costs_only_the_keeping(backbone, paths, own_cache):
    backbone.openvino_model  # noqa: B018  (kept before the place is blocked)
    own_cache.mkdir(exist_ok=True)
    (own_cache / "features").write_text("in the way")
    with pytest.warns(UserWarning, match="not kept for next time"):
        found = features.extract(paths, backbone, settings(backbone))
    assert found.values.shape == (12, 1, 1280)


def test_unreadable_pictures_have_a_reason_and_no_row(backbone, paths):
    whole = features.extract(paths, backbone, settings(backbone)).values.copy()
    paths[3].write_bytes(paths[3].read_bytes()[:100])
    paths[5].unlink()
    found = features.extract(paths, backbone, settings(backbone))
    assert set(found.failures) == {paths[3], paths[5]}
    assert found.failures[paths[5]] == "no such file"
    assert paths[3] in found.sha256s
    assert (found.values == np.delete(whole, [3, 5], axis=0)).all()


def test_views_are_the_same_every_time_and_the_first_is_the_picture(backbone, paths, own_cache):
    plain = features.extract(paths, backbone, settings(backbone)).values.copy()
    first = features.extract(paths, backbone, settings(backbone, views=2)).values.copy()
    assert first.shape == (12, 3, 1280)
    assert first[:, :1] == pytest.approx(plain, abs=1e-4)
    assert np.abs(first[:, 1] - first[:, 2]).max() > 0.1
    for shard in shards(own_cache):
        shard.unlink()
    again = features.extract(paths[::-1], backbone, settings(backbone, views=2)).values
    assert again[::-1] == pytest.approx(first, abs=1e-4)


def test_shards_hold_a_bounded_number_of_rows(backbone, paths, own_cache, monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 5)
    found = features.extract(paths, backbone, settings(backbone))
    assert len(shards(own_cache)) == 3
    assert (features.extract(paths, backbone, settings(backbone)).values == found.values).all()


def test_progress_reaches_the_total(backbone, paths):
    told = []
    for _ in range(2):  # computed, then kept
        features.extract(paths, backbone, settings(backbone), lambda: told.append(1))
    assert len(told) == 24


def test_no_pictures_no_rows(backbone):
    assert features.extract([], backbone, settings(backbone)).values.shape == (0, 1, 1280)
