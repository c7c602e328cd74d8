import csv
import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import tomli_w

import efftune
from conftest import COLOURS, TUNED, fill, square
from efftune.data import relabelling
from efftune.data.relabelling import Decision
from efftune.system import machine


def table(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def flipped_run(tmp_path_factory):
    """A run on coloured squares, one in six of them in the wrong folder."""
    place = tmp_path_factory.mktemp("flipped")
    folder = fill(place / "photos", count=30)
    for name, other in (("red", "blue"), ("green", "red"), ("blue", "green")):
        for path in sorted((folder / name).glob("1*.png"))[:5]:
            path.rename(folder / other / f"was-{name}-{path.name}")
    choices = {"recipe": "quick", "image_size": 32, "test": 0.15}
    return efftune.train(folder, run=place / "run", **choices)


def test_evaluation_has_all_its_parts(flipped_run):
    evaluation = json.loads((flipped_run.folder / "evaluation.json").read_text())
    assert set(evaluation) == {
        *("val", "test", "calibration", "unsure", "unlike", "learning_curve"),
    }
    assert evaluation["unsure"]["max_error"] == 0.02
    assert evaluation["calibration"]["temperature"] > 0
    assert flipped_run.record["not_available"] == {}


def test_stored_flags_match_the_loaded_classifier(flipped_run):
    rows = table(flipped_run.folder / "predictions.csv")
    source = flipped_run.record["source"]
    classifier = efftune.load(flipped_run.folder)
    predicted = classifier.predict([f"{source}/{row['path']}" for row in rows])
    assert [each.unsure for each in predicted] == [row["unsure"] == "yes" for row in rows]
    assert [each.unlike for each in predicted] == [row["unlike"] == "yes" for row in rows]
    test = [row for row in rows if row["split"] == "test"]
    sure = [row for row in test if row["unsure"] == "no"]
    stored = flipped_run.evaluation.unsure.test
    assert (stored.pictures, stored.answered) == (len(test), len(sure))
    assert stored.wrong == sum(row["label"] != row["predicted"] for row in sure)


def test_stored_calibration_matches_the_predictions(flipped_run):
    rows = table(flipped_run.folder / "predictions.csv")
    for split in ("val", "test"):
        part = [row for row in rows if row["split"] == split]
        confidence = np.array([float(row["confidence"]) for row in part])
        correct = np.array([row["label"] == row["predicted"] for row in part])
        bins = (np.ceil(confidence * 15) - 1).clip(0)
        ece = sum(
            abs(confidence[bins == i].sum() - correct[bins == i].sum()) for i in range(15)
        ) / len(part)
        stored = flipped_run.evaluation.calibration.ece[split]["after"]
        assert stored == pytest.approx(ece, abs=1e-4)
        assert getattr(flipped_run.evaluation, split).ece == pytest.approx(stored)


def test_raw_probabilities_are_those_before_calibration(flipped_run):
    folder, source = flipped_run.folder, flipped_run.record["source"]
    path = f"{source}/{table(folder / 'predictions.csv')[0]['path']}"
    (calibrated,) = flipped_run.classifier.predict(path, top=3)
    (raw,) = flipped_run.classifier.predict(path, top=3, raw=True)
    temperature = flipped_run.evaluation.calibration.temperature
    logits = temperature * np.log([value for _, value in calibrated.top])
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [value for _, value in raw.top] == pytest.approx(expected, abs=1e-4)
    assert [name for name, _ in raw.top] == [name for name, _ in calibrated.top]


def test_pictures_unlike_the_training_pictures_are_flagged(finished_run, source, tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = random.integers(0, 256, (32, 64, 3))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    like, unlike = finished_run.classifier.predict(
        [source / "red" / "01.png", tmp_path / "stripes.png"]
    )
    assert (like.unlike, unlike.unlike) == (False, True)


def test_max_error_moves_the_threshold(flipped_run):
    strict, lax, same = (efftune.load(flipped_run.folder, share) for share in ("0%", 0.5, 0.02))
    default = flipped_run.classifier.uncertainty.unsure_below
    assert same.uncertainty.unsure_below == pytest.approx(
        default, abs=1e-6
    )  # digits in predictions.csv
    assert lax.uncertainty.unsure_below <= default <= strict.uncertainty.unsure_below + 1e-6
    assert lax.uncertainty.unsure_below < strict.uncertainty.unsure_below
    with pytest.raises(efftune.UsageError, match="max_error"):
        efftune.load(flipped_run.folder, "a few")


def test_flipped_labels_rank_first_among_suspects(flipped_run):
    rows = table(flipped_run.folder / "suspects.csv")
    train = {
        row["path"]
        for row in table(flipped_run.folder / "examples.csv")
        if row["split"] == "train" and "was-" in row["path"]
    }
    likely = sum(row["likely"] == "yes" for row in rows)
    assert flipped_run.record["likely_wrong_labels"] == likely > 0
    first = {row["path"] for row in rows[: len(train)]}
    assert len(first & train) >= 0.8 * len(train)
    for row in rows[: len(train)]:
        if row["path"] in train:
            assert row["suggested"] == row["path"].split("-")[1]


@pytest.mark.ci
def test_accepted_suggestions_train_a_better_run(flipped_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(flipped_run.folder, copy)
    run = efftune.Run.load(copy)
    labels = run.accept(8)
    assert labels == copy / "labels.csv"
    assert len(relabelling.read(labels)) == 8
    source = run.record["source"]
    again = efftune.train(
        source, run=tmp_path / "again", recipe="quick", image_size=32, test=0.15, labels=str(labels)
    )
    before, after = (table(each.folder / "examples.csv") for each in (run, again))
    assert [row["split"] for row in before] == [row["split"] for row in after]
    changed = [
        (old["path"], new["label"])
        for old, new in zip(before, after, strict=True)
        if old["label"] != new["label"]
    ]
    assert len(changed) == 8
    assert again.record["features"]["computed"] == 0
    confirmed = set(relabelling.read(again.folder / "labels.csv"))
    assert confirmed.isdisjoint(row["path"] for row in table(again.folder / "suspects.csv"))


def test_accepting_suggestions_leaves_earlier_decisions(flipped_run, tmp_path):
    run = efftune.Run.load(shutil.copytree(flipped_run.folder, tmp_path / "copy"))
    first, second, third = table(run.folder / "suspects.csv")[:3]
    decided = {
        first["path"]: Decision(first["label"], "keep"),
        second["path"]: Decision(second["label"], "drop"),
    }
    relabelling.write(run.folder / "labels.csv", decided)
    suggestion = {third["path"]: Decision(third["label"], "relabel", third["suggested"])}
    for _ in range(2):
        assert relabelling.read(run.accept(3)) == decided | suggestion


@pytest.mark.ci
@pytest.mark.parametrize("change", ["more", "gone"])
def test_run_keeps_the_decisions_that_it_began_with(source, tmp_path, change):
    kept = tmp_path / "corrections"
    kept.mkdir()
    for number in range(2):
        square(COLOURS["red"], seed=7000 + number).save(kept / f"photo-{number}.png")
    labels = kept / "labels.csv"
    decided = {
        "photo-0.png": Decision("blue", "relabel", "red"),
        "red/01.png": Decision("red", "keep"),
    }
    relabelling.write(labels, decided)

    def meanwhile(phase, _done, _total):
        if phase != "evaluate":
            return
        if change == "gone":
            labels.unlink(missing_ok=True)
        else:  # as a server adds them
            relabelling.write(labels, decided | {"photo-1.png": Decision("red", "keep")})

    choices = {"recipe": "quick", "image_size": 32, "test": 0.15, "labels": str(labels)}
    run = efftune.train(source, run=tmp_path / "run", on_progress=meanwhile, **choices)
    assert labels.exists() == (change == "more")
    whole = {
        str(kept / "photo-0.png"): decided["photo-0.png"],
        "red/01.png": Decision("red", "keep"),
    }
    assert relabelling.read(run.folder / "labels.csv") == whole
    labels = run.accept(1)  # the next training finds the corrected picture from there
    again = efftune.train(source, run=tmp_path / "again", **(choices | {"labels": str(labels)}))
    used = {Path(row["path"]).name: row for row in table(again.folder / "examples.csv")}
    assert [used["photo-0.png"][key] for key in ("label", "split", "status")] == [
        *("red", "train", "used")
    ]
    assert relabelling.read(again.folder / "labels.csv") == relabelling.read(labels)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_full_disk_of_the_cache_only_makes_a_run_slower(source, tmp_path, monkeypatch):
    choices = TUNED | {"epochs": 1, "whole_epochs": 1}
    runs, disk = [], namedtuple("disk", "free")
    for free in (2**40, 0):
        cache = tmp_path / f"cache with {free}"
        monkeypatch.setenv("EFFTUNE_CACHE", str(cache))

        def usage(path, cache=cache, free=free):
            """Of the disk of the cache, and of that of the runs, which has room."""
            return disk(free if Path(path).is_relative_to(cache) else 2**40)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        runs.append(efftune.train(source, run=tmp_path / str(free), **choices))
    assert not [path for path in cache.rglob("*.npy") if path.is_file()]
    assert "decode" in runs[0].record["seconds"]
    assert "decode" not in runs[1].record["seconds"]
    assert runs[1].record["plan"]["notes"][-1].startswith("pictures are decoded again")
    names = ("predictions.csv", "evaluation.json", "openvino/model.bin")
    contents = [[(run.folder / name).read_bytes() for name in names] for run in runs]
    assert contents[0] == contents[1]


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_search_without_room_trains_the_head(source, tmp_path, monkeypatch):
    usage = namedtuple("disk", "free")(0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    monkeypatch.setattr(machine, "free_memory", lambda: 2**40)
    choices = TUNED | {"memory": 1e-6, "budget": "1h", "model": "efficientnet-lite0"}
    run = efftune.search(source, run=tmp_path / "run", **choices)
    assert run.record["stages"] == []
    assert "only the head is trained: not enough disk space" in run.record["plan"]["notes"]


def test_accepting_none_is_refused(finished_run):
    with pytest.raises(efftune.UsageError, match="1 suggestion or more"):
        finished_run.accept(0)


@pytest.mark.long
def test_run_from_scratch_records_what_is_not_available(source, tmp_path):
    choices = {"image_size": 32, "scratch_epochs": 1, "batch_size": 8}
    run = efftune.train(source, recipe="scratch", run=tmp_path / "run", **choices)
    assert set(run.record["not_available"]) == {"suspects", "learning_curve"}
    assert run.evaluation.learning_curve is None
    assert run.evaluation.unlike is not None
    assert "efftune review" not in (run.folder / "report.html").read_text(encoding="utf-8")
    with pytest.raises(efftune.DataError, match="no suspect labels: the network is trained from"):
        run.accept(1)
    with pytest.raises(efftune.DataError, match=r"no suspects\.csv"):
        run.review()


def test_report_is_written_again_the_same(flipped_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(flipped_run.folder, copy)
    page = copy / "report.html"
    page.unlink()
    assert efftune.Run.load(copy).report() == page
    first, second = (
        path.read_text(encoding="utf-8").replace(str(flipped_run.folder), str(copy))
        for path in (flipped_run.folder / "report.html", page)
    )
    assert first == second


def test_two_runs_are_compared(finished_run, tuned_run, tmp_path):
    comparison = efftune.compare([finished_run, tuned_run.folder], out=tmp_path / "drawing.png")
    assert comparison.pictures == 6
    assert [each.run.recipe for each in comparison.standings] == ["quick", "balanced"]
    assert (tmp_path / "drawing.png").stat().st_size > 5000


@pytest.mark.parametrize("runs", [[], ["one"]])
def test_one_run_cannot_be_compared(runs, finished_run):
    with pytest.raises(efftune.UsageError, match="two runs or more"):
        efftune.compare([finished_run for _ in runs])


def test_pictures_are_explained(finished_run, source, tmp_path):
    (explanation,) = finished_run.explain([source / "red" / "01.png"], tmp_path / "out")
    assert explanation.label == "red"
    assert explanation.png.parent == tmp_path / "out"


def test_run_of_an_earlier_version_loads_predicts_and_reports(flipped_run, tmp_path):
    folder = shutil.copytree(flipped_run.folder, tmp_path / "run")
    (folder / "uncertainty.npz").rename(folder / "doubts.npz")
    stored = json.loads((folder / "thumbnails.json").read_text())
    before = {"squares": stored["thumbnails"], "explained": stored["explanations"]}
    (folder / "pictures.json").write_text(json.dumps(before))
    (folder / "thumbnails.json").unlink()
    record = json.loads((folder / "run.json").read_text())
    record["files"]["doubts.npz"] = record["files"].pop("uncertainty.npz")
    (folder / "run.json").write_text(json.dumps(record))
    settings = {key: list(v) if isinstance(v, tuple) else v for key, v in _settings(flipped_run)}
    (folder / "recipe.toml").write_text(tomli_w.dumps(settings))
    run = efftune.Run.load(folder)
    assert run.recipe == flipped_run.recipe
    pictures = [next(Path(flipped_run.record["source"]).rglob("*.png"))]
    mine, theirs = run.classifier.predict(pictures), flipped_run.classifier.predict(pictures)
    assert (mine[0].top, mine[0].unlike) == (theirs[0].top, theirs[0].unlike)
    assert "data:image/webp" in run.report().read_text()
    assert (
        "data:image/webp" in run.review().read_text()
        or '"thumbnail":"UklGR' in (folder / "review.html").read_text()
    )


def _settings(run):
    return run.recipe.settings.items()
