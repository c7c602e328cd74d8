import functools

import numpy as np
import pytest
from PIL import Image

from conftest import square
from efftune.data.sources import discovery
from efftune.model.backbone import STAGE_FEATURES, Backbone
from efftune.recipe.recipe import Recipe
from efftune.training import planning, training_data, view_selection

from .conftest import with_head


@pytest.fixture(scope="module")
def lit(tmp_path_factory):
    """Pictures lit from the left or from the right: mirrored, one class is the other."""
    folder = tmp_path_factory.mktemp("lit")
    for side in ("left", "right"):
        (folder / side).mkdir()
        for i in range(30):
            pixels = np.asarray(square((60, 60, 60), i + 100 * (side == "left"), (32, 32))).copy()
            half = slice(0, 16) if side == "left" else slice(16, 32)
            pixels[:, half] = 255 - pixels[:, half]
            Image.fromarray(pixels).save(folder / side / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def leaning(tmp_path_factory):
    """Pictures with a bright bar at the top, or just below it: shifted, they are hard to tell."""
    folder = tmp_path_factory.mktemp("leaning")
    for side, rows in (("above", slice(0, 3)), ("below", slice(3, 6))):
        (folder / side).mkdir()
        for i in range(30):
            pixels = np.full((32, 32, 3), 60, np.uint8)
            pixels[rows] = 200
            pixels[20:22, i] = 90  # no two are the same
            Image.fromarray(pixels).save(folder / side / f"{i:02}.png")
    return folder


@functools.cache
def backbone_for_all():
    """Nothing here trains it."""
    return Backbone("efficientnet-lite0", 32)


def decided(folder, **choices):
    backbone, plan, pictures, head = with_head(folder, backbone_for_all(), **choices)
    plan, accuracy = view_selection.choose_views(plan, backbone, head, pictures)
    return plan, accuracy


def test_pictures_with_a_left_and_a_right_are_not_mirrored(lit):
    plan, accuracy = decided(lit, augment="light")
    assert plan.recipe.augmentation.flip == "no"
    assert accuracy["plain"] > accuracy["mirrored"] + 0.5


def test_views_that_are_known_are_used(source):
    plan, accuracy = decided(source)
    assert (plan.recipe.augmentation.augment, plan.recipe.augmentation.flip) == ("standard", "yes")
    assert accuracy == {"plain": 1.0, "standard": 1.0, "mirrored": 1.0}
    assert plan.recipe.augmentation.views > 0


def test_views_that_are_something_else_are_not(leaning):
    plan, accuracy = decided(leaning)
    assert accuracy["plain"] > max(accuracy["standard"], accuracy["light"]) + 0.1
    assert (plan.recipe.augmentation.augment, plan.recipe.augmentation.views) == ("none", 0)
    asked, _ = decided(leaning, augment="none")
    assert plan.activation_bytes == asked.activation_bytes > 0


@pytest.mark.parametrize("choices", [{"flip": "yes"}, {"flip": "no"}, {"flip": "both"}])
def test_nothing_is_found_out_that_is_not_open(lit, choices):
    plan, accuracy = decided(lit, augment="strong", **choices)
    assert (plan.recipe.augmentation.augment, plan.recipe.augmentation.flip, accuracy) == (
        "strong",
        choices["flip"],
        {},
    )


def test_answers_are_mirrored_only_if_mirrored_pictures_are_known(lit, source):
    for folder, known in ((lit, False), (source, True)):
        plan, accuracy = decided(folder, augment="light", test_flip=True)
        assert "mirrored" in accuracy
        assert plan.recipe.averages_mirror_images is known
        assert not decided(folder, augment="light")[0].recipe.averages_mirror_images


@pytest.mark.parametrize("choices", [{"augment": "none"}, {"views": 0}])
def test_answers_are_not_mirrored_if_training_never_mirrors(source, choices):
    choices |= {"test_flip": True, "flip": "yes"}
    assert not decided(source, **choices)[0].recipe.averages_mirror_images
    whole = decided(source, **choices, whole_epochs=1)[0].recipe
    assert whole.averages_mirror_images is (choices.get("views") == 0)


def test_views_cost_nothing_where_there_are_none(lit):
    assert decided(lit, unfreeze="none")[1] == decided(lit, augment="none")[1] == {}


def test_held_out_pictures_are_evaluated_in_float32_and_without_views(source, own_cache):
    recipe = Recipe(image_size=32, unfreeze="block7", views=2)
    backbone = Backbone(recipe.backbone.model, 32)
    examples = discovery.find(source).split(0.2, 0.2, 0)
    plan = planning.plan(recipe, backbone, examples.counts)
    _, data = training_data.compute(examples, backbone, plan)
    parts = data.features
    assert (
        set(parts["train"].rows) == set(parts["val"].rows) == {("block7a", 0), (STAGE_FEATURES, 0)}
    )
    assert set(parts["test"].rows) == {("features", 0)}
    exact = planning.settings(plan, exact=True)
    # Where float32 is the fastest there is, training pictures lie beside the others.
    as_fast = planning.settings(plan) == exact
    for outputs, shards in ((["block7a", "features"], 1 + as_fast), (["features"], 1)):
        key = exact.key(backbone, ("features", 0), outputs)
        assert len(list((own_cache / "features" / key).glob("*.npy"))) == shards
