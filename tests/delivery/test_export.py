import csv
import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnx
import openvino as ov
import openvino.opset13 as ops
import pytest

import efftune
from conftest import fill
from efftune.cli import export_tables
from efftune.delivery import export_requests, judging, openvino_file
from efftune.delivery import photos as run_photos
from efftune.delivery.formats import FORMATS
from efftune.delivery.runtimes import Loaded
from efftune.delivery.targets import TARGETS
from efftune.errors import UsageError
from efftune.model.engines import openvino_engine
from efftune.system.progress import silent


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """A copy that may be written to."""
    return efftune.Run.load(
        shutil.copytree(finished_run.folder, tmp_path_factory.mktemp("exported") / "run")
    )


@pytest.fixture(scope="module")
def larger_run(source, cache, tmp_path_factory):
    """A run at 64 pixels: OpenVINO's 8 bits do not work on every processor at 32."""
    del cache
    folder = tmp_path_factory.mktemp("larger") / "run"
    return efftune.train(
        source, run=folder, recipe="quick", image_size=64, test=0.15, on_progress=None
    )


@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] * name.startswith(("litert", "saved")))
        for name, each in FORMATS.items()
        if each.bound is not None
    ],
)
def test_export_is_proved_on_the_run_s_pictures(run, tmp_path, name):
    (made,) = run.export(name, tmp_path)
    folder = tmp_path / name
    assert made.path.parent == folder
    assert made.path.is_dir() if name == "savedmodel" else made.path.is_file()
    assert (folder / "labels.txt").read_text().split() == list(run.classifier.class_names)
    stored = json.loads((folder / "receipt.json").read_text())
    assert stored["trained_on"] is False
    assert "The classifier was trained on" not in (folder / "MODEL_CARD.md").read_text()
    bound = FORMATS[name].bound
    assert stored == json.loads(json.dumps(made.receipt.to_dict()))
    assert [score["split"] for score in stored["same_pixels"]] == ["val", "test"]
    for score in stored["same_pixels"]:
        assert score["pictures"] == run.record["data"]["pictures"][score["split"]]
        assert score["agreement"] == 1
        assert score["largest_gap"] <= (1e-5 if name in ("onnx", "savedmodel") else bound)
        assert score["accuracy"] == score["accuracy_before"]
        assert score["p"] == 1
    assert stored["same_pixels"][1]["accuracy"] == run.evaluation.test.accuracy
    written = [each for each in folder.rglob("*") if each.is_file()]
    beside = {"labels.txt", "receipt.json", "MODEL_CARD.md"}
    assert stored["bytes"] == sum(
        each.stat().st_size for each in written if each.name not in beside
    )
    assert 0 < stored["ms"] <= stored["ms_95"]


@pytest.mark.ci
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


@pytest.mark.long
@pytest.mark.parametrize("name", ["openvino-int8", "litert-int8"])
def test_files_of_8_bits_take_a_quarter_of_the_space(larger_run, tmp_path, name):
    whole, small = larger_run.export(["openvino", name], tmp_path)
    assert small.receipt.attempts[-1].kept
    assert small.receipt.attempts[-1].split == "val"
    if len(small.receipt.attempts) == 1:
        assert small.receipt.attempts[0].way == "int8"
        assert small.receipt.bytes < 0.4 * whole.receipt.bytes
    val = small.receipt.same_pixels[0]
    assert val.drop <= 0.005
    assert (small.receipt.bound, small.receipt.max_drop) == (None, 0.005)


@pytest.mark.long
def test_worst_layers_are_spared(larger_run, tmp_path, monkeypatch):
    whole = FORMATS["openvino-int8"]
    way = "int8, worst layers float16"
    monkeypatch.setitem(FORMATS, "openvino-int8", replace(whole, ways={way: whole.ways[way]}))
    (made,) = larger_run.export("openvino-int8", tmp_path)
    assert made.receipt.attempts[0].way == way
    assert made.receipt.same_pixels[0].drop <= 0.005


def shifted(material, path):
    """A file whose classes are shifted by one."""
    model = openvino_file.probabilities(openvino_engine.read_classifier(material.classifier.folder))
    rolled = ops.roll(model.output(0).get_node().input_value(0), np.int32(1), np.int32(1))
    rolled.output(0).tensor.set_names({"probabilities"})
    moved = ov.Model([rolled], model.get_parameters(), "shifted")
    openvino_file.write(moved, path, material.metadata, half=False, batch=None)


@pytest.mark.ci
def test_first_way_that_keeps_the_accuracy_is_taken(run, tmp_path, monkeypatch, efftune_command):
    whole = FORMATS["openvino-int8"]
    ways = {"bad": shifted, "good": whole.ways["float16"], "never tried": None}
    monkeypatch.setitem(FORMATS, "openvino-int8", replace(whole, ways=ways))
    (made,) = run.export("openvino-int8", tmp_path)
    bad, good = made.receipt.attempts
    assert (bad.way, bad.kept, good.way, good.kept) == ("bad", False, "good", True)
    assert bad.drop > 0.5
    assert good.drop == made.receipt.same_pixels[0].drop <= 0.005
    assert made.receipt.same_pixels[0].agreement == 1
    (made,) = run.export("openvino-int8", tmp_path, max_drop=1)
    assert [each.way for each in made.receipt.attempts] == ["bad"]


def divided(temperature):
    """Writes a file whose logits are divided, beside what it is asked to divide them by."""

    def write(material, path):
        model = openvino_engine.read_classifier(material.classifier.folder)
        model = openvino_file.probabilities(model)
        openvino_file.divide_logits(model, temperature * material.temperature)
        openvino_file.write(model, path, material.metadata, half=False, batch=None)

    return write


@pytest.mark.ci
@pytest.mark.parametrize(("temperature", "needed"), [(0.2, True), (5.0, True), (1.0, False)])
def test_file_that_is_not_calibrated_any_more_is_calibrated_again(
    run, tmp_path, monkeypatch, temperature, needed
):
    whole = FORMATS["openvino-int8"]
    ways = {"int8": divided(temperature)}
    monkeypatch.setitem(FORMATS, "openvino-int8", replace(whole, ways=ways))
    (made,) = run.export("openvino-int8", tmp_path)
    (attempt,) = made.receipt.attempts
    assert attempt.temperature == pytest.approx(1 / temperature, rel=0.2)
    assert (attempt.temperature != 1) is ("calibrated again" in attempt.outcome) is needed
    val = made.receipt.same_pixels[0]
    assert val.agreement == 1
    assert val.loss == pytest.approx(val.loss_before, rel=0.02)
    stored = ov.Core().read_model(made.path).get_rt_info(["efftune", "temperature"]).astype(str)
    total = run.classifier.uncertainty.temperature * attempt.temperature
    assert float(stored) == pytest.approx(total, rel=1e-4)


@pytest.mark.ci
@pytest.mark.parametrize("failure", ["loses", "raises"])
def test_calibrating_again_never_spoils_a_file(run, tmp_path, monkeypatch, failure):
    def write(material, path):
        if material.temperature == 1:
            divided(0.2)(material, path)
        elif failure == "raises":
            raise efftune.DataError("it needs more memory")
        else:
            shifted(material, path)

    whole = FORMATS["openvino-int8"]
    monkeypatch.setitem(FORMATS, "openvino-int8", replace(whole, ways={"int8": write}))
    (made,) = run.export("openvino-int8", tmp_path)
    assert made.receipt.attempts[0].temperature == 1
    assert made.receipt.same_pixels[0].agreement == 1
    model = ov.Core().compile_model(made.path, "CPU")
    assert model(np.zeros((1, 32, 32, 3), np.float32))[0].sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "way"),
    [("litert-int8", "int8"), ("litert-int8", "float16"), ("openvino-int8", "int8")],
)
def test_files_of_8_bits_have_the_temperature_that_they_need(
    larger_run, tmp_path, monkeypatch, name, way
):
    whole = FORMATS[name]
    for temperature, wanted in [(1, "plain"), (2, "flat")]:
        ways = {way: lambda it, path, by=temperature: whole.ways[way](it.recalibrated(by), path)}
        monkeypatch.setitem(FORMATS, name, replace(whole, ways=ways))
        monkeypatch.setattr(judging, "_recalibration", lambda *_: 1.0)
        larger_run.export(name, tmp_path / wanted, max_drop=1)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3)).astype(np.float32)
    plain, flat = (
        np.concatenate([loaded.answer(each[None]) for each in pixels])
        for loaded in (
            whole.load(tmp_path / each / name / whole.file) for each in ("plain", "flat")
        )
    )
    expected = np.sqrt(plain) / np.sqrt(plain).sum(axis=1, keepdims=True)
    assert np.abs(flat - expected).max() < 0.06
    assert np.abs(flat - plain).max() > 0.1


@pytest.mark.ci
def test_way_that_cannot_be_written_is_passed_over(run, tmp_path, monkeypatch):
    def failing(_material, _path):
        raise efftune.DataError("it needs more memory")

    whole = FORMATS["openvino-int8"]
    ways = {"int8": failing, "float16": whole.ways["float16"]}
    monkeypatch.setitem(FORMATS, "openvino-int8", replace(whole, ways=ways))
    (made,) = run.export("openvino-int8", tmp_path)
    assert made.receipt.attempts[0].outcome == "int8: it needs more memory"
    assert made.receipt.attempts[1].kept
    monkeypatch.setitem(FORMATS, "openvino-int8", replace(whole, ways={"int8": failing}))
    with pytest.raises(efftune.DataError, match="needs more memory"):
        run.export("openvino-int8", tmp_path)


def test_file_that_loses_accuracy_in_every_way_is_not_kept(run, tmp_path, monkeypatch):
    whole = FORMATS["openvino-int8"]
    monkeypatch.setitem(FORMATS, "openvino-int8", replace(whole, ways={"bad": shifted}))
    with pytest.raises(
        efftune.DataError, match=r"loses more accuracy than 0\.5 points.*--max-drop"
    ):
        run.export("openvino-int8", tmp_path)
    assert not list(tmp_path.iterdir())


def test_exports_in_the_run_folder_are_in_its_report(run):
    page = run.report().read_text(encoding="utf-8")
    assert 'id="exports"' not in page
    try:
        run.export(["onnx", "python"])
        (run.folder / "exports" / "other").mkdir()
        (run.folder / "exports" / "other" / "receipt.json").write_text("{")
        page = run.report().read_text(encoding="utf-8")
        section = page.partition('id="exports"')[2].partition("</section>")[0]
        assert "<bdi>onnx</bdi></th>" in section
        assert "other" not in section
        assert section.count("<td>100") >= 2
        assert TARGETS["python"].does in section
        assert '<a href="#exports">' in page
    finally:
        shutil.rmtree(run.folder / "exports")
        run.report()


def test_drop_is_a_share(run, tmp_path):
    with pytest.raises(efftune.UsageError, match="0 to 1"):
        run.export("openvino-int8", tmp_path, max_drop=5)


def test_pictures_for_calibration_are_of_all_classes_and_of_training(run, source, tmp_path):
    names = run.classifier.class_names
    found = run_photos.of_run(run.folder, run.recipe, str(source), names, lambda *_: None)
    with (run.folder / "examples.csv").open(newline="") as stream:
        splits = {row["path"]: row["split"] for row in csv.DictReader(stream)}
    assert {splits[photo.name] for photo in found.training} == {"train"}
    counts = np.bincount([photo.label for photo in found.training], minlength=len(names))
    assert counts.min() >= 1
    assert len(found.training) <= run_photos.CALIBRATION
    other = shutil.copytree(source, tmp_path / "other")
    for photo in found.training:
        (other / photo.name).unlink()
    with pytest.raises(efftune.UsageError, match="calibrated with pictures"):
        run.export("openvino-int8", tmp_path / "out", photos=other)


FAULTS = {
    "channels in another order": lambda answer: lambda x: answer(x[..., ::-1]),
    "divided by 255 twice": lambda answer: lambda x: answer(x / 255),
    "labels shifted by one": lambda answer: lambda x: np.roll(answer(x), 1, axis=1),
    "batch axis lost": lambda answer: lambda x: answer(x[:1]),
    "one class too many": lambda answer: lambda x: np.pad(answer(x), [(0, 0), (0, 1)]),
    "not a number": lambda answer: lambda x: answer(x) * np.nan,
    "otherwise by itself": lambda answer: lambda x: answer(255 - x if len(x) == 1 else x),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_file_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch, fault):
    whole = FORMATS["onnx"]

    def load(path):
        loaded = whole.load(path)
        return Loaded(loaded.runtime, FAULTS[fault](loaded.answer))

    monkeypatch.setitem(FORMATS, "onnx", replace(whole, load=load))
    with pytest.raises(efftune.DataError, match="not kept"):
        run.export("onnx", tmp_path)
    assert not list(tmp_path.iterdir())


def test_way_with_other_answers_for_a_picture_by_itself_is_passed_over(run, tmp_path, monkeypatch):
    whole, calls = FORMATS["openvino-int8"], []

    def load(path):
        loaded, fault = whole.load(path), FAULTS["otherwise by itself"]
        calls.append(path)
        return Loaded("a runtime", fault(loaded.answer) if len(calls) == 1 else loaded.answer)

    ways = {"int8": whole.ways["float16"], "float16": whole.ways["float16"]}
    monkeypatch.setitem(FORMATS, "openvino-int8", replace(whole, ways=ways, load=load))
    (made,) = run.export("openvino-int8", tmp_path)
    bad, good = made.receipt.attempts
    assert "By itself" in bad.outcome
    assert "a runtime" in bad.outcome
    assert (bad.kept, good.way, good.kept) == (False, "float16", True)


@pytest.mark.ci
def test_export_that_fails_leaves_the_one_before(run, tmp_path, monkeypatch):
    run.export("onnx", tmp_path)
    before = {each.name: each.read_bytes() for each in (tmp_path / "onnx").iterdir()}
    whole = FORMATS["onnx"]
    monkeypatch.setitem(FORMATS, "onnx", replace(whole, bound=-1.0))
    with pytest.raises(efftune.DataError, match="answers otherwise"):
        run.export("onnx", tmp_path)
    assert {each.name: each.read_bytes() for each in (tmp_path / "onnx").iterdir()} == before
    monkeypatch.setitem(FORMATS, "onnx", whole)
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


@pytest.mark.ci
def test_held_out_pictures_that_have_moved_are_told(source, tmp_path):
    val, test = (fill(tmp_path / name, count=4, offset=50 * i) for i, name in enumerate("vt", 1))
    choices = {"recipe": "quick", "image_size": 32, "val": str(val), "test": str(test)}
    run = efftune.train(source, run=tmp_path / "run", **choices)
    val.rename(tmp_path / "moved")
    with pytest.warns(UserWarning, match=rf"no {val} any more, which has val pictures of the run"):
        (made,) = run.export("onnx", tmp_path / "out", photos=source)
    assert [score.split for score in made.receipt.same_pixels] == ["test"]
    test.rename(tmp_path / "moved, too")
    with pytest.raises(efftune.DataError, match=rf"no {val} any more.*no {test} any more"):
        run.export("onnx", tmp_path / "out")


def test_json_of_exports_has_ascii_alone(run, tmp_path, capsys):
    exports = run.export("onnx", tmp_path / "für später")
    export_tables.show_exports(exports, as_json=True)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed)["path"] == str(exports[0].path)


def test_pictures_of_another_set_are_no_proof(run, tmp_path, source):
    other = shutil.copytree(source, tmp_path / "other")
    for path in list(other.rglob("*.*")):
        path.rename(path.with_name(f"other-{path.name}"))
    with pytest.raises(efftune.DataError, match="None of the run's"):
        run.export("onnx", tmp_path / "out", photos=other)


@pytest.mark.ci
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


@pytest.mark.ci
def test_command(run, tmp_path, efftune_command):
    done = efftune_command("export", run.folder, "--format", "onnx, openvino", "--into", tmp_path)
    assert "100 %" in done.stdout
    assert str(tmp_path / "onnx" / "model.onnx") in done.stdout
    done = efftune_command(
        "export", run.folder, "--format", "onnx", "--into", tmp_path, "--batch", 1, "--json"
    )
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["format"], line["path"]) == ("onnx", str(tmp_path / "onnx" / "model.onnx"))


@pytest.mark.ci
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
def test_classes_of_any_name_that_folds_have_judged(source, tmp_path, capsys):
    names = [os.fsdecode(name) for name in (b"a\nb", b"caf\xe9")]
    for name, folder in zip(names, sorted(source.iterdir()), strict=False):
        shutil.copytree(folder, tmp_path / "photos" / name)
    run = efftune.train(
        tmp_path / "photos", run=tmp_path / "run", recipe="quick", image_size=32, folds=2
    )
    (made,) = run.export("onnx")
    (score,) = made.receipt.same_pixels
    assert (score.split, score.accuracy, score.p) == ("training", None, None)
    assert made.receipt.attempts[-1].split == "training"
    assert json.loads((made.path.parent / "receipt.json").read_text())["trained_on"] is True
    export_tables.show_exports([made], as_json=False)
    for told in (
        capsys.readouterr().out,
        (made.path.parent / "MODEL_CARD.md").read_text(),
        (run.folder / "report.html").read_text(),
    ):
        assert "The classifier was trained on the" in told
        assert "with others, the gap may be larger" in told
    assert score.pictures == sum(run.record["data"]["pictures"].values())
    assert made.receipt.left_out == ()
    assert (made.path.parent / "labels.txt").read_text().splitlines() == ["a b", r"caf\udce9"]


def test_options_that_change_nothing_are_refused(tmp_path):
    """Of what is written from several names, one has to take them."""

    def read(names, **options):
        return export_requests.read(names, tmp_path, options, silent)

    with pytest.raises(UsageError, match="--batch is not for triton"):
        read("triton", batch=1)
    for names in ("onnx", "triton"):
        with pytest.raises(UsageError, match=r"--max-drop is for files of 8 bits: openvino-int8"):
            read(names, max_drop=0.1)
    for names in (["onnx", "triton"], "litert", "ovms"):
        assert {each.batch for each in read(names, batch=1)} == {1}
    for names in (["onnx", "openvino-int8"], "raspberry-pi"):
        assert {each.max_drop for each in read(names, max_drop=0.1)} == {0.1}
    assert read("onnx", max_drop=None)[0].max_drop == export_requests.MAX_DROP
    assert read("onnx", max_drop=0.5 / 100)  # as the command gives its default
    assert read([], batch=1, max_drop=0.1) == []
