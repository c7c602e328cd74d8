import csv
import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnx
import openvino as ov
import pytest

import efftune
from efftune.delivery import export as exports
from efftune.delivery.runtimes import Loaded


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """A copy that may be written to."""
    return efftune.Run.load(
        shutil.copytree(finished_run.folder, tmp_path_factory.mktemp("exported") / "run")
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] * name.startswith("litert"))
        for name in exports.FORMATS
    ],
)
def test_export_is_proved_on_the_run_s_pictures(run, tmp_path, name):
    (made,) = run.export(name, tmp_path)
    folder = tmp_path / name
    assert made.path.parent == folder
    assert made.path.is_file()
    assert (folder / "labels.txt").read_text().split() == list(run.classifier.class_names)
    stored = json.loads((folder / "receipt.json").read_text())
    assert stored == json.loads(json.dumps(made.receipt.to_dict()))
    assert [score["split"] for score in stored["same_pixels"]] == ["val", "test"]
    for score in stored["same_pixels"]:
        assert score["pictures"] == run.record["data"]["pictures"][score["split"]]
        assert score["agreement"] == 1
        assert score["largest_gap"] <= exports.FORMATS[name].bound
        assert score["accuracy"] == score["accuracy_before"]
        assert score["p"] == 1
    assert stored["same_pixels"][1]["accuracy"] == run.evaluation.test.accuracy
    assert stored["bytes"] == pytest.approx(
        sum(each.stat().st_size for each in folder.glob("model*")), abs=1
    )
    assert 0 < stored["ms"] <= stored["ms_95"]


def test_half_of_the_bits_take_half_of_the_space(run, tmp_path):
    whole, half = run.export(["openvino", "openvino-f16"], tmp_path)
    assert half.receipt.bytes < 0.6 * whole.receipt.bytes


def test_files_describe_themselves(run, tmp_path):
    described, model = run.export(["onnx", "openvino"], tmp_path, batch=1)
    found = {each.key: each.value for each in onnx.load(described.path).metadata_props}
    assert json.loads(found["classes"]) == list(run.classifier.class_names)
    assert found["image_size"] == "32"
    assert found["run"] == "run"
    assert found["licence"] == "Apache-2.0"
    assert float(found["unsure_below"]) == pytest.approx(
        run.classifier.uncertainty.unsure_below, abs=1e-6
    )
    stored = ov.Core().read_model(model.path)
    assert {key: stored.get_rt_info(["efftune", key]).astype(str) for key in found} == found
    assert [str(each.get_partial_shape()) for each in stored.inputs] == ["[1,32,32,3]"]


FAULTS = {
    "channels in another order": lambda answer: lambda x: answer(x[..., ::-1]),
    "divided by 255 twice": lambda answer: lambda x: answer(x / 255),
    "labels shifted by one": lambda answer: lambda x: np.roll(answer(x), 1, axis=1),
    "batch axis lost": lambda answer: lambda x: answer(x[:1]),
    "one class too many": lambda answer: lambda x: np.pad(answer(x), [(0, 0), (0, 1)]),
    "not a number": lambda answer: lambda x: answer(x) * np.nan,
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_file_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch, fault):
    whole = exports.FORMATS["onnx"]

    def load(path):
        loaded = whole.load(path)
        return Loaded(loaded.runtime, FAULTS[fault](loaded.answer))

    monkeypatch.setitem(exports.FORMATS, "onnx", replace(whole, load=load))
    with pytest.raises(efftune.DataError, match="not kept"):
        run.export("onnx", tmp_path)
    assert not list(tmp_path.iterdir())


def test_export_that_fails_leaves_the_one_before(run, tmp_path, monkeypatch):
    run.export("onnx", tmp_path)
    before = {each.name: each.read_bytes() for each in (tmp_path / "onnx").iterdir()}
    whole = exports.FORMATS["onnx"]
    monkeypatch.setitem(exports.FORMATS, "onnx", replace(whole, bound=-1.0))
    with pytest.raises(efftune.DataError, match="answers otherwise"):
        run.export("onnx", tmp_path)
    assert {each.name: each.read_bytes() for each in (tmp_path / "onnx").iterdir()} == before
    monkeypatch.setitem(exports.FORMATS, "onnx", whole)
    run.export("onnx", tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["onnx"]


def test_folder_of_something_else_is_not_replaced(run, tmp_path):
    (tmp_path / "onnx").mkdir()
    run.export("onnx", tmp_path)  # it was empty
    (tmp_path / "onnx" / "receipt.json").unlink()
    (tmp_path / "onnx" / "thesis.txt").touch()
    with pytest.raises(efftune.UsageError, match="no export of efftune"):
        run.export("onnx", tmp_path)
    assert (tmp_path / "onnx" / "thesis.txt").exists()


@pytest.mark.parametrize("names", ["onxx", ["onnx", "coreml"], [], ""])
def test_unknown_formats_are_named(run, tmp_path, names):
    with pytest.raises(efftune.UsageError, match="onnx"):
        run.export(names, tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_one_picture_or_any_number(run, tmp_path):
    with pytest.raises(efftune.UsageError, match="batch is 1"):
        run.export("onnx", tmp_path, batch=2)


def test_place_that_cannot_be_written_to_is_told(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(efftune.UsageError, match="Cannot write to"):
        run.export("onnx", tmp_path / "file")


def test_pictures_that_have_moved_are_found_where_they_are(run, source, tmp_path):
    moved = efftune.Run.load(run.folder)
    moved.record["source"] = str(tmp_path / "gone")
    with pytest.raises(efftune.UsageError, match="--photos"):
        moved.export("onnx", tmp_path / "out")
    (made,) = moved.export("onnx", tmp_path / "out", photos=source)
    assert made.receipt.same_pixels[0].agreement == 1


def test_pictures_of_another_set_are_no_proof(run, tmp_path, source):
    other = shutil.copytree(source, tmp_path / "other")
    for path in list(other.rglob("*.*")):
        path.rename(path.with_name(f"other-{path.name}"))
    with pytest.raises(efftune.DataError, match="None of the run's"):
        run.export("onnx", tmp_path / "out", photos=other)


def test_pictures_that_have_changed_are_left_out_and_named(run, tmp_path, source, efftune_command):
    other = shutil.copytree(source, tmp_path / "other")
    with (run.folder / "predictions.csv").open(newline="") as stream:
        name = next(csv.DictReader(stream))["path"]
    for change in (b"", (other / name).read_bytes() + b" ", None):
        (other / name).unlink()
        if change is not None:
            (other / name).write_bytes(change)
        (made,) = run.export("onnx", tmp_path / "out", photos=other)
        assert made.receipt.left_out == (name,)
    done = efftune_command(
        *("export", run.folder, "--format", "onnx", "--into", tmp_path / "out", "--photos", other)
    )
    assert f"gone or have changed: 1, such as {name}" in done.stdout


def test_command(run, tmp_path, efftune_command):
    done = efftune_command("export", run.folder, "--format", "onnx, openvino", "--into", tmp_path)
    assert "100.0 %" in done.stdout
    assert str(tmp_path / "onnx" / "model.onnx") in done.stdout
    done = efftune_command(
        "export", run.folder, "--format", "onnx", "--into", tmp_path, "--batch", 1, "--json"
    )
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["format"], line["path"]) == ("onnx", str(tmp_path / "onnx" / "model.onnx"))


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_classes_of_any_name_that_folds_have_judged(source, tmp_path):
    names = [os.fsdecode(name) for name in (b"a\nb", b"caf\xe9")]
    for name, folder in zip(names, sorted(source.iterdir()), strict=False):
        shutil.copytree(folder, tmp_path / "photos" / name)
    run = efftune.train(
        tmp_path / "photos", run=tmp_path / "run", recipe="quick", image_size=32, folds=2
    )
    (made,) = run.export("onnx")
    (score,) = made.receipt.same_pixels
    assert (score.split, score.accuracy, score.p) == ("out-of-fold", None, None)
    assert score.pictures == sum(run.record["data"]["pictures"].values())
    assert made.receipt.left_out == ()
    assert (made.path.parent / "labels.txt").read_text().splitlines() == ["a b", r"caf\udce9"]
