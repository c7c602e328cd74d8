from collections import namedtuple

import numpy as np
import pytest

import efftune
from conftest import fill
from efftune.errors import UsageError
from efftune.features.cache import FeatureCache
from efftune.model.backbone import FEATURES, STAGE_FEATURES, Backbone
from efftune.model.engines import openvino_engine
from efftune.recipe.recipe import Recipe
from efftune.system import machine
from efftune.training import estimation, planning

GIB = 2**30
PICTURES = {"train": 1000, "val": 100, "test": 100}
ROW = 2 * 2 * 80 * 2  # bytes of block 5's input at 32 pixels


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-lite0", 32)


@pytest.fixture
def room(monkeypatch, own_cache):
    """Pretend to have so much free memory and disk, in bytes."""

    def pretend(memory=64 * GIB, disk=64 * GIB):
        monkeypatch.setattr(machine, "free_memory", lambda: memory)
        free = namedtuple("free", "free")
        monkeypatch.setattr(planning.shutil, "disk_usage", lambda _path: free(disk))

    return pretend


def plan(backbone, **choices):
    return planning.plan(Recipe(**({"views": 3, "batch_size": 64} | choices)), backbone, PICTURES)


def test_what_fits_into_a_quarter_of_the_free_memory_stays_there(backbone, room):
    size = (1000 * 4 + 100) * ROW
    room(memory=4 * size)
    found = plan(backbone)
    assert (found.activation_bytes, found.mapped_bytes, found.place) == (
        size,
        size,
        "memory",
    )
    assert found.notes == ()


def test_what_does_not_is_read_from_disk(backbone, room):
    size = (1000 * 4 + 100) * ROW
    room(memory=4 * size - 8)
    found = plan(backbone)
    assert (found.activation_bytes, found.mapped_bytes, found.place) == (
        size,
        size - 2,
        "disk",
    )
    assert found.recipe.augmentation.views == 3


def test_memory_can_be_stated(backbone, room):
    room()
    assert plan(backbone, memory=0.001).mapped_bytes == GIB // 1000
    assert plan(backbone, memory=0.001).place == "disk"


def test_what_earlier_runs_have_cached_is_no_lost_room(backbone, room, own_cache):
    size = (1000 * 4 + 100) * ROW
    values = np.zeros((1, size // 4), np.float32)
    FeatureCache(own_cache / "elsewhere" / "rows", "float32", values.shape[1:]).add(
        [bytes(32)], values
    )
    room(memory=0, disk=2.2 * size)
    first = plan(backbone)
    assert (first.activation_bytes, first.notes) == (size, ())
    (own_cache / "elsewhere").rename(own_cache / "features")
    room(memory=0, disk=1.2 * size)  # the first run has taken the rest
    assert plan(backbone) == first
    room(memory=0, disk=1.1 * size)
    assert plan(backbone).activation_bytes < size  # some of what is free is left to others


def test_features_of_the_heads_views_take_room(backbone, room):
    room(memory=0, disk=2 * 9 * 1000 * 1280 * 4)
    assert plan(backbone, unfreeze="none", head_epochs=9)
    with pytest.raises(UsageError, match=r"GiB of features.*fewer --head-epochs"):
        plan(backbone, unfreeze="none", head_epochs=10)


@pytest.mark.parametrize(
    ("choices", "folds", "expected"),
    [
        ({}, 0, STAGE_FEATURES),
        ({}, 5, STAGE_FEATURES),
        ({"unfreeze": "none"}, 0, STAGE_FEATURES),
        ({"unfreeze": "none", "head_epochs": 2}, 0, FEATURES),
        ({"head_epochs": 2}, 0, FEATURES),
        ({"phases": ("scratch",)}, 0, FEATURES),
        ({"unfreeze": "none", "head_features": "last"}, 5, FEATURES),
    ],
)
def test_head_that_is_fitted_by_regression_sees_all_stages(backbone, choices, folds, expected):
    found = planning.plan(Recipe(**choices), backbone, PICTURES, folds)
    assert found.pooled_output == expected
    assert found.recipe.head.features == choices.get("head_features", "auto")


def test_padded_size_is_reported(backbone):
    (note,) = plan(backbone, image_size=33).notes
    assert "33 px is not a multiple of 32" in note
    assert "64 px" in note
    assert plan(backbone, image_size=64).notes == plan(backbone).notes == ()


def test_rmsprop_is_warned_of_where_weights_are_pretrained(backbone):
    (note,) = plan(backbone, optimizer="rmsprop").notes
    assert "damages pretrained weights" in note
    assert plan(backbone, optimizer="rmsprop", phases=("scratch",)).notes == ()


def test_large_batches_of_few_pictures_are_warned_of(backbone):
    (note,) = plan(backbone, batch_size=512).notes
    assert "a batch size of 512 leaves 1 step(s) per epoch" in note
    assert plan(backbone, batch_size=250).notes == ()


@pytest.mark.parametrize(("pictures", "expected"), [(1000, 64), (255, 32), (40, 16)])
def test_automatic_batch_leaves_steps_in_an_epoch(backbone, pictures, expected):
    recipe = Recipe(batch_size="auto", views=3)
    made = planning.plan(recipe, backbone, {"train": pictures, "val": 20, "test": 20})
    assert made.recipe.optimization.batch_size == expected
    assert any("pictures per step" in note for note in made.notes) == (expected < 64)


def test_automatic_batch_fits_into_half_of_the_memory(backbone, monkeypatch):
    all_blocks = backbone.step_bytes("pixels")
    assert backbone.step_bytes("block5") < all_blocks
    room = int(2 * 20 * all_blocks)  # for 20 pictures in half of it
    monkeypatch.setattr(machine, "memory_bytes", lambda: room)
    monkeypatch.setattr(machine, "free_memory", lambda: 64 * GIB)
    plans = [plan(backbone, batch_size="auto", **choices) for choices in ({"whole_epochs": 1}, {})]
    assert [each.recipe.optimization.batch_size for each in plans] == [16, 64]


def test_precision_is_that_of_the_recipe(backbone, monkeypatch):
    monkeypatch.setattr(openvino_engine, "fastest_precision", lambda: "bf16")
    made = plan(backbone, precision="f32")
    assert planning.settings(made).precision == "f32"
    for precision in ("bf16", "auto"):
        made = plan(backbone, precision=precision)
        assert planning.settings(made).precision == "bf16"
        assert planning.settings(made, exact=True).precision == "f32"


def test_precision_that_the_processor_lacks_is_an_error(backbone, monkeypatch):
    monkeypatch.setattr(openvino_engine, "fastest_precision", lambda: "f32")
    with pytest.raises(UsageError, match="no bfloat16: use --precision auto"):
        plan(backbone, precision="bf16")


def test_small_disk_means_fewer_views(backbone, room):
    room(memory=0, disk=2 * (1000 * 3 + 100) * ROW)
    found = plan(backbone)
    assert (found.recipe.augmentation.views, found.recipe.tuning.unfreeze) == (2, "block5a")
    assert found.notes == ("2 views instead of 3: not enough disk space",)


def test_smaller_disk_means_a_higher_block(backbone, room):
    room(memory=0, disk=2 * 1100 * ROW - 2)
    found = plan(backbone)
    assert found.recipe.tuning.unfreeze == "block6b"
    assert "training from block6b instead of block5: not enough disk space" in found.notes


def test_no_room_at_all_means_the_head_alone(backbone, room):
    room(memory=0, disk=0)
    found = plan(backbone)
    assert [stage.name for stage in found.recipe.stages] == ["head"]
    assert found.notes == ("only the head is trained: not enough disk space",)


def test_no_room_leaves_a_gradient_head_its_settings(backbone, room):
    room(memory=0, disk=2 * 2 * 1000 * 1280 * 4)
    found = plan(backbone, head_epochs=2, optimizer="adam")
    assert found.recipe.head.epochs == 2
    assert found.recipe.optimization.optimizer == "adam"
    assert [stage.name for stage in found.recipe.stages] == ["head"]


def test_memory_stands_in_for_disk(backbone, room):
    room(memory=4 * (1000 * 4 + 100) * ROW, disk=0)
    found = plan(backbone)
    assert (found.recipe.augmentation.views, found.place, found.notes) == (3, "memory", ())


def test_decoded_pictures_need_room_too(backbone, room):
    decoded = 1100 * 32 * 32 * 3
    room(memory=0, disk=2 * (decoded + (1000 * 3 + 100) * ROW))
    found = plan(backbone, whole_epochs=1)
    assert (found.decoded_bytes, found.recipe.augmentation.views) == (decoded, 2)
    room(memory=0, disk=2 * decoded - 2)
    found = plan(backbone, unfreeze="all", epochs=1)
    assert found.decoded_bytes == 0
    assert found.notes == ("pictures are decoded again in each epoch: not enough disk space",)


def test_unknown_block_is_named(backbone):
    with pytest.raises(UsageError, match=r"Unknown block 'block9'"):
        plan(backbone, unfreeze="block9")


@pytest.mark.parametrize("choices", [{"unfreeze": "none"}, {"unfreeze": "all", "whole_epochs": 1}])
def test_features_that_nothing_trains_from_are_not_cached(backbone, choices):
    found = plan(backbone, **choices)
    assert (found.activation_bytes, found.place) == (0, "")


@pytest.mark.ci
def test_estimate_covers_every_phase(backbone, eager, tmp_path, own_cache):
    paths = sorted(fill(tmp_path / "photos", count=12).rglob("*.*g"))
    recipe = Recipe(image_size=32, unfreeze="block7", views=2, whole_epochs=1, batch_size=8)
    before = backbone.keras_model.get_weights()
    pictures = {"train": 36, "val": 9, "test": 9}
    found = estimation.estimate(planning.plan(recipe, backbone, pictures), backbone, paths)
    assert list(found) == ["features", "head", "views", "upper", "decode", "whole", "evaluate"]
    assert all(0 <= seconds < 120 for seconds in found.values())
    assert found["upper"] > 0
    after = backbone.keras_model.get_weights()
    assert all((one == two).all() for one, two in zip(before, after, strict=True))


def test_estimate_of_the_head_alone_needs_no_views(source):
    plan = efftune.plan(source, recipe="quick", image_size=32)
    assert {"inspect", "features", "head"} <= plan.seconds.keys()
    assert "views" not in plan.seconds
