"""Printing of what became of sorted photos."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from efftune.cli.console import echo, show_table, warn
from efftune.delivery.sorted_files import Undone
from efftune.delivery.sorting import Sorted
from efftune.system import shell


def show_sorted(found: Sequence[Sorted], into: Path, *, as_json: bool) -> None:
    """Print how many photos are in each folder now, or a line of JSON for each photo."""
    if as_json:
        for each in found:
            placed = None if each.path is None else str(each.path)
            line = each.prediction.to_dict() | {"placed": placed}
            print(json.dumps(line))
        return
    counts = Counter(each.path.parent.name for each in found if each.path is not None)
    if counts:
        show_table(("folder", "photos"), [(name, f"{counts[name]:,}") for name in sorted(counts)])
    if before := len(found) - counts.total():
        echo(f"{before:,} photos were there already.")
    if counts:
        echo(f"\nTake them away again: efftune unsort {shell.quoted(into)}")


def show_undone(undone: Undone, *, as_json: bool) -> None:
    """Print how many files were removed, and which had to stay."""
    if as_json:
        print(json.dumps(asdict(undone)))
        return
    echo(f"Removed: {undone.removed:,}")
    for path, reason in undone.kept.items():
        warn(f"{path}: {reason}")
