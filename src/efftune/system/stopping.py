"""Ctrl-C and SIGTERM while something is at work that should first be brought to a good state."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST = 9.0  # seconds that a process goes on after the first signal
_AGAIN = 1.0  # the same, after the second
_SHOW_CURSOR = "\x1b[?25h"

_last_words: list[str] = []  # of a process that ends at once
_saving: list[bool] = []  # not empty while something is written that a signal asked for


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
                # A script's background processes ignore Ctrl-C, which is for others then.
                if signal.getsignal(number) != signal.SIG_IGN:
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


@contextmanager
def last_words(text: str) -> Iterator[None]:
    """What `ended_in_time` prints if the process has to end while the block is under way."""
    _last_words.append(text)
    try:
        yield
    finally:
        _last_words.remove(text)


@contextmanager
def saving() -> Iterator[None]:
    """Let `ended_in_time` wait for the block, unless a second signal comes."""
    _saving.append(True)
    try:
        yield
    finally:
        _saving.pop()


@contextmanager
def ended_in_time() -> Iterator[None]:
    """End the process if it goes on for 9 s after a signal, or for 1 s after a second one.

    Python handles signals between two steps of a program; a step of a large network may take
    longer. Then the process ends as if it had been killed, which no run is lost by, with the exit
    code of the signal. For processes of the command line only, in their main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(receiver,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        sender.close()


def _end_in_time(receiver: socket.socket) -> None:
    """Wait for signals, whose numbers come as bytes; the connection is closed if all went well."""
    number = 0
    with receiver:
        while number not in _SIGNALS:
            if not (received := receiver.recv(1)):
                return
            number = received[0]
        is_second, end = False, time.monotonic() + _LONGEST
        while (left := end - time.monotonic()) > 0 or (_saving and not is_second):
            receiver.settimeout(max(left, _AGAIN))
            with suppress(TimeoutError):
                if not (received := receiver.recv(1)):
                    return
                if received[0] in _SIGNALS and not is_second:
                    is_second, end = True, time.monotonic() + _AGAIN
    try:
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)  # a progress bar hides it
        sys.stderr.write("\n".join(["Ended at once.", *_last_words, ""]))
        sys.stderr.flush()
    finally:  # whatever has become of the terminal
        os._exit(128 + number)
