import csv
import json
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import efftune
from conftest import TUNED, fill
from data import other_pictures
from efftune.data import images, picture_bytes, pictures
from efftune.data.examples import SPLITS
from efftune.evaluation.explanation import Explainer
from efftune.model.backbone import Backbone
from efftune.system import files
from efftune.training import attempt

FILES = {
    "run.json",
    "recipe.toml",
    "classes.json",
    "examples.csv",
    "findings.csv",
    "history.csv",
    "evaluation.json",
    "predictions.csv",
    "suspects.csv",
    "thumbnails.json",
    "report.html",
    "MODEL_CARD.md",
    *(f"plots/{name}.png" for name in ("accuracy", "confusion", "calibration", "learning_curve")),
    "model.keras",
    "openvino/model.xml",
    "openvino/model.bin",
    "uncertainty.npz",
}


def table(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_run_folder_holds_what_it_should(finished_run):
    folder = finished_run.folder
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == FILES


def test_coloured_squares_are_classified_correctly(finished_run):
    assert finished_run.evaluation.test.accuracy == 1
    assert finished_run.evaluation.test.pictures == 6


def test_record_documents_the_run(finished_run):
    record = json.loads((finished_run.folder / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["versions"]["efftune"] == efftune.__version__
    assert record["data"]["pictures"] == {"train": 18, "val": 6, "test": 6}
    assert set(record["seconds"]) == {
        *("find", "inspect", "start", "features", "head", "evaluate", "save", "thumbnails")
    }
    assert record["machine"]["processors"] >= 1
    assert len(record["data"]["fingerprint"]) == 64
    assert record["features"]["computed"] + record["features"]["cached"] == 30


@pytest.mark.ci
def test_recipe_goes_back_in(finished_run, source, tmp_path):
    choices = tomllib.loads((finished_run.folder / "recipe.toml").read_text())
    again = efftune.train(source, recipe=efftune.Recipe(**choices), run=tmp_path / "run")
    assert again.recipe == finished_run.recipe
    assert again.evaluation == finished_run.evaluation


def test_examples_list_every_file_with_its_hash(finished_run, source):
    rows = table(finished_run.folder / "examples.csv")
    assert len(rows) == 30
    assert {row["split"] for row in rows} == set(SPLITS)
    assert all(len(row["sha256"]) == 64 and row["status"] == "used" for row in rows)


def test_history_has_a_row_for_the_head(finished_run):
    (row,) = table(finished_run.folder / "history.csv")
    assert (row["stage"], row["epoch"]) == ("head", "1")
    assert float(row["val_accuracy"]) == finished_run.evaluation.val.accuracy


def test_predictions_cover_the_pictures_evaluated(finished_run):
    rows = table(finished_run.folder / "predictions.csv")
    assert [row["split"] for row in rows] == ["val"] * 6 + ["test"] * 6
    correct = sum(row["label"] == row["predicted"] for row in rows if row["split"] == "test")
    assert correct / 6 == finished_run.evaluation.test.accuracy


def test_loaded_run_is_the_same(finished_run):
    again = efftune.Run.load(finished_run.folder)
    assert again == finished_run


def test_loaded_classifier_predicts_the_stored_probabilities(finished_run, source):
    rows = table(finished_run.folder / "predictions.csv")
    classifier = efftune.load(finished_run.folder)
    probabilities, _ = classifier.probabilities([source / row["path"] for row in rows])
    stored = [[float(row[f"p_{name}"]) for name in classifier.class_names] for row in rows]
    assert np.abs(probabilities - stored).max() <= 1e-4


def by_keras_here(model, pixels):
    """Probabilities by the Keras model."""
    return keras.ops.convert_to_numpy(keras.saving.load_model(model)(pixels.astype(np.float32)))


def keras_alone(tmp_path, model, pixels):
    """Probabilities by plain Keras in a new process that does not import efftune."""
    np.save(tmp_path / "pixels.npy", pixels)
    script = (
        "import sys, keras, numpy as np; "
        "model = keras.saving.load_model(sys.argv[1]); "
        "pixels = np.load(sys.argv[2] + '/pixels.npy'); "
        "np.save(sys.argv[2] + '/predictions.npy', model.predict(pixels, verbose=0)); "
        "assert 'efftune' not in sys.modules"
    )
    command = [sys.executable, "-c", script, str(model), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    return np.load(tmp_path / "predictions.npy")


@pytest.mark.long
def test_plain_keras_predicts_the_stored_probabilities(finished_run, source, tmp_path):
    rows = table(finished_run.folder / "predictions.csv")
    names = json.loads((finished_run.folder / "classes.json").read_text())
    paths = [source / row["path"] for row in rows]
    pixels = np.stack([images.decode(picture_bytes.read(path), 32, "crop") for path in paths])
    by_keras = keras_alone(tmp_path, finished_run.folder / "model.keras", pixels)
    stored = [[float(row[f"p_{name}"]) for name in names] for row in rows]
    assert np.abs(by_keras - stored).max() <= 1e-4


def cached_features(cache):
    return {path.relative_to(cache) for path in cache.glob("features/*/*.npy")}


def test_fine_tuning_is_recorded_stage_by_stage(tuned_run):
    rows = table(tuned_run.folder / "history.csv")
    epochs = [(row["stage"], int(row["epoch"])) for row in rows]
    assert epochs == [("head", 1), *(("upper", i) for i in range(1, 9))]
    record = tuned_run.record
    assert set(record["seconds"]) == {
        *("find", "inspect", "start", "features", "head", "views", "upper", "evaluate", "save"),
        "thumbnails",
    }
    (stage,) = record["stages"]
    assert (stage["name"], stage["block"], stage["epochs"]) == ("upper", "block7a", 8)
    assert stage["best_epoch"] > 0
    assert record["plan"]["views"] == tuned_run.recipe.augmentation.views == 2
    assert tuned_run.recipe.tuning.unfreeze == "block7a"
    assert tuned_run.evaluation.test.accuracy == 1


def assert_same_predictions(run, source, by_keras):
    """Stored, Keras and OpenVINO probabilities agree; returns paths and stored probabilities.

    `by_keras` gives Keras' probabilities, from a model file and pixels.
    """
    rows = table(run.folder / "predictions.csv")
    names = json.loads((run.folder / "classes.json").read_text())
    paths = [source / row["path"] for row in rows]
    stored = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
    pixels = np.stack(
        [images.decode(picture_bytes.read(path), 32, run.recipe.backbone.fit) for path in paths]
    )
    assert np.abs(by_keras(run.folder / "model.keras", pixels) - stored).max() <= 1e-4
    by_openvino, _ = efftune.load(run.folder).probabilities(paths)
    assert np.abs(by_openvino - stored).max() <= 1e-6
    return paths, stored


def test_fine_tuned_model_predicts_the_same_everywhere(tuned_run, finished_run, source):
    """All formats hold the trained weights."""
    paths, stored = assert_same_predictions(tuned_run, source, by_keras_here)
    assert np.abs(finished_run.classifier.probabilities(paths)[0] - stored).max() > 1e-3


@pytest.mark.ci
def test_same_seed_gives_the_same_evaluation_to_the_last_digit(tuned_run, source, tmp_path):
    again = efftune.train(source, run=tmp_path / "run", **TUNED)
    first, second = (run.folder / "evaluation.json" for run in (tuned_run, again))
    assert first.read_bytes() == second.read_bytes()
    assert (first.parent / "recipe.toml").read_bytes() == (
        tmp_path / "run/recipe.toml"
    ).read_bytes()


@pytest.mark.long
def test_another_learning_rate_computes_no_view_again(tuned_run, cache, source, tmp_path):
    before = cached_features(cache)
    again = efftune.train(source, run=tmp_path / "run", **(TUNED | {"learning_rate": 1e-3}))
    assert cached_features(cache) == before
    assert again.record["features"]["computed"] == 0
    assert again.record["stages"][0]["learning_rate"] == 1e-3


@pytest.mark.long
def test_whole_network_is_trained_after_its_upper_part(source, tmp_path):
    run = efftune.train(source, run=tmp_path / "run", **TUNED, whole_epochs=2)
    stages = [(stage["name"], stage["block"]) for stage in run.record["stages"]]
    assert stages == [("upper", "block7a"), ("whole", "pixels")]
    upper, whole = (stage["val_accuracy"] for stage in run.record["stages"])
    assert whole["after"] >= whole["before"] == upper["after"]
    assert [row["stage"] for row in table(run.folder / "history.csv")][-2:] == ["whole"] * 2


@pytest.mark.long
def test_ensemble_is_the_same_everywhere(source, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "is_better", lambda *_: True)  # though the head is good enough
    choices = {**TUNED, "epochs": 2, "members": 2, "flip": "yes"}
    run = efftune.train(source, recipe="thorough", run=tmp_path / "run", **choices)
    assert run.record["model"]["test_flip"]
    assert [(each["epochs"], each["members"]) for each in run.record["stages"]] == [(4, 2)]
    assert_same_predictions(run, source, partial(keras_alone, tmp_path))
    path = next(path for path in source.rglob("*.png"))
    explanation = Explainer(run.classifier).explain(path)
    assert explanation.heat.shape == (32, 32)
    assert explanation.heat.max() == 1


@pytest.mark.long
def test_averaging_over_mirror_images_is_the_same_everywhere(source, tmp_path):
    choices = {**TUNED, "epochs": 2, "test_flip": True}
    run = efftune.train(source, run=tmp_path / "run", **choices)
    assert run.record["model"]["test_flip"]
    paths, stored = assert_same_predictions(run, source, partial(keras_alone, tmp_path))
    (tmp_path / "mirrored").mkdir()
    mirrored = [tmp_path / "mirrored" / f"{i}.png" for i in range(len(paths))]
    for path, mirror in zip(paths, mirrored, strict=True):
        Image.fromarray(images.decode(picture_bytes.read(path), 32, "crop")[:, ::-1]).save(mirror)
    again, _ = run.classifier.probabilities(mirrored)
    assert np.abs(again - stored).max() <= 1e-4


@pytest.mark.long
def test_everything_can_be_trained_at_once(source, tmp_path):
    choices = TUNED | {"unfreeze": "all", "whole_epochs": 1}
    run = efftune.train(source, run=tmp_path / "run", **choices)
    assert [stage["name"] for stage in run.record["stages"]] == ["whole"]


@pytest.mark.long
def test_network_can_be_trained_from_scratch(source, tmp_path):
    choices = {"image_size": 32, "scratch_epochs": 2, "batch_size": 8}
    run = efftune.train(source, recipe="scratch", run=tmp_path / "run", **choices)
    assert run.record["model"]["weights"] == "none"
    assert [row["stage"] for row in table(run.folder / "history.csv")] == ["scratch"] * 2
    assert run.record["head"]["strength"] is None
    paths = [source / row["path"] for row in table(run.folder / "predictions.csv")]
    assert len(run.classifier.predict(paths)) == 12


@pytest.mark.long
def test_public_example_runs_step_for_step(source, tmp_path):
    choices = {"image_size": 32, "scratch_epochs": 2, "head_epochs": 3, "epochs": 2}
    run = efftune.train(
        source, recipe="keras-example", run=tmp_path / "run", batch_size=6, **choices
    )
    rows = table(run.folder / "history.csv")
    assert [row["stage"] for row in rows] == ["scratch"] * 2 + ["head"] * 3 + ["upper"] * 2
    assert [stage["block"] for stage in run.record["stages"]] == ["pixels", "", "block7a"]
    assert {row["learning_rate"] for row in rows[2:5]} == {"0.01"}
    assert {row["learning_rate"] for row in rows[5:]} == {"1e-05"}
    for name in ("samples", "augmented", "accuracy", "confusion", "calibration"):
        with Image.open(run.folder / "plots" / f"{name}.png") as drawn:
            assert min(drawn.size) > 300
    assert "block7a_project_conv" in (run.folder / "model.txt").read_text()
    assert_same_predictions(run, source, partial(keras_alone, tmp_path))
    # The weights from scratch are discarded if pretrained weights are fine-tuned afterwards.
    assert run.record["model"]["weights"].startswith("sha256:")
    pretrained = Backbone("efficientnet-lite0", 32).keras_model.get_layer("stem_conv")
    saved = run.classifier.model.get_layer("stem_conv")
    assert np.array_equal(saved.get_weights()[0], pretrained.get_weights()[0])


@pytest.mark.long
@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-v2-b0"])
def test_other_families_train_from_a_weights_file(name, source, tmp_path):
    model = efftune.build(name, weights=None, include_top=False, image_size=32)
    model.save_weights(tmp_path / "mine.weights.h5")
    choices = TUNED | {"unfreeze": "last", "epochs": 2, "flip": "no", "drop_connect_rate": 0.2}
    run = efftune.train(
        source,
        model=name,
        weights=str(tmp_path / "mine.weights.h5"),
        run=tmp_path / "run",
        **choices,
    )
    assert run.record["model"]["weights"] == f"sha256:{files.sha256(tmp_path / 'mine.weights.h5')}"
    assert [stage["name"] for stage in run.record["stages"]] == ["upper"]
    assert_same_predictions(run, source, partial(keras_alone, tmp_path))


@pytest.mark.long
def test_phases_of_the_public_example_can_be_picked(source, tmp_path):
    choices = {"phases": ("head",), "image_size": 32, "head_epochs": 2}
    run = efftune.train(source, recipe="keras-example", run=tmp_path / "run", **choices)
    assert [row["stage"] for row in table(run.folder / "history.csv")] == ["head"] * 2
    assert run.record["stages"][0]["rolled_back"] is False
    assert_same_predictions(run, source, partial(keras_alone, tmp_path))


def test_picture_that_vanishes_during_training_is_named(tmp_path):
    folder = fill(tmp_path / "photos", count=6)

    def vanish(phase, _done, _total):
        if phase == "views":
            for path in folder.glob("red/*"):
                path.unlink(missing_ok=True)

    with pytest.raises(efftune.DataError, match=r"red/\d\d\.\w+ changed during the run"):
        efftune.train(folder, run=tmp_path / "run", **TUNED, on_progress=vanish)
    assert not (tmp_path / "run").exists()


@pytest.mark.ci
def test_plan_describes_training_and_writes_nothing(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = efftune.plan(source, **TUNED)
    assert [stage.name for stage in plan.recipe.stages] == ["head", "upper"]
    assert plan.pictures == {"train": 18, "val": 6, "test": 6}
    assert plan.activation_bytes == (18 * 3 + 6) * 192 * 2
    assert set(plan.seconds) == {"inspect", "features", "head", "views", "upper", "evaluate"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ci
def test_second_run_reuses_the_features(finished_run, source, tmp_path):
    choices = {"recipe": "quick", "image_size": 32, "test": 0.15}
    again = efftune.train(source, run=tmp_path / "run", **choices)
    assert again.record["features"] == {"computed": 0, "cached": 30}
    assert again.evaluation == finished_run.evaluation


@pytest.mark.ci
def test_other_seed_gives_other_splits(finished_run, source, tmp_path):
    choices = {"recipe": "quick", "image_size": 32, "test": 0.15}
    again = efftune.train(source, run=tmp_path / "run", **choices, seed=1)
    first, second = (table(run.folder / "examples.csv") for run in (finished_run, again))
    assert [row["sha256"] for row in first] == [row["sha256"] for row in second]
    assert [row["split"] for row in first] != [row["split"] for row in second]


@pytest.mark.ci
def test_unreadable_files_are_set_aside_and_the_rest_is_used(broken_source, tmp_path):
    run = efftune.train(broken_source, run=tmp_path / "run", recipe="quick", image_size=32)
    rows = {row["path"]: row for row in table(run.folder / "examples.csv")}
    assert rows["red/cut.jpg"]["reason"] == "truncated"
    assert rows["red/notes.txt"]["reason"] == "not an image"
    assert sum(row["status"] == "used" for row in rows.values()) == 30
    assert run.record["data"]["set_aside"] == len(rows) - 30


@pytest.mark.ci
def test_runs_are_numbered(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "squares-lite0-1").mkdir(parents=True)
    run = efftune.train(source, recipe="quick", image_size=32)
    assert str(run.folder) == "runs/squares-lite0-2"


def test_existing_run_is_never_overwritten(finished_run, source):
    before = {path: path.stat().st_mtime_ns for path in finished_run.folder.rglob("*")}
    with pytest.raises(efftune.UsageError, match="never overwritten"):
        efftune.train(source, run=finished_run.folder, recipe="quick", image_size=32)
    assert {path: path.stat().st_mtime_ns for path in finished_run.folder.rglob("*")} == before


@pytest.mark.parametrize("by", ["train", "resume", "efftune resume"])
def test_run_stopped_before_its_report_gets_it_when_it_goes_on(
    finished_run, source, tmp_path, by, efftune_command
):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    card, page = ((folder / name).read_bytes() for name in ("MODEL_CARD.md", "report.html"))
    for name in ("MODEL_CARD.md", "report.html"):
        (folder / name).unlink()
    choices = {"recipe": "quick", "image_size": 32, "test": 0.15}
    if by == "train":
        again = efftune.train(source, run=folder, resume=True, **choices)
    elif by == "resume":
        again = efftune.resume(folder)
    else:
        assert efftune_command("resume", folder).returncode == 0
        again = efftune.Run.load(folder)
    assert again.record == finished_run.record
    assert (folder / "MODEL_CARD.md").read_bytes() == card
    named = page.replace(bytes(finished_run.folder), bytes(folder))
    assert (folder / "report.html").read_bytes() == named


def test_failed_run_leaves_nothing(tmp_path):
    fill(tmp_path / "photos", count=4)
    for path in (tmp_path / "photos" / "red").iterdir():
        path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(efftune.DataError, match="No usable picture of class 'red'"):
        efftune.train(
            tmp_path / "photos", run=tmp_path / "runs" / "a", recipe="quick", image_size=32
        )
    assert not (tmp_path / "runs").exists()


@pytest.mark.ci
def test_run_stopped_before_training_leaves_nothing(source, tmp_path):
    def stop(phase, _done, _total):
        if phase == "save":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        efftune.train(
            source, run=tmp_path / "runs" / "a", recipe="quick", image_size=32, on_progress=stop
        )
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("name", ["model.keras", "openvino/model.bin", "classes.json"])
@pytest.mark.parametrize("damage", ["modified", "missing"])
def test_modified_model_is_refused(finished_run, tmp_path, name, damage):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(efftune.DataError, match=f"{name} (was modified|is missing)"):
        efftune.load(folder)


def test_folder_that_is_not_a_run_is_refused(source, tmp_path):
    with pytest.raises(efftune.DataError, match="is not a finished run"):
        efftune.load(source)
    with pytest.raises(efftune.UsageError, match="from the Hub first: efftune load hf:anna/photos"):
        efftune.load("hf:anna/photos")
    with pytest.raises(efftune.UsageError, match="There is no run folder"):
        efftune.load(tmp_path / "nowhere")


def test_calls_that_mean_nothing_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # which an empty path must not mean
    for call in (
        lambda: efftune.train(""),
        lambda: efftune.plan(""),
        lambda: efftune.check(""),
        lambda: efftune.load(""),
        lambda: efftune.train("sample:digits", run=""),
    ):
        with pytest.raises(efftune.UsageError, match="A path is empty"):
            call()
    for recipe in ({}, None, 5, ["quick"], efftune.Recipe):
        with pytest.raises(efftune.UsageError, match="Unknown recipe"):
            efftune.train("sample:digits", recipe=recipe)
    assert pictures.path_of("") == Path()  # a picture of many, which is none
    with pytest.raises(efftune.UsageError, match="a list of two or more runs"):
        efftune.compare("runs/photos-lite0-1")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"state": "finished"}', "\xff"])
def test_damaged_record_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content, encoding="latin-1")
    with pytest.raises(efftune.DataError, match="is not a finished run"):
        efftune.load(tmp_path)


def test_run_is_evaluated_on_other_pictures(finished_run, tmp_path):
    fill(tmp_path / "others", count=5, offset=77)
    score, examples = finished_run.evaluate(tmp_path / "others")
    assert (score.pictures, score.accuracy) == (15, 1)
    assert examples.set_aside == ()


def test_test_split_is_evaluated_if_there_is_one(finished_run, tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / split, count=2 if split == "test" else 4, offset=len(split))
    assert finished_run.evaluate(tmp_path)[0].pictures == 6
    assert finished_run.evaluate(tmp_path, "train")[0].pictures == 12
    with pytest.raises(efftune.UsageError, match="no val split"):
        finished_run.evaluate(tmp_path, "val")
    with pytest.raises(efftune.UsageError, match=r"Unknown split 'tset'. Did you mean 'test'"):
        finished_run.evaluate(tmp_path, "tset")


def test_evaluation_sets_aside_unreadable_pictures(finished_run, broken_source):
    score, examples = finished_run.evaluate(broken_source)
    assert score.pictures == 30
    assert "truncated" in {row.reason for row in examples.set_aside}


def test_unknown_class_is_named(finished_run, tmp_path):
    fill(tmp_path)
    (tmp_path / "red").rename(tmp_path / "pink")
    with pytest.raises(efftune.DataError, match=r"'pink', a class that .* was not trained on"):
        finished_run.evaluate(tmp_path)


@pytest.mark.shared
def test_quick_reaches_its_documented_accuracy_on_real_photos(clothing, tmp_path, own_cache):
    run = efftune.train(clothing, run=tmp_path / "run", recipe="quick")
    assert run.evaluation.test.accuracy >= 0.86
    rows = [row for row in table(run.folder / "predictions.csv") if row["split"] == "test"]
    names = run.classifier.class_names
    paths = [clothing / row["path"] for row in rows]
    pixels = np.stack(
        [images.decode(picture_bytes.read(path), 224, run.recipe.backbone.fit) for path in paths]
    )
    by_keras = keras_alone(tmp_path, run.folder / "model.keras", pixels)
    stored = [[float(row[f"p_{name}"]) for name in names] for row in rows]
    assert np.abs(by_keras - stored).max() <= 1e-4
    outputs = run.classifier.outputs(paths)
    assert (outputs.probabilities.argmax(axis=1) == by_keras.argmax(axis=1)).mean() >= 0.995
    (tmp_path / "others").mkdir()
    others = [path for _, path in other_pictures.make(tmp_path / "others", 80, 0)]
    distances = [*outputs.distances, *run.classifier.outputs(others).distances]
    assert roc_auc_score([0] * len(paths) + [1] * len(others), distances) >= 0.95


@pytest.mark.shared
def test_balanced_reaches_its_documented_accuracy_on_real_photos(clothing, tmp_path, own_cache):
    run = efftune.train(clothing, run=tmp_path / "run", unfreeze="block6", epochs=2)
    (stage,) = run.record["stages"]
    assert stage["val_accuracy"]["after"] >= stage["val_accuracy"]["before"] + 0.01
    assert run.evaluation.test.accuracy >= 0.88
