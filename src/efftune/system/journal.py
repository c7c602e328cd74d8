"""What an unfinished run keeps on disk, so that it can go on after it was stopped.

The folder `unfinished` of a run holds

- `start.json`: what was asked for, and with which versions on which machine;
- `decisions/NAME.json`: what was decided by measuring, which is not measured again;
- `checkpoints/WORK/NUMBER`: the state of a piece of work, whole or not at all; two are kept;
- `lock`, held by the process that is at work.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from efftune.errors import DataError, EfftuneWarning, UsageError
from efftune.system import files, shell

FOLDER = "unfinished"
RECORD = "run.json"  # of a run
_KEPT = 2  # checkpoints of a piece of work
_SECONDS = 30.0  # between two checkpoints
_COST = 0.01  # share of a run's time that checkpoints may take
_SPEED = 2e8  # bytes per second of the first checkpoint, as long as none was measured

T = TypeVar("T")
Arrays = Mapping[str, Sequence[NDArray[Any]]]


class Journal:
    """The decisions and checkpoints of a run.

    Until it is given a folder, it keeps decisions in memory, and no checkpoints.

    Attributes:
        folder: where it is kept; None if it is not.
        start: what was asked for, as given to `begin`.
        seconds: duration of each phase before the run was stopped.
        pace: when checkpoints are written.
        leaves_out_the_rest: whether what is not trained yet is left out, and the run finished.
        progress: returns the phase under way, and the duration of each phase so far.
    """

    def __init__(self) -> None:
        """An empty journal, without a folder."""
        self.folder: Path | None = None
        self.start: Mapping[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.pace = Pace()
        self.leaves_out_the_rest = False
        self.progress: Callable[[], tuple[str, Mapping[str, float]]] = lambda: ("", {})
        self._decisions: dict[str, Any] = {}
        self._lock: FileLock | None = None

    def begin(self, run: Path, start: Mapping[str, Any]) -> None:
        """Keep this journal in a new run folder from now on.

        Args:
            run: the run folder.
            start: what the run needs to go on, as JSON values.
        """
        folder = run / FOLDER
        folder.mkdir()
        self._lock = locked(folder)
        self.folder, self.start = folder, start
        for name, decision in self._decisions.items():
            _write(self._decision_file(name), decision)
        self.reach()
        # Last: what has no start was not begun.
        _write(folder / "start.json", start)

    @classmethod
    def reopened(cls, run: Path) -> "Journal":
        """The journal of a run that was stopped; what was being written then is removed.

        Raises:
            UsageError: another process is at work on the run.
            DataError: its start is damaged.
        """
        journal = cls()
        journal._lock = locked(run / FOLDER)
        try:
            journal.start = read(run / FOLDER / "start.json")
            for path in list(run.rglob(".partial-*")):
                _remove(path)
        except BaseException:
            journal.close()
            raise
        journal.folder = run / FOLDER
        with suppress(OSError, ValueError, KeyError, TypeError):  # it is only for people
            journal.seconds = json.loads((run / RECORD).read_text(encoding="utf-8"))["seconds"]
        return journal

    @property
    def has_checkpoints(self) -> bool:
        """Whether anything was trained that is worth to go on with."""
        return self.folder is not None and (self.folder / "checkpoints").exists()

    def reach(self) -> None:
        """Note in `run.json` how far the run is."""
        if self.folder is None:
            return
        run, (place, seconds) = self.folder.parent, self.progress()
        record = {
            "state": "unfinished",
            "command": self.start.get("command", ""),
            "phase": place,
            "seconds": dict(seconds),
            "to_go_on": f"efftune resume {shell.quoted(run)}",
        }
        text = json.dumps(record, indent=1, ensure_ascii=False)
        files.write(run / RECORD, text + "\n", flush=False)

    def decided(self, name: str, decide: Callable[[], T]) -> T:
        """A decision, as JSON values: the one made before the run was stopped, or a new one.

        Raises:
            DataError: it is damaged.
        """
        decision: T = self.recalled(name)
        if decision is None:
            # As if it had been read: tuples become lists.
            decision = json.loads(json.dumps(decide()))
            self._decisions[_file_name(name)] = decision
            if self.folder is not None:
                _write(self._decision_file(name), decision)
        return decision

    def recalled(self, name: str) -> Any:
        """A decision that was made before; None if it was not.

        Raises:
            DataError: it is damaged.
        """
        key = _file_name(name)
        if key not in self._decisions and self.folder and self._decision_file(name).exists():
            self._decisions[key] = read(self._decision_file(name))
        return self._decisions.get(key)

    def _decision_file(self, name: str) -> Path:
        assert self.folder is not None  # noqa: S101  (only called with a folder)
        return self.folder / "decisions" / f"{_file_name(name)}.json"

    def checkpoints(self, work: str) -> "Checkpoints":
        """The checkpoints of a piece of work, by its name, which is unique in the run."""
        folder = None
        if self.folder is not None:
            folder = self.folder / "checkpoints" / _file_name(work)
        return Checkpoints(folder, self)

    def close(self) -> None:
        """Let other processes go on with the run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def end(self) -> None:
        """Remove the folder: the run is finished."""
        if self.folder is not None:
            (self.folder / "start.json").unlink(missing_ok=True)  # first: nothing is to go on
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
        self.close()


class Pace:
    """When it is time for a checkpoint: every 30 seconds, unless they take too much of the time.

    Attributes:
        every: seconds between two checkpoints, from `$EFFTUNE_CHECKPOINT_SECONDS`; 0 for one after
            each step, whatever they take.
    """

    def __init__(self) -> None:
        """The time of the run begins."""
        text = os.environ.get("EFFTUNE_CHECKPOINT_SECONDS") or str(_SECONDS)
        try:
            self.every = float(text)
        except ValueError:
            raise UsageError(
                f"EFFTUNE_CHECKPOINT_SECONDS is a number of seconds. Not {text!r}."
            ) from None
        self._began = self._written = time.perf_counter()
        self._spent, self._speed = 0.0, _SPEED

    def allows(self, size: int, *, ends_epoch: bool) -> bool:
        """Whether it is time for a checkpoint of so many bytes."""
        now = time.perf_counter()
        if not self.every:
            return True
        if not ends_epoch and now - self._written < self.every:
            return False
        return self._spent + size / self._speed <= _COST * (now - self._began)

    def took(self, seconds: float, size: int) -> None:
        """Note how long writing so many bytes took."""
        self._spent += seconds
        self._speed = max(1.0, size) / max(seconds, 1e-3)
        self._written = time.perf_counter()


class Checkpoints:
    """The states of a piece of work, the newest of which it goes on from."""

    def __init__(self, folder: Path | None, journal: Journal):
        """Checkpoints in a folder that need not exist; without one, nothing is kept."""
        self._folder = folder
        self._journal = journal

    def is_due(self, size: int, *, ends_epoch: bool) -> bool:
        """Whether it is time for a checkpoint of so many bytes; see `Pace`."""
        return self._folder is not None and self._journal.pace.allows(size, ends_epoch=ends_epoch)

    def require_room(self, size: int) -> None:
        """Check that a state of so many bytes or more can be kept, before there is one.

        Raises:
            DiskFull: it cannot.
        """
        kept = self._journal.folder
        if kept is not None and self._folder is not None and shutil.disk_usage(kept).free < size:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise files.disk_full(full, self._folder, size) or full

    def latest(self) -> tuple[dict[str, Any], dict[str, list[NDArray[Any]]]] | None:
        """The newest state that is whole; None if there is none. Warns of damaged ones."""
        for path in reversed(self._paths()):
            if files.is_intact(path):
                return _loaded(path)
            warnings.warn(
                f"The checkpoint {path} is damaged: what it held is computed again.",
                EfftuneWarning,
                stacklevel=2,
            )
            shutil.rmtree(path, ignore_errors=True)
        return None

    def save(self, state: Mapping[str, Any], arrays: Arrays, *, last: bool = False) -> None:
        """Write a state, and remove those that are not needed any more.

        Args:
            state: JSON values; floats keep all their digits.
            arrays: arrays by group.
            last: whether the work is done, so that earlier states are of no use.

        Raises:
            DiskFull: there is no room for it; the states before are kept.
        """
        if self._folder is None:
            return
        began, paths = time.perf_counter(), self._paths()
        path = self._folder / f"{int(paths[-1].name) + 1 if paths else 1:06d}"
        size = sum(each.nbytes for group in arrays.values() for each in group)
        try:
            with files.folder_written_whole(path) as partial:
                (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
                named = {
                    f"{group} {i}": x for group, xs in arrays.items() for i, x in enumerate(xs)
                }
                np.savez(partial / "arrays.npz", allow_pickle=False, **named)
                files.seal(partial)
        except OSError as error:
            raise files.disk_full(error, path, size) or error from None
        for path in paths if last else paths[: 1 - _KEPT]:
            shutil.rmtree(path, ignore_errors=True)
        self._journal.reach()
        self._journal.pace.took(time.perf_counter() - began, size)

    def _paths(self) -> list[Path]:
        """The folders of all checkpoints, oldest first."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if path.name.isdecimal())


def _loaded(path: Path) -> tuple[dict[str, Any], dict[str, list[NDArray[Any]]]]:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    arrays: dict[str, list[NDArray[Any]]] = {}
    with np.load(path / "arrays.npz", allow_pickle=False) as stored:
        for name in stored.files:  # in the order in which they were written
            arrays.setdefault(name.split(" ")[0], []).append(stored[name])
    return state, arrays


def locked(folder: Path) -> FileLock:
    """The lock of a folder, held until it is released or the process ends.

    Raises:
        UsageError: another process holds it.
    """
    lock = FileLock(folder / "lock", timeout=1)  # `runs` holds it for a moment to look
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"Another process is at work on {folder.parent}. Wait until it has ended."
        ) from None
    return lock


def _remove(path: Path) -> None:
    """Remove a file or a folder, which may have gone with the folder that it was in."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def _write(path: Path, values: Any) -> None:
    """Write JSON values with their checksum."""
    text = json.dumps(values)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    files.write(path, json.dumps({"sha256": checksum, "values": text}))


def read(path: Path) -> Any:
    """Read JSON values that were written with their checksum.

    Raises:
        DataError: they are missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        text = content["values"]
        if hashlib.sha256(text.encode()).hexdigest() == content["sha256"]:
            return json.loads(text)
        reason = "its checksum differs"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error)
    raise DataError(
        f"{path} is damaged: {reason}. Its run cannot go on: remove the run's folder and start "
        "again."
    )
