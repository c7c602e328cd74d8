import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import efftune
from conftest import TUNED
from efftune.evaluation import out_of_fold, settings_search
from efftune.recipe.recipe import Recipe
from efftune.runs import listing, unfinished
from efftune.system import journal, machine
from efftune.system.journal import Journal
from efftune.training import attempt

CHOICES = TUNED | {"epochs": 2, "learning_rate": 3e-4, "augment": "standard"}
KEPT = ("predictions.csv", "evaluation.json", "recipe.toml", "examples.csv", "openvino/model.bin")


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Pictures of two classes that are hard to tell apart, so that training changes something."""
    folder = tmp_path_factory.mktemp("noise")
    for name, colour in {"a": (124, 120, 116), "b": (116, 120, 124)}.items():
        (folder / name).mkdir()
        for i in range(24):
            random = np.random.default_rng([i, *colour])
            pixels = random.normal(colour, 70, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def unbroken(noise, tmp_path_factory):
    return efftune.train(noise, run=tmp_path_factory.mktemp("unbroken") / "run", **CHOICES)


def contents(run):
    """What must not depend on whether a run was stopped: all but times, names and dates."""
    files = {name: (run.folder / name).read_bytes() for name in KEPT}
    files["history"] = history(run)
    files["stages"] = run.record["stages"]
    return files


def history(run):
    with (run.folder / "history.csv").open(newline="") as stream:
        return [{**row, "seconds": ""} for row in csv.DictReader(stream)]


def stop_in(place):
    """Stop as Ctrl-C does; in training, after the first step has been kept."""

    def stop(phase, done, _total):
        if phase == place and (done > 1 or not place.startswith(("upper", "scratch"))):
            raise KeyboardInterrupt

    return stop


def stopped(source, run, place="evaluate"):
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="is not finished"):
        efftune.train(source, run=run, on_progress=stop_in(place), **CHOICES)
    return run


@pytest.fixture(scope="module")
def stopped_once(noise, tmp_path_factory):
    return stopped(noise, tmp_path_factory.mktemp("stopped") / "run")


@pytest.fixture
def unfinished_run(stopped_once, tmp_path):
    """A run that was stopped after training."""
    return shutil.copytree(stopped_once, tmp_path / "run")


@pytest.mark.ci
@pytest.mark.parametrize(
    "place",
    [
        "upper",
        *(pytest.param(place, marks=pytest.mark.long) for place in ("save", "thumbnails")),
    ],
)
def test_stopped_run_comes_to_the_same(noise, unbroken, tmp_path, monkeypatch, place):
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "0")
    run = stopped(noise, tmp_path / "run", place)
    with pytest.raises(efftune.DataError, match=r"unfinished run\. Go on with it: efftune resume"):
        efftune.load(run)
    resumed = efftune.resume(run)
    assert contents(resumed) == contents(unbroken)
    names = {path.relative_to(run) for path in run.rglob("*")}
    assert names == {path.relative_to(unbroken.folder) for path in unbroken.folder.rglob("*")}


@pytest.mark.long
def test_same_call_goes_on_or_gives_what_is_finished(noise, unbroken, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stopped(noise, None)
    (folder,) = Path("runs").iterdir()
    other = efftune.train(noise, recipe="quick", image_size=32, test=0.15, resume=True)
    assert other.folder != folder  # another command, another run
    resumed = efftune.train(noise, resume=True, **CHOICES)
    assert resumed.folder == folder
    assert contents(resumed) == contents(unbroken)
    again = efftune.train(noise, run=folder, resume=True, **CHOICES)
    assert again.record == resumed.record
    with pytest.raises(efftune.UsageError, match="no run that this command has begun"):
        efftune.train(noise, run=folder, resume=True, **(CHOICES | {"seed": 1}))


@pytest.mark.ci
def test_nothing_is_measured_again(unfinished_run, monkeypatch):
    for name in ("view_selection.choose_views", "planning.plan_for", "attempt.Attempt"):
        monkeypatch.setattr(f"efftune.training.{name}", lambda *_: pytest.fail("done again"))
    assert efftune.resume(unfinished_run).record["state"] == "finished"


def change(photos, how):
    picture = photos / "a" / "03.png"
    if how == "added":
        Image.new("RGB", (40, 40), "red").save(photos / "a" / "new.png")
    elif how == "removed":
        picture.unlink()
    elif how == "renamed":
        (photos / "a").rename(photos / "c")
    else:  # though size and time stay the same
        status, content = picture.stat(), picture.read_bytes()
        Image.fromarray(np.asarray(Image.open(picture))[::-1]).save(picture)
        changed = picture.read_bytes().ljust(len(content), b"\0")[: len(content)]
        picture.write_bytes(changed)
        os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (picture.stat().st_size, changed == content) == (len(content), False)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("added", r"1 added \(.*new\.png\)"),
        ("removed", r"1 removed \(.*03\.png\)"),
        ("altered", r"1 altered \(.*03\.png\)"),
        ("renamed", r"24 added \(.*24 removed"),
    ],
)
def test_other_pictures_are_refused(noise, unfinished_run, tmp_path, how, told):
    kept = shutil.copytree(noise, tmp_path / "kept")
    change(noise, how)
    try:
        match = f"not those that the run began with: {told}"
        with pytest.raises(efftune.DataError, match=match) as raised:
            efftune.resume(unfinished_run)
        assert "in another split" not in str(raised.value)  # those of others follow from that
    finally:
        shutil.rmtree(noise)
        shutil.copytree(kept, noise)
    assert unfinished.is_unfinished(unfinished_run)  # nothing is lost


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"image_size": 64}, "image_size was 32 and is 64"),
        ({"model": "efficientnet-b0"}, "model was 'efficientnet-lite0' and is 'efficientnet-b0'"),
        ({"test": 0.2}, r"test was 0\.15 and is 0\.2"),
    ],
)
def test_other_settings_are_refused(noise, unfinished_run, choices, told):
    with pytest.raises(efftune.UsageError, match=told):
        efftune.train(noise, run=unfinished_run, resume=True, **(CHOICES | choices))
    assert unfinished.is_unfinished(unfinished_run)


@pytest.mark.parametrize(
    ("name", "told"), [("versions", "keras was"), ("machine", "processors was")]
)
def test_other_surroundings_are_refused(unfinished_run, monkeypatch, name, told):
    found = getattr(machine, name)() | {"keras": "2.0", "processors": 99}
    monkeypatch.setattr(machine, name, lambda: found)
    with pytest.raises(efftune.UsageError, match=told):
        efftune.resume(unfinished_run)


def test_run_that_exists_is_not_begun_again(noise, unfinished_run):
    with pytest.raises(
        efftune.UsageError, match=r"is an unfinished run\. Go on with it by efftune resume"
    ):
        efftune.train(noise, run=unfinished_run, **CHOICES)


@pytest.mark.ci
def test_run_at_work_is_left_alone(unfinished_run, tmp_path, efftune_process):
    assert [each.state for each in listing.listed(tmp_path)] == ["stopped"]
    journal = Journal.reopened(unfinished_run)
    done = efftune_process("resume", unfinished_run)
    assert "Another process is at work" in done.stderr
    assert done.returncode == 2
    listed = json.loads(efftune_process("runs", tmp_path, "--json").stdout)
    assert [each["state"] for each in listed] == ["at work"]
    journal.close()


@pytest.mark.long
def test_what_never_began_is_begun(noise, tmp_path):
    (tmp_path / "run" / "unfinished").mkdir(parents=True)  # stopped before it was written down
    choices = {"recipe": "quick", "image_size": 32, "test": 0.15}
    run = efftune.train(noise, run=tmp_path / "run", resume=True, **choices)
    assert run.record["state"] == "finished"


def test_run_stopped_while_it_was_tidied_up_is_finished(finished_run, tmp_path):
    run = shutil.copytree(finished_run.folder, tmp_path / "run")
    (run / "unfinished" / "checkpoints").mkdir(parents=True)
    (run / "unfinished" / "start.json").touch()
    assert not unfinished.is_unfinished(run)
    assert efftune.Run.load(run).record == finished_run.record
    with pytest.raises(efftune.UsageError, match="no unfinished run"):
        efftune.resume(run)


@pytest.mark.long
def test_error_after_the_run_is_finished_leaves_it(noise, tmp_path):
    choices = {"recipe": "quick", "image_size": 32, "test": 0.15}
    with pytest.raises(KeyboardInterrupt):
        efftune.train(noise, run=tmp_path / "run", on_progress=stop_in("report"), **choices)
    assert efftune.Run.load(tmp_path / "run").record["state"] == "finished"


@pytest.mark.parametrize(
    ("source", "choices", "is_needed"),
    [
        ("photos", {}, True),
        ("sample:digits", {}, False),
        ("sample:digits", {"val": 0.2, "test": 0.15}, False),
        ("sample:digits", {"labels": "photos/labels.csv"}, True),
        ("sample:digits", {"labels": "/corrections/labels.csv", "val": "s3://bucket/val"}, False),
        ("sample:digits", {"weights": "photos/own.pth"}, True),
    ],
)
def test_run_needs_the_folder_where_it_began_for_relative_paths(
    tmp_path, monkeypatch, source, choices, is_needed
):
    (tmp_path / "there" / "photos").mkdir(parents=True)
    for name in ("labels.csv", "own.pth"):
        (tmp_path / "there" / "photos" / name).touch()
    monkeypatch.chdir(tmp_path / "there")
    start = unfinished.start_of(source, Recipe(**choices), 0)
    monkeypatch.chdir(tmp_path)
    with unfinished.working_folder(start):
        assert Path.cwd() == tmp_path / ("there" if is_needed else "")
    shutil.rmtree(tmp_path / "there")
    if is_needed:
        with pytest.raises(efftune.UsageError, match="Restore that folder"):
            unfinished.working_folder(start).__enter__()
    else:
        with unfinished.working_folder(start):
            assert Path.cwd() == tmp_path


@pytest.mark.ci
def test_stopped_before_its_record_was_written(unfinished_run):
    (unfinished_run / "run.json").unlink()
    assert efftune.resume(unfinished_run).record["state"] == "finished"


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_what_is_no_run_cannot_go_on(noise, tmp_path, make):
    make(tmp_path / "thing")
    with pytest.raises(efftune.UsageError, match="no unfinished run"):
        efftune.resume(tmp_path / "thing")
    (tmp_path / "file").touch()
    with pytest.raises(efftune.UsageError, match="no run that this command has begun"):
        efftune.train(noise, run=tmp_path / "file", resume=True, **CHOICES)


def stop_after(epochs, place="upper"):
    """Stop in training after some epochs and a step."""

    def stop(phase, done, total):
        if phase == place and done > epochs * total // CHOICES["epochs"] + 1:
            raise KeyboardInterrupt

    return stop


@pytest.mark.ci
@pytest.mark.parametrize("epochs", [pytest.param(0, marks=pytest.mark.long), 1])
def test_impatient_user_gets_a_classifier(noise, unbroken, tmp_path, monkeypatch, epochs):
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "0")
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="is not finished"):
        efftune.train(noise, run=tmp_path / "run", on_progress=stop_after(epochs), **CHOICES)
    kept = shutil.copytree(tmp_path / "run", tmp_path / "kept")
    run = efftune.finish(tmp_path / "run")
    stages = run.record["stages"]
    assert [each["epochs"] for each in stages] == [1] * epochs
    assert any("finished early" in note for note in run.record["plan"]["notes"])
    assert len(run.classifier.predict([noise / "a" / "00.png"])) == 1
    assert not (run.folder / "unfinished").exists()
    if epochs:
        assert stages[0]["failures"] == ["finished after 1 of 2 epochs, as asked"]
        first, *_ = (row for row in history(unbroken) if row["stage"] == "upper")
        assert [row for row in history(run) if row["stage"] == "upper"] == [first]
    # To finish decides nothing for good: a copy goes on to the same bits.
    assert contents(efftune.resume(kept)) == contents(unbroken)


@pytest.mark.long
def test_impatient_user_of_folds_gets_the_head(noise, tmp_path, monkeypatch):
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "0")
    choices = {key: value for key, value in CHOICES.items() if key != "test"} | {"folds": 2}
    for number, place in enumerate(["upper, fold 2 of 2", "upper, all pictures"]):
        run = tmp_path / str(number)
        monkeypatch.setattr(out_of_fold, "is_hopeless", lambda *_: False)
        monkeypatch.setattr(out_of_fold, "choose", lambda each, *_: len(each) - 1)
        with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="not finished"):
            efftune.train(noise, run=run, on_progress=stop_after(1, place), **choices)
        finished = efftune.finish(run)
        assert finished.evaluation.cross_validation.folds == 2
        assert [each["best_epoch"] for each in finished.record["stages"]] == [0]


@pytest.mark.long
def test_nothing_trained_is_not_finished(noise, tmp_path, monkeypatch):
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "0")
    choices = {"recipe": "scratch", "image_size": 32, "scratch_epochs": 2, "batch_size": 8}
    stop = stop_in("scratch")
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="not finished"):
        efftune.train(noise, run=tmp_path / "run", test=0.15, on_progress=stop, **choices)
    with (
        pytest.raises(efftune.UsageError, match="No epoch is complete yet"),
        pytest.warns(UserWarning, match="not finished"),
    ):
        efftune.finish(tmp_path / "run")


@pytest.mark.long
def test_stopped_search_goes_on_with_the_same_trials(noise, tmp_path):
    choices = CHOICES | {"budget": "100m", "epochs": 4, "views": 1}
    whole = efftune.search(noise, run=tmp_path / "whole", **choices)
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="is not finished"):
        stop = stop_in(f"upper, way 5 of {len(whole.record['settings'])}, 1 epochs")
        efftune.search(noise, run=tmp_path / "run", on_progress=stop, **choices)
    resumed = efftune.resume(tmp_path / "run")
    assert contents(resumed) == contents(whole)
    with pytest.raises(efftune.UsageError, match="no unfinished run"):
        efftune.finish(tmp_path / "run")
    trials = [
        [{**each, "seconds": 0} for each in run.record["settings"]] for run in (whole, resumed)
    ]
    assert trials[0] == trials[1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("way", "rung", "epochs"),
    [(1, 1, []), (2, 1, [1]), (1, 2, [1]), (2, 2, [1, 2])],  # at (1, 1), nothing is trained yet
)
def test_impatient_user_of_a_search_gets_the_best_so_far(
    noise, tmp_path, monkeypatch, way, rung, epochs
):
    ways = [{}, {"mix": "mixup"}, *({"learning_rate": rate} for rate in (1e-3, 1e-4, 1e-5))]
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(settings_search, "candidates", lambda *_: ways)

    def stop(phase, done, _total):
        if done > 1 and phase.startswith(f"upper, way {way}") and phase.endswith(f"{rung} epochs"):
            raise KeyboardInterrupt

    choices = CHOICES | {"budget": "100m", "epochs": 2, "views": 1}
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="is not finished"):
        efftune.search(noise, run=tmp_path / "run", on_progress=stop, **choices)
    run = efftune.finish(tmp_path / "run")
    trials = run.record["settings"]
    assert sorted(map(str, ways)) == sorted(str(each["settings"]) for each in trials)
    trained = [each for each in trials if each["epochs"] == max(epochs, default=math.inf)]
    chosen = [each for each in trials if each["outcome"] == "chosen"]
    assert [each["epochs"] for each in chosen] == epochs[-1:]
    assert all(each in trained for each in chosen)
    assert {each["outcome"] for each in trials if not each["epochs"]} <= {"no time"}
    assert [each["epochs"] for each in run.record["stages"]] == epochs[-1:]
    assert any("finished early" in note for note in run.record["plan"]["notes"])
    assert len(run.classifier.predict([noise / "a" / "00.png"])) == 1


def test_room_for_a_checkpoint_is_looked_for_before_the_first_step(noise, tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(journal.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))

    def count(phase, _done, total):
        if phase == "upper" and total:
            steps.append(phase)

    full = pytest.raises(efftune.errors.DiskFull, match="bytes are needed, 1,048,576 are free")
    with pytest.warns(efftune.EfftuneWarning, match="has little room"), full:
        efftune.train(noise, run=tmp_path / "run", on_progress=count, **CHOICES)
    assert not steps


@pytest.mark.ci
def test_failed_run_is_not_kept(noise, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "_EXPLODED", 0.0)
    with pytest.raises(efftune.DataError, match="diverged"):
        efftune.train(noise, run=tmp_path / "run", **CHOICES)
    assert not (tmp_path / "run").exists()


def test_finished_and_damaged_runs_are_listed(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "whole")
    (tmp_path / "other").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    found = {Path(each.run).name: each for each in listing.listed(tmp_path)}
    assert {name: each.state for name, each in found.items()} == {
        "whole": "finished",
        "damaged": "damaged",
    }
    assert found["whole"].accuracy == finished_run.evaluation.test.accuracy
    assert found["whole"].bytes > 1e6
    with pytest.raises(efftune.UsageError, match="no folder"):
        listing.listed(tmp_path / "nowhere")


def killed(command, environment, seconds):
    """Kill a command and its children after some seconds; whether it was still at work."""
    process = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=seconds) < 0
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait() < 0


RANDOM = {"dropout": 0.2, "drop_connect_rate": 0.2, "ema": 0.5, "mix": "mixup"}
SMALL = {"image_size": 32, "unfreeze": "block7", "epochs": 3, "batch_size": 8, "augment": "light"}


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "quick", "image_size": 32, "test": 0.15},
        {"name": "balanced", "test": 0.15, **SMALL, **RANDOM},
        {"name": "balanced", "folds": 2, **SMALL, **RANDOM},
        {"name": "thorough", "test": 0.15, "members": 2, **SMALL},
    ],
    ids=["quick", "balanced", "folds", "thorough"],
)
def test_run_killed_anywhere_comes_to_the_same(noise, tmp_path, settings):
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "efftune", "train", str(noise), *options[2:]]
    command += ["--recipe", settings["name"], "--quiet"]
    environment = os.environ | {"EFFTUNE_CHECKPOINT_SECONDS": "0"}
    environment["EFFTUNE_CACHE"] = str(tmp_path / "cache")
    start = time.perf_counter()
    subprocess.run([*command, "--run", str(tmp_path / "whole")], env=environment, check=True)
    took, random = time.perf_counter() - start, np.random.default_rng(0)
    resume = [*command, "--run", str(tmp_path / "run"), "--resume"]
    environment["EFFTUNE_CACHE"] = str(tmp_path / "own-cache")
    for _ in range(2):
        killed(resume, environment, random.uniform(2, took))
    subprocess.run(resume, env=environment, check=True)
    found, expected = (contents(efftune.Run.load(tmp_path / name)) for name in ("run", "whole"))
    assert found == expected
