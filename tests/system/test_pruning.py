import os
import shutil
import time
from collections import namedtuple

import pytest

from efftune.system import pruning

DAY = 24 * 3600


@pytest.fixture
def full(monkeypatch):
    """Pretend that the disk is full."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: namedtuple("disk", "free")(0))


def folder(parent, name, days, size=1000):
    """A folder with a file below, not touched for some days."""
    below = parent / name / "class"
    below.mkdir(parents=True)
    (below / "picture").write_bytes(bytes(size))
    for path in (below, parent / name):
        os.utime(path, times=(time.time() - days * DAY,) * 2)
    return parent / name


def left(parent):
    return {path.name for path in parent.iterdir()}


def test_sets_not_used_for_longest_make_room(tmp_path, full):
    for days in (20, 30, 10, 40):
        folder(tmp_path, str(days), days)
    pruning.prune_sources(tmp_path)
    assert left(tmp_path) == {"10", "20"}  # half of the disk


def test_set_of_a_run_that_lasts_for_days_stays(tmp_path, full):
    for days in (6, 5, 8):
        folder(tmp_path, str(days), days, size=10**6)
    pruning.prune_sources(tmp_path)
    assert left(tmp_path) == {"5", "6"}
    os.utime(tmp_path / "6", times=(0, 0))
    pruning.note_use(tmp_path / "6")
    pruning.prune_sources(tmp_path)
    assert left(tmp_path) == {"5", "6"}


def test_what_a_stopped_process_has_left_goes_though_there_is_room(tmp_path):
    folder(tmp_path, ".partial-old", 2)
    folder(tmp_path, ".partial-new", 0.5)
    at_work = folder(tmp_path, ".partial-long", 2)
    os.utime(at_work / "class")  # a picture was just added
    folder(tmp_path, "whole", 50)
    pruning.prune_sources(tmp_path)
    assert left(tmp_path) == {".partial-new", ".partial-long", "whole"}


def test_what_is_being_written_stays_however_full_the_disk_is(tmp_path, full):
    at_work = folder(tmp_path, ".partial-long", 20)
    os.utime(at_work / "class")
    folder(tmp_path, "whole", 50)
    pruning.prune_sources(tmp_path)
    assert left(tmp_path) == {".partial-long"}


def test_where_there_is_nothing_nothing_is_pruned(tmp_path):
    pruning.prune_sources(tmp_path / "none")
    pruning.note_use(tmp_path / "none")


def test_half_written_folder_that_is_renamed_just_now_is_new(tmp_path):
    assert pruning._last_written(tmp_path / "gone") == pytest.approx(time.time(), abs=60)
