import numpy as np
import pytest

import efftune
from conftest import TUNED
from efftune.errors import DataError, UsageError
from efftune.evaluation import settings_search
from efftune.evaluation.settings_trials import kept_notes
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.report import words
from efftune.runs import preparation, within_budget
from efftune.training import planning

LITE0 = {"model": "efficientnet-lite0", **TUNED}


@pytest.fixture(scope="module")
def searched(source, tmp_path_factory):
    """A run that tried three ways of fine-tuning, one of which cannot work."""
    ways = [{}, {"learning_rate": 1e-9}, {"unfreeze": "block6a"}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings_search, "candidates", lambda *_: ways)
        folder = tmp_path_factory.mktemp("search") / "run"
        return efftune.search(source, run=folder, budget="10m", **LITE0)


@pytest.mark.ci
def test_training_from_another_block_keeps_the_notes(source, tmp_path, monkeypatch):
    monkeypatch.setattr(settings_search, "candidates", lambda *_: [{"unfreeze": "block6a"}])
    choices = LITE0 | {"batch_size": "auto"}
    run = efftune.search(source, run=tmp_path / "run", budget="10m", **choices)
    assert run.recipe.tuning.unfreeze == "block6a"
    notes = run.record["plan"]["notes"]
    assert sum("pictures per step, because of their number" in each for each in notes) == 1
    assert len(set(notes)) == len(notes)


@pytest.mark.parametrize(
    ("block", "note"),
    [("block2a", "training from block"), ("all", "pictures are decoded again in each epoch")],
)
def test_notes_on_a_block_are_not_kept_for_another(monkeypatch, block, note):
    backbone, pictures = Backbone("efficientnet-lite0", 36), {"train": 1000, "val": 99, "test": 99}
    recipe = Recipe.named("thorough", image_size=36, memory=1e-4, unfreeze=block)
    monkeypatch.setattr(planning, "_disk_limit", lambda: 3 * 10**6)
    before = planning.plan(recipe, backbone, pictures).notes
    stale = [each for each in before if each.startswith(note)]
    assert len(stale) == 1
    padding = next(each for each in before if "padding" in each)
    kept = kept_notes(("of the source", *before, "of the goal"), (padding, "another"))
    others = [each for each in before if each not in stale]
    assert kept == ("of the source", *others, "of the goal", "another")


@pytest.mark.long
def test_run_is_that_of_the_trial_chosen(searched):
    trials = searched.record["settings"]
    (chosen,) = (each for each in trials if each["outcome"] == "chosen")
    assert chosen["epochs"] == TUNED["epochs"]
    (stage,) = searched.record["stages"]
    assert stage["val_accuracy"]["after"] == chosen["accuracy"]
    assert searched.evaluation.val.accuracy == pytest.approx(chosen["accuracy"])
    settings = searched.recipe.settings
    assert all(settings[key] == value for key, value in chosen["settings"].items())
    assert searched.recipe.tuning.epochs == TUNED["epochs"]


@pytest.mark.long
def test_recipe_s_own_settings_are_trained_for_all_epochs(searched):
    trials = searched.record["settings"]
    assert len(trials) == 3
    (own,) = (each for each in trials if not each["settings"])
    assert own["epochs"] == TUNED["epochs"]
    (hopeless,) = (each for each in trials if "learning_rate" in each["settings"])
    assert hopeless["loss"] > own["loss"]
    assert hopeless["outcome"] in ("beaten", "worse")
    assert all(each["seconds"] > 0 for each in trials)


@pytest.mark.long
def test_search_is_told(searched):
    report = (searched.folder / "report.html").read_text()
    assert "Of 3 ways of fine-tuning, " in report
    assert "Settings tried" in report
    assert words.settings_search({}) == ""
    assert words.shown_settings({"learning_rate": 0.003, "mix": "mixup"}) == (
        "learning_rate = 0.003, mix = mixup"
    )


def test_settings_that_failed_were_tried():
    chosen = {"settings": {}, "epochs": 3, "outcome": "chosen"}
    failed = {"settings": {"learning_rate": 3.0}, "epochs": 0, "outcome": "failed"}
    told = words.settings_search({"settings": [chosen, failed]})
    assert told.startswith("Of 2 ways of fine-tuning, the recipe's own settings came out best")
    assert "no time" not in told


def test_best_of_what_gains_nothing_is_not_praised():
    trials = [{"settings": {}, "epochs": 3, "outcome": each} for each in ("chosen", "as good")]
    told = words.settings_search({"settings": trials, "stages": [{"best_epoch": 0}]})
    assert told.startswith("None of 2 ways of fine-tuning gained anything. ")
    told = words.settings_search({"settings": trials, "stages": [{"best_epoch": 3}]})
    assert "came out best; 1 other cannot be told apart" in told


@pytest.mark.parametrize("outcomes", [["no time", "no time"], ["failed", "no time"]])
def test_search_finished_before_anything_was_trained_is_told(outcomes):
    trials = [{"settings": {}, "epochs": 0, "outcome": each} for each in outcomes]
    assert words.settings_search({"settings": trials}).startswith("No settings of fine-tuning")


@pytest.mark.long
def test_without_time_the_recipe_s_own_settings_are_taken(source, tmp_path, monkeypatch):
    monkeypatch.setattr(within_budget, "has_time_to_search", lambda *_: True)
    run = efftune.search(source, run=tmp_path / "run", budget="1s", **LITE0)
    trials = run.record["settings"]
    (chosen,) = (each for each in trials if each["epochs"])
    assert (chosen["settings"], chosen["outcome"]) == ({}, "chosen")
    assert len(trials) > 10
    report = (run.folder / "report.html").read_text()
    assert "There was no time to try other settings" in report
    assert "ways of fine-tuning" not in report
    some = {"settings": [*trials, {**chosen, "settings": {"mix": "mixup"}, "outcome": "worse"}]}
    told = words.settings_search(some)
    assert told.startswith("Of 2 ways of fine-tuning, the recipe's own settings came out best")
    assert f"no time for {len(trials) - 1} more" in told


@pytest.mark.long
def test_settings_that_diverge_are_left_out(source, tmp_path, monkeypatch):
    ways = [{}, {"learning_rate": 10.0}]
    monkeypatch.setattr(settings_search, "candidates", lambda *_: ways)
    run = efftune.search(source, run=tmp_path / "run", budget="10m", **LITE0)
    outcomes = {len(each["settings"]): each["outcome"] for each in run.record["settings"]}
    assert outcomes == {0: "chosen", 1: "failed"}
    monkeypatch.setattr(settings_search, "candidates", lambda *_: ways[1:])
    with pytest.raises(DataError, match="Training diverged"):
        efftune.search(source, run=tmp_path / "other", budget="10m", **LITE0)


@pytest.mark.long
def test_few_pictures_keep_the_settings(source, tmp_path):
    choices = {key: value for key, value in LITE0.items() if key != "test"} | {"epochs": 1}
    run = efftune.search(source, run=tmp_path / "run", budget="5m", folds=2, **choices)
    assert run.record["settings"] == []
    assert any("not searched" in note for note in run.record["plan"]["notes"])
    assert run.recipe.trains_by_gradient_descent


@pytest.mark.ci
@pytest.mark.parametrize(("budget", "trained"), [("5s", []), ("10m", ["upper"])])
def test_too_short_a_search_is_a_run_with_that_time(source, tmp_path, budget, trained, monkeypatch):
    monkeypatch.setattr(within_budget, "_TRAININGS", 1e6)
    run = efftune.search(source, run=tmp_path / "run", budget=budget, **LITE0)
    notes = run.record["plan"]["notes"]
    assert any("not searched: --budget leaves no time for that" in note for note in notes)
    assert [each["name"] for each in run.record["stages"]] == trained
    assert run.record["settings"] == []
    assert run.recipe.budget == 0
    assert (len(run.recipe.stages) > 1) == bool(trained)


@pytest.mark.ci
@pytest.mark.parametrize("named", [{}, {"model": "auto"}])
def test_run_of_few_pictures_has_the_time_of_the_search(source, tmp_path, named, monkeypatch):
    choices = {key: value for key, value in LITE0.items() if key != "test"} | named
    choices |= {"run": tmp_path / "run", "budget": "5s", "folds": 2}
    seen, limited = [], preparation._limited

    def spy(plan, backbone, examples, timer, **others):
        seen.append(timer.budget.seconds)
        return limited(plan, backbone, examples, timer, **others)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "_limited", spy)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("efftune.run._worked", stopped)
        efftune.search(source, **choices)
    run = efftune.search(source, resume=True, **choices)
    assert seen == [pytest.approx(5)] * 2
    assert any("no time for fine-tuning" in note for note in run.record["plan"]["notes"])
    assert [each.name for each in run.recipe.stages] == ["head"]
    assert run.record["stages"] == []


def test_candidates_change_one_or_two_settings_each_in_its_own_way():
    backbone = Backbone("efficientnet-lite0", 32)
    found = settings_search.candidates(Recipe(), backbone)
    assert found[0] == {}
    assert {len(each) for each in found[1:]} == {1, 2}
    keys = [tuple(sorted(map(str, each.items()))) for each in found]
    assert len(set(keys)) == len(keys)
    for each in found:
        changed = Recipe().changed(**each)
        assert all(changed.settings[key] == value for key, value in each.items())
        assert all(Recipe().settings[key] != value for key, value in each.items())
    assert found == settings_search.candidates(Recipe(), backbone)
    assert {each.get("unfreeze") for each in found} == {None, "block4a", "block6a"}


def test_of_equals_the_one_with_fewest_changes_is_chosen():
    random = np.random.default_rng(0)
    losses = random.normal(1, 0.3, 300)

    def attempt(settings, shift, noise):
        values = losses + shift + random.normal(0, noise, 300)
        trial = settings_search.SettingsTrial(settings, 4, 0.9, float(values.mean()))
        return settings_search._Attempt(trial, values, None, [], None, None)

    attempts = [
        attempt({"mix": "mixup", "unfreeze": "block4a"}, -0.002, 0.2),
        attempt({"mix": "mixup"}, -0.1, 0.01),
        attempt({}, 0.1, 0.01),
    ]
    settings_search._Search._compare(None, attempts)
    chosen, alike = settings_search.preferred(attempts)
    assert chosen.trial.settings == {"mix": "mixup"}
    assert attempts[2] not in alike
    own = attempt({}, -0.099, 0.2)
    settings_search._Search._compare(None, [own, attempts[1]])
    assert settings_search.preferred([own, attempts[1]])[0] is own
    better = settings_search.preferred([own, attempts[1]], lambda each: each is not own)
    assert better[0] is attempts[1]  # than the head alone, which its own settings are not
    assert settings_search.preferred([own, attempts[1]], lambda _: False)[0] is own


def test_test_pictures_are_not_chosen_on(source, tmp_path):
    with pytest.raises(UsageError, match="chooses on validation"):
        efftune.search(source, run=tmp_path / "run", val_from="test")


@pytest.mark.parametrize(
    "choices",
    [{"recipe": "quick"}, {"recipe": "thorough"}, {"budget": 0}, LITE0 | {"head_epochs": 2}],
)
def test_what_cannot_be_searched_is_said(source, tmp_path, choices):
    with pytest.raises(UsageError, match="A search needs a budget, and a recipe that fine-tunes"):
        efftune.search(source, run=tmp_path / "run", **choices)
