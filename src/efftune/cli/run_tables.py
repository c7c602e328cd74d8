"""How lists of runs look in a terminal and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from efftune.cli.console import echo, percent, show_table
from efftune.runs.listing import ListedRun

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def show_runs(runs: Sequence[ListedRun], folder: Path, *, as_json: bool) -> None:
    """Print the runs in a folder."""
    if as_json:
        print(json.dumps([asdict(each) for each in runs], indent=1))
        return
    if not runs:
        echo(f"No runs in {folder}.")
        return
    rows = [
        (
            each.run,
            f"{each.state}: {each.phase}" if each.phase else each.state,
            each.model,
            "" if each.accuracy is None else percent(each.accuracy),
            _duration(each.seconds),
            f"{_duration(each.age)} ago",
            f"{each.bytes / 1e6:,.0f} MB",
        )
        for each in runs
    ]
    headings = ("run", "state", "model", "accuracy", "took", "changed", "size")
    show_table(headings, rows, left=("run", "state", "model"))
    if any(each.state == "stopped" for each in runs):
        echo("\nGo on with a stopped run:  efftune resume RUN")


def _duration(seconds: float) -> str:
    """In the largest unit that fits."""
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "0 s"
