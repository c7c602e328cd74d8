"""Predictions in parts: each picture once, in order, also after a stop."""

import csv
import json
import os
import shutil
import sys
from dataclasses import replace

import pytest

import efftune
from conftest import fill
from efftune.delivery import prediction_parts
from efftune.delivery.prediction_parts import MANIFEST, Form
from efftune.errors import DataError, UsageError


@pytest.fixture
def few(monkeypatch):
    """Parts of few pictures."""
    monkeypatch.setattr(prediction_parts, "PART", 7)


@pytest.fixture
def photos(tmp_path):
    folder = fill(tmp_path / "photos")
    (folder / "red" / "04.png").write_bytes(b"\x89PNG\r\n\x1a\ncut off")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def rows(folder):
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as stream:
            found += csv.DictReader(stream)
    return found


@pytest.mark.usefixtures("few")
def test_each_picture_is_a_row_in_order(finished_run, photos, tmp_path):
    classifier, missing = finished_run.classifier, tmp_path / "missing.png"
    told = []
    found = prediction_parts.write(
        *(classifier, photos, {missing: "no such file"}, tmp_path / "parts", Form(top=2)),
        on_progress=lambda *each: told.append(each),
    )
    assert (found.pictures, found.parts, found.computed, found.problems) == (31, 5, 31, 2)
    parts = sorted((tmp_path / "parts").glob("part-*.csv"))
    assert [path.name for path in parts] == [f"part-{number:06}.csv" for number in range(5)]
    read = rows(tmp_path / "parts")
    assert [row["path"] for row in read] == [*map(str, photos), str(missing)]
    expected = {each.path: each for each in classifier.predict(
        photos, 2, on_unreadable=lambda *_: None)}  # fmt: skip
    for path, row in zip(photos, read, strict=False):
        if path in expected:
            (first, value), (second, other) = expected[path].top
            assert (row["label"], row["label_2"]) == (first, second)
            assert (row["confidence"], row["confidence_2"]) == (f"{value:.6f}", f"{other:.6f}")
            assert row["unsure"] == ("yes" if expected[path].unsure else "no")
            assert row["problem"] == ""
        else:
            assert row["label"] == row["confidence"] == row["label_2"] == row["unsure"] == ""
            assert row["problem"]
    assert read[-1]["problem"] == "no such file"
    assert sum(found.classes.values()) == 29
    assert told[-1] == (31, 31)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_there_is_not_computed_again(finished_run, photos, tmp_path, kind):
    classifier, into = finished_run.classifier, tmp_path / "parts"

    def stop(done, _total):
        if done > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prediction_parts.write(classifier, photos, {}, into, Form(kind), on_progress=stop)
    begun = {path.name: path.stat().st_mtime_ns for path in into.iterdir()}
    assert set(begun) == {MANIFEST, f"part-000000.{kind}", f"part-000001.{kind}"}
    found = prediction_parts.write(classifier, photos, {}, into, Form(kind))
    assert found.computed == 16
    assert begun.items() <= {path.name: path.stat().st_mtime_ns for path in into.iterdir()}.items()
    whole = prediction_parts.write(classifier, photos, {}, tmp_path / "whole", Form(kind))
    for path in (tmp_path / "whole").iterdir():
        assert (into / path.name).read_bytes() == path.read_bytes()
    again = prediction_parts.write(classifier, photos, {}, into, Form(kind))
    assert again.computed == 0
    assert (again.classes, again.unsure, again.problems) == (
        *(whole.classes, whole.unsure, whole.problems),
    )


@pytest.mark.usefixtures("few")
def test_other_predictions_are_not_mixed_with_these(finished_run, photos, tmp_path):
    classifier, into = finished_run.classifier, tmp_path / "parts"
    prediction_parts.write(classifier, photos, {}, into, Form())
    for given, form in ((photos[1:], Form()), (photos, Form(top=2)), (photos, Form(raw=True))):
        with pytest.raises(UsageError, match="of another classifier, for other pictures"):
            prediction_parts.write(classifier, given, {}, into, form)
    other = efftune.load(finished_run.folder)
    other.uncertainty = replace(other.uncertainty, unsure_below=0.99)  # as by --max-error
    with pytest.raises(UsageError, match="of another classifier, for other pictures"):
        prediction_parts.write(other, photos, {}, into, Form())
    (into / MANIFEST).write_text("{")
    with pytest.raises(UsageError, match="of another classifier, for other pictures"):
        prediction_parts.write(classifier, photos, {}, into, Form())
    with pytest.raises(UsageError, match="is not empty"):
        prediction_parts.write(classifier, photos, {}, photos[0].parent, Form())
    with pytest.raises(UsageError, match="exists, and is not empty"):
        prediction_parts.write(classifier, photos, {}, photos[0], Form())


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_part_that_is_damaged_is_named(finished_run, photos, tmp_path, kind):
    into = tmp_path / "parts"
    prediction_parts.write(finished_run.classifier, photos, {}, into, Form(kind))
    part = into / f"part-000001.{kind}"
    content = part.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"\xff" * 100):
        part.write_bytes(damaged)
        with pytest.raises(DataError, match=f"part-000001.{kind} is damaged"):
            prediction_parts.write(finished_run.classifier, photos, {}, into, Form(kind))
    part.unlink()
    found = prediction_parts.write(finished_run.classifier, photos, {}, into, Form(kind))
    assert found.computed == 7
    assert part.read_bytes() == content


@pytest.mark.usefixtures("few")
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_names_may_contain_any_bytes(finished_run, photos, tmp_path, kind):
    classifier, into = efftune.load(finished_run.folder), tmp_path / "parts"
    classifier.class_names = ("blue", "green", "caf\udce9")
    photos[0] = photos[0].rename(photos[0].with_name(os.fsdecode(b"caf\xe9.jpg")))
    found = prediction_parts.write(classifier, photos, {}, into, Form(kind))
    assert sum(found.classes.values()) == 29
    assert found.classes["caf\udce9"] > 5
    if kind == "parquet":
        return
    read = rows(into)
    assert read[0]["path"] == str(photos[0]).replace("\udce9", "\\udce9")
    assert sum(row["label"] == "caf\\udce9" for row in read) == found.classes["caf\udce9"]
    for part in into.glob("*.csv"):  # as earlier versions wrote them
        part.write_bytes(part.read_bytes().replace(b"\\udce9", b"\xe9"))
    again = prediction_parts.write(classifier, photos, {}, into, Form(kind))
    assert (again.computed, again.classes) == (0, found.classes)


@pytest.mark.usefixtures("few")
def test_a_run_without_openvino_goes_on(finished_run, photos, tmp_path):
    folder, into = tmp_path / "run", tmp_path / "parts"
    shutil.copytree(finished_run.folder, folder)
    shutil.rmtree(folder / "openvino")
    record = json.loads((folder / "run.json").read_text())
    record["files"] = {k: v for k, v in record["files"].items() if not k.startswith("openvino")}
    (folder / "run.json").write_text(json.dumps(record))
    prediction_parts.write(efftune.load(folder), photos[:8], {}, into, Form())
    assert (folder / "openvino").exists()  # as it was converted
    found = prediction_parts.write(efftune.load(folder), photos[:8], {}, into, Form())
    assert found.computed == 0


@pytest.mark.parametrize("words", [("--format", "parquet"), ("--into", "parts", "--csv")])
def test_options_without_effect_are_refused(finished_run, photos, efftune_command, words):
    assert efftune_command("predict", finished_run.folder, photos[0], *words).returncode == 2


def test_the_command_writes_parts(finished_run, photos, tmp_path, efftune_command):
    command = ("predict", finished_run.folder, photos[0].parents[1], "--into", "parts")
    first = efftune_command(*command, "--json")
    assert first.returncode == 1  # one cannot be decoded
    told = json.loads(first.stdout)
    assert (told["pictures"], told["computed"], told["problems"]) == (30, 30, 1)
    assert len(rows(tmp_path / "parts")) == 30
    again = efftune_command(*command)
    assert "There already: 30" in again.stdout
    assert "Cannot be decoded: 1" in again.stdout
    other = efftune_command(*command, "--top", "2")
    assert other.returncode == 2
    assert "Name another folder with --into" in other.stderr


def test_parquet_holds_what_csv_does(finished_run, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    classifier = finished_run.classifier
    prediction_parts.write(classifier, photos, {}, tmp_path / "a", Form("csv", top=9))
    prediction_parts.write(classifier, photos, {}, tmp_path / "b", Form("parquet", top=9))
    (path,) = (tmp_path / "b").glob("*.parquet")
    for row, text in zip(parquet.read_table(path).to_pylist(), rows(tmp_path / "a"), strict=True):
        assert {name: prediction_parts._text(value) for name, value in row.items()} == text


def test_exports_are_told_apart_by_their_files(finished_run, photos, tmp_path):
    pytest.importorskip("onnx")
    exported = finished_run.export(["onnx"], into=tmp_path / "exports")
    classifier = efftune.load(exported[0].path)
    found = prediction_parts.write(classifier, photos, {}, tmp_path / "parts", Form())
    assert found.pictures == 30
    with pytest.raises(UsageError, match="of another classifier"):
        prediction_parts.write(finished_run.classifier, photos, {}, tmp_path / "parts", Form())
