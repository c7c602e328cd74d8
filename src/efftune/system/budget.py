"""The time that a run may take, and how much of it is left."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

MARGIN = 0.92  # share of the time left that is planned
_SAVING = 5.0  # seconds, for saving and the report
_SLOWNESS = 1.8  # times the time that the process took to start, if that is more
_FIRST_SLOWNESS = 0.75  # times that of the first pictures, if that is more
_MOST_SAVING = 12.0  # seconds, of what is known by the first pictures
_REPORT = 0.5  # share of the time for saving that is for the report
_WORTHWHILE = 0.25  # share of the planned time, below which a stage is left out
_HEAD_PICTURES, _HEAD_SHARE = 260, 0.2  # frozen passes that a head takes, and for each picture

_begins_with_process = False
_starting: list[float] = []  # seconds that this process took to its first budget


@contextmanager
def beginning_with_process() -> Iterator[None]:
    """Let the budget of the run that this process exists for begin with the process."""
    global _begins_with_process  # noqa: PLW0603  (there is one process)
    _begins_with_process = True
    try:
        yield
    finally:
        _begins_with_process = False
        _starting.clear()


class Budget:
    """A run's time. Without a limit, nothing is ever late.

    Attributes:
        seconds: of the whole run; infinite without a limit.
        starting: seconds of them that the process took to start; the slower the machine, the more.
        saving: seconds of them for saving and the report.
        reserved: seconds of them for all that has to be done after training.
        picture_seconds: that the frozen network takes for a picture.
        planned: seconds of training that are planned and have not begun.
        tracing: seconds that it takes once to build and trace the training of a network.
        judging_network: seconds that each further network of an ensemble adds to judging.
    """

    def __init__(self, seconds: float = math.inf, spent: float = 0.0):
        """The time runs from now on.

        Args:
            seconds: of the whole run; infinite for no limit.
            spent: of them, before the run was stopped.
        """
        before = _process_seconds() if _begins_with_process else 0.0
        if _begins_with_process and not _starting:
            _starting.append(before)
        self.starting = _starting[0] if _begins_with_process else 0.0
        self.seconds = seconds
        self.saving = self.reserved = max(_SAVING, _SLOWNESS * self.starting)
        self.picture_seconds = 0.0
        self._began = time.perf_counter() - spent - before
        self._prices: dict[str, float] = {}
        self.planned = self.tracing = self.judging_network = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self.seconds < math.inf

    @property
    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self.seconds - (time.perf_counter() - self._began)

    @property
    def usable(self) -> float:
        """Seconds that are left and not reserved."""
        return self.left - self.reserved

    def note_first_pictures(self, seconds: float) -> None:
        """Note how long loading and converting a network and its first pictures took.

        Saving takes the longer, the slower the machine is, or the more others do on it.
        """
        slow = min(_FIRST_SLOWNESS * seconds, _MOST_SAVING)
        self.reserved += max(0.0, slow - self.saving)
        self.saving = max(self.saving, slow)

    def head_seconds(self, pictures: int) -> float:
        """How long it takes to fit a head on so many pictures, or to cross-fit it, about."""
        return (_HEAD_PICTURES + _HEAD_SHARE * pictures) * self.picture_seconds

    def allows(self, seconds: float) -> bool:
        """Whether there is time for something that is not necessary."""
        return self.left >= seconds + self.saving

    @property
    def is_short(self) -> bool:
        """Whether saving has to come to its end."""
        return self.left < _REPORT * self.saving

    @property
    def is_late(self) -> bool:
        """Whether too little time is left for what is planned."""
        return self.usable < _WORTHWHILE * self.planned

    def plan(self, prices: dict[str, float], repeats: dict[str, int]) -> None:
        """Note what is going to be trained.

        Args:
            prices: estimated seconds by stage.
            repeats: how often each is trained, by stage.
        """
        self._prices = prices
        self.planned = sum(price * repeats[name] for name, price in prices.items())

    def is_worthwhile(self, stage: str, seconds: float) -> bool:
        """Whether a stage is worth beginning in some seconds."""
        return seconds >= _WORTHWHILE * self._prices.get(stage, 0.0)

    def share(self, stage: str) -> float:
        """Seconds for a stage that begins now, of those that are left for all that is planned."""
        price = self._prices.get(stage, 0.0)
        share = price / self.planned if self.planned > price else 1.0
        self.planned = max(0.0, self.planned - price)
        return share * self.usable


def _process_seconds() -> float:
    """How long this process has existed."""
    import psutil

    return max(0.0, time.time() - float(psutil.Process().create_time()))
