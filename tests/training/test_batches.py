import hashlib

import numpy as np
import pytest

from efftune.data import augmentation
from efftune.features.cache import CachedRows, FeatureCache
from efftune.recipe.recipe import Recipe
from efftune.training.batches import CachedViews, DecodedImages, LabelledInputs

PICTURES, VIEWS = 20, 4
DIGESTS = [hashlib.sha256(bytes([i])).digest() for i in range(PICTURES)]


@pytest.fixture
def views(tmp_path):
    """Views whose every value says which picture and which view they are."""
    views = []
    for view in range(VIEWS):
        store = FeatureCache(tmp_path / str(view), "float16", (2, 3, 5))
        numbers = 100 * view + np.arange(PICTURES, dtype=np.float16)
        store.add(DIGESTS, np.broadcast_to(numbers[:, None, None, None], (PICTURES, 2, 3, 5)))
        views.append(CachedRows(store, DIGESTS))
    return CachedViews(views, seed=0)


def training_data_of(inputs, epoch, pictures=None):
    pictures = np.arange(PICTURES) if pictures is None else np.array(pictures)
    return LabelledInputs(inputs, np.zeros(PICTURES, np.int64)).batch(pictures, epoch)


def test_epoch_0_shows_the_pictures_themselves(views):
    assert (training_data_of(views, 0)[:, 0, 0, 0] == np.arange(PICTURES)).all()


def test_every_view_comes_once_before_any_comes_again(views):
    for first in (1, 1 + VIEWS):
        shown = [
            training_data_of(views, epoch)[:, 1, 2, 4] // 100
            for epoch in range(first, first + VIEWS)
        ]
        assert all(sorted(each) == list(range(VIEWS)) for each in np.transpose(shown))
    orders = {tuple(each) for each in np.transpose(shown)}
    assert len(orders) > 5  # each picture has an order of its own


def test_batch_holds_the_pictures_asked_for(views):
    batch = training_data_of(views, 2, [7, 3, 7])
    assert (batch[:, 0, 0, 0] % 100).tolist() == [7, 3, 7]
    assert batch.dtype == np.float32
    assert (batch == batch[:, :1, :1, :1]).all()


def test_batches_are_aligned_so_that_they_need_no_copy(views):
    batches = [training_data_of(views, 1, range(count)) for count in (1, 3, 20)]
    assert all(batch.ctypes.data % 64 == 0 for batch in batches)


def test_in_order_gives_every_picture_once(views):
    batches = list(LabelledInputs(views, np.zeros(PICTURES, np.int64)).in_order(8))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert np.concatenate(batches)[:, 0, 0, 0].tolist() == list(range(PICTURES))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (PICTURES, 16, 16, 3), np.uint8)


def pictures(pixels, **choices):
    return DecodedImages(pixels, DIGESTS, Recipe(**({"views": 2, "flip": "yes"} | choices)))


def test_pictures_are_decoded_ones_in_epoch_0(pixels):
    assert (training_data_of(pictures(pixels), 0) == pixels).all()


def test_each_epoch_sees_fresh_views_and_the_same_ones_again(pixels):
    first, second = (training_data_of(pictures(pixels), epoch) for epoch in (1, 2))
    assert (first != second).any(axis=(1, 2, 3)).all()
    assert (first == training_data_of(pictures(pixels), 1)).all()
    assert (training_data_of(pictures(pixels, seed=1), 1) != first).any()


def test_views_continue_after_the_cached_ones(pixels):
    plan = augmentation.plan(0, DIGESTS[5], 2 + 3, "standard", "yes")
    assert (training_data_of(pictures(pixels), 3)[5] == augmentation.apply(pixels[5], plan)).all()


def test_without_augmentation_every_epoch_sees_the_pictures(pixels):
    assert (training_data_of(pictures(pixels, augment="none"), 3) == pixels).all()
