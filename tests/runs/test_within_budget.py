"""Runs whose time is limited; on machines of any speed, so the clock is not asked."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

import efftune
from conftest import TUNED, fill
from efftune.data import inspection
from efftune.data.examples import NO_TIME
from efftune.data.sources import discovery
from efftune.recipe.recipe import Recipe
from efftune.runs import within_budget
from efftune.system import budget
from efftune.system.progress import Timer
from efftune.training import estimation, fine_tuning

FOLDED = {key: value for key, value in TUNED.items() if key != "test"} | {"folds": 2}
FROZEN = {"recipe": "quick", "image_size": 32, "test": 0.2, "val": 0.2}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("many") / "photos", count=40)


@pytest.fixture
def slow(monkeypatch):
    """A machine whose frozen network takes 0.2 s for a picture, as it says."""
    monkeypatch.setattr(estimation, "picture_seconds", lambda *_: 0.2)
    monkeypatch.setattr(inspection, "_SMALL_BATCH", 4)


def reasons(run):
    with (run.folder / "examples.csv").open(newline="") as table:
        return [row["reason"] for row in csv.DictReader(table)]


@pytest.mark.ci
def test_any_budget_leaves_a_classifier(many, tmp_path, slow):
    run = efftune.train(many, run=tmp_path / "run", budget="1s", **FROZEN)
    assert reasons(run).count("") == 16  # five of each class, whatever the time
    assert reasons(run).count(NO_TIME) == 120 - 16
    assert run.evaluation.test.accuracy > 0.3
    picture = next(many.rglob("*.png"))
    assert run.classifier.predict([picture])[0].label in ("blue", "green", "red")
    (note,) = run.record["plan"]["notes"]
    assert note.startswith("--budget leaves time for 16 of the 120 pictures; all of them take ")
    assert run.record["not_available"].keys() == {"suspects", "learning_curve"}
    assert "no time for it within the budget" in (run.folder / "report.html").read_text()
    with (run.folder / "findings.csv").open(newline="") as table:
        assert not [row for row in csv.DictReader(table) if "no-time" in row["kind"]]
    again = Recipe().changed(**run.recipe.settings)
    again.require_effect()  # so that the recipe can be used again
    assert again.budget == 0


def test_as_many_pictures_are_looked_at_as_there_is_time_for(many, slow):
    examples, timer = discovery.find(many), Timer(seconds=72)
    timer.budget.picture_seconds = 0.2
    found, _, (note,) = within_budget.inspected(examples, Recipe(folds=0), timer)
    # 67 s, of which a head takes 52, for 0.24 s each, and what it takes to look at them; it is
    # asked after every fourth.
    used = sum(found.counts.values())
    assert 40 <= used <= 72
    assert f"time for {used} of the 120 pictures" in note
    by_class = np.unique([row.label for row in found.rows if row.usable], return_counts=True)[1]
    assert by_class.max() - by_class.min() <= 2
    later = Timer(journal=timer.journal, seconds=10_000)
    again, _, notes = within_budget.inspected(examples, Recipe(folds=0), later)
    assert again.counts == found.counts
    assert notes == [note]


@pytest.mark.long
def test_enough_time_changes_nothing(many, tmp_path):
    plain = efftune.train(many, run=tmp_path / "plain", **FROZEN)
    limited = efftune.train(many, run=tmp_path / "limited", budget="1h", **FROZEN)
    for name in ("predictions.csv", "evaluation.json", "recipe.toml", "examples.csv"):
        assert (plain.folder / name).read_bytes() == (limited.folder / name).read_bytes()
    assert limited.record["plan"]["notes"] == plain.record["plan"]["notes"]


@pytest.mark.ci
@pytest.mark.parametrize("folds", [False, pytest.param(True, marks=pytest.mark.long)])
def test_head_alone_is_trained_if_fine_tuning_does_not_fit(many, tmp_path, monkeypatch, folds):
    expensive = estimation.Prices(tracing={"upper": 1e5}, epoch={"upper": 1e5}, judging=1.0)
    monkeypatch.setattr(estimation, "prices", lambda *_: expensive)
    monkeypatch.setattr(estimation, "picture_seconds", lambda *_: 0.001)
    choices = FOLDED if folds else TUNED
    run = efftune.train(many, run=tmp_path / "run", budget="10m", **choices)
    assert run.record["stages"] == []
    notes = run.record["plan"]["notes"]
    assert "--budget leaves no time for fine-tuning: only the head is trained" in notes
    Recipe().changed(**run.recipe.settings).require_effect()


def plentiful(monkeypatch):
    """A machine that is far faster than it was measured to be."""
    prices = estimation.Prices(tracing={"upper": 1.0}, epoch={"upper": 150.0}, judging=1.0)
    monkeypatch.setattr(estimation, "prices", lambda *_: prices)
    return TUNED | {"epochs": 2, "budget": "10m"}


@pytest.mark.ci
def test_time_that_is_left_is_for_more_networks(many, tmp_path, monkeypatch):
    choices = plentiful(monkeypatch)
    run = efftune.train(many, run=tmp_path / "run", **choices)
    told = "--budget leaves time for 3 networks, whose logits are averaged"
    assert [note for note in run.record["plan"]["notes"] if "networks" in note] == [told]
    assert run.recipe.tuning.members == 3
    assert [each["members"] for each in run.record["stages"]] == [3]


@pytest.mark.long
@pytest.mark.parametrize(
    ("choices", "members"),
    [({"members": 1}, 1), ({"goal": "1000 ms, 15 MB"}, 1), ({"budget": "15m"}, 3)],
)
def test_more_networks_are_trained_only_where_they_may(
    many, tmp_path, monkeypatch, choices, members
):
    run = efftune.train(many, run=tmp_path / "run", **(plentiful(monkeypatch) | choices))
    told = [note for note in run.record["plan"]["notes"] if "networks" in note]
    assert len(told) == (members > 1)  # in 15 minutes, two are planned
    assert [each["members"] for each in run.record["stages"]] == [members]


@pytest.mark.long
def test_where_folds_judge_networks_are_those_of_the_plan(many, tmp_path, monkeypatch):
    choices = FOLDED | {
        key: value for key, value in plentiful(monkeypatch).items() if key != "test"
    }
    run = efftune.train(many, run=tmp_path / "run", **choices | {"budget": "15m"})
    assert [each["members"] for each in run.record["stages"]] == [1]


@pytest.mark.long
def test_networks_that_are_not_taken_are_not_told(many, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "gains", lambda *_: False)
    run = efftune.train(many, run=tmp_path / "run", **plentiful(monkeypatch))
    assert not [note for note in run.record["plan"]["notes"] if "networks" in note]
    assert run.recipe.members == 1


@pytest.mark.long
def test_run_stopped_in_another_network_comes_to_the_same(many, tmp_path, monkeypatch):
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "0")
    choices = plentiful(monkeypatch)
    whole = efftune.train(many, run=tmp_path / "whole", **choices)

    def stop(phase, done, _total):
        if phase == "upper, network 2" and done > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="is not finished"):
        efftune.train(many, run=tmp_path / "run", on_progress=stop, **choices)
    kept = shutil.copytree(tmp_path / "run", tmp_path / "kept")
    finished = efftune.finish(kept)
    assert finished.recipe.members == 1
    (failure,) = finished.record["stages"][0]["failures"]
    assert failure == "network 2 is left out: the run was finished early, as asked"
    resumed = efftune.resume(tmp_path / "run")
    for name in ("predictions.csv", "evaluation.json", "recipe.toml"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.long
def test_fewer_blocks_are_trained_if_the_others_do_not_fit(many, tmp_path, monkeypatch):
    measured = []

    def prices(plan, *_):
        measured.append(plan.recipe.tuning.unfreeze)
        seconds = 1.0 if plan.recipe.tuning.unfreeze == "block7a" else 400.0
        return estimation.Prices(tracing={"upper": 1.0}, epoch={"upper": seconds}, judging=1.0)

    monkeypatch.setattr(estimation, "prices", prices)
    choices = TUNED | {"unfreeze": "block6", "epochs": 3, "members": 1}
    run = efftune.train(many, run=tmp_path / "run", budget="10m", **choices)
    assert measured == ["block6a", "block7a"]
    assert [each["epochs"] for each in run.record["stages"]] == [3]
    assert run.recipe.tuning.unfreeze == "block7a"
    told = "--budget leaves time for training from block7a, not from block6a"
    assert told in run.record["plan"]["notes"]


@pytest.mark.long
def test_fine_tuning_in_folds_is_given_up_if_time_runs_out(many, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "_WORTHWHILE", 1e9)
    run = efftune.train(many, run=tmp_path / "run", budget="10m", **FOLDED)
    judged = run.evaluation.cross_validation
    assert judged.chosen == "head"
    assert judged.failure == "there is no time for it"
    assert "there is no time for it" in (run.folder / "report.html").read_text()


@pytest.mark.long
def test_plan_is_told(many, caplog):
    plan = efftune.plan(many, budget="10m", **TUNED)
    assert {"inspect", "features", "head", "views", "upper", "evaluate"} <= plan.seconds.keys()
    caplog.set_level("INFO", "efftune")
    plan = efftune.plan(many, budget="10m", **TUNED)
    assert any("plan for the next" in record.getMessage() for record in caplog.records)


def test_pictures_are_not_measured_where_there_are_none(tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "b").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "a" / "1.png")
    with pytest.raises(efftune.DataError, match=r"No usable picture|only one class"):
        efftune.train(tmp_path / "photos", run=tmp_path / "run", budget="1m", **FROZEN)
