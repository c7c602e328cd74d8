"""Requests that fail, on a file system that can be told to."""

import threading
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from efftune.data.sources import copies, copy_folder, storage
from efftune.errors import DataError, DiskFull, UsageError
from efftune.system.progress import silent

pytestmark = pytest.mark.usefixtures("own_cache")


class Faulty(MemoryFileSystem):
    """Raises what is planted, once for each."""

    protocol = "faulty"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    planted: ClassVar[list] = []
    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("faulty://", "memory://"))

    def get_file(self, rpath, lpath=None, **more):
        fault = self.planted.pop(0) if self.planted else None
        if fault == "cut":
            with open(lpath, "wb") as stream:  # noqa: PTH123
                stream.write(b"12")
            more["callback"].relative_update(2)
        elif fault is not None:
            raise fault
        else:
            super().get_file(rpath, lpath, **more)

    def ls(self, path, detail=True, **more):
        if self.planted and self.planted[0] == "listing":
            self.planted.pop(0)
            raise ConnectionResetError("reset")
        return super().ls(path, detail, **more)


@pytest.fixture
def faulty(monkeypatch):
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    monkeypatch.setattr(storage, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(Faulty, "planted", [])
    system = Faulty()
    system.pipe({f"/photos/cat/{number}.jpg": b"12345678" for number in range(5)})
    yield system
    system.rm("/photos", recursive=True)


@pytest.mark.parametrize(
    "faults",
    [
        ["listing", "listing"],
        [ConnectionResetError("reset")] * 4,
        [OSError("503 Slow Down"), TimeoutError(), "cut", "cut"],
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again_and_counted(faulty, faults):
    count = len(faults)
    faulty.planted += faults
    place = storage.Storage("faulty://photos")
    entries = place.files()
    own = copy_folder.CopyFolder("faulty://photos", keep=True)
    reported = []
    own.bring(place, entries, lambda *each: reported.append(each))
    assert place.retries == count
    assert len(list(own.folder.rglob("*.jpg"))) == 5
    assert {path.read_bytes() for path in own.folder.rglob("*.jpg")} == {b"12345678"}
    assert reported[-1] == ("copy", 40, 40)


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (ConnectionResetError("reset"), DataError, "reset. Start again: what was copied is kept."),
        (PermissionError("Forbidden"), DataError, "Forbidden. Check your permission"),
        (FileNotFoundError("gone"), UsageError, "There is nothing at faulty:///photos/cat/3.jpg"),
        (OSError(28, "No space left on device"), DiskFull, "Make room and try again"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)
def test_what_was_copied_before_is_kept(faulty, fault, kind, text):
    faulty.planted += [None] * 3 + [fault] * 10
    with pytest.raises(kind, match=text):
        copies.of_folder("faulty://photos", silent)
    faulty.planted.clear()
    reported = []
    folder = copies.of_folder("faulty://photos", lambda *each: reported.append(each))
    assert reported[-1] == ("copy", 16, 16)
    assert len(list(folder.rglob("*"))) == 1 + 5


def test_bytes_that_come_again_are_counted_once(faulty, tmp_path):
    faulty.planted += ["cut", "cut"]
    place, counted = storage.Storage("faulty://photos"), []
    assert place.fetch(place.files()[0], tmp_path / "copy.jpg", counted.append) == 8
    assert sum(counted) == 8


def test_copying_ends_soon_when_it_is_stopped(faulty, monkeypatch):
    began, stop = threading.Event(), []

    def endless(self, rpath, lpath=None, callback=None, **more):
        began.set()
        while True:
            callback.relative_update(0)

    monkeypatch.setattr(Faulty, "get_file", endless)

    def on_progress(phase, done, total):
        if phase == "copy" and began.is_set() and not stop:
            stop.append(True)
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, DataError)):
        copies.of_folder("faulty://photos", on_progress)
    assert stop
