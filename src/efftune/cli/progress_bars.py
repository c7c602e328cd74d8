"""How far a command is, on stderr: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from efftune.cli.console import warn

Report = Callable[[str, int, int], None]

_PLAIN_EVERY_SECONDS = 10.0


@contextmanager
def progress(*, quiet: bool) -> Iterator[Report]:
    """A function to report progress to: a bar in a terminal, plain lines elsewhere, or nothing.

    Args:
        quiet: report nothing.
    """
    if quiet:
        yield lambda _phase, _done, _total: None
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield _on_bars(bars)
    else:
        yield _PlainLines().report


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _on_bars(bars: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            for task in tasks.values():  # the phases before are over
                if bars.tasks[task].total is None:
                    bars.update(task, total=1, completed=1)
            tasks[phase] = bars.add_task(phase, total=None)
        if total:
            bars.update(tasks[phase], completed=done, total=total)

    return report


class _PlainLines:
    """A line when a phase begins, and one every ten seconds of it."""

    def __init__(self) -> None:
        self._phase = ""
        self._counted = 0  # where counting began, as `_started` says when
        self._started = self._told = 0.0

    def report(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._told, self._counted = phase, now, 0
            warn(f"{phase} …")
        elif not self._counted:
            self._counted, self._started = done, now
        elif now - self._told >= _PLAIN_EVERY_SECONDS:
            self._told = now
            pace = (now - self._started) / max(done - self._counted, 1)
            left = pace * (total - done)
            warn(f"{phase} {done:,} of {total:,}, about {left:.0f} s left")
