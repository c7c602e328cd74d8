import math
import time

import pytest

from efftune.evaluation.run_times import RunTimes
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training import estimation, planning

PICTURES = {"train": 1000, "val": 100, "test": 100}
COST = 400.0  # millions of multiplications


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-lite0", 32)


@pytest.fixture
def times(backbone, monkeypatch):
    """Run times by budget; the smallest model takes 100 s for steps and 20 s for passes."""
    monkeypatch.setattr(estimation, "fine_tuning_seconds", lambda *_: 100.0)
    monkeypatch.setattr(estimation, "pass_seconds", lambda *_: 20.0)

    def made(budget, folds=0, *, is_search=False, **choices):
        recipe = Recipe.named("balanced", budget=budget, **choices)
        plan = planning.plan(recipe.changed(budget=0), backbone, PICTURES, folds)
        found = RunTimes(recipe, Timer() if is_search else Timer(seconds=budget or math.inf))
        found.measure(plan, backbone, COST, 5.0)
        return found, plan

    return made


@pytest.mark.parametrize(
    ("budget", "networks", "steps"),
    # 5 s are for saving, and a margin is left: 133, 180, 281 s. The last network may be half.
    [(150, 1, 100), (200, 2, 150), (310, 3, 250), (9000, 3, 250)],
)
def test_larger_models_have_to_leave_time_for_as_many_networks(times, budget, networks, steps):
    found, plan = times(budget)
    assert found.networks == networks
    assert found.steps(COST) == pytest.approx(steps)
    assert found.steps(2 * COST) == pytest.approx(2 * steps)
    assert found.seconds(plan, COST, 5.0) == pytest.approx(20 + steps)
    assert not found.is_late(found.seconds(plan, COST, 5.0))
    assert found.is_late(budget - 10)


def test_where_folds_judge_networks_are_whole(times):
    found, _ = times(310, folds=5)
    assert (found.networks, found.steps(COST)) == (2, pytest.approx(200))


@pytest.mark.parametrize(
    "choices",
    [{"members": 1}, {"members": 3}, {"goal": "20 ms"}, {"is_search": True}, {"unfreeze": "all"}],
)
def test_networks_are_those_of_the_recipe_where_their_number_is_not_open(times, choices):
    found, plan = times(9000, **choices)
    assert found.networks == choices.get("members", 1)
    assert found.seconds(plan, COST, 5.0) == pytest.approx(120)


def test_networks_become_fewer_as_time_passes(times, monkeypatch):
    found, plan = times(310)
    now = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: now() + 100)
    assert (found.networks, found.steps(COST)) == (2, pytest.approx(150))
    assert not found.is_late(found.seconds(plan, COST, 5.0))


def test_without_a_budget_nothing_is_late(times):
    found, plan = times(0)
    assert found.seconds(plan, COST, 5.0) == 0
    assert not found.is_late(1e9)
