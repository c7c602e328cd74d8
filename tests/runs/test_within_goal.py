"""Runs whose classifier has to be fast or small; on machines of any speed."""

from dataclasses import replace

import pytest

import efftune
from conftest import TUNED
from efftune.data import splitting
from efftune.data.sources import discovery
from efftune.model import catalogue
from efftune.model.backbone import FEATURES, STAGE_FEATURES, Backbone
from efftune.recipe.recipe import Recipe
from efftune.runs import within_goal
from efftune.system import packages
from efftune.system.progress import Timer
from efftune.training import goal, planning
from efftune.training.goal import Cost

QUICK = {"recipe": "quick", "image_size": 32, "test": 0.15}


@pytest.mark.ci
def test_run_says_whether_its_classifier_keeps_the_goal(source, tmp_path):
    run = efftune.train(source, run=tmp_path / "run", goal="1 s", **QUICK)
    found = run.record["goal"]
    assert found["asked"] == run.recipe.goal == "1000 ms"
    assert 0 < found["milliseconds"] < 1000
    assert 13 < found["megabytes"] < 15
    assert run.record["advice"][-1].endswith("MB: within --goal '1000 ms'")
    assert "MB: within --goal" in (run.folder / "report.html").read_text()


def test_without_a_goal_nothing_is_measured(finished_run):
    assert finished_run.record["goal"] == {}


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ("0.001 ms", "ms for a picture on this machine.*let --model auto choose"),
        ("5 MB", r"takes 13\.5 MB.*No model is smaller"),
    ],
)
def test_network_that_misses_the_goal_is_refused_before_it_is_trained(
    source, tmp_path, limits, told
):
    with pytest.raises(efftune.UsageError, match=told):
        efftune.train(source, run=tmp_path / "run", goal=limits, **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-lite0", 32)


@pytest.fixture
def latencies(backbone, monkeypatch):
    """Milliseconds by output of the backbone, on a machine that decodes in no time."""
    found = {FEATURES: 10.0, STAGE_FEATURES: 10.0, backbone.block("block7"): 7.5}
    monkeypatch.setattr(goal, "_latency", lambda _backbone, output, *_: found[output])
    monkeypatch.setattr(goal, "_pixels", lambda *_: None)
    return found


def decided(source, backbone, choices, timer=None):
    """The plan as asked for and as decided, and the most networks."""
    recipe = Recipe.named("thorough", **(TUNED | choices))
    examples, _ = splitting.split(discovery.find(source), recipe)
    asked = planning.plan_for(recipe, backbone, examples)
    made = within_goal.planned(asked, backbone, examples, timer or Timer(), is_within=False)
    return asked, *made


@pytest.mark.parametrize(
    ("limits", "kept", "notes"),
    [
        ("31 ms", (3, True), 0),
        ("29 ms", (3, False), 1),
        ("14 ms", (2, False), 2),
        ("12 ms", (1, False), 2),
        ("25 MB", (3, True), 0),
        ("18 MB", (2, True), 1),
    ],
)
def test_fewer_networks_are_trained_if_all_take_too_much(
    source, backbone, latencies, limits, kept, notes
):
    timer = Timer()
    asked, made, most = decided(source, backbone, {"goal": limits}, timer)
    assert (made.recipe.members, made.recipe.evaluation.test_flip) == kept
    assert most == kept[0]
    assert len(made.notes) == len(asked.notes) + notes
    # A resumed run decides as before, whatever is measured then.
    latencies |= dict.fromkeys(latencies, 1e6)
    again = Timer(journal=timer.journal)
    assert decided(source, backbone, {"goal": limits}, again) == (asked, made, most)


@pytest.mark.parametrize(("limits", "most"), [("31 ms", 3), ("13 ms", 2), ("11 ms", 1)])
def test_open_number_of_networks_is_limited(source, backbone, latencies, limits, most):
    choices = {"goal": limits, "members": "auto", "test_flip": False}
    asked, made, found = decided(source, backbone, choices)
    assert (made, found) == (asked, most)


@pytest.mark.parametrize("changes", [{"unfreeze": "none"}, {"unfreeze": "all", "members": 1}])
def test_what_trains_no_upper_blocks_is_one_network(source, backbone, latencies, changes):
    choices = {"image_size": 32, "test": 0.15, "goal": "15 ms"} | changes
    recipe = Recipe.named("thorough", **choices)
    examples, _ = splitting.split(discovery.find(source), recipe)
    asked = planning.plan_for(recipe, backbone, examples)
    made, _ = within_goal.planned(asked, backbone, examples, Timer(), is_within=False)
    is_tuned = changes["unfreeze"] == "all"
    assert len(made.notes) == len(asked.notes) + is_tuned  # two mirror images take 20 ms
    assert made.recipe.members == asked.recipe.members


def test_model_that_was_chosen_for_the_goal_is_not_refused(source, backbone, latencies):
    recipe = Recipe.named("thorough", **(TUNED | {"goal": "9.9 ms"}))
    examples, _ = splitting.split(discovery.find(source), recipe)
    asked = planning.plan_for(recipe, backbone, examples)
    made, most = within_goal.planned(asked, backbone, examples, Timer(), is_within=True)
    assert (made.recipe.members, made.recipe.evaluation.test_flip, most) == (1, False, 1)
    one = planning.plan_for(recipe.changed(members=1, test_flip=False), backbone, examples)
    timer = Timer()
    assert within_goal.planned(one, backbone, examples, timer, is_within=True) == (one, 1)
    assert "measure" not in timer.seconds  # again
    with pytest.raises(efftune.UsageError, match=r"10\.0 ms for a picture"):
        within_goal.planned(asked, backbone, examples, Timer(), is_within=False)


def refusal(source, backbone, journal=None, goal="1 ms"):
    """What is said if the network misses its goal."""
    recipe = Recipe.named("quick", image_size=32, test=0.15, goal=goal)
    examples, _ = splitting.split(discovery.find(source), recipe)
    asked = planning.plan_for(recipe, backbone, examples)
    timer = Timer(journal=journal) if journal else Timer()
    with pytest.raises(efftune.UsageError, match="more than --goal") as raised:
        within_goal.planned(asked, backbone, examples, timer, is_within=False)
    return str(raised.value)


@pytest.fixture
def alone(monkeypatch):
    """An install that has the weights of Lite0 only."""

    def missing(entry):
        package = "efftune-weights-of-nowhere" if entry.weights.package else ""
        weights = replace(entry.weights, file="nowhere", package=package)
        return replace(entry, weights=weights)

    lite0, *others = catalogue.MODELS
    monkeypatch.setattr(catalogue, "MODELS", (lite0, *map(missing, others)))


def test_only_model_here_is_told_how_to_get_others(source, backbone, latencies, alone):
    told = refusal(source, backbone)
    assert "No other model's imagenet weights are on this machine" in told
    assert packages.install("efftune[lite]") in told
    assert "--fetch. Or choose a smaller --image-size." in told
    assert "smaller model" not in told


def test_what_was_tried_already_is_not_advised(source, backbone, latencies):
    assert refusal(source, backbone).endswith(
        "Choose a smaller --image-size, or let --model auto choose among several."
    )
    journal = Timer().journal
    journal.decided("model", lambda: {"model": "efficientnet-lite0", "trials": []})
    assert refusal(source, backbone, journal).endswith(". Choose a smaller --image-size.")
    larger = refusal(source, Backbone("efficientnet-lite1", 32))
    assert "Choose a smaller model or --image-size, or let" in larger


def test_model_that_auto_cannot_choose_is_not_advised_to_it(backbone):
    recipe = Recipe.named("scratch", goal="1 ms")
    told = str(within_goal._missed(backbone, "2 ms", recipe, is_auto=False, is_size=False))
    assert told.endswith(". Choose a smaller --image-size.")


def test_image_size_makes_no_network_smaller(source, backbone, monkeypatch):
    cost = Cost(milliseconds=0.5, megabytes=30)
    monkeypatch.setattr(goal, "cost", lambda *_: cost)
    told = refusal(source, Backbone("efficientnet-lite1", 32), goal="20 MB")
    assert "efficientnet-lite1 takes 30.0 MB on this machine" in told
    assert told.endswith("Choose a smaller model, or let --model auto choose among several.")
    assert refusal(source, backbone, goal="1 MB").endswith(
        "No model is smaller: give a larger goal."
    )


@pytest.mark.long
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


@pytest.mark.long
def test_smallest_model_may_be_the_slowest(source, tmp_path, monkeypatch):
    def cost(backbone, *_):
        return Cost(50.0 if backbone.entry.name.endswith("lite0") else 10.0, 14.0)

    monkeypatch.setattr(goal, "cost", cost)
    auto = QUICK | {"model": "auto", "goal": "49 ms", "budget": "1h"}
    run = efftune.train(source, run=tmp_path / "run", **auto)
    assert run.record["models"][0]["outcome"] == "over the goal"
    assert run.record["model"]["name"] != "efficientnet-lite0"
    page = (run.folder / "report.html").read_text()
    assert "efficientnet-lite0 missed the goal" in page
    assert "run, about" in page
