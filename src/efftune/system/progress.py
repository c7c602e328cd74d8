"""How far a run is, and how long its phases took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]  # a phase, what is done of it, and its total


def silent(_phase: str, _done: int, _total: int) -> None:
    """Tell nobody."""


class Timer:
    """Times the phases of a run and tells how far they are.

    Attributes:
        seconds: by phase; those that ended.
        on_progress: called with a phase, what is done of it, and its total.
    """

    def __init__(self, on_progress: Progress = silent):
        self.seconds: dict[str, float] = {}
        self.on_progress = on_progress
        self._phase = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The block is this phase."""
        self._phase = name
        start = time.perf_counter()
        self.on_progress(name, 0, 0)
        yield
        spent = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)

    def count(self, done: int, total: int) -> None:
        """Tell how far the phase is; may be called from several threads."""
        self.on_progress(self._phase, done, total)
