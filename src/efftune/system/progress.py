"""Progress and duration of the phases of a run."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, TypeAlias

from efftune.errors import UsageError
from efftune.system.budget import Budget
from efftune.system.journal import Journal

Progress = Callable[[str, int, int], None]  # phase, items done, total items


# What a Python function does about progress: a callback, nothing (None), or bars where they help.
OnProgress: TypeAlias = Progress | Literal["auto"] | None


_NOTED_EVERY = 30.0  # seconds


def silent(_phase: str, _done: int, _total: int) -> None:
    """Ignore progress."""


@contextmanager
def showing(on_progress: OnProgress) -> Iterator[Progress]:
    """Yield the callback that `on_progress` stands for; its bars are removed at the end.

    Raises:
        UsageError: it is another text than `auto`.
    """
    if isinstance(on_progress, str):
        from efftune.system import progress_bars

        if on_progress != "auto":
            raise UsageError(f"on_progress is 'auto', None or a function. Not {on_progress!r}.")
        with progress_bars.automatic() as report:
            yield report
    else:
        yield on_progress or silent


class Timer:
    """Measures the duration of each phase of a run, reports progress, and has the run's journal.

    Attributes:
        seconds: duration of each phase that has ended, also before the run was stopped.
        on_progress: called with the phase, the items done and the total.
        journal: what the run has decided and computed so far.
        budget: the time of the run.
        place: the phase under way, and the part of the run that it is in.
        left_out: why fine-tuning was left out or broken off; empty if it was not.
    """

    def __init__(
        self,
        on_progress: Progress = silent,
        journal: Journal | None = None,
        seconds: float = math.inf,
    ):
        """The time of the run begins, or goes on.

        Args:
            on_progress: see the attribute.
            journal: of a run that was stopped, or empty.
            seconds: for the whole run.
        """
        self.journal = journal or Journal()
        self.seconds = dict(self.journal.seconds)
        self.on_progress = on_progress
        self.budget = Budget(seconds, sum(self.seconds.values()))
        self.place = self._part = self.left_out = ""
        self._under_way, self._start = "", 0.0
        self._noted = time.perf_counter()
        self.journal.progress = lambda: (self.place, self._so_far())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as the phase `name`; a repeated phase adds to its duration."""
        self.place = self.place_of(name)
        outer = self._under_way, self._start
        self._under_way, self._start = name, time.perf_counter()
        self.on_progress(self.place, 0, 0)
        self.journal.reach()
        try:
            yield
        except BaseException:
            with suppress(OSError):  # the disk may be full, which must not hide the error
                self.journal.reach()
            raise
        finally:
            self.seconds = self._so_far()
            self._under_way, self._start = outer

    def place_of(self, name: str) -> str:
        """The place while a phase `name` is under way: its checkpoints are known by that."""
        return f"{name}, {self._part}" if self._part else name

    def _so_far(self) -> dict[str, float]:
        """The duration of each phase, with that under way."""
        if not self._under_way:
            return dict(self.seconds)
        elapsed = self.seconds.get(self._under_way, 0.0) + time.perf_counter() - self._start
        return self.seconds | {self._under_way: round(elapsed, 3)}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Show the phases in the block as those of a part of the run, such as `fold 2 of 5`."""
        outer = self._part
        self._part = ", ".join(filter(None, (outer, name)))
        try:
            yield
        finally:
            self._part = outer

    def count(self, done: int, total: int) -> None:
        """Report progress of the current phase; may be called from several threads."""
        now = time.perf_counter()
        if now - self._noted > _NOTED_EVERY:  # so that a run that is killed knows its time
            self._noted = now
            with suppress(OSError):
                self.journal.reach()
        self.on_progress(self.place, done, total)
