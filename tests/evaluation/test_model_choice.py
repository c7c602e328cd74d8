import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import efftune
from efftune.errors import UsageError
from efftune.evaluation import model_choice
from efftune.evaluation.model_choice import ModelTrial, _Pictures, _Race
from efftune.model import catalogue
from efftune.recipe.recipe import Recipe
from efftune.report import words
from efftune.system.progress import Timer

LITE = ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]
AUTO = {"recipe": "quick", "model": "auto", "image_size": 32, "test": 0.15}


@pytest.fixture(scope="module")
def chosen(source, tmp_path_factory):
    """A run whose model was chosen, and what it said meanwhile."""
    phases = []
    run = efftune.train(
        source,
        run=tmp_path_factory.mktemp("choice") / "run",
        on_progress=lambda phase, *_: phases.append(phase),
        **AUTO,
    )
    return run, phases


@pytest.mark.ci
def test_run_uses_the_model_chosen(chosen):
    run, phases = chosen
    trials = [ModelTrial(**each) for each in run.record["models"]]
    assert [each.model for each in trials] == LITE
    (found,) = (each for each in trials if each.outcome == "chosen")
    assert run.record["model"]["name"] == run.recipe.backbone.model == found.model
    assert run.classifier.image_size == found.image_size == 32
    assert phases.index("inspect") < phases.index("choose") < phases.index("features")
    assert all(0 < each.milliseconds < 1000 for each in trials)
    assert {each.pictures for each in trials} == {run.record["data"]["pictures"]["train"]}
    best = min(trials, key=lambda each: each.excess)
    assert (best.excess, best.error) == (0, 0)
    assert all(each.excess <= each.error for each in (found, best))
    assert LITE.index(found.model) <= LITE.index(best.model)


@pytest.mark.ci
def test_validation_and_test_are_not_looked_at(source, tmp_path, monkeypatch):
    seen = []
    extract = model_choice.extraction.extract

    def spy(paths, *others, **named):
        seen.extend(paths)
        return extract(paths, *others, **named)

    monkeypatch.setattr(model_choice.extraction, "extract", spy)
    choose = model_choice.choose

    def only_choose(*arguments):
        choose(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("efftune.runs.preparation.model_choice.choose", only_choose)
    with pytest.raises(KeyboardInterrupt):
        efftune.train(source, run=tmp_path / "run", **AUTO)
    names = {path.resolve() for path in seen}
    assert len(names) == 18  # of 30: the others validate and test


@pytest.mark.long
def test_what_was_computed_is_cached_for_the_run(source, own_cache, tmp_path):
    run = efftune.train(source, run=tmp_path / "run", **AUTO)
    counts = run.record["data"]["pictures"]
    assert run.record["features"] == {
        "computed": counts["val"] + counts["test"],
        "cached": counts["train"],
    }


@pytest.mark.ci
def test_budget_leaves_out_what_would_take_longer(source, tmp_path):
    run = efftune.train(source, run=tmp_path / "run", **AUTO, budget="1s")
    outcomes = {each["model"]: each["outcome"] for each in run.record["models"]}
    assert outcomes == dict(zip(LITE, ("chosen", "too slow", "too slow"), strict=True))
    assert run.record["models"][0]["seconds"] > 0
    again = Recipe().changed(**run.recipe.settings)
    again.require_effect()  # so that the recipe can be used again


@pytest.mark.long
def test_time_that_is_left_is_for_more_networks(source, tmp_path, own_cache):
    choices = {**AUTO, "recipe": "balanced", "epochs": 1, "views": 1}
    plan = efftune.plan(source, **choices, budget="1h")
    assert plan.recipe.tuning.members == 3
    assert plan.notes[-1] == "--budget leaves time for 3 networks, whose logits are averaged"
    run = efftune.train(source, run=tmp_path / "run", **choices, budget="1h")
    assert run.recipe.tuning.members == 3
    assert [each["epochs"] for each in run.record["stages"]] == [3]
    assert efftune.plan(source, **choices).recipe.members == 1
    assert efftune.plan(source, **choices, budget="1h", members=1).recipe.members == 1


@pytest.mark.ci
def test_choice_is_told(chosen):
    run, _ = chosen
    report = (run.folder / "report.html").read_text()
    assert "Of 3 models, " in report
    assert "Models tried" in report
    record = json.loads((run.folder / "run.json").read_text())
    assert "chosen" in words.model_choice(record, {})
    assert "optimistic" in words.model_choice(record, {"cross_validation": {"folds": 5}})
    untried = {**record, "models": [each | {"pictures": 0} for each in record["models"]]}
    assert "optimistic" not in words.model_choice(untried, {"cross_validation": {"folds": 5}})
    assert words.model_choice({}, {}) == ""
    slow = {"model": "large", "outcome": "too slow", "networks": 3}
    told = words.model_choice({"models": [{"model": "small", "outcome": "chosen"}, slow]}, {})
    assert "large would leave no time for 3 networks" in told


@pytest.mark.ci
def test_only_model_is_taken_untried_and_that_is_said(source, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "MODELS", catalogue.MODELS[:1])
    run = efftune.train(source, run=tmp_path / "run", **AUTO)
    (trial,) = run.record["models"]
    assert (trial["model"], trial["pictures"], trial["outcome"]) == (LITE[0], 0, "chosen")
    report = (run.folder / "report.html").read_text()
    assert "the weights of no other model are on this machine" in report
    assert "Models tried" not in report


class Race(_Race):
    """A race whose models have losses that were made up."""

    def __init__(self, losses, budget=0.0, each_takes=0.0, classes=1):
        count = len(next(iter(losses.values())))
        numbers = np.arange(count) % classes
        pictures = _Pictures([Path()] * count, numbers, np.arange(count))
        super().__init__(Recipe(model="auto", budget=budget), None, pictures, "cpu", Timer())
        self.made, self.tried = losses, []
        self.times.seconds = lambda *_: each_takes

    def _enter(self, entry):
        trial = ModelTrial(entry.name, 224)
        self.trials[entry.name] = trial
        return model_choice._Entrant(entry, entry.name, None, trial, np.empty(0))

    def _try(self, entrant, count):
        name = entrant.entry.name
        self.tried.append((name, count))
        entrant.losses = self.made[name][:count]
        entrant.trial = model_choice.replace(entrant.trial, pictures=count)


def noise(mean, seed=0, count=2000, spread=0.5):
    shared = np.random.default_rng(99).normal(0.5, 1, count)  # pictures are easy or hard for all
    return shared + np.random.default_rng(seed).normal(mean, spread, count)


def outcomes(race):
    model, trials = race.run([catalogue.model(name) for name in race.made])
    return model, {each.model: each.outcome for each in trials}


def test_clearly_worse_models_drop_out_early():
    race = Race({LITE[0]: noise(0.6, 1), LITE[1]: noise(0.3, 2), LITE[2]: noise(0.2, 3)})
    model, found = outcomes(race)
    assert model == LITE[2]
    assert found == {LITE[0]: "beaten", LITE[1]: "beaten", LITE[2]: "chosen"}
    assert race.tried[:3] == [(name, 300) for name in LITE]
    assert (LITE[0], 1000) not in race.tried


def test_of_models_that_cannot_be_told_apart_the_smallest_is_taken():
    losses = noise(0.2, 1)
    even = np.tile([0.1, -0.1], 1000)
    race = Race({LITE[0]: losses + even + 0.001, LITE[1]: losses, LITE[2]: losses - even})
    model, found = outcomes(race)
    assert model == LITE[0]
    assert found == {LITE[0]: "chosen", LITE[1]: "as good", LITE[2]: "as good"}


def test_between_one_and_two_standard_errors_it_is_worse_but_tried_on_all():
    losses = noise(0.2, 1)
    apart = np.tile([0.4, -0.4], 1000)
    behind = 1.5 * apart.std(ddof=1) / np.sqrt(2000)
    race = Race({LITE[0]: losses + apart + behind, LITE[1]: losses})
    model, found = outcomes(race)
    assert model == LITE[1]
    assert found == {LITE[0]: "worse", LITE[1]: "chosen"}
    assert (LITE[0], 2000) in race.tried
    assert race.trials[LITE[0]].excess == pytest.approx(behind)


def test_three_are_tried_on_all_pictures():
    names = [*LITE, "efficientnet-b0", "efficientnet-b1"]
    losses = noise(0.2, 1)
    apart = np.tile([0.4, -0.4], 1000)
    race = Race({name: losses + apart * i + 1e-4 * i for i, name in enumerate(names)})
    outcomes(race)
    assert [name for name, count in race.tried if count == 2000] == LITE


def test_if_all_would_take_too_long_the_smallest_is_taken():
    race = Race({LITE[0]: noise(0.6), LITE[1]: noise(0.1)}, budget=5, each_takes=60)
    model, found = outcomes(race)
    assert model == LITE[0]
    assert found[LITE[1]] == "too slow"
    assert LITE[1] not in dict(race.tried)


def test_best_model_that_becomes_too_slow_leaves_the_others(monkeypatch):
    apart = np.tile([0.1, -0.1], 1000)
    made = {name: noise(0.2, 1) + i * apart - 1e-3 * i for i, name in enumerate(LITE)}
    race = Race(made, budget=9)
    monkeypatch.setattr(race.times, "is_late", lambda _seconds: len(race.tried) >= 5)
    model, found = outcomes(race)
    assert model == LITE[0]
    assert found == {LITE[0]: "chosen", LITE[1]: "too slow", LITE[2]: "too slow"}
    assert race.tried[3:] == [(LITE[0], 1000), (LITE[1], 1000), (LITE[0], 2000)]


def test_beaten_model_is_not_taken_because_the_others_are_slow(monkeypatch):
    race = Race({LITE[0]: noise(0.9, 1), LITE[1]: noise(0.3, 2)}, budget=9)
    monkeypatch.setattr(race.times, "is_late", lambda _seconds: len(race.tried) >= 2)
    model, found = outcomes(race)
    assert (model, found) == (LITE[1], {LITE[0]: "beaten", LITE[1]: "chosen"})


def test_with_few_pictures_all_models_are_tried():
    names = [*LITE, "efficientnet-lite3"]
    made = {name: noise(0.5 - 0.2 * i, i, count=200) for i, name in enumerate(names)}
    model, _ = outcomes(Race(made))
    assert model == "efficientnet-lite3"


def test_where_nothing_can_be_judged_the_smallest_is_taken():
    model, found = outcomes(Race({name: np.full(2000, np.nan) for name in LITE}))
    assert model == LITE[0]
    assert found == {LITE[0]: "chosen", LITE[1]: "as good", LITE[2]: "as good"}


def test_pictures_that_a_model_cannot_judge_do_not_count():
    losses, other = noise(0.2, 1), noise(0.3, 2)
    other[:150] = np.nan
    losses[:150] = 1e6
    _, found = outcomes(Race({LITE[0]: other, LITE[1]: losses}))
    assert found == {LITE[0]: "beaten", LITE[1]: "chosen"}


@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=8),
    st.integers(0, 5),
    st.integers(0, 100),
)
def test_every_beginning_has_its_share_of_each_class(counts, seed, percent):
    class Row:
        def __init__(self, label):
            self.label, self.path = label, Path(label)

    class Made:
        class_names = tuple(f"{i:02}" for i in range(len(counts)))

        @classmethod
        def of(cls, _split):
            pairs = zip(cls.class_names, counts, strict=True)
            return [Row(name) for name, count in pairs for _ in range(count)]

        @staticmethod
        def groups(_split):
            return np.arange(sum(counts))

    found = _Pictures.of(Made, Recipe(seed=seed))
    assert np.bincount(found.labels).tolist() == counts
    assert sorted(found.groups) == list(range(sum(counts)))
    share = percent / 100
    few = np.minimum(counts, 5)
    assert np.bincount(found.labels[: few.sum()], minlength=len(counts)).tolist() == few.tolist()
    others, left = found.labels[few.sum() :], np.array(counts) - few
    beginning = np.bincount(others[: round(share * left.sum())], minlength=len(counts))
    # Of the others, a class has a share between what is left and all of it.
    slack = len(counts) + 5
    assert np.abs(beginning - share * left).max() <= slack
    assert found.rungs[-1] == sum(counts)
    assert all(1.5 * low <= high for low, high in itertools.pairwise(found.rungs))


def test_class_of_few_pictures_is_on_the_first_rung():
    class Row:
        path = Path()

        def __init__(self, label):
            self.label = label

    class Made:
        class_names = ("many", "rare")

        @staticmethod
        def of(_split):
            return [Row("many")] * 5000 + [Row("rare")] * 10

        @staticmethod
        def groups(_split):
            return np.arange(5010)

    for seed in range(20):
        found = _Pictures.of(Made, Recipe(seed=seed))
        assert found.rungs == [300, 1000, 5010]
        assert (found.labels[:300] == 1).sum() >= 5


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"recipe": "scratch"}, "--model auto compares heads on pretrained networks"),
        ({"head_epochs": 3}, "--model auto compares heads on pretrained networks"),
        ({"weights": "nothing.h5"}, "compares published weights: name a model"),
        (
            {"weights": "advprop"},
            r"No model's advprop weights are on this machine\. Let efftune download.*--fetch",
        ),
        ({"budget": "soon"}, "such as 90s, 10m or 1h30m"),
        ({"model": "efficientnet-lite0", "fetch": True}, "--fetch has an effect with --model auto"),
    ],
)
def test_what_cannot_be_chosen_is_said(source, tmp_path, choices, message):
    phases = []
    with pytest.raises(UsageError, match=message):
        efftune.train(
            source,
            run=tmp_path / "run",
            on_progress=lambda phase, *_: phases.append(phase),
            **({"model": "auto"} | choices),
        )
    assert not phases  # it does not take until the pictures are read
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("1h30m", 5400), ("1H 2M", 3720)],
)
def test_budget_is_read_as_people_write_it(text, seconds):
    assert Recipe(model="auto", budget=text).budget == seconds


@pytest.mark.parametrize("text", ["", " ", "m", "5 minutes", "-3", "1m1h", "1.2.3", "9999h"])
def test_other_times_are_refused(text):
    with pytest.raises(UsageError, match="budget"):
        Recipe(model="auto", budget=text)
