"""Runs that are not finished: begun, stopped, found again, and whether they may go on."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from efftune.data.examples import Examples
from efftune.errors import DataError, EfftuneWarning, UsageError
from efftune.model.backbone import Backbone
from efftune.model.engines import devices
from efftune.recipe.recipe import Recipe
from efftune.system import files, journal, machine, shell, stopping
from efftune.system.journal import RECORD, Journal
from efftune.training.stage_result import TrainingDiverged

_SHOWN = 3  # pictures of each kind of difference
_PATHS = ("root", "labels", "weights", "val", "test")  # settings that may be paths


def start_of(source: str, recipe: Recipe, search_seconds: float) -> dict[str, Any]:
    """What a run is asked for, and what its result depends on besides, as JSON values.

    Args:
        source: of the pictures.
        recipe: as asked for, before anything is resolved.
        search_seconds: budget of a search; 0 if it is none.
    """
    path = files.user_path(source)
    start = {
        "command": machine.command(),
        "asked": source,
        "source": str(path.resolve()) if path.exists() else source,
        "folder": str(Path.cwd()),
        "search": search_seconds,
        "settings": recipe.settings,
        "versions": machine.versions(),
        "machine": {k: v for k, v in machine.machine().items() if k != "system"},
    }
    return dict(json.loads(json.dumps(start)))


def digest(start: Mapping[str, Any]) -> str:
    """SHA-256 of what was asked for. A finished run has it, without the paths that are in it."""
    asked = json.dumps([start[key] for key in ("source", "search", "settings")], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def is_finished(run: Path, start: Mapping[str, Any]) -> bool:
    """Whether a run is finished that was asked for this.

    Raises:
        UsageError: it is none, or was asked for something else.
    """
    if not run.exists() or is_unfinished(run) or _is_husk(run):
        return False
    record = _record(run)
    if record.get("state") == "unfinished":
        raise UsageError(f"{run} is damaged or was half removed: delete it, and start again.")
    if record.get("asked") != digest(start):
        raise UsageError(
            f"{run} is no run that this command has begun, so there is nothing to go on with. "
            "Choose another --run."
        )
    return True


def reopened(start: Mapping[str, Any], run: Path | None) -> Journal | None:
    """The journal of the run that was begun by the same command; None if there is none.

    Args:
        start: what is asked for now.
        run: the run folder; by default the newest that fits, in `runs`.

    Raises:
        UsageError: the run is another one, or another process is at work on it.
        DataError: its journal is damaged.
    """
    if run is None:
        found = [folder for folder in _unfinished(Path("runs")) if _is_same(folder, start)]
        if not found:
            return None
        run = max(found, key=lambda folder: _start_file(folder).stat().st_mtime)
    elif _is_husk(run):
        _clear(run)
        return None
    elif not run.exists():
        return None
    begun = started(run)
    _require_same(run, begun, start)
    return Journal.reopened(run)


def asked_for(run: Path) -> tuple[dict[str, Any], Recipe]:
    """What an unfinished run was asked for, and its recipe, where it may go on.

    Raises:
        UsageError: there is no such run, it is finished, or it began with other versions or on
            another machine.
        DataError: it is damaged.
    """
    start = started(run)
    surroundings = start_of(start["asked"], Recipe(), start["search"])
    now = start | {key: surroundings[key] for key in ("versions", "machine")}
    _require_same(run, start, now)
    return start, Recipe(**start["settings"])


def started(run: Path) -> dict[str, Any]:
    """What an unfinished run was asked for.

    Raises:
        UsageError: there is no such run, or it is finished.
        DataError: it is damaged.
    """
    if not run.exists():
        raise UsageError(f"There is no run folder {run}.")
    if not is_unfinished(run):
        raise UsageError(
            f"{run} is no unfinished run: there is nothing to go on with. See: efftune runs"
        )
    return dict(journal.read(_start_file(run)))


def is_unfinished(run: Path) -> bool:
    """Whether a folder is that of a run that was begun and is not finished."""
    return _start_file(run).exists() and _record(run).get("state") != "finished"


def require_new(run: Path | None) -> None:
    """Check early that a run folder, if one is named, can be new.

    Raises:
        UsageError: it exists.
    """
    if run is not None and is_unfinished(run):
        raise UsageError(
            f"{run} is an unfinished run. Go on with it by efftune resume "
            f"{shell.quoted(run)}, or choose another name."
        )
    files.require_free(run)


@contextmanager
def at_work(kept: Journal, candidates: Iterable[Path], start: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of a run, while it is worked on.

    Args:
        kept: the journal of the run; if it has no folder, the run begins now.
        candidates: for the folder of a run that begins: the first that does not exist.
        start: what is asked for.

    Raises:
        UsageError: the folder cannot be created.
    """
    is_new = kept.folder is None
    folder = kept.folder.parent if kept.folder else files.created_folder(candidates)
    command = f"efftune resume {shell.quoted(folder)}"
    try:
        if is_new:
            kept.begin(folder, start)
        with stopping.last_words(f"The run goes on with: {command}"):
            yield folder
    except BaseException as error:
        # What diverged would do so again, and what has not trained goes on from the cache.
        if isinstance(error, TrainingDiverged) or (is_new and not kept.has_checkpoints):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            message = f"{folder} is not finished. Go on with: {command}"
            warnings.warn(message, EfftuneWarning, stacklevel=2)
        if isinstance(error, OSError) and (full := files.disk_full(error, _place(error, folder))):
            raise full from None
        raise
    kept.end()


def require_same_network(kept: Journal, backbone: Backbone) -> None:
    """Check that what computes is what the run began with: weights and device.

    Raises:
        UsageError: it is not.
    """
    gpu = devices.name(backbone.device)
    now = {"weights": backbone.weights, "device": backbone.device, "GPU": gpu}
    before = kept.decided("network", lambda: now)
    if changes := _changes(before, json.loads(json.dumps(now))):
        raise UsageError(
            f"The run cannot go on as it began: {'; '.join(changes)}. Undo that, or start a new "
            "run in another folder."
        )


def require_same_pictures(kept: Journal, examples: Examples) -> None:
    """Check that the pictures are those that the run began with.

    Raises:
        DataError: they are not; names some.
    """
    rows: list[list[Any]] = [
        [row.name, row.label, row.split, examples.fold_of.get(row.path, -1), row.sha256]
        for row in examples.rows
        if row.usable
    ]
    before = {name: rest for name, *rest in kept.decided("pictures", lambda: rows)}
    now = {name: rest for name, *rest in rows}
    both = [name for name in now if name in before]
    changes = {
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "altered": [name for name in both if now[name][-1] != before[name][-1]],
        "of another class": [name for name in both if now[name][0] != before[name][0]],
    }
    if not any(changes.values()):  # which may change the splits of others, too
        moved = [name for name in both if now[name][1:3] != before[name][1:3]]
        changes["in another fold" if examples.fold_of else "in another split"] = moved
    found = [f"{len(names)} {how} ({_some(names)})" for how, names in changes.items() if names]
    if found:
        raise DataError(
            f"The pictures are not those that the run began with: {'; '.join(found)}. Undo that, "
            "or start a new run in another folder."
        )


@contextmanager
def working_folder(start: Mapping[str, Any]) -> Iterator[None]:
    """Be where the run was begun, if relative paths in its settings depend on that.

    Raises:
        UsageError: that folder is gone.
    """
    folder, before = Path(start["folder"]), Path.cwd()
    if folder == before or not _needs_its_folder(start):
        yield
        return
    try:
        os.chdir(folder)
    except OSError as error:
        raise UsageError(
            f"The run was begun in {folder}: {error.strerror}. Restore that folder."
        ) from None
    try:
        yield
    finally:
        os.chdir(before)


def _needs_its_folder(start: Mapping[str, Any]) -> bool:
    """Whether a run was begun with relative paths."""
    settings, folder = start["settings"], Path(start["folder"])
    values = {key: settings[key] for key in _PATHS} | {"source": start["asked"]}
    given = {key: value for key, value in values.items() if value not in ("", "auto")}
    paths = {key: value for key, value in given.items() if isinstance(value, str)}
    relative = {key: path for key, path in paths.items() if not files.user_path(path).is_absolute()}
    if folder.exists():
        return any((folder / path).exists() for path in relative.values())
    # It is gone; which ones were paths in it is told by how names of weights and sources look.
    names = {key for key, path in relative.items() if ":" in path}
    names |= {"weights"} if not Path(settings["weights"]).suffix else set()
    return not relative.keys() <= names


def _place(error: OSError, folder: Path) -> Path:
    """What could not be written, as far as the system says."""
    return Path(os.fsdecode(error.filename)) if error.filename else folder


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, …"


def _unfinished(folder: Path) -> list[Path]:
    """The unfinished runs in a folder."""
    return [run for run in folder.iterdir() if is_unfinished(run)] if folder.is_dir() else []


def _is_same(run: Path, start: Mapping[str, Any]) -> bool:
    """Whether a run was asked for the same."""
    try:
        begun = started(run)
    except DataError:
        return False
    return digest(begun) == digest(start)


def _record(run: Path) -> dict[str, Any]:
    """The contents of `run.json`; none if there is none that can be read."""
    try:
        return dict(json.loads((run / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _start_file(run: Path) -> Path:
    return run / journal.FOLDER / "start.json"


def _is_husk(run: Path) -> bool:
    """Whether a folder was made for a run that was stopped before it began."""
    if not run.is_dir() or _start_file(run).exists():
        return False
    names = {path.name for path in run.iterdir()}
    return names <= {journal.FOLDER, RECORD} and (not names or journal.FOLDER in names)


def _clear(run: Path) -> None:
    """Remove a folder of a run that never began.

    Raises:
        UsageError: another process is about to begin it.
    """
    folder = run / journal.FOLDER
    lock = journal.locked(folder) if folder.exists() else None
    shutil.rmtree(run, ignore_errors=True)
    if lock is not None:
        lock.release()


def _require_same(run: Path, begun: Mapping[str, Any], start: Mapping[str, Any]) -> None:
    if changes := _differences(begun, start):
        raise UsageError(
            f"{run} cannot go on as it began: {'; '.join(changes)}. Undo that, or start a new run "
            "in another folder."
        )


def _differences(begun: Mapping[str, Any], start: Mapping[str, Any]) -> list[str]:
    """How what is asked for differs from what a run began with, one text each."""
    found = []
    if begun["source"] != start["source"]:
        found.append(f"its pictures are those of {begun['source']}, not {start['source']}")
    if begun["search"] != start["search"]:
        found.append(f"the time for its search was {begun['search']:g} s, not {start['search']:g}")
    for part in ("settings", "versions", "machine"):
        found += _changes(begun[part], start[part])
    return found


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
