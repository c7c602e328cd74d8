"""A folder whose new photos are sorted by class as they come."""

import asyncio
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from efftune.data import picture_bytes
from efftune.delivery.sorted_files import PhotoState, held, recorded
from efftune.delivery.sorting import Sorted, Sorter
from efftune.errors import BadImage, DiskFull, EfftuneError, UsageError
from efftune.model.prediction import Prediction
from efftune.serving.answering import Predicting, Unreadable
from efftune.serving.service import Service
from efftune.serving.settings import POLL
from efftune.serving.state import State

_REST = 10  # of looking at a folder: so many times as long, it is not looked at
_Known = Mapping[Path, tuple[int, int]]  # size and time of last change


class Watcher:
    """Sorts the photos in a folder, and those that come, into another one.

    A photo is sorted once, whatever becomes of what was placed, and only when its file has not
    changed between two looks; another photo under the same name is sorted, too. Hidden files and
    links are left alone. At most one photo is at work at a time, beside those of requests.
    """

    def __init__(self, folder: Path, into: Path, on_event: Callable[[str, str], None]):
        """Begin, or go on after the process has ended.

        Args:
            folder: with the photos, perhaps in folders.
            into: the folder for a folder of each class; what is in it is not sorted again.
            on_event: called with `sorted` and where a photo was placed, or `problem` and what is
                wrong with one.

        Raises:
            UsageError: there is no such folder, or it lies in that of the sorted ones, which cannot
                be written to, or into which another process sorts.
            DataError: the record of the sorted ones is damaged.
        """
        if not folder.is_dir():
            raise UsageError(f"--watch {folder}: there is no such folder.")
        self._folder, self._into = folder, into
        self._root, self._place = folder.resolve(), into.resolve()
        if self._root.is_relative_to(self._place):
            raise UsageError(
                f"--watch {folder} lies in --sort-into {into}: choose another place for the "
                "sorted photos."
            )
        try:
            into.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--sort-into {into} cannot be written to: {error.strerror}."
            ) from None
        self._lock = held(into)
        self._done = _done(into)
        self._refused = dict[Path, tuple[int, int]]()
        self._told: type[EfftuneError] | None = None
        self._failures = set[str]()
        self._on_event = on_event
        self._sorter: tuple[Service, Sorter] | None = None

    def close(self) -> None:
        """Let others sort into the folder."""
        self._lock.release()

    async def watch(self, state: State) -> None:
        """Sort what comes, until the task is cancelled."""
        before: _Known = {}
        now: _Known
        loop = asyncio.get_running_loop()
        while True:
            began, now = loop.time(), {}
            try:
                now = await asyncio.to_thread(self.look)
            except Exception as error:  # noqa: BLE001  (whatever it is, there is another look)
                self._fail(f"--watch {self._folder} cannot be looked at", error)
            took = loop.time() - began
            for path in sorted(path for path, known in now.items() if before.get(path) == known):
                if not await self._tried(path, now[path], state):
                    break
            before = now
            await asyncio.sleep(max(POLL, _REST * took))

    async def _tried(self, path: Path, known: tuple[int, int], state: State) -> bool:
        """The same as `_sort`, whatever else fails; it is tried again at the next look."""
        try:
            return await self._sort(path, known, state)
        except Exception as error:  # noqa: BLE001  (whatever it is, the next one is sorted)
            self._sorter = None  # it would take the photo for placed
            self._fail(f"{path} is not sorted yet", error)
            return True

    def _fail(self, what: str, error: Exception) -> None:
        """Tell of an error once, whatever it happens to."""
        text = str(error) if isinstance(error, EfftuneError) else repr(error)
        if text not in self._failures:
            self._failures.add(text)
            self._on_event("problem", f"{what}: {text}")

    def look(self) -> _Known:
        """Size and time of all files in the folder that are to be sorted."""
        return dict(self._files())

    def _files(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        for place, folders, names in os.walk(self._root):
            here = Path(place)
            folders[:] = [
                each for each in folders if not each.startswith(".") and here / each != self._place
            ]
            for name in names:
                path = os.path.join(place, name)  # noqa: PTH118  (a million times)
                if name.startswith("."):
                    continue
                try:
                    status = os.lstat(path)
                except OSError:  # it is gone
                    continue
                known = status.st_size, status.st_mtime_ns
                if (path, *known) in self._done or not stat.S_ISREG(status.st_mode):
                    continue
                if self._refused.get(Path(path)) != known:
                    yield Path(path), known

    async def _sort(self, path: Path, known: tuple[int, int], state: State) -> bool:
        """Sort a photo; what does not work out now is tried again at the next look.

        Returns:
            Whether there is room for others.
        """
        service = state.ready
        limit, metrics = state.settings.most_pixels, state.metrics
        work = partial(_predicted, Predicting(service.classifier, 1, limit, metrics))
        found = await state.answering.patiently(work, path)
        if found is None:  # it is gone
            return True
        if isinstance(found, Unreadable):
            self._refused[path] = known
            self._on_event("problem", f"{path} is not sorted: {found.reason}.")
            return True
        try:
            placed = await asyncio.to_thread(self._placed, found, service)
        except EfftuneError as error:
            self._sorter = None  # it would take the photo for placed
            if path.exists() and self._told is not type(error):
                self._told = type(error)
                self._on_event("problem", str(error))
            return not isinstance(error, DiskFull)
        self._done.add((str(path), *known))
        self._told = None
        if placed.path is not None:
            self._on_event("sorted", str(placed.path))
        return True

    def _placed(self, prediction: Prediction, service: Service) -> Sorted:
        """Place a photo by what a classifier has said of it, whose classes are folders."""
        if self._sorter is None or self._sorter[0] is not service:
            self._sorter = service, Sorter(self._into, service.classifier.class_names)
        (placed,) = self._sorter[1].place([prediction])
        return placed


def _done(into: Path) -> set[PhotoState]:
    """The photos that were sorted; of the last one, which a crash may have cut off, if it is there.

    Others that are not there any more were taken away by their owner.
    """
    records = [each for each in recorded(into) if each.way != "sidecar"]
    found = {each.state for each in records}
    if records and not os.path.lexists(into / records[-1].path):
        found.discard(records[-1].state)
    return found


def _predicted(predicting: Predicting, path: Path) -> Prediction | Unreadable | None:
    """What a classifier says of a photo; None if it is gone."""
    try:
        picture_bytes.sniff(path)  # which reads little of what is no picture
        found = predicting(picture_bytes.read(path))
    except BadImage as error:
        return Unreadable(error.reason) if os.path.lexists(path) else None
    return replace(found, path=path) if isinstance(found, Prediction) else found
