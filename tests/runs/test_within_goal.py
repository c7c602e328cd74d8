"""Runs whose classifier has to be fast or small; on machines of any speed."""

import pytest

import efftune
from conftest import TUNED
from efftune.data import splitting
from efftune.data.sources import discovery
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.runs import within_goal
from efftune.system.progress import Timer
from efftune.training import goal, planning
from efftune.training.goal import Cost

QUICK = {"recipe": "quick", "image_size": 32, "test": 0.15}


def test_run_says_whether_its_classifier_keeps_the_goal(source, tmp_path):
    run = efftune.train(source, run=tmp_path / "run", goal="1 s", **QUICK)
    found = run.record["goal"]
    assert found["asked"] == run.recipe.goal == "1000 ms"
    assert 0 < found["milliseconds"] < 1000
    assert 13 < found["megabytes"] < 15
    assert run.record["advice"][-1].endswith("within --goal '1000 ms'")
    assert "within --goal" in (run.folder / "report.html").read_text()


def test_without_a_goal_nothing_is_measured(finished_run):
    assert finished_run.record["goal"] == {}


@pytest.mark.parametrize(
    ("limits", "told"),
    [("0.001 ms", r"ms for a picture on this machine"), ("5 MB", r"takes 13\.5 MB")],
)
def test_network_that_misses_the_goal_is_refused_before_it_is_trained(
    source, tmp_path, limits, told
):
    with pytest.raises(efftune.UsageError, match=rf"{told}.*let --model auto choose"):
        efftune.train(source, run=tmp_path / "run", goal=limits, **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("limits", "kept", "notes"),
    [
        ("31 ms", (3, True), 0),
        ("29 ms", (3, False), 1),
        ("14 ms", (2, False), 2),
        ("12 ms", (1, False), 2),
    ],
)
def test_fewer_networks_are_trained_if_all_are_too_slow(source, monkeypatch, limits, kept, notes):
    recipe = Recipe.named("thorough", **(TUNED | {"goal": limits}))
    backbone = Backbone.of(recipe, "cpu")
    latencies = {planning.pooled_output(recipe): 10.0, backbone.block("block7"): 7.5}
    monkeypatch.setattr(goal, "_latency", lambda _backbone, output, *_: latencies[output])
    examples, _ = splitting.split(discovery.find(source), recipe)
    asked, timer = planning.plan_for(recipe, backbone, examples), Timer()
    made = within_goal.planned(asked, backbone, examples, timer)
    assert (made.recipe.members, made.recipe.evaluation.test_flip) == kept
    assert len(made.notes) == len(asked.notes) + notes
    # A resumed run decides as before, whatever is measured then.
    monkeypatch.setattr(goal, "_latency", lambda *_: 1e6)
    again = within_goal.planned(asked, backbone, examples, Timer(journal=timer.journal))
    assert again == made


def test_model_is_chosen_among_those_that_keep_the_goal(source, tmp_path):
    auto = QUICK | {"model": "auto", "goal": "14 MB"}
    run = efftune.train(source, run=tmp_path / "run", **auto)
    outcomes = {each["model"]: each["outcome"] for each in run.record["models"]}
    assert outcomes == {
        "efficientnet-lite0": "chosen",
        "efficientnet-lite1": "over the goal",
        "efficientnet-lite2": "over the goal",
    }
    assert "16.6 MB" in run.record["models"][1]["reason"]
    with pytest.raises(efftune.UsageError, match=r"No model keeps --goal '5 MB'.*lite0 takes 13"):
        efftune.train(source, run=tmp_path / "none", **(auto | {"goal": "5 MB"}))


def test_smallest_model_may_be_the_slowest(source, tmp_path, monkeypatch):
    cost = goal.cost

    def changed(backbone, *others):
        found = cost(backbone, *others)
        return Cost(50.0, found.megabytes) if backbone.entry.name.endswith("lite0") else found

    monkeypatch.setattr(goal, "cost", changed)
    auto = QUICK | {"model": "auto", "goal": "49 ms", "budget": "1h"}
    run = efftune.train(source, run=tmp_path / "run", **auto)
    assert run.record["models"][0]["outcome"] == "over the goal"
    assert run.record["model"]["name"] != "efficientnet-lite0"
