"""Processes that help with many small calls, such as decoding pictures.

Python computes in one thread at a time. Decoding a picture is a chain of short calls, after each of
which threads wait for one another: sixteen threads decode fewer pictures in a second than two do.
Helpers do not wait for one another, nor for what else the process does.
"""

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import lru_cache
from queue import SimpleQueue
from typing import Any, TypeVar

from efftune.system import helper
from efftune.system.machine import own_program, usable_processors

_FEWEST_CALLS = 1000  # fewer take no longer than helpers to start
_FEWEST_PROCESSORS = 4  # on fewer, threads do not wait for long
_MOST = 32  # which one process can just about supply with work
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")

_PIPE_BYTES = 2**18  # where this can be set: a few pictures that the network takes

Result = TypeVar("Result")
Call = Callable[..., Any]  # of a function and its arguments


def caller(calls: int) -> Call:
    """What to call a function with, from as many threads as there are processors.

    Args:
        calls: how many there will be.

    Returns:
        `helped`, if helpers save time; else what calls the function right there.
    """
    processors = usable_processors()
    many = calls >= _FEWEST_CALLS and processors >= _FEWEST_PROCESSORS
    count = min(processors, _MOST)
    return _helpers(os.getpid(), count).helped if many and sys.executable else called


def called(function: Callable[..., Result], *arguments: Any) -> Result:
    """The function's result, computed in this thread."""
    return function(*arguments)


@lru_cache(maxsize=1)
def _helpers(_process: int, count: int) -> "_Helpers":
    """Those of this process: a forked one must not talk to those of its parent."""
    return _Helpers(count)


class _Helpers:
    """Helpers that start when they are first needed, and end when they have long not been."""

    def __init__(self, count: int):
        self._free: SimpleQueue[_Helper | None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)
        self._can_start = True

    def helped(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The function's result, or what it raises, computed by a helper.

        Args:
            function: one that a module defines, which is quick to import.
            arguments: that can be pickled, as its result can.
        """
        if not self._can_start:
            return function(*arguments)
        worker, kept = self._free.get(), None
        is_new = worker is None
        try:
            worker = worker or _Helper()
            succeeded, result = worker.ask(function, arguments)
            kept = worker
        except (OSError, EOFError):  # it ended, perhaps as it was idle; or cannot even start
            self._can_start = self._can_start and not is_new
            return function(*arguments)
        finally:  # one whose answer is still to come is of no use
            self._free.put(kept)
        if not succeeded:
            raise result
        return result  # type: ignore[no-any-return]


class _Helper:
    """A process that runs `helper`."""

    def __init__(self) -> None:
        command, environment = own_program(helper.__name__)
        self._process = subprocess.Popen(  # noqa: S603  (our own module)
            command,
            bufsize=0,
            pipesize=_PIPE_BYTES,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | dict.fromkeys(_THREADS, "1"),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        weakref.finalize(self, _end, self._process, os.getpid())

    def ask(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        """Whether a call succeeds; and its result, or what it raises."""
        assert self._process.stdin and self._process.stdout  # noqa: S101  (they are pipes)
        helper.send(self._process.stdin, (function, arguments))  # type: ignore[arg-type]
        answer: tuple[bool, Any] = helper.receive(self._process.stdout)  # type: ignore[arg-type]
        return answer


def _end(process: "subprocess.Popen[bytes]", begun_in: int) -> None:
    """End a process and wait for it; not that of a parent."""
    if os.getpid() == begun_in:
        process.kill()
        process.communicate()
