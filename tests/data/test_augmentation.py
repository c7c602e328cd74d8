import hashlib
from dataclasses import replace

import numpy as np
import pytest

from conftest import square
from efftune.data import augmentation
from efftune.data.augmentation import View

PICTURE = hashlib.sha256(b"a").digest()
STILL = View(0.0, 1.0, (0.0, 0.0), False, (1.0, 1.0, 1.0), 1.0)


def plan(seed, picture, number, strength="standard", flip="yes"):
    return augmentation.plan(seed, picture, number, strength, flip)


@pytest.fixture(scope="module")
def pixels():
    return np.asarray(square((120, 90, 60), 1, (32, 32)))


def test_same_seed_picture_and_number_give_the_same_view():
    assert plan(3, PICTURE, 2) == plan(3, PICTURE, 2)


def test_seed_picture_and_number_each_change_the_view():
    other = hashlib.sha256(b"b").digest()
    plans = [(3, PICTURE, 2), (4, PICTURE, 2), (3, other, 2), (3, PICTURE, 1)]
    assert len({plan(*each) for each in plans}) == 4


def test_still_view_changes_nothing(pixels):
    assert (augmentation.apply(pixels, STILL) == pixels).all()


def test_flip_swaps_left_and_right(pixels):
    assert (augmentation.apply(pixels, replace(STILL, flip=True)) == pixels[:, ::-1]).all()


def test_upside_down_swaps_top_and_bottom(pixels):
    assert (augmentation.apply(pixels, replace(STILL, upside_down=True)) == pixels[::-1]).all()


def test_rotation_is_anticlockwise():
    pixels = np.zeros((33, 33, 3), np.uint8)
    pixels[16, 30] = 255
    turned = augmentation.apply(pixels, replace(STILL, rotation=90.0))
    assert turned[2, 16].tolist() == [255, 255, 255]


def test_public_examples_views_go_as_far_as_its_own():
    views = [plan(0, PICTURE, number, "keras-example", "both") for number in range(1, 400)]
    assert {view.scale for view in views} == {1.0}
    assert {view.gain for view in views} == {(1.0, 1.0, 1.0)}
    for values, reach in (
        ([view.rotation for view in views], 54),
        ([view.shift[0] for view in views], 0.1),
        ([view.shift[1] for view in views], 0.1),
        ([view.contrast - 1 for view in views], 0.1),
    ):
        assert 0.97 * reach < max(values) <= reach
        assert -reach <= min(values) < -0.97 * reach
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6
    assert 0.4 < np.mean([view.upside_down for view in views]) < 0.6


def test_small_scale_zooms_in():
    pixels = np.zeros((33, 33, 3), np.uint8)
    pixels[12:21, 12:21] = 255
    zoomed = augmentation.apply(pixels, replace(STILL, scale=0.5))
    assert (zoomed[..., 0] > 127).sum() == pytest.approx(4 * 81, rel=0.15)


def test_shift_moves_the_shown_part():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 30:] = 255
    assert (augmentation.apply(pixels, replace(STILL, shift=(0.25, 0.0)))[:, 20:29] == 255).all()


def test_gain_brightens_and_saturates(pixels):
    brighter = augmentation.apply(pixels, replace(STILL, gain=(2.0, 2.0, 2.0)))
    assert (brighter == (pixels.astype(int) * 2).clip(0, 255)).all()


def test_contrast_keeps_the_mean(pixels):
    flatter = augmentation.apply(pixels, replace(STILL, contrast=0.5))
    assert flatter.mean() == pytest.approx(pixels.mean(), abs=1)
    assert flatter.std() == pytest.approx(pixels.std() / 2, rel=0.05)


@pytest.mark.parametrize(
    ("strength", "rotation", "smallest"),
    [("light", 7, 0.85), ("standard", 15, 0.7), ("strong", 25, 0.5)],
)
def test_views_stay_upright_and_in_range(strength, rotation, smallest):
    plans = [plan(0, PICTURE, i, strength) for i in range(500)]
    assert rotation * 0.9 < max(abs(view.rotation) for view in plans) <= rotation
    assert smallest <= min(view.scale for view in plans) < smallest + 0.05
    assert max(view.scale for view in plans) <= 1.05
    assert {view.flip for view in plans} == {True, False}
    assert not any(view.upside_down for view in plans)


def test_nothing_is_mirrored_unless_it_may_be():
    plans = [plan(0, PICTURE, i, flip="no") for i in range(50)]
    assert not any(view.flip for view in plans)
    mirrored = [plan(0, PICTURE, i) for i in range(50)]
    assert [replace(view, flip=False) for view in mirrored] == plans


def test_top_and_bottom_change_places_only_where_that_was_asked_for():
    plans = [plan(0, PICTURE, i, flip="both") for i in range(50)]
    assert {(view.flip, view.upside_down) for view in plans} == {
        *((True, True), (True, False), (False, True), (False, False))
    }
    usual = [plan(0, PICTURE, i) for i in range(50)]
    assert [replace(view, upside_down=False) for view in plans] == usual
