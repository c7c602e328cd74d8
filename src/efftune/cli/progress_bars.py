"""Progress on stderr: bars in a terminal, plain lines otherwise."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from efftune.cli.console import warn
from efftune.system import progress_bars
from efftune.system.progress_bars import Report

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
        with progress_bars.in_terminal() as report:
            yield report
    else:
        with progress_bars.messages(warn):
            yield _PlainLines().report


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
