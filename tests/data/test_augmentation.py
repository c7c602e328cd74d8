import hashlib
from dataclasses import replace

import numpy as np
import pytest

from conftest import square
from efftune.data import augmentation
from efftune.data.augmentation import View

PICTURE = hashlib.sha256(b"a").digest()
STILL = View(0.0, 1.0, (0.0, 0.0), False, (1.0, 1.0, 1.0), 1.0)


@pytest.fixture(scope="module")
def pixels():
    return np.asarray(square((120, 90, 60), 1, (32, 32)))


def test_same_seed_picture_and_number_give_the_same_view():
    assert augmentation.plan(3, PICTURE, 2) == augmentation.plan(3, PICTURE, 2)


def test_seed_picture_and_number_each_change_the_view():
    other = hashlib.sha256(b"b").digest()
    plans = [(3, PICTURE, 2), (4, PICTURE, 2), (3, other, 2), (3, PICTURE, 1)]
    assert len({augmentation.plan(*each) for each in plans}) == 4


def test_still_view_changes_nothing(pixels):
    assert (augmentation.apply(pixels, STILL) == pixels).all()


def test_flip_swaps_left_and_right(pixels):
    assert (augmentation.apply(pixels, replace(STILL, flip=True)) == pixels[:, ::-1]).all()


def test_rotation_is_anticlockwise():
    pixels = np.zeros((33, 33, 3), np.uint8)
    pixels[16, 30] = 255
    turned = augmentation.apply(pixels, replace(STILL, rotation=90.0))
    assert turned[2, 16].tolist() == [255, 255, 255]


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


def test_views_stay_upright_and_in_range():
    plans = [augmentation.plan(0, PICTURE, i) for i in range(500)]
    assert all(abs(view.rotation) <= 15 for view in plans)
    assert all(0.7 <= view.scale <= 1.05 for view in plans)
    assert {view.flip for view in plans} == {True, False}
