"""When a stage has to end, and how its schedule is shortened to that."""

import math
import time
from collections import deque
from dataclasses import asdict

from efftune.system.journal import Journal
from efftune.training.schedule import Tail

_BEHIND = 1.1  # times the time that is left, for the steps that are left
_PLANNED = 0.95  # share of the time that is left that a tail is planned for
_WATCHED = 8  # measurements that the duration of a step is estimated from
_OFTEN = 0.2  # seconds between two measurements, at least
_FEW = 3  # steps that are too few to be a measure


class Deadline:
    """The end of a stage, as `time.perf_counter` counts, and the pace of its steps.

    Tails are written down before they are used: a run that was stopped takes them at the same
    steps.

    Attributes:
        validation: seconds that the last validation took.
    """

    def __init__(self, seconds: float = math.inf, journal: Journal | None = None, place: str = ""):
        """A deadline some seconds from now.

        Args:
            seconds: infinite for none.
            journal: of the run.
            place: in the run, by which the journal knows the decisions.
        """
        self.validation = 0.0
        self._until = time.perf_counter() + seconds
        self._journal, self._place = journal or Journal(), place
        self._name, self._taken = "", 0
        self._start: int | None = None
        self._seen: deque[tuple[int, float]] = deque(maxlen=_WATCHED)

    def begin(self, attempt: str, taken: int = 0) -> None:
        """An attempt at the stage begins or goes on.

        Args:
            attempt: its name; tails are decided for each attempt.
            taken: number of tails that it has taken already.
        """
        self._name, self._taken = f"{self._place}, {attempt}", taken
        self._start = None
        self._seen.clear()

    @property
    def known(self) -> int | None:
        """Number of steps before the next tail, if it was decided before the run was stopped."""
        tail = self._journal.recalled(self._next)
        return None if tail is None else int(tail["first"])

    def is_near(self, done: int) -> bool:
        """Whether to ask for a tail now, after so many steps.

        Not without a limit, nor too soon after the last time.
        """
        if (known := self.known) is not None:
            return done == known
        now = time.perf_counter()
        return self._until < math.inf and not (self._seen and now - self._seen[-1][1] < _OFTEN)

    def tail(self, done: int, end: int, epoch: int) -> Tail | None:
        """How the schedule goes on; None if it stays as it is.

        Args:
            done: number of steps that are done.
            end: number of steps in all.
            epoch: number of steps per epoch.
        """
        if self.known is None:
            now = time.perf_counter()
            self._start = done if self._start is None else self._start
            if done > self._start:  # the first step traces the program, and so is no measure
                self._seen.append((done, now))
            steps = self._affordable(done, end, epoch, self._until - now)
            if steps >= end - done:
                return None
            self._journal.decided(self._next, lambda: asdict(Tail(done, steps)))
        decided = Tail(**self._journal.recalled(self._next))
        self._taken += 1
        return decided

    @property
    def _next(self) -> str:
        return f"tail {self._taken + 1} of {self._name}"

    def _affordable(self, done: int, end: int, epoch: int, seconds: float) -> int:
        """How many steps to do: all that are left, or as many as there is time for."""
        if not self._seen or self._seen[-1][0] - self._seen[0][0] < _FEW:
            return end - done if seconds > 0 else 0
        (first, began), (last, ended) = self._seen[0], self._seen[-1]
        step = (ended - began) / (last - first) + self.validation / epoch
        if (end - done) * step + self.validation <= _BEHIND * seconds:
            return end - done
        planned = _PLANNED * seconds - self.validation
        return max(0, min(end - done, int(planned / max(step, 1e-9))))
