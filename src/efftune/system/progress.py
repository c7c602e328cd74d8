"""Progress and duration of the phases of a run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]  # phase, items done, total items


def silent(_phase: str, _done: int, _total: int) -> None:
    """Ignore progress."""


class Timer:
    """Measures the duration of each phase of a run and reports progress.

    Attributes:
        seconds: duration of each completed phase.
        on_progress: called with the phase, the items done and the total.
    """

    def __init__(self, on_progress: Progress = silent):
        self.seconds: dict[str, float] = {}
        self.on_progress = on_progress
        self._phase = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as the phase `name`; a repeated phase adds to its duration."""
        self._phase = name
        start = time.perf_counter()
        self.on_progress(name, 0, 0)
        yield
        elapsed = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + elapsed, 3)

    def count(self, done: int, total: int) -> None:
        """Report progress of the current phase; may be called from several threads."""
        self.on_progress(self._phase, done, total)
