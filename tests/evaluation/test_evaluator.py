import csv
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import efftune
from conftest import COLOURS, fill
from efftune.evaluation import evaluator

QUICK = {"recipe": "quick", "model": "efficientnet-lite0", "image_size": 32}


@pytest.mark.parametrize(("clean", "counted"), [(8, 24), (5, 21)])
def test_copies_of_training_pictures_do_not_choose_the_thresholds(
    tmp_path, monkeypatch, clean, counted
):
    """Unless too few others are left."""
    for number, (split, count) in enumerate({"train": 10, "val": clean, "test": 3}.items()):
        fill(tmp_path / split, count=count, offset=200 * number)
    for colour in COLOURS:
        for i in (1, 2):
            copy = tmp_path / "val" / colour / f"copy {i}.png"
            shutil.copyfile(tmp_path / "train" / colour / f"0{i}.png", copy)
    sizes = {}

    def spy(name):
        function = getattr(evaluator.uncertainties, name)

        def spied(values, *others):
            sizes[name] = len(values)
            return function(values, *others)

        monkeypatch.setattr(evaluator.uncertainties, name, spied)

    spy("fit_temperature")
    spy("confidence_threshold")
    run = efftune.train(tmp_path, run=tmp_path / "run", on_progress=None, **QUICK)
    assert run.evaluation.val.pictures == 3 * clean + 6
    assert sizes == {"fit_temperature": counted, "confidence_threshold": counted}


def noise(folder, *, count, seed):
    """Class folders of pictures without anything to learn."""
    random = np.random.default_rng(seed)
    for name in COLOURS:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            values = random.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(values).save(folder / name / f"{i:02}.png")


def marked(run):
    """Whether the threshold was chosen on it, by picture and split."""
    with (run.folder / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        return {(row["split"], row["path"]): row["chosen_on"] for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def leaky_run(tmp_path_factory):
    """A run that is right about copies, half of its validation pictures, and guesses the others."""
    folder = tmp_path_factory.mktemp("leaky")
    fill(folder / "source" / "train", count=20)
    for number, (split, count) in enumerate({"val": 20, "test": 5}.items()):
        noise(folder / "source" / split, count=count, seed=number)
    for path in (folder / "source" / "train").rglob("*.*g"):
        name = f"copy {path.name}"
        shutil.copyfile(path, folder / "source" / "val" / path.parent.name / name)
    options = {"run": folder / "run", "on_progress": None, "max_error": 0.3, **QUICK}
    return efftune.train(folder / "source", **options)


@pytest.mark.ci
def test_threshold_for_another_error_is_chosen_on_the_same_pictures(leaky_run):
    marks = marked(leaky_run)
    assert Counter((split, mark) for (split, _), mark in marks.items()) == {
        **{("val", "yes"): 60, ("val", "no"): 60, ("test", "no"): 15},
    }
    chosen = {name for (split, name), mark in marks.items() if mark == "yes"}
    assert not any("copy" in name for name in chosen)
    asked = efftune.load(leaky_run.folder, max_error=0.3).uncertainty.unsure_below
    assert asked == pytest.approx(leaky_run.classifier.uncertainty.unsure_below, abs=1e-5)


@pytest.mark.ci
def test_learning_curve_does_not_count_copies(leaky_run):
    """They are right as soon as what they copy is trained on."""
    curve, evaluation = leaky_run.evaluation.learning_curve, leaky_run.evaluation
    assert evaluation.val.accuracy > 0.6
    assert evaluation.val_without_leaks.accuracy < 0.5
    assert curve.now.accuracy < 0.5
    assert all(
        accuracy * 60 == pytest.approx(round(accuracy * 60))
        for accuracy in curve.points[-1].accuracy
    )


@pytest.mark.ci
def test_pictures_of_a_class_in_a_single_fold_choose_no_threshold(tmp_path):
    noise(tmp_path / "source", count=10, seed=0)
    (tmp_path / "source" / "single").mkdir()
    shutil.move(tmp_path / "source" / "red" / "00.png", tmp_path / "source" / "single" / "00.png")
    options = {"folds": 3, "missing_classes": "allow", "max_error": 0.4, **QUICK}
    run = efftune.train(tmp_path / "source", run=tmp_path / "run", on_progress=None, **options)
    assert run.evaluation.cross_validation.unknown == 1
    bins = run.evaluation.calibration.bins["after"]
    assert sum(each.pictures for each in bins) == run.evaluation.test.pictures - 1
    assert "1 picture counts as a mistake" in (run.folder / "report.html").read_text()
    assert [name for (_, name), mark in marked(run).items() if mark == "no"] == ["single/00.png"]
    asked = efftune.load(run.folder, max_error=0.4).uncertainty.unsure_below
    assert asked == pytest.approx(run.classifier.uncertainty.unsure_below, abs=1e-5)
