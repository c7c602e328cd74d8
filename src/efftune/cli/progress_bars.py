"""Progress on stderr: bars in a terminal, plain lines otherwise."""

import logging
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

from efftune.cli.console import escape_control, warn

Report = Callable[[str, int, int], None]

_PRINT_INTERVAL_SECONDS = 10.0


@contextmanager
def progress(*, quiet: bool) -> Iterator[Report]:
    """Yield a progress callback that draws bars in a terminal and prints lines otherwise.

    Args:
        quiet: print nothing.
    """
    if quiet:
        yield lambda _phase, _done, _total: None
    elif sys.stderr.isatty():
        with (
            _bars() as bars,
            _messages(lambda text: bars.console.print(text, markup=False, emoji=False)),
        ):
            yield _on_bars(bars)
    else:
        with _messages(warn):
            yield _PlainLines().report


@contextmanager
def _messages(show: Callable[[str], object]) -> Iterator[None]:
    """Show what the package logs, such as how a source was read."""

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(escape_control(record.getMessage()))

    logger, handler = logging.getLogger("efftune"), Shown()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:10}"),
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
            for task in tasks.values():  # finish the previous phases
                if bars.tasks[task].total is None:
                    bars.update(task, total=1, completed=1)
            tasks[phase] = bars.add_task(phase, total=None)
        if total:
            bars.update(tasks[phase], completed=done, total=total)

    return report


class _PlainLines:
    """Prints a line when a phase begins, and one every ten seconds during it."""

    def __init__(self) -> None:
        self._phase = ""
        self._first_count = 0  # items done at `_first_count_time`
        self._first_count_time = self._last_print = 0.0

    def report(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._last_print, self._first_count = phase, now, 0
            warn(f"{phase} …")
        elif not self._first_count:
            self._first_count, self._first_count_time = done, now
        elif now - self._last_print >= _PRINT_INTERVAL_SECONDS:
            self._last_print = now
            seconds_per_item = (now - self._first_count_time) / max(done - self._first_count, 1)
            remaining = seconds_per_item * (total - done)
            warn(f"{phase} {done:,} of {total:,}, about {remaining:.0f} s left")
