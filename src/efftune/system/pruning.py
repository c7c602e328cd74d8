"""Folders of the cache that are removed when they take too much of the disk."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

_IN_USE_SECONDS = 24 * 3600  # another process may still use what was opened this recently


def prune(parent: Path, share: float, bytes_of: Callable[[Path], int]) -> None:
    """Remove the least recently used folders until the others are within their share of the disk.

    Args:
        parent: of the folders, whose times of modification are those of their last use.
        share: of the disk space that is free or taken by the folders.
        bytes_of: the size of a folder; raises OSError if it has just been removed.
    """
    try:
        last_used = {path: path.stat().st_mtime for path in parent.glob("*") if path.is_dir()}
        sizes = {path: bytes_of(path) for path in last_used}
    except OSError:  # another process is removing them
        return
    if not sizes:
        return
    total = sum(sizes.values())
    limit = share * (total + shutil.disk_usage(parent).free)
    for path in sorted(last_used, key=last_used.__getitem__):
        if total <= limit or last_used[path] > time.time() - _IN_USE_SECONDS:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= sizes[path]
