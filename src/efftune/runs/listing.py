"""The runs in a folder, finished or not."""

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from efftune.errors import DataError, UsageError
from efftune.runs import unfinished
from efftune.system import journal
from efftune.system.journal import RECORD

State = Literal["finished", "at work", "stopped", "damaged"]


@dataclass(frozen=True)
class ListedRun:
    """A run folder as listed.

    Attributes:
        run: its path.
        state: `at work` if a process is; `stopped` if it can be resumed.
        model: its name; empty if that is not known.
        accuracy: on test, without leaks if they are known, or out of fold, 0 to 1; None if it is
            not finished.
        phase: the phase that an unfinished run is in.
        seconds: that were spent on it.
        age: seconds since it last changed.
        bytes: size of all its files.
    """

    run: str
    state: State
    model: str
    accuracy: float | None
    phase: str
    seconds: float
    age: float
    bytes: int


def listed(folder: Path) -> list[ListedRun]:
    """The runs in a folder, those that last changed first.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}. Give the one that holds your runs.")
    runs = [
        _listed(path)
        for path in folder.iterdir()
        if (path / RECORD).exists() or (path / journal.FOLDER).is_dir()
    ]
    return sorted(runs, key=lambda each: each.age)


def _listed(run: Path) -> ListedRun:
    model, accuracy, phase, seconds = "", None, "", 0.0
    state: State = "damaged"
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
        seconds = float(sum(record["seconds"].values()))
        if unfinished.is_unfinished(run):
            state, phase = "at work" if _is_locked(run) else "stopped", record.get("phase", "")
            plan = journal.read(run / journal.FOLDER / "decisions" / "plan.json")
            model = plan["recipe"]["model"]
        else:
            model = record["model"]["name"]
            scores = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
            score = scores.get("test_without_leaks") or scores["test"]  # as in the report
            accuracy, state = float(score["accuracy"]), "finished"
    except (DataError, OSError, ValueError, KeyError, TypeError):
        pass
    sizes, changed = 0, run.stat().st_mtime
    for place, _, names in os.walk(run):
        for name in names:
            with suppress(FileNotFoundError):  # of a run at work
                status = os.lstat(Path(place) / name)
                sizes, changed = sizes + status.st_size, max(changed, status.st_mtime)
    age = max(0.0, time.time() - changed)
    return ListedRun(str(run), state, model, accuracy, phase, seconds, age, sizes)


def _is_locked(run: Path) -> bool:
    lock = FileLock(run / journal.FOLDER / "lock", timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True
    except OSError:  # of another user, say, who alone may hold it
        return False
