import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT
from efftune.errors import DataError, DiskFull, EfftuneWarning, UsageError
from efftune.system import journal
from efftune.system.journal import FOLDER, RECORD, Journal, Pace

ARRAYS = {"weights": [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int64)]}


@pytest.fixture
def begun(tmp_path):
    made = Journal()
    made.begin(tmp_path, {"source": "photos"})
    yield made
    made.close()


def reopened(begun):
    begun.close()
    again = Journal.reopened(begun.folder.parent)
    again.close()
    return again


def test_decision_is_made_once(begun):
    assert begun.decided("views", lambda: {"flip": ("yes", 0.1)}) == {"flip": ["yes", 0.1]}
    for each in (begun, reopened(begun)):
        assert each.decided("views", lambda: pytest.fail("asked again")) == {"flip": ["yes", 0.1]}


def test_decision_before_the_folder_is_kept_in_it(tmp_path):
    early = Journal()
    early.decided("model", lambda: "lite0")
    early.begin(tmp_path, {})
    assert reopened(early).decided("model", lambda: "b0") == "lite0"


def test_damaged_decision_is_refused(begun):
    begun.decided("views", lambda: 4)
    path = begun.folder / "decisions" / "views.json"
    path.write_text(path.read_text().replace("4", "5"))
    with pytest.raises(DataError, match=r"views\.json is damaged: its checksum differs"):
        reopened(begun).decided("views", lambda: 4)


def test_checkpoint_comes_back_as_it_was(begun):
    state = {"step": 3, "loss": 0.1 + 0.2, "nothing": float("nan")}
    begun.checkpoints("upper, fold 1 of 5").save(state, ARRAYS)
    found, arrays = reopened(begun).checkpoints("upper, fold 1 of 5").latest()
    assert json.dumps(found) == json.dumps(state)
    assert list(arrays) == ["weights"]
    for array, expected in zip(arrays["weights"], ARRAYS["weights"], strict=True):
        assert array.dtype == expected.dtype
        assert (array == expected).all()


def test_arrays_keep_their_order(begun):
    kept = begun.checkpoints("upper")
    kept.save({}, {"variables": [np.array(i) for i in range(120)]})
    _, arrays = kept.latest()
    assert [int(each) for each in arrays["variables"]] == list(range(120))


def test_room_is_required_before_the_work(begun):
    free = shutil.disk_usage(begun.folder).free
    begun.checkpoints("upper").require_room(free // 2)
    Journal().checkpoints("upper").require_room(4 * free)  # nothing is kept
    with pytest.raises(DiskFull, match=rf"{4 * free:,} bytes are needed, [\d,]+ are free"):
        begun.checkpoints("upper").require_room(4 * free)


def test_two_checkpoints_are_kept(begun):
    kept = begun.checkpoints("upper")
    for step in range(4):
        kept.save({"step": step}, ARRAYS)
    folder = begun.folder / "checkpoints" / "upper"
    assert sorted(path.name for path in folder.iterdir()) == ["000003", "000004"]
    assert kept.latest()[0] == {"step": 3}
    kept.save({"result": 1}, ARRAYS, last=True)
    assert [path.name for path in folder.iterdir()] == ["000005"]


def flipped(content, random):
    changed = bytearray(content)
    changed[random.integers(len(content))] ^= 1 << random.integers(8)
    return bytes(changed)


def truncated(content, random):
    return content[: random.integers(len(content))]


@pytest.mark.parametrize("name", ["state.json", "arrays.npz", "sha256.json"])
@pytest.mark.parametrize(("damage", "times"), [(flipped, 60), (truncated, 20)])
def test_damaged_checkpoint_is_noticed_and_the_one_before_taken(begun, name, damage, times):
    kept, random = begun.checkpoints("upper"), np.random.default_rng(0)
    for time in range(times):
        kept.save({"step": time}, ARRAYS)
        kept.save({"step": -1}, ARRAYS)
        newest = max((begun.folder / "checkpoints" / "upper").iterdir())
        (newest / name).write_bytes(damage((newest / name).read_bytes(), random))
        with pytest.warns(EfftuneWarning, match=f"The checkpoint {newest} is damaged"):
            assert kept.latest()[0] == {"step": time}
        assert not newest.exists()


def test_only_checkpoint_damaged_means_none(begun):
    kept = begun.checkpoints("upper")
    kept.save({"step": 0}, ARRAYS)
    (path,) = (begun.folder / "checkpoints" / "upper").iterdir()
    (path / "arrays.npz").unlink()
    with pytest.warns(EfftuneWarning, match="is damaged"):
        assert kept.latest() is None


def test_second_process_is_told(begun):
    script = (
        "import sys; from pathlib import Path; from efftune.system.journal import Journal; "
        "Journal.reopened(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(begun.folder.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "UsageError: Another process is at work on" in done.stderr
    begun.close()
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_what_was_being_written_is_removed(begun):
    half = begun.folder / "checkpoints" / "upper" / ".partial-x"
    half.mkdir(parents=True)
    (half / ".partial-z.json").touch()
    (begun.folder.parent / ".partial-y.csv").touch()
    reopened(begun)
    assert not list(begun.folder.parent.rglob(".partial-*"))


@pytest.mark.ci
def test_writer_killed_anywhere_leaves_a_whole_state():
    script = ROOT / "benchmarks" / "damaged_checkpoints.py"
    command = [sys.executable, str(script), "kills", "--times", "60"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_record_says_how_to_go_on(begun):
    begun.progress = lambda: ("upper, fold 2 of 5", {"features": 3.5})
    begun.reach()
    record = json.loads((begun.folder.parent / RECORD).read_text())
    assert record["state"] == "unfinished"
    assert record["phase"] == "upper, fold 2 of 5"
    assert record["to_go_on"] == f"efftune resume {begun.folder.parent}"
    assert reopened(begun).seconds == {"features": 3.5}


def test_finished_journal_leaves_nothing(begun):
    run = begun.folder.parent
    begun.checkpoints("upper").save({}, ARRAYS)
    begun.end()
    assert not (run / FOLDER).exists()


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_record_may_be_damaged(begun, content):
    (begun.folder.parent / RECORD).write_text(content)
    assert reopened(begun).seconds == {}


def test_without_a_folder_nothing_is_kept(tmp_path):
    kept = Journal().checkpoints("upper")
    kept.save({}, ARRAYS)
    assert kept.latest() is None
    assert not kept.is_due(1, ends_epoch=True)


def test_pace_limits_how_much_time_is_spent(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(journal.time, "perf_counter", lambda: now[0])
    monkeypatch.delenv("EFFTUNE_CHECKPOINT_SECONDS", raising=False)
    pace, size = Pace(), 10**8
    assert not pace.allows(size, ends_epoch=True)  # half a second, as long as none was measured
    now[0] = 60.0
    assert pace.allows(size, ends_epoch=False)
    pace.took(0.5, size)
    now[0] = 80.0
    assert not pace.allows(size, ends_epoch=False)  # 30 seconds have not passed
    assert not pace.allows(size, ends_epoch=True)  # 1 % of the time is 0.8 s
    now[0] = 100.0
    assert pace.allows(size, ends_epoch=True)


def test_pace_may_be_set(monkeypatch):
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "0")
    assert Pace().allows(10**12, ends_epoch=False)
    monkeypatch.setenv("EFFTUNE_CHECKPOINT_SECONDS", "30s")
    with pytest.raises(UsageError, match="EFFTUNE_CHECKPOINT_SECONDS is a number"):
        Pace()


def test_reopening_needs_the_lock(begun):
    with pytest.raises(UsageError, match="Another process"):
        Journal.reopened(begun.folder.parent)
