import itertools
import shutil

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from conftest import fill
from efftune.data import images
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.features.views import MIRRORED
from efftune.model.backbone import STAGE_FEATURES, Backbone
from efftune.system import files, helpers

DTYPES = ["float16", "bfloat16"]


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-lite0", 32)


@pytest.fixture
def paths(tmp_path):
    return sorted(fill(tmp_path / "photos", count=4).rglob("*.*g"))


def settings(**changes):
    return ExtractionSettings(**({"fit": "crop", "precision": "f32"} | changes))


def shards(own_cache):
    return sorted(own_cache.glob("features/*/*.npy"))


@pytest.mark.ci
def test_features_are_those_of_the_keras_model(backbone, paths):
    from efftune.data import picture_bytes

    pixels = np.stack([images.decode(picture_bytes.read(path), 32, "crop") for path in paths])
    expected = backbone.keras_model.predict(pixels.astype(np.float32), verbose=0)
    found = extraction.extract(paths, backbone, settings())
    assert found.pooled().shape == (12, 1280)
    assert np.abs(found.pooled() - expected).max() <= 1e-4
    assert found.sha256s == {path: files.sha256(path) for path in paths}


def test_second_time_nothing_is_computed(backbone, paths, own_cache):
    first = extraction.extract(paths, backbone, settings())
    again = extraction.extract(paths[::-1], backbone, settings())
    assert (first.computed, again.computed) == (12, 0)
    assert (again.pooled()[::-1] == first.pooled()).all()


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_rows_do_not_depend_on_what_shares_a_request(backbone, paths, own_cache, precision):
    found = {path: set() for path in paths}
    outputs = ["block5a", STAGE_FEATURES]
    for part in (paths, paths[::-1], paths[5:], *([path] for path in paths)):
        shutil.rmtree(own_cache / "features", ignore_errors=True)
        rows = extraction.extract(
            part, backbone, settings(precision=precision), outputs=outputs
        ).rows
        for i, path in enumerate(part):
            found[path].add(b"".join(rows[output, 0][i].tobytes() for output in outputs))
    assert [len(each) for each in found.values()] == [1] * 12
    assert len(set.union(*found.values())) == 12


def test_only_new_pictures_are_computed(backbone, paths, own_cache):
    extraction.extract(paths[:8], backbone, settings())
    found = extraction.extract(paths, backbone, settings())
    assert found.computed == 4
    assert (extraction.extract(paths, backbone, settings()).pooled() == found.pooled()).all()


def test_renamed_picture_is_known_and_changed_picture_is_not(backbone, paths, own_cache):
    extraction.extract(paths, backbone, settings())
    renamed = paths[0].rename(paths[0].with_name("renamed.jpg"))
    shutil.copy(paths[2], paths[1])
    shutil.copy(paths[11], paths[2])
    paths[2].write_bytes(paths[2].read_bytes() + b"\0")
    assert extraction.extract([renamed, *paths[1:]], backbone, settings()).computed == 1


PICTURE, VIEW = ("features", 0), ("features", 1)


@pytest.mark.parametrize("changes", [{"fit": "stretch"}, {"precision": "bf16"}])
def test_other_settings_share_nothing(backbone, changes):
    assert settings().key(backbone, PICTURE) != settings(**changes).key(backbone, PICTURE)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"augment": "light"}, {"flip": "no"}])
def test_what_shapes_views_matters_only_to_views(backbone, changes):
    assert settings().key(backbone, PICTURE) == settings(**changes).key(backbone, PICTURE)
    assert settings().key(backbone, VIEW) != settings(**changes).key(backbone, VIEW)


def test_type_matters_only_to_activations(backbone):
    keys = {
        output: {settings(dtype=dtype).key(backbone, (output, 0)) for dtype in DTYPES}
        for output in ("features", "block6a")
    }
    assert (len(keys["features"]), len(keys["block6a"])) == (1, 2)


def test_outputs_views_and_sizes_share_nothing(backbone):
    places = [PICTURE, VIEW, ("features", 2), ("features", MIRRORED), ("block6a", 0)]
    keys = {settings().key(backbone, place) for place in places}
    keys.add(settings().key(Backbone("efficientnet-lite0", 64), PICTURE))
    keys.add(settings().key(backbone, PICTURE, ["block6a", "features"]))
    assert len(keys) == 7


def test_what_other_decoders_have_computed_is_not_taken(backbone, monkeypatch):
    found = images.versions()
    assert {f"opencv {cv2.__version__}", f"pillow {PIL.__version__}"} <= set(found)
    assert f"decode {images.VERSION}" in found
    before = settings().key(backbone, PICTURE)
    changed = [each.replace("pillow", "pillow 1.") for each in found]
    monkeypatch.setattr(images, "versions", lambda: changed)
    assert settings().key(backbone, PICTURE) != before


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_shard_is_noticed_and_rebuilt(backbone, paths, own_cache, damage):
    good = extraction.extract(paths, backbone, settings()).pooled().copy()
    (shard,) = shards(own_cache)
    content = shard.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 64]) + content[-8:]
    shard.write_bytes({"flip": flipped, "cut": content[: len(content) // 2], "empty": b""}[damage])
    found = extraction.extract(paths, backbone, settings())
    assert found.computed == 12
    assert (found.pooled() == good).all()
    assert shards(own_cache) == [shard]
    assert extraction.extract(paths, backbone, settings()).computed == 0


def test_half_written_shard_is_not_read(backbone, paths, own_cache):
    extraction.extract(paths, backbone, settings())
    (shard,) = shards(own_cache)
    shard.rename(shard.with_name(f".partial-{shard.name}"))
    assert extraction.extract(paths, backbone, settings()).computed == 12


def test_interrupted_run_keeps_what_it_computed(backbone, tmp_path, own_cache):
    many = sorted(fill(tmp_path / "many", count=80).rglob("*.*g"))

    class Stopped(Exception):
        pass

    done = itertools.count(1)

    def fail():
        if next(done) == 7:
            raise Stopped

    with pytest.raises(Stopped):
        extraction.extract(many, backbone, settings(), fail)
    assert 1 <= extraction.extract(many, backbone, settings()).computed <= 240 - 6


def test_cache_that_cannot_be_written_costs_only_the_keeping(backbone, paths, own_cache):
    extraction.extract(paths[:1], backbone, settings())  # converted before the place is blocked
    shutil.rmtree(own_cache / "features")
    own_cache.mkdir(exist_ok=True)
    (own_cache / "features").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be cached in .* next run computes them again"):
        found = extraction.extract(paths, backbone, settings())
    assert found.pooled().shape == (12, 1280)


def test_unreadable_pictures_have_a_reason_and_no_row(backbone, paths):
    whole = extraction.extract(paths, backbone, settings()).pooled().copy()
    paths[3].write_bytes(paths[3].read_bytes()[:100])
    paths[5].unlink()
    found = extraction.extract(paths, backbone, settings())
    assert set(found.failures) == {paths[3], paths[5]}
    assert found.failures[paths[5]] == "no such file"
    assert paths[3] in found.sha256s
    assert (found.pooled() == np.delete(whole, [3, 5], axis=0)).all()


def test_views_are_the_same_every_time(backbone, paths, own_cache):
    plain = extraction.extract(paths, backbone, settings()).pooled()
    first = extraction.extract(paths, backbone, settings(), views=[1, 2])
    assert np.abs(first.pooled(1) - first.pooled(2)).max() > 0.1
    assert np.abs(first.pooled(1) - plain).max() > 0.1
    for shard in shards(own_cache):
        shard.unlink()
    again = extraction.extract(paths[::-1], backbone, settings(), views=[2, 1])
    assert again.computed == 12
    for view in (1, 2):
        assert again.pooled(view)[::-1] == pytest.approx(first.pooled(view), abs=1e-4)


def test_helpers_make_the_same_views(backbone, paths, own_cache, monkeypatch):
    paths[3].write_bytes(paths[3].read_bytes()[:100])
    here = extraction.extract(paths, backbone, settings(), views=[0, 1, MIRRORED])
    shutil.rmtree(own_cache / "features")
    monkeypatch.setattr(helpers, "usable_processors", lambda: 4)
    monkeypatch.setattr(helpers, "_FEWEST_CALLS", 0)
    helped = extraction.extract(paths, backbone, settings(), views=[0, 1, MIRRORED])
    assert helped.failures == here.failures
    for view in (0, 1, MIRRORED):
        assert helped.pooled(view) == pytest.approx(here.pooled(view), abs=1e-4)


def test_more_views_compute_only_the_new_ones(backbone, paths, own_cache):
    extraction.extract(paths, backbone, settings(), views=[0, 1])
    kept = shards(own_cache)
    assert extraction.extract(paths, backbone, settings(), views=[1]).computed == 0
    assert extraction.extract(paths, backbone, settings(), views=[2]).computed == 12
    assert set(kept) < set(shards(own_cache))


def test_mirrored_view_is_the_picture_the_other_way_round(backbone, tmp_path, own_cache):
    folder = fill(tmp_path / "photos", count=2)
    for path in folder.rglob("*.png"):
        ImageOps.mirror(Image.open(path)).save(folder / f"mirrored-{path.parent.name}.png")
    there = sorted(folder.rglob("*/*.png"))
    back = sorted(folder.glob("mirrored-*.png"))
    mirrored = extraction.extract(there, backbone, settings(), views=[MIRRORED]).pooled(MIRRORED)
    assert extraction.extract(back, backbone, settings()).pooled() == pytest.approx(
        mirrored, abs=1e-4
    )


@pytest.mark.ci
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_lead_to_the_features(backbone, paths, own_cache, dtype):
    """What is kept at a block, carried on by the network above it, is what is kept at the end."""
    found = extraction.extract(
        paths, backbone, settings(dtype=dtype), outputs=["block6a", "features"], views=[0, 1]
    )
    _, upper = backbone.cut("block6a")
    for view in (0, 1):
        rows = found.rows["block6a", view]
        assert (len(rows), rows.shape, rows.dtype.name) == (12, (2, 2, 112), dtype)
        activations = np.stack([rows[i] for i in range(12)]).astype(np.float32)
        carried = upper.predict(activations, verbose=0)
        bound = {"float16": 0.01, "bfloat16": 0.08}[dtype]
        assert np.abs(carried - found.pooled(view)).max() <= bound
    again = extraction.extract(
        paths, backbone, settings(dtype=dtype), outputs=["block6a", "features"], views=[1]
    )
    assert again.computed == 0
    assert (again.rows["block6a", 1][7] == found.rows["block6a", 1][7]).all()


def test_without_outputs_pictures_are_only_hashed(backbone, paths, own_cache):
    paths[3].write_bytes(paths[3].read_bytes()[:100])
    found = extraction.extract(paths, backbone, settings(), outputs=[])
    assert set(found.failures) == {paths[3]}
    assert len(found.sha256s) == 12
    assert shards(own_cache) == []


def test_few_rows_wait_in_memory(backbone, paths, own_cache, monkeypatch):
    monkeypatch.setattr(extraction, "WAITING_BYTES", 5 * 1280 * 4)
    found = extraction.extract(paths, backbone, settings())
    assert len(shards(own_cache)) == 3
    assert (extraction.extract(paths, backbone, settings()).pooled() == found.pooled()).all()


def test_shards_hold_a_bounded_number_of_rows(backbone, paths, own_cache, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD_ROWS", 5)
    found = extraction.extract(paths, backbone, settings())
    assert len(shards(own_cache)) == 3
    assert (extraction.extract(paths, backbone, settings()).pooled() == found.pooled()).all()


def test_progress_reaches_the_total(backbone, paths):
    calls = []
    for _ in range(2):  # computed, then kept
        extraction.extract(paths, backbone, settings(), lambda: calls.append(1))
    assert len(calls) == 24


def test_no_pictures_no_rows(backbone):
    assert extraction.extract([], backbone, settings()).pooled().shape == (0, 1280)
