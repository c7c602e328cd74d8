"""Steps divided among workers: the same loss curve, also when a worker is lost."""

import csv
import shutil

import numpy as np
import pytest

import efftune
from conftest import fill
from efftune.errors import EfftuneWarning
from efftune.system.workers import Workers
from efftune.training import divided_trainer

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("own_cache")]
CHOICES = {
    **{"image_size": 32, "val": 0.15, "test": 0.15, "seed": 3, "on_progress": None},
    **{"unfreeze": "block6", "batch_size": 16, "epochs": 8, "learning_rate": 1e-4},
    **{"precision": "f32", "augment": "light", "dropout": 0.0},
}

SCRATCH = {
    **{"recipe": "scratch", "image_size": 32, "val": 0.15, "test": 0.15, "seed": 3},
    **{"precision": "f32", "on_progress": None},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("many") / "pictures", count=50)


@pytest.fixture
def shares(monkeypatch):
    """The numbers of pictures of all shares of steps that workers have computed."""
    found, call = [], Workers.call

    def counting(self, function, *arguments):
        answer = call(self, function, *arguments)
        if function is divided_trainer._gradients:
            found.append(len(arguments[-1][0]))
        return answer

    monkeypatch.setattr(Workers, "call", counting)
    return found


def curve(run, stage):
    with (run.folder / "history.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["stage"] == stage]
    return np.array([[float(row["loss"]), float(row["val_loss"])] for row in rows])


@pytest.mark.parametrize("mix", ["none", pytest.param("mixup", marks=pytest.mark.long)])
def test_the_loss_curve_is_that_of_one_process(nodes, pictures, tmp_path, mix, shares):
    choices = CHOICES | {"mix": mix}
    alone = efftune.train(pictures, run=tmp_path / "alone", **choices)
    with efftune.cluster(nodes.address):
        nodes.wait()
        run = efftune.train(pictures, run=tmp_path / "run", divide_steps=True, **choices)
    assert shares.count(8) == len(shares) >= 2 * 8 * 6  # two shares of each step
    expected, found = curve(alone, "upper"), curve(run, "upper")
    assert len(found) == 8
    assert np.abs(found - expected).max() < 1e-3
    assert found[-1, 0] < found[0, 0]  # it has learnt


def test_a_worker_that_is_lost_changes_nothing(nodes, pictures, own_cache, tmp_path):
    choices, lost = CHOICES | {"dropout": 0.2, "divide_steps": True, "epochs": 3}, []

    def on_progress(name, done, total):
        if name == "upper" and done == 5 and not lost:
            lost.append(done)
            nodes.lose_worker()

    with efftune.cluster(nodes.address):
        nodes.wait()
        whole = efftune.train(pictures, run=tmp_path / "whole", **choices)
    shutil.rmtree(own_cache)
    with efftune.cluster(nodes.address), pytest.warns(EfftuneWarning, match="was lost"):
        nodes.wait()
        choices["on_progress"] = on_progress
        run = efftune.train(pictures, run=tmp_path / "run", **choices)
    assert lost
    assert np.array_equal(curve(run, "upper"), curve(whole, "upper"))
    for name in ("evaluation.json", "predictions.csv"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.long
def test_training_from_scratch_is_divided(nodes, pictures, tmp_path, shares):
    choices = SCRATCH | {"scratch_epochs": 6, "batch_size": 32}
    alone = efftune.train(pictures, run=tmp_path / "alone", **choices)
    with efftune.cluster(nodes.address):
        nodes.wait()
        run = efftune.train(pictures, run=tmp_path / "run", divide_steps=True, **choices)
    assert shares.count(16) == len(shares) >= 2 * 6 * 3
    expected, found = curve(alone, "scratch"), curve(run, "scratch")
    assert np.isfinite(found).all()
    assert found[-1, 0] < 0.8 * found[0, 0]  # it has learnt
    assert found[0, 0] == pytest.approx(expected[0, 0], rel=0.1)


@pytest.mark.long
def test_moving_averages_are_those_of_all_shares(nodes, pictures, tmp_path, shares):
    """A mean is exact even if each share is normalized by itself; a variance is not."""
    choices = SCRATCH | {"scratch_epochs": 1, "batch_size": 128}
    alone = efftune.train(pictures, run=tmp_path / "alone", **choices)
    with efftune.cluster(nodes.address):
        nodes.wait()
        run = efftune.train(pictures, run=tmp_path / "run", divide_steps=True, **choices)
    assert len(shares) >= 2
    assert min(shares) > 40
    expected, found = (moving_mean(each, "stem_bn") for each in (alone, run))
    assert np.abs(expected).max() > 0.01
    assert found == pytest.approx(expected, abs=1e-5)


def moving_mean(run, layer):
    return np.asarray(run.classifier.model.get_layer(layer).moving_mean)
