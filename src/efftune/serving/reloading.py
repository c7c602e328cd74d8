"""Which run is served, and when another one takes its place."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from efftune.errors import EfftuneError, UsageError
from efftune.model.classifier import Classifier
from efftune.serving.service import Service
from efftune.system.journal import RECORD


@dataclass(frozen=True, order=True)
class _Finished:
    """A finished run in a folder of runs.

    Attributes:
        when: it was finished, in nanoseconds since 1970.
        path: of its folder.
    """

    when: int
    path: Path


class Served:
    """What a server was asked to serve: a run, or the newest one in a folder of runs.

    Its methods take seconds, and are called by one thread at a time.

    Attributes:
        is_latest: whether it is the newest one in a folder.
    """

    def __init__(
        self,
        place: Path,
        load: Callable[[Path], Classifier],
        on_problem: Callable[[str], None],
        *,
        is_latest: bool,
    ):
        """Load nothing yet.

        Args:
            place: the run folder or exported file; or the folder of runs.
            load: loads a classifier.
            on_problem: called with what is wrong with a run that cannot be served.
            is_latest: whether it is a folder of runs.
        """
        self.is_latest = is_latest
        self._place, self._load_classifier, self._on_problem = place, load, on_problem
        self._current: _Finished | None = None
        self._refused = dict[_Finished, tuple[int, int]]()  # and what their folders held
        self._told = dict[Path, str]()
        self._listed: dict[Path, tuple[int, bool]] = {}

    def first(self) -> Service:
        """Load what is served first.

        Raises:
            UsageError: there is no such run, or none in the folder.
            DataError: the run is damaged.
        """
        if not self.is_latest:
            return self._load(self._place)
        if not self._place.is_dir():
            raise UsageError(f"There is no folder {self._place}. Give that of your runs.")
        service = self.newer()
        if service is None:
            raise UsageError(
                f"{self._place} holds no finished run that can be served. Give the folder that "
                "holds your runs, or train one."
            )
        return service

    def again(self) -> Service | None:
        """Load the run again, or a newer one; None if there is none, or it cannot be served."""
        self._refused.clear()
        self._told.clear()
        return self.newer() if self.is_latest else self._tried(self._place)

    def newer(self) -> Service | None:
        """Load the newest run in the folder that can be served, if it is newer than the current.

        One that could not be is tried again when its folder has changed: it may have been copied.
        """
        for each in self._finished():
            if self._current is not None and each <= self._current:
                break
            held = _held(each.path)
            if self._refused.get(each) == held:
                continue
            service = self._tried(each.path)
            if service is not None:
                self._current = each
                return service
            self._refused[each] = held
        return None

    def _tried(self, path: Path) -> Service | None:
        """Load a run; what is wrong with it is told once."""
        try:
            return self._load(path)
        except EfftuneError as error:
            problem = f"{path} is not served: {error}"
        except Exception as error:  # noqa: BLE001  (whatever it is, the server goes on)
            problem = f"{path} is not served: {type(error).__name__}: {error}"
        if self._told.get(path) != problem:
            self._told[path] = problem
            self._on_problem(problem)
        return None

    def _load(self, path: Path) -> Service:
        """Load a run; all of it from one folder, even if `path` becomes a link to another."""
        name = self._place.resolve().name if self.is_latest else path.absolute().name
        return Service.load(path.resolve(), self._load_classifier, name)

    def _finished(self) -> list[_Finished]:
        """The finished runs in the folder, the newest first; only records that are new are read."""
        listed = dict[Path, tuple[int, bool]]()
        with suppress(OSError):  # the folder is gone, perhaps for a moment
            for path in self._place.iterdir():
                with suppress(OSError):  # what is there is no run, or it is gone
                    when = (path / RECORD).stat().st_mtime_ns
                    known = self._listed.get(path, (0, False))
                    listed[path] = known if known[0] == when else (when, _is_finished(path))
        self._listed = listed
        found = [_Finished(when, path) for path, (when, is_one) in listed.items() if is_one]
        return sorted(found, reverse=True)


def _held(folder: Path) -> tuple[int, int]:
    """What a folder holds: the newest time of its files, and their bytes."""
    newest = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it is gone
                status = Path(place, name).lstat()
                newest, size = max(newest, status.st_mtime_ns), size + status.st_size
    return newest, size


def _is_finished(run: Path) -> bool:
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
        return bool(record["state"] == "finished")
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
