"""Ctrl-C and SIGTERM while something is at work that should first be brought to a good state."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether to stop. A second signal does what the first would have done without this.

    Attributes:
        requested: whether a signal came.
    """

    def __init__(self) -> None:
        """Not requested; signals are handled as before."""
        self.requested = False
        self._number = 0
        self._handlers: dict[int, Any] = {}
        # Python calls a handler without a reference of its own, and this one replaces itself.
        self._handler = self._request

    def now(self) -> None:
        """Do what the signal would have done, which usually raises KeyboardInterrupt or SystemExit.

        If it does not raise, work goes on.
        """
        self.requested = False
        self._restore()
        signal.raise_signal(self._number)

    def _watch(self) -> None:
        if threading.current_thread() is threading.main_thread():  # elsewhere, it is not allowed
            for number in _SIGNALS:
                self._handlers[number] = signal.signal(number, self._handler)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.requested, self._number = True, number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            # None: it was not set from Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers.clear()


@contextmanager
def deferred() -> Iterator[Stop]:
    """Defer the first signal to when the block asks for it, or ends."""
    stop = Stop()
    stop._watch()
    try:
        yield stop
    finally:
        stop._restore()
        if stop.requested:
            stop.now()
