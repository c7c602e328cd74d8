"""Networks that the nodes of a cluster train at once: those of folds, and of a search's trials."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import efftune
from conftest import fill
from efftune.errors import EfftuneWarning
from efftune.evaluation import cross_validation, settings_search
from efftune.evaluation.settings_trials import SettingsTrial
from efftune.features.cache import FeatureCache
from efftune.recipe.recipe import Recipe
from efftune.system import cluster, machine
from efftune.system.progress import Timer
from efftune.training import ahead, stages

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("own_cache")]
long = pytest.mark.long
CHOICES = {
    **{"image_size": 32, "seed": 3, "on_progress": None, "unfreeze": "block6", "batch_size": 16},
    **{"epochs": 2, "learning_rate": 1e-4, "precision": "f32", "augment": "light"},
}
FOLDS = 2


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("many") / "pictures", count=30)


@pytest.fixture(autouse=True)
def slow(monkeypatch):
    """This process has one processor, so that two nodes are faster."""
    monkeypatch.setattr(machine, "usable_processors", lambda: 1)


@pytest.fixture
def tried(monkeypatch):
    """What networks that were fine-tuned without a fold say of its pictures, by run."""
    found, fine_tuned = [], cross_validation._fine_tuned

    def recorded(*arguments):
        found.append(fine_tuned(*arguments))
        return found[-1]

    monkeypatch.setattr(cross_validation, "_fine_tuned", recorded)
    monkeypatch.setattr(cross_validation.out_of_fold, "is_hopeless", lambda *_: False)
    return found


@pytest.fixture
def trained_here(monkeypatch):
    """The phases in which this process has trained."""
    found, attempts = [], stages._attempts

    def recorded(*arguments):
        found.append(arguments[-1].place)
        return attempts(*arguments)

    monkeypatch.setattr(stages, "_attempts", recorded)
    return found


@pytest.fixture(params=["the same disk", pytest.param("sent", marks=pytest.mark.long)])
def disk(request, monkeypatch):
    if request.param == "sent":
        place = property(lambda self: (Path("/nowhere"), self.dtype.name, self.shape))
        monkeypatch.setattr(FeatureCache, "place", place)
    return request.param


def test_folds_are_trained_at_once(nodes, pictures, tried, trained_here, disk, tmp_path):
    efftune.train(pictures, run=tmp_path / "alone", folds=FOLDS, **CHOICES)
    assert len(trained_here) >= FOLDS
    trained_here.clear()
    with efftune.cluster(nodes.address):
        nodes.wait()
        efftune.train(pictures, run=tmp_path / "run", folds=FOLDS, **CHOICES)
    assert not any("fold" in place for place in trained_here)
    alone, helped = (each.candidates[0].logits for each in tried)
    assert np.abs(alone - helped).max() < 1e-3 * np.abs(alone).max()


@long
def test_a_node_may_be_lost(nodes, pictures, tried, trained_here, tmp_path):
    losing = []

    def on_progress(name, done, total):
        if "networks at once" in name and not losing:
            losing.append(threading.Timer(4, nodes.lose_node))
            losing[0].start()

    try:
        with efftune.cluster(nodes.address), pytest.warns(EfftuneWarning, match="was lost"):
            nodes.wait()
            choices = CHOICES | {"on_progress": on_progress, "epochs": 12}
            efftune.train(pictures, run=tmp_path / "run", folds=FOLDS, **choices)
    finally:
        for each in losing:
            each.join()
        nodes.restore()
    assert not any("fold" in place for place in trained_here)
    assert tried[0].judged.all()


def test_what_is_trained_is_kept_when_the_run_is_stopped(
    nodes, pictures, tried, trained_here, tmp_path
):
    def on_progress(name, done, total):
        if "networks at once" in name and done == 1:
            raise KeyboardInterrupt

    with efftune.cluster(nodes.address):
        nodes.wait()
        choices = CHOICES | {"on_progress": on_progress}
        with pytest.raises(KeyboardInterrupt):
            efftune.train(pictures, run=tmp_path / "run", folds=FOLDS, **choices)
    efftune.resume(tmp_path / "run", on_progress=None)
    assert len([place for place in trained_here if "fold" in place]) < FOLDS


@long
def test_what_a_node_cannot_train_is_trained_here(
    nodes, pictures, tried, trained_here, tmp_path, monkeypatch
):
    monkeypatch.setattr(FeatureCache, "place", ("no", "cache"))
    with efftune.cluster(nodes.address), pytest.warns(EfftuneWarning, match="Trained here"):
        nodes.wait()
        efftune.train(pictures, run=tmp_path / "run", folds=FOLDS, **CHOICES)
    assert len([place for place in trained_here if "fold" in place]) == FOLDS
    assert tried[0].judged.all()


@long
def test_trials_of_a_search_are_trained_at_once(
    nodes, pictures, trained_here, tmp_path, monkeypatch
):
    ways = [{}, {"learning_rate": 1e-5}, {"unfreeze": "block7a"}, {"label_smoothing": 0.0}]
    monkeypatch.setattr(settings_search, "candidates", lambda *_: ways)
    choices = CHOICES | {"test": 0.15, "val": 0.15, "model": "efficientnet-lite0"}
    alone = efftune.search(pictures, run=tmp_path / "alone", budget="10m", **choices)
    assert len(trained_here) >= len(ways)
    trained_here.clear()
    with efftune.cluster(nodes.address):
        nodes.wait()
        run = efftune.search(pictures, run=tmp_path / "run", budget="10m", **choices)
    assert not trained_here
    expected, found = (
        {str(trial["settings"]): trial for trial in each.record["settings"]}
        for each in (alone, run)
    )
    assert found.keys() == expected.keys()
    for settings, trial in found.items():
        assert trial["epochs"] == expected[settings]["epochs"]
        assert trial["loss"] == pytest.approx(expected[settings]["loss"], rel=1e-3, abs=1e-6)
        assert trial["seconds"] > 0


@pytest.fixture
def timer(tmp_path):
    found = Timer()
    (tmp_path / "run").mkdir()
    found.journal.begin(tmp_path / "run", {})
    yield found
    found.journal.close()


@pytest.mark.parametrize(
    ("nodes_there", "processors", "networks", "size"),
    [
        ([1, 1], 1, 5, 2),
        ([1, 1], 16, 5, 1),
        ([16] * 20, 16, 5, 5),
        ([16, 16], 16, 1, 1),
        ([16, 1], 8, 5, 1),
    ],
)
def test_nodes_train_where_that_is_faster(
    nodes_there, processors, networks, size, monkeypatch, timer
):
    workers = SimpleNamespace(nodes={str(i): count for i, count in enumerate(nodes_there)})
    monkeypatch.setattr(cluster, "trainers", lambda: workers)
    monkeypatch.setattr(machine, "usable_processors", lambda: processors)
    assert ahead.group_size(networks, SimpleNamespace(device="cpu"), timer) == size
    assert ahead.group_size(networks, SimpleNamespace(device="gpu"), timer) == 1
    timer.journal.leaves_out_the_rest = True
    assert ahead.group_size(networks, SimpleNamespace(device="cpu"), timer) == 1


@pytest.mark.parametrize("size", [1, 6])
def test_a_search_keeps_its_time_if_nodes_do_not_train(size, monkeypatch, timer):
    trained = []

    def train(search, trial, epochs):
        time.sleep(0.2)
        search._epoch_seconds["block6a"] = 0.2
        trained.append(trial.settings)
        return SimpleNamespace(trial=trial)

    search = object.__new__(settings_search._Search)
    vars(search).update(
        {"timer": timer, "trials": [], "start": time.perf_counter(), "_epoch_seconds": {}},
        deadline=time.perf_counter() + 0.5,
        plan=SimpleNamespace(recipe=Recipe(unfreeze="block6a")),
        backbone=None,
        first_head=None,
    )
    monkeypatch.setattr(settings_search._Search, "_train", train)
    monkeypatch.setattr(settings_search._Search, "_prepared", lambda *_: (None, None))
    monkeypatch.setattr(ahead, "group_size", lambda count, *_: min(size, count))
    monkeypatch.setattr(ahead, "networks", lambda *_: [SimpleNamespace(name="work")])
    monkeypatch.setattr(ahead, "train", lambda *_: None)
    trials = [SettingsTrial({"unfreeze": "block6a", "number": i}) for i in range(6)]
    assert len(list(search._rung(trials, 1, 1.0))) == len(trained) <= 3
    assert [trial.outcome for trial in search.trials] == ["no time"] * (6 - len(trained))


def test_all_networks_are_asked_for_at_once_and_errors_end_the_others():
    ended, barrier = threading.Event(), threading.Barrier(5)

    def fails(number):
        barrier.wait(10)  # only if all have begun
        if number == 2:
            raise OSError("full")
        assert ended.wait(10)

    with pytest.raises(OSError, match="full"):
        ahead._each(fails, range(5), SimpleNamespace(end=ended.set), lambda _: None)
