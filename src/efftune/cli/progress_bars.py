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
        self._most = 0  # items done so far
        self._first_count_time = self._last_print = 0.0

    def report(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        # Threads may report in another order, but a count that is halved has begun again.
        begins_again = done < self._most / 2
        self._most = done if begins_again or phase != self._phase else max(done, self._most)
        if phase != self._phase:
            self._phase, self._last_print, self._first_count = phase, now, 0
            warn(f"{phase} …")
        elif begins_again or not self._first_count:
            self._first_count, self._first_count_time = done, now
        elif now - self._last_print >= _PRINT_INTERVAL_SECONDS:
            self._last_print = now
            warn(f"{phase} {done:,} of {total:,}{self._left(done, total, now)}")

    def _left(self, done: int, total: int, now: float) -> str:
        """How long the rest takes; nothing as long as no speed is known."""
        counted = done - self._first_count
        if counted <= 0:
            return ""
        remaining = (now - self._first_count_time) / counted * (total - done)
        return f", about {remaining:.0f} s left"
