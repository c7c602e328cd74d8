import functools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from conftest import square
from efftune.data.sources import discovery
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training import fine_tuning, planning, stages, training_data, view_selection
from efftune.training.validation import validation_metrics

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
        plan, accuracy = decided(folder, augment="none", test_flip=True)
        assert "mirrored" in accuracy
        assert plan.recipe.averages_mirror_images is known
        assert not decided(folder)[0].recipe.averages_mirror_images


def test_views_cost_nothing_where_there_are_none(lit):
    assert decided(lit, unfreeze="none")[1] == decided(lit, augment="none")[1] == {}


def test_held_out_pictures_are_evaluated_in_float32_and_without_views(source, own_cache):
    recipe = Recipe(image_size=32, unfreeze="block7", views=2)
    backbone = Backbone(recipe.backbone.model, 32)
    examples = discovery.find(source).split(0.2, 0.2, 0)
    plan = planning.plan(recipe, backbone, examples.counts)
    _, data = training_data.compute(examples, backbone, plan)
    parts = data.features
    assert set(parts["train"].rows) == set(parts["val"].rows) == {("block7a", 0), ("features", 0)}
    assert set(parts["test"].rows) == {("features", 0)}
    exact = planning.settings(plan, exact=True)
    # Where float32 is the fastest there is, training pictures lie beside the others.
    as_fast = planning.settings(plan) == exact
    for outputs, shards in ((["block7a", "features"], 1 + as_fast), (["features"], 1)):
        key = exact.key(backbone, ("features", 0), outputs)
        assert len(list((own_cache / "features" / key).glob("*.npy"))) == shards


CHOICES = {"epochs": 2, "views": 1, "batch_size": 8, "augment": "light", "flip": "no"}


def trained(given, backbone, timer=None, **choices):
    """The network after stage `upper`, the stage's result, and the data."""
    plan, data, head = given
    backbone.restore(weights_before(backbone))
    timer = timer or Timer()
    data = fine_tuning.with_views(data, backbone, plan, timer)
    plan = replace(plan, recipe=plan.recipe.changed(**choices))
    ((network, result),) = fine_tuning.run_stages(backbone, head, data, plan, timer)
    return network, result, data


@functools.cache
def weights_before(backbone):
    return backbone.keras_model.get_weights()


@pytest.fixture(scope="module")
def squares_with_head(folder, pretrained):
    weights_before(pretrained[0])
    _, plan, data, head = with_head(folder, pretrained[0], **CHOICES)
    return plan, data, head


def val_logits(network, data):
    settings = ExtractionSettings("crop", "f32")
    output = network.backbone.features_of(network.kernel)
    features = extraction.extract_pooled(
        network.backbone, data.paths["val"], settings, lambda: None, output=output
    )
    return network.head.logits(features)


def test_ensemble_averages_networks_trained_with_other_seeds(
    squares_with_head, backbone, eager, monkeypatch
):
    monkeypatch.setattr(stages, "is_better", lambda *_: True)  # though the head is good enough
    alone = [
        val_logits(*trained(squares_with_head, backbone, seed=seed)[::2]) for seed in (0, 1000)
    ]
    assert np.abs(alone[0] - alone[1]).max() > 1e-2
    parts = []
    timer = Timer(lambda phase, *_: parts.append(phase))
    network, result, data = trained(squares_with_head, backbone, timer, members=2)
    logits = val_logits(network, data)
    assert np.abs(logits - sum(alone) / 2).max() <= 1e-3
    assert any("network 2 of 2" in part for part in parts)
    rows = [(epoch.number, epoch.network) for epoch in result.epochs]
    assert rows == [(1, "1"), (2, "1"), (3, "2"), (4, "2"), (5, "all")]
    assert result.best == 5
    assert (result.to_dict()["epochs"], result.to_dict()["members"]) == (4, 2)
    correct = (logits.argmax(axis=1) == data.labels["val"]).mean()
    assert result.selected.val_accuracy == pytest.approx(correct)
    losses = validation_metrics(logits, data.labels["val"])
    assert result.selected.val_loss == pytest.approx(losses[0], abs=1e-4)


def test_member_that_made_things_worse_is_left_out(squares_with_head, backbone, eager, monkeypatch):
    fit, seeds = stages.fit, []

    def sometimes_worse(start, stage, train, val, recipe, on_step):
        network, result = fit(start, stage, train, val, recipe, on_step)
        seeds.append(recipe.seed)
        return network, replace(result, best=0 if recipe.seed in worse else result.best or 1)

    monkeypatch.setattr(fine_tuning.stages, "fit", sometimes_worse)
    worse = {1000}
    network, result, _ = trained(squares_with_head, backbone, members=3)
    assert seeds == [0, 1000, 2000]
    assert len(network.kernel) == 2 * 1280
    assert result.best == len(result.epochs) == 7
    assert result.members == 2
    assert "network 2 did not improve on the head, and is left out" in result.failures
    worse = {1000}
    network, result, data = trained(squares_with_head, backbone, members=2)
    alone = trained(squares_with_head, backbone)[0]
    logits = val_logits(alone, data)
    network, result, data = trained(squares_with_head, backbone, members=2)
    assert (result.best, result.members) == (5, 1)
    assert np.abs(val_logits(network, data) - logits).max() <= 1e-3
    worse = {0, 1000}
    network, result, data = trained(squares_with_head, backbone, members=2)
    assert result.best == 0
    assert np.array_equal(network.kernel, squares_with_head[2].kernel)
    frozen = data.features["val"].pooled()
    assert np.abs(val_logits(network, data) - network.head.logits(frozen)).max() <= 1e-3


def test_ensemble_without_validation_takes_all(squares_with_head, backbone, eager):
    plan, data, head = squares_with_head
    unseen = replace(data, paths=data.paths | {"val": []})
    network, result, _ = trained((plan, unseen, head), backbone, members=2)
    assert len(network.kernel) == 2 * 1280
    assert result.best == 5
    assert np.isnan(result.selected.val_accuracy)
