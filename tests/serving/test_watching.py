import asyncio
import errno
import os
import shutil
import sys
import time

import pytest

from conftest import COLOURS, fill, square
from efftune.cli.main import serve_command  # after the other commands, as it registers itself
from efftune.cli.setting_options import Output
from efftune.delivery import sorted_files, sorting
from efftune.errors import DataError, UsageError
from efftune.serving import watching
from efftune.serving.service import Service
from efftune.serving.settings import ServerSettings
from efftune.serving.state import State
from efftune.serving.watching import Watcher
from serving.processes import ask, process


@pytest.fixture(scope="module")
def service(finished_run):
    return Service.load(finished_run.folder)


@pytest.fixture
def state(service):
    found = State(ServerSettings(at_work=2, most_waiting=4))
    found.serve(service)
    yield found
    found.answering.close()


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path / "watched", count=2)


@pytest.fixture
def into(tmp_path):
    return tmp_path / "sorted"


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(watching, "POLL", 0.02)
    monkeypatch.setattr(watching, "_REST", 0)


def placed(into):
    return {
        str(path.relative_to(into)): path.stat().st_ino
        for path in into.rglob("*")
        if path.is_file() and path.name != sorted_files.UNDO
    }


def watched(watcher, state, is_done, change=lambda: None):
    """Watch until something is so; `change` happens after a first while."""

    async def work():
        task = asyncio.ensure_future(watcher.watch(state))
        await asyncio.sleep(0.3)
        change()
        end = time.monotonic() + 20
        while not is_done():
            assert time.monotonic() < end and not task.done()
            await asyncio.sleep(0.02)
        task.cancel()

    asyncio.run(work())


def test_photos_are_sorted_by_class_and_stay(folder, into, state):
    events, before = [], placed(folder)
    watcher = Watcher(folder, into, lambda *event: events.append(event))
    new = folder / "deep" / "er" / "new.png"

    def come():
        new.parent.mkdir(parents=True)
        square(COLOURS["red"], 99).save(new)

    watched(watcher, state, lambda: len(placed(into)) == 7, come)
    assert {name: placed(folder)[name] for name in before} == before
    found = placed(into)
    for colour in COLOURS:
        for path in (folder / colour).iterdir():
            assert path.stat().st_ino in found.values()
    by_inode = {inode: name for name, inode in found.items()}
    said = state.service.classifier.predict([new])[0]
    wanted = "unsure" if said.unsure or said.unlike else said.label
    assert by_inode[new.stat().st_ino] == f"{wanted}/new.png"
    assert [kind for kind, _ in events] == ["sorted"] * 7
    watcher.close()
    assert sorted_files.undo(into).removed == 7


def test_restart_does_nothing_twice(folder, into, state):
    watched(Watcher(folder, into, print), state, lambda: len(placed(into)) == 6)
    taken = sorted(into.rglob("*.png"))[0]
    taken.unlink()  # by its owner
    again = Watcher(folder, into, print)
    assert again.look() == {}


def test_another_photo_under_the_same_name_is_sorted_too(folder, into, state):
    events = []
    watcher = Watcher(folder, into, lambda *event: events.append(event))
    photo = folder / "red" / "01.png"

    def begin_anew():
        photo.unlink()
        square(COLOURS["red"], 99).save(photo)

    watched(watcher, state, lambda: len(placed(into)) == 6)
    watched(watcher, state, lambda: len(placed(into)) == 7, begin_anew)
    assert photo.stat().st_ino in placed(into).values()
    assert watcher.look() == {}
    watcher.close()
    again = Watcher(folder, into, print)
    assert again.look() == {}
    again.close()


def test_touched_photo_is_not_sorted_again(folder, into, state):
    events = []
    watcher = Watcher(folder, into, lambda *event: events.append(event))
    looks, look, size = [], watcher.look, (folder / "red" / "01.png").stat().st_size

    def looked():
        looks.append(look())
        return looks[-1]

    watcher.look = looked
    photo = folder.resolve() / "red" / "01.png"
    watched(watcher, state, lambda: len(placed(into)) == 6)
    looks.clear()
    watched(
        *(watcher, state, lambda: {photo: (size, 10**18)} in looks and looks[-1] == {}),
        lambda: os.utime(photo, ns=(0, 10**18)),
    )
    assert [kind for kind, _ in events] == ["sorted"] * 6


def test_any_error_is_told_once_and_gone_on_with(folder, into, state, monkeypatch):
    events, broken = [], [True]
    original, walk = watching._predicted, os.walk

    def fails(predicting, path):
        if broken and path.name == "01.png":
            raise ValueError("odd")
        return original(predicting, path)

    def walks(*arguments):
        if broken and len(events) > 3:
            raise RuntimeError("no folder")
        return walk(*arguments)

    monkeypatch.setattr(watching, "_predicted", fails)
    monkeypatch.setattr(os, "walk", walks)
    watcher = Watcher(folder, into, lambda *event: events.append(event))

    def problems():
        return [value for kind, value in events if kind == "problem"]

    watched(watcher, state, lambda: len(problems()) == 2)
    watched(watcher, state, lambda: len(placed(into)) == 6, broken.clear)
    assert [value.rpartition(": ")[2] for value in problems()] == [
        "ValueError('odd')",
        "RuntimeError('no folder')",
    ]
    assert sum(kind == "sorted" for kind, _ in events) == 6


def test_photo_that_a_crash_cut_off_is_sorted_after_it(folder, into, state, monkeypatch):
    class Crash(BaseException):
        pass

    def crash(*_):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", crash)
        sorter = sorting.Sorter(into, state.service.classifier.class_names)
        with pytest.raises(Crash):
            sorter.place(state.service.classifier.predict([folder / "red" / "01.png"]))
    assert len(sorted_files.recorded(into)) == 1 and not placed(into)
    assert len(Watcher(folder, into, print).look()) == 6


def test_half_written_file_waits(folder, into, state, monkeypatch):
    events, looks = [], []
    whole = (folder / "red" / "01.png").read_bytes()
    watcher = Watcher(folder, into, lambda *event: events.append(event))
    look = watcher.look

    def grows():
        looks.append(200 * len(looks))
        if looks[-1] < len(whole) + 200:
            (folder / "growing.png").write_bytes(whole[: looks[-1]])
        return look()

    monkeypatch.setattr(watcher, "look", grows)
    watched(watcher, state, lambda: any(name.endswith("growing.png") for name in placed(into)))
    assert [kind for kind, _ in events] == ["sorted"] * 7
    assert len(looks) > len(whole) / 200


def test_what_is_no_photo_is_told_once_and_again_if_it_changes(folder, into, state):
    events = []
    (folder / "note.txt").write_text("nothing")
    (folder / ".hidden.png").write_bytes(b"nothing")
    (folder / "link.png").symlink_to(folder / "red" / "01.png")
    os.mkfifo(folder / "pipe.png")
    watcher = Watcher(folder, into, lambda *event: events.append(event))

    def problems():
        return [value for kind, value in events if kind == "problem"]

    def change():
        shutil.copy(folder / "red" / "01.png", folder / "note.txt")

    watched(watcher, state, lambda: len(placed(into)) == 7, change)
    assert problems() == [f"{folder.resolve()}/note.txt is not sorted: not an image."]


@pytest.mark.skipif(sys.platform == "win32", reason="names of files have no line breaks there")
def test_names_forge_no_line_of_the_log(folder, into, state, capsys):
    (folder / "red" / "01.png").rename(folder / "a\nReady: b.png")
    (folder / "c\r\nSorted: d.png").write_text("nothing")

    def tell(event, value):
        serve_command._tell(event, value, "run", Output(json=False, quiet=False))

    watched(Watcher(folder, into, tell), state, lambda: len(placed(into)) == 6)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 6
    assert all(line.startswith("Sorted: /") for line in printed.out.splitlines())
    assert "/a\\nReady: b.png" in printed.out
    assert printed.err.endswith("/c\\r\\nSorted: d.png is not sorted: not an image.\n")
    assert len(printed.err.splitlines()) == 1


def test_file_that_goes_meanwhile_is_nothing(folder, into, state, monkeypatch):
    events = []
    watcher = Watcher(folder, into, lambda *event: events.append(event))
    original = watching._predicted

    def gone_before(predicting, path):
        if path.name == "00.jpg":
            path.unlink()
        found = original(predicting, path)
        if path.name == "01.png" and path.parent.name == "red":
            path.unlink()  # after it was read
        return found

    monkeypatch.setattr(watching, "_predicted", gone_before)
    watched(watcher, state, lambda: len(placed(into)) == 2)
    assert [kind for kind, _ in events] == ["sorted"] * 2


def test_full_disk_is_told_once_and_gone_on_with_later(folder, into, state, monkeypatch):
    events = []
    link, full = os.link, [True]

    def maybe(*arguments):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return link(*arguments)

    monkeypatch.setattr(os, "link", maybe)
    watcher = Watcher(folder, into, lambda *event: events.append(event))
    watched(watcher, state, lambda: len(placed(into)) == 6, full.clear)
    assert [kind for kind, _ in events] == ["problem", *["sorted"] * 6]
    assert "Make room" in events[0][1]


def test_sorted_photos_in_the_watched_folder_are_not_sorted_again(folder, state):
    watcher = Watcher(folder, folder / "sorted", print)
    watched(watcher, state, lambda: len(placed(folder / "sorted")) == 6)
    assert watcher.look() == {}


def test_requests_come_first(folder, into, state, monkeypatch):
    """Not more than one photo is at work, and none takes the room of requests."""
    at_work = []
    original = watching._predicted

    def counted(predicting, path):
        at_work.append(state.answering.waiting + state.answering.at_work)
        return original(predicting, path)

    monkeypatch.setattr(watching, "_predicted", counted)
    watcher = Watcher(folder, into, print)
    watched(watcher, state, lambda: len(placed(into)) == 6)
    assert set(at_work) == {1}


def test_folders_that_cannot_be_used_are_refused(folder, into, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        Watcher(tmp_path / "gone", into, print)
    for place in (folder, tmp_path):
        with pytest.raises(UsageError, match="lies in --sort-into"):
            Watcher(folder, place, print)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written to"):
        Watcher(folder, tmp_path / "file" / "below", print)
    into.mkdir()
    (into / "undo.jsonl").write_text("nothing\n")
    with pytest.raises(DataError, match="damaged"):
        Watcher(folder, into, print)
    with pytest.raises(UsageError, match="go together"):
        ServerSettings(watch=folder)


@pytest.mark.ci
def test_process_watches_and_answers(finished_run, folder, into):
    with process(finished_run.folder, "--watch", folder, "--sort-into", into) as server:
        server.wait_for("sorted", 6)
        picture = (folder / "red" / "01.png").read_bytes()
        assert ask(f"{server.url}/predict", picture)[0] == 200
        assert server.stop() == (0, "")
    assert len(placed(into)) == 6


def test_one_server_at_a_time_sorts_into_a_folder(folder, into):
    first = Watcher(folder, into, print)
    with pytest.raises(UsageError, match="Another efftune sorts into"):
        Watcher(folder, into, print)
    first.close()
    Watcher(folder, into, print).close()
