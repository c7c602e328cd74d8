import numpy as np
import pytest

from efftune.recipe.recipe import Recipe
from efftune.training import goal, planning
from efftune.training.goal import Cost


@pytest.mark.parametrize(
    ("limits", "missed"),
    [
        ("", ""),
        ("10 ms, 20 MB", ""),
        ("9.9 ms", "10.0 ms for a picture"),
        ("19 MB, 10 ms", "20.0 MB"),
        ("9 ms, 19 MB", "10.0 ms for a picture and 20.0 MB"),
    ],
)
def test_what_misses_a_goal_is_named(limits, missed):
    assert Cost(10.0, 20.0).beyond(Recipe(goal=limits)) == missed


def test_one_network_is_measured(folder, backbone):
    paths = sorted(folder.rglob("*.png"))[:2]
    recipe = Recipe(image_size=32)
    found, many = (goal.cost(backbone, recipe, paths, classes) for classes in (0, 1000))
    assert 0 < found.milliseconds < 2000
    weights = backbone.keras_model.trainable_weights
    assert found.megabytes == pytest.approx(sum(4 * np.prod(x.shape) for x in weights) / 1e6, 0.01)
    features = backbone.shape(planning.pooled_output(recipe))[0]
    assert many.megabytes - found.megabytes == pytest.approx((features + 1) * 0.004)


def test_ensemble_takes_its_upper_blocks_several_times(folder, backbone, monkeypatch):
    recipe = Recipe(image_size=32, unfreeze="block7")
    block = backbone.block("block7")
    latencies = {planning.pooled_output(recipe): 10.0, block: 7.0}
    monkeypatch.setattr(goal, "_latency", lambda _backbone, output, *_: latencies[output])
    monkeypatch.setattr(goal, "_timed", lambda *_: 4.0)  # decoding
    single = goal.cost(backbone, recipe, [], 3)
    cost_of = goal.with_members(single, backbone, recipe, [], 3)
    assert cost_of(1, False) == single
    assert cost_of(3, False).milliseconds == 16
    assert cost_of(3, True).milliseconds == 28
    _, upper = backbone.cut(block)
    more = (cost_of(2, False).megabytes - single.megabytes) * 1e6
    assert more == pytest.approx(4 * (upper.count_params() + 3 * 1280))


def test_trained_classifier_is_measured(finished_run, source):
    paths = sorted(source.rglob("*.png"))[:3]
    found = goal.of_classifier(finished_run.classifier, finished_run.folder, paths)
    assert 0 < found.milliseconds < 2000
    assert 13 < found.megabytes < 15
    within, beyond = (Recipe(goal=f"{limit} MB") for limit in (15, 13))
    assert goal.compared(found, within).endswith(" MB: within --goal '15 MB'")
    assert goal.compared(found, beyond).endswith(" MB: not within --goal '13 MB'")
