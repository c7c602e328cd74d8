"""Folders of the cache that are removed when they take too much of the disk."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_IN_USE_SECONDS = 24 * 3600  # another process may still use what was opened this recently
_PARTIAL = ".partial-"  # how names of folders begin that are being written
_SOURCE_SHARE = 0.5  # of the disk, for data sets of a kind that are unpacked
_SOURCE_DAYS = 7  # a run reads pictures until it ends, and notes their use when it begins


def note_use(folder: Path) -> None:
    """Let a folder count as used now, where its times can be changed."""
    with suppress(OSError):
        os.utime(folder)


def prune_sources(parent: Path) -> None:
    """Make room for a data set that is about to be unpacked beside others; see `prune`."""
    prune(parent, _SOURCE_SHARE, _bytes_in, _SOURCE_DAYS)


def prune(
    parent: Path, share: float, bytes_of: Callable[[Path], int], days_in_use: float = 1
) -> None:
    """Remove the least recently used folders until the others are within their share of the disk.

    What a process has left half written, which was stopped more than a day ago, is removed, too.

    Args:
        parent: of the folders, whose times of modification are those of their last use.
        share: of the disk space that is free or taken by the folders.
        bytes_of: the size of a folder; raises OSError if it has just been removed.
        days_in_use: how long a folder is kept after its last use in any case.
    """
    try:
        folders = [path for path in parent.glob("*") if path.is_dir()]
        for path in folders:
            if path.name.startswith(_PARTIAL) and _last_written(path) < _ago(1):
                shutil.rmtree(path, ignore_errors=True)
        whole = [path for path in folders if not path.name.startswith(_PARTIAL)]
        last_used = {path: path.stat().st_mtime for path in whole}
        sizes = {path: bytes_of(path) for path in last_used}
    except OSError:  # another process is removing them
        return
    if not sizes:
        return
    total = sum(sizes.values())
    limit = share * (total + shutil.disk_usage(parent).free)
    for path in sorted(last_used, key=last_used.__getitem__):
        if total <= limit or last_used[path] > _ago(days_in_use):
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]


def _ago(days: float) -> float:
    return time.time() - days * _IN_USE_SECONDS


def _last_written(folder: Path) -> float:
    """When something was last added to a folder or to those in it."""
    times = (os.stat(place).st_mtime for place, _, _ in os.walk(folder))  # noqa: PTH116
    return max(times, default=time.time())  # another process has just renamed it


def _bytes_in(folder: Path) -> int:
    return sum(
        os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118  (a million times)
        for place, _, names in os.walk(folder)
        for name in names
    )
