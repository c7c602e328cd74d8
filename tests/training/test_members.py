import functools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from efftune.errors import DataError, DiskFull
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training import attempt, fine_tuning, history, members, stages
from efftune.training.stage_result import LeftOut, TrainingDiverged
from efftune.training.validation import validation_metrics

from .conftest import with_head

CHOICES = {"epochs": 2, "views": 1, "batch_size": 8, "augment": "light", "flip": "no"}


def trained(given, backbone, timer=None, most_members=1, **choices):
    """The network after stage `upper`, the stage's result, and the data."""
    plan, data, head = given
    backbone.restore(weights_before(backbone))
    timer = timer or Timer()
    data = fine_tuning.with_views(data, backbone, plan, timer)
    recipe = plan.recipe.changed(**choices)
    plan = replace(plan, recipe=recipe, most_members=most_members)
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


@pytest.fixture
def taken(monkeypatch):
    """Take the last epoch, though the head is good enough."""
    monkeypatch.setattr(attempt, "is_better", lambda *_: True)


@pytest.fixture
def outcome(monkeypatch):
    """What becomes of the networks, by seed: `rolled back`, or `diverged`."""
    fit, outcomes = stages.fit, {}

    def changed(start, stage, train, val, recipe, on_step):
        before = start.backbone.keras_model.get_weights()
        network, result = fit(start, stage, train, val, recipe, on_step)
        match outcomes.get(recipe.seed):
            case "diverged":
                raise TrainingDiverged("The loss is NaN.")
            case "rolled back":
                start.backbone.keras_model.set_weights(before)
                return replace(start, new_head=None), replace(result, best=0)
        return network, result

    monkeypatch.setattr(stages, "fit", changed)
    return outcomes


def val_logits(network, data):
    settings = ExtractionSettings("crop", "f32")
    output = network.backbone.features_of(network.kernel)
    features = extraction.extract_pooled(
        network.backbone, data.paths["val"], settings, lambda: None, output=output
    )
    return network.head.logits(features)


def logits_alone(given, backbone, *seeds):
    """The validation logits of single networks."""
    return [val_logits(*trained(given, backbone, seed=seed)[::2]) for seed in seeds]


@pytest.mark.long
def test_ensemble_averages_networks_trained_with_other_seeds(
    squares_with_head, backbone, eager, taken
):
    alone = logits_alone(squares_with_head, backbone, 0, 1000)
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


@pytest.mark.long
@pytest.mark.parametrize("what", ["rolled back", "diverged"])
def test_network_that_made_things_worse_is_left_out(
    squares_with_head, backbone, eager, taken, outcome, what
):
    alone = logits_alone(squares_with_head, backbone, 0, 2000)
    outcome[1000] = what
    network, result, data = trained(squares_with_head, backbone, members=3)
    assert np.abs(val_logits(network, data) - sum(alone) / 2).max() <= 1e-3
    assert result.members == 2
    assert result.best == len(result.epochs)
    assert any(each.startswith("network 2 is left out") for each in result.failures)


@pytest.mark.long
def test_only_network_taken_is_as_if_trained_alone(
    squares_with_head, backbone, eager, taken, outcome
):
    (alone,) = logits_alone(squares_with_head, backbone, 1000)
    outcome[0] = "rolled back"
    network, result, data = trained(squares_with_head, backbone, members=2)
    assert (result.best, result.members) == (4, 1)
    assert (result.selected.network, result.to_dict()["epochs"]) == ("2", 4)
    assert network.backbone.features_of(network.kernel) == "features"
    assert np.abs(val_logits(network, data) - alone).max() <= 1e-3


@pytest.mark.long
def test_head_stays_if_no_network_is_taken(squares_with_head, backbone, eager, outcome):
    outcome |= {0: "rolled back", 1000: "diverged"}
    network, result, data = trained(squares_with_head, backbone, members=2)
    assert result.best == 0
    assert np.array_equal(network.kernel, squares_with_head[2].kernel)
    frozen = data.features["val"].pooled()
    assert np.abs(val_logits(network, data) - network.head.logits(frozen)).max() <= 1e-3


@pytest.mark.long
def test_ensemble_of_which_all_diverge_diverges(squares_with_head, backbone, eager, outcome):
    outcome |= {0: "diverged", 1000: "diverged"}
    with pytest.raises(TrainingDiverged):
        trained(squares_with_head, backbone, members=2)
    pairs = zip(backbone.keras_model.get_weights(), weights_before(backbone), strict=True)
    assert all(np.array_equal(now, before) for now, before in pairs)


@pytest.mark.long
def test_ensemble_without_validation_takes_all(squares_with_head, backbone, eager):
    plan, data, head = squares_with_head
    unseen = replace(data, paths=data.paths | {"val": []})
    network, result, _ = trained((plan, unseen, head), backbone, members=2)
    assert len(network.kernel) == 2 * 1280
    assert result.best == 5
    assert np.isnan(result.selected.val_accuracy)
    # As cross-validation does: its metrics are those of the last row.
    judged = replace(result.selected, val_accuracy=1.0)
    advice = history.advice(plan.recipe, [*result.epochs[:-1], judged], [result])
    assert any("augmentation and dropout make training harder" in each for each in advice)


@pytest.fixture
def slow(monkeypatch):
    """Epochs that took 100 s, as they say."""
    fit = stages.fit

    def slower(*arguments):
        network, result = fit(*arguments)
        epochs = tuple(replace(each, seconds=100.0) for each in result.epochs)
        return network, replace(result, epochs=epochs)

    monkeypatch.setattr(stages, "fit", slower)


@pytest.mark.long
@pytest.mark.usefixtures("eager", "taken", "slow")
@pytest.mark.parametrize(
    ("seconds", "tracing", "judging", "epochs"),
    # 5 s are for saving, and a margin is left: 235, 143, 87 s.
    [(260, 0, 0, 2), (160, 0, 0, 1), (160, 60, 0, 0), (160, 0, 60, 0), (100, 0, 0, 0)],
)
def test_time_that_is_left_is_for_another_network(
    squares_with_head, backbone, seconds, tracing, judging, epochs
):
    timer = Timer(seconds=seconds)
    timer.budget.tracing, timer.budget.judging_network = tracing, judging
    network, result, _ = trained(squares_with_head, backbone, timer, most_members=2)
    rows = [epoch.network for epoch in result.epochs]
    if epochs:
        assert rows == ["1", "1", *["2"] * epochs, "all"]
        assert result.members == 2
    else:
        assert rows == ["", ""]
        assert network.backbone.features_of(network.kernel) == "features"
    shorter = "network 2: 1 of 2 epochs, so that the run ends in time"
    assert (shorter in result.failures) == (epochs == 1)


@pytest.mark.long
@pytest.mark.usefixtures("eager", "taken", "slow")
def test_judging_every_network_is_reserved(squares_with_head, backbone):
    timer = Timer(seconds=700)
    timer.budget.judging_network, reserved = 40.0, timer.budget.reserved
    # 600 and 560 s with the margin, then 523: each has two epochs, of 100 s as they say.
    _, result, _ = trained(squares_with_head, backbone, timer, most_members=3)
    assert result.members == 3
    assert timer.budget.reserved == pytest.approx(reserved + 80)


@pytest.mark.long
@pytest.mark.usefixtures("eager", "taken")
@pytest.mark.parametrize("error", [DataError("too little memory"), DiskFull("no room")])
def test_another_network_that_fails_costs_only_itself(
    squares_with_head, backbone, monkeypatch, error
):
    fit = stages.fit

    def failing(start, stage, train, val, recipe, timer):
        if recipe.seed == 1000:
            raise error
        return fit(start, stage, train, val, recipe, timer)

    monkeypatch.setattr(stages, "fit", failing)
    _, result, _ = trained(squares_with_head, backbone, Timer(seconds=9000), most_members=3)
    assert (result.members, result.best) == (1, 2)
    assert f"network 2 is left out: {error}" in result.failures
    with pytest.raises(type(error)):
        trained(squares_with_head, backbone, members=2)


@pytest.mark.long
def test_another_network_is_that_of_a_plan(squares_with_head, backbone, eager, taken):
    network, result, data = trained(
        squares_with_head, backbone, Timer(seconds=9000), most_members=3
    )
    logits = val_logits(network, data)
    planned, asked, _ = trained(squares_with_head, backbone, members=3)
    assert np.abs(logits - val_logits(planned, data)).max() <= 1e-3
    assert (result.members, result.best) == (asked.members, asked.best) == (3, 7)


@pytest.mark.long
@pytest.mark.usefixtures("eager", "taken")
@pytest.mark.parametrize(("lost", "networks"), [(0, [""]), (1000, ["1", "2"])])
def test_no_more_networks_are_trained_after_one_that_gains_nothing(
    squares_with_head, backbone, outcome, lost, networks
):
    outcome[lost] = "rolled back"
    _, result, _ = trained(squares_with_head, backbone, Timer(seconds=9000), most_members=3)
    assert list(dict.fromkeys(epoch.network for epoch in result.epochs)) == networks
    assert (result.members, result.best) == (1, 0 if lost == 0 else 2)


@pytest.mark.parametrize(
    ("missing", "note"), [(2, "1 of 3 networks is"), (1, "2 of 3 networks are")]
)
def test_networks_left_out_are_counted(missing, note, monkeypatch):
    def fit(_start, _stage, _train, _val, recipe, _timer):
        if recipe.seed >= 1000 * missing:
            raise LeftOut("there is no time")
        return None, SimpleNamespace(best=1)

    monkeypatch.setattr(stages, "fit", fit)
    monkeypatch.setattr(members, "set_weights", lambda *_: None)
    start = SimpleNamespace(backbone=SimpleNamespace(keras_model=SimpleNamespace(get_weights=list)))
    plan = SimpleNamespace(recipe=Recipe(members=3), most_members=3)
    stage = SimpleNamespace(name="upper")
    trained, notes = members._train_each(start, stage, lambda _: (None, None), plan, Timer())
    assert len(trained) == missing
    assert notes == [f"{note} left out: there is no time"]
