import hashlib

import jax
import numpy as np
import pytest

from data.scenes import scene
from efftune.data import augmentation, images, picture_bytes
from efftune.data.augmentation import View
from efftune.training import jax_augmentation

on_device = jax.jit(jax_augmentation.apply)


def differences(pixels, views):
    """Mean and largest difference of each picture's view from the one that the CPU makes."""
    found = on_device(pixels, **jax_augmentation.parameters(views, pixels.shape[1]))
    assert found.dtype == np.float32
    expected = np.stack([augmentation.apply(*each) for each in zip(pixels, views, strict=True)])
    off = np.abs(np.asarray(found) - expected)
    return off.mean(axis=(1, 2, 3)), off.max()


def views_of(count, strength, flip):
    digests = [hashlib.sha256(bytes([i])).digest() for i in range(count)]
    return [augmentation.plan(0, each, 5, strength, flip) for each in digests]


STRENGTHS = [("light", "no"), ("standard", "yes"), ("strong", "both"), ("keras-example", "both")]


@pytest.mark.parametrize(("strength", "flip"), STRENGTHS)
def test_views_are_those_of_the_cpu(strength, flip):
    pixels = np.stack([np.asarray(scene(i, 48)) for i in range(24)])
    means, largest = differences(pixels, views_of(24, strength, flip))
    assert means.max() < 0.1
    assert largest <= 3


def test_mirrors_stand_behind_mirrors():
    """A part four times as wide as the picture, of which the rest is filled by reflection."""
    pixels = np.asarray(scene(0, 24))[None]
    view = View(10.0, 4.0, (0.7, -0.4), False, (1.0, 1.1, 0.9), 1.2)
    means, _ = differences(pixels, [view])
    assert means[0] < 0.1


def test_white_and_black_stay_within_their_range():
    pixels = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 255)])
    bright = View(0.0, 1.0, (0.0, 0.0), False, (1.5, 1.5, 1.5), 1.0)
    found = np.asarray(on_device(pixels, **jax_augmentation.parameters([bright] * 2, 8)))
    assert (found[0] == 0).all()
    assert (found[1] == 255).all()


@pytest.mark.shared
def test_views_of_photos_are_those_of_the_cpu(clothing):
    paths = sorted((clothing / "train").rglob("*.jpg"))[::40][:64]
    pixels = np.stack([images.decode(picture_bytes.read(path), 224, "crop") for path in paths])
    for strength, flip in STRENGTHS:
        means, _ = differences(pixels, views_of(len(pixels), strength, flip))
        assert means.max() < 0.5


def test_matrices_are_those_of_the_cpu():
    views = [
        augmentation.plan(0, bytes([i]) * 32, 1, "strong", flip)
        for i in range(20)
        for flip in ("no", "yes", "both")
    ]
    expected = np.array([augmentation.affine(view, 17) for view in views])
    found = jax_augmentation.parameters(views, 17)["affine"]
    assert found == pytest.approx(expected, abs=1e-5)
