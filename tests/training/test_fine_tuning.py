import functools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from conftest import square
from efftune.data.examples import NO_TIME
from efftune.data.sources import discovery
from efftune.model.backbone import STAGE_FEATURES, Backbone
from efftune.recipe.recipe import Recipe, Stage
from efftune.system.progress import Timer
from efftune.training import fine_tuning, planning, training_data, view_selection
from efftune.training import regression_head as heads
from efftune.training.stage_result import StageResult
from efftune.training.validation import Epoch

from .conftest import weights, with_head


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


@pytest.mark.ci
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
    assert set(parts["test"].rows) == {(STAGE_FEATURES, 0)}
    exact = planning.settings(plan, exact=True)
    # Where float32 is the fastest there is, training pictures lie beside the others.
    as_fast = planning.settings(plan) == exact
    for outputs, shards in ((["block7a", STAGE_FEATURES], 1 + as_fast), ([STAGE_FEATURES], 1)):
        key = exact.key(backbone, (STAGE_FEATURES, 0), outputs)
        assert len(list((own_cache / "features" / key).glob("*.npy"))) == shards


def stage_result(val_accuracy, val_loss):
    start = Epoch("upper", 0, 0.0, 0.5, 0.5, 1.0, 0.5, 0.0, 1.0)
    selected = replace(
        start, number=1, val_accuracy=val_accuracy, val_loss=val_loss, val_calibrated_loss=val_loss
    )
    return StageResult(Stage("upper", "block7a", 1, 1e-3), start, (selected,), 1, 8)


def test_fine_tuning_has_to_gain_over_the_head_on_the_frozen_network(folder):
    _, _, data, _ = with_head(folder, backbone_for_all())
    head = fine_tuning.fit_head(data, backbone_for_all(), Recipe())
    assert len(head.kernel) == backbone_for_all().shape(STAGE_FEATURES)[0]
    assert not fine_tuning.gains(stage_result(0.7, 0.9), head, data)
    assert not fine_tuning.gains(stage_result(1.0, 0.9), head, data)  # right, but less sure
    ignorant = replace(head, kernel=0 * head.kernel)
    assert fine_tuning.gains(stage_result(1.0, 0.0), ignorant, data)
    assert fine_tuning.gains(stage_result(0.1, 2.0), heads.random(1280, 3, 0), data)


@pytest.mark.ci
@pytest.mark.parametrize("gains", [True, False])
def test_head_on_the_frozen_network_is_kept_if_fine_tuning_gains_nothing(
    folder, backbone, eager, monkeypatch, gains
):
    _, plan, data, _ = with_head(folder, backbone, views=0, epochs=1, batch_size=8)
    head = fine_tuning.fit_head(data, backbone, plan.recipe)
    monkeypatch.setattr(fine_tuning, "gains", lambda *_: gains)
    before = weights(backbone)
    found = fine_tuning.fine_tune(backbone, head, data, plan, Timer())
    assert found.head is head
    if gains:
        assert len(found.network.kernel) == 1280
        return
    assert found.network.kernel is head.kernel
    assert not backbone.weights_changed
    assert all((value == before[name]).all() for name, value in weights(backbone).items())
    (stage,) = found.stages
    assert stage.to_dict()["rolled_back"]
    assert stage.failures[-1] == "the head on the frozen network does better on validation"


def limited(seconds, planned):
    """A timer of a run that has so many seconds left, and training planned that takes some."""
    timer = Timer(seconds=seconds)
    timer.budget.plan({"upper": planned}, {"upper": 1})
    return timer


@pytest.mark.parametrize("views", [0, 1])
def test_fine_tuning_is_left_out_if_there_is_no_time(folder, backbone, views):
    _, plan, data, _ = with_head(folder, backbone, views=views, epochs=1, batch_size=8)
    head = fine_tuning.fit_head(data, backbone, plan.recipe)
    timer = limited(100, 1000)
    found = fine_tuning.fine_tune(backbone, head, data, plan, timer)
    assert found.stages == ()
    assert found.network.kernel is head.kernel
    assert timer.left_out == "there is no time for it"


def test_as_many_training_pictures_are_used_as_there_is_time_for(folder, own_cache, monkeypatch):
    monkeypatch.setattr(planning, "_SMALLEST_PART", 8)
    backbone, recipe = backbone_for_all(), Recipe(image_size=32, unfreeze="none")
    examples = discovery.find(folder).split(0.2, 0.2, 0)
    plan = planning.plan(recipe, backbone, examples.counts)
    timer = Timer(seconds=1)
    timer.budget.picture_seconds = 1.0
    found, data = training_data.compute(examples, backbone, plan, timer)
    assert {**found.counts, "train": 0} == {**examples.counts, "train": 0}
    # Five of each class, whatever the time; then, what is being computed at the same time.
    assert sorted(np.bincount(data.labels["train"])) == [5, 5, 6]
    late = [row for row in found.rows if row.reason == NO_TIME]
    assert len(late) == examples.counts["train"] - 16
    assert all(row.split == "train" for row in late)
    # In the order of the source, and the same as those that are computed without a limit.
    again, everything = training_data.compute(examples, backbone, plan)
    place = {path: i for i, path in enumerate(everything.paths["train"])}
    picked = [place[path] for path in data.paths["train"]]
    assert picked == sorted(picked)
    expected = everything.features["train"].pooled()[picked]
    assert (data.features["train"].pooled() == expected).all()
    assert again.counts == examples.counts
    # What was decided is not decided again.
    once_more, _ = training_data.compute(examples, backbone, plan, Timer(journal=timer.journal))
    assert once_more.counts == examples.counts  # without a limit, nothing is asked
    later = Timer(journal=timer.journal, seconds=1000)
    same, _ = training_data.compute(examples, backbone, plan, later)
    assert [row.reason for row in same.rows] == [row.reason for row in found.rows]
