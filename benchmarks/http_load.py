"""Clients that ask an HTTP server as fast as it answers, or at a rate, from one thread.

The load generator of `serving.py`: it costs the machine, which is also the server's, little.
"""

import json
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ask:
    """A request.

    Attributes:
        content: all of it, as it is sent.
        name: what is asked, for `Answered`.
    """

    content: bytes
    name: str = ""

    @classmethod
    def post(cls, path: str, body: bytes, name: str = "", kind: str = "image/jpeg") -> "Ask":
        """Send a body."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return cls(head.encode() + body, name)

    @classmethod
    def get(cls, path: str) -> "Ask":
        """Ask without a body."""
        return cls(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), path)


@dataclass(frozen=True)
class Answered:
    """What became of a request.

    Attributes:
        name: of the request.
        status: of HTTP; 0 if the connection ended without an answer.
        seconds: from the time it was due to the end of its answer.
        body: of the answer.
    """

    name: str
    status: int
    seconds: float
    body: bytes

    def json(self) -> Any:
        """The answer's values."""
        return json.loads(self.body)


@dataclass
class Load:
    """What came of many requests.

    Attributes:
        answered: each request.
        seconds: from the first to the last.
    """

    answered: list[Answered] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def statuses(self) -> dict[int, int]:
        """How often each status was answered."""
        return dict(sorted(Counter(each.status for each in self.answered).items()))

    def of(self, *statuses: int) -> list[Answered]:
        """Those with one of these statuses."""
        return [each for each in self.answered if each.status in statuses]

    def rate(self, *statuses: int) -> float:
        """Answers of these statuses a second."""
        return len(self.of(*statuses)) / self.seconds

    def ms(self, *statuses: int) -> str:
        """50th, 95th and 99th percentile of the time, in milliseconds."""
        times = [1000 * each.seconds for each in self.of(*statuses)]
        if not times:
            return "-"
        return " ".join(f"{each:.1f}" for each in np.percentile(times, [50, 95, 99]))


class _Connection:
    """A connection that is kept, with at most one request under way."""

    def __init__(self, address: tuple[str, int]):
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.ask: Ask | None = None
        self.due = 0.0
        self.unsent = memoryview(b"")
        self.received = bytearray()
        self.is_open = True

    def begin(self, ask: Ask, due: float) -> None:
        self.ask, self.due, self.unsent = ask, due, memoryview(ask.content)
        self.received = bytearray()

    def send(self) -> None:
        try:
            while self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # it was answered before all was sent, or never will be
            self.unsent = memoryview(b"")

    def receive(self) -> Answered | None:
        """The answer, when it is complete."""
        assert self.ask is not None
        try:
            part = self.socket.recv(1 << 18)
        except BlockingIOError:
            return None
        except OSError:
            part = b""
        now = time.perf_counter()
        if not part:
            return Answered(self.ask.name, 0, now - self.due, b"")
        self.received += part
        head, found, body = bytes(self.received).partition(b"\r\n\r\n")
        if not found:
            return None
        lowered = head.lower()
        length = int(lowered.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return None
        return Answered(self.ask.name, int(head[9:12]), now - self.due, body)


def run(
    address: tuple[str, int],
    asks: Iterator[Ask],
    *,
    clients: int,
    rate: float = 0.0,
    until: Callable[[float], bool] = lambda _seconds: False,
) -> Load:
    """Ask, and collect the answers.

    Args:
        address: host and port.
        asks: the requests, in order; it ends when they do.
        clients: connections; each asks again when it was answered.
        rate: requests a second, whether or not those before were answered, if a connection is
            free; 0 for as many as are answered.
        until: whether to end, asked with the seconds since the beginning.
    """
    load, selector = Load(), selectors.DefaultSelector()
    idle, busy = list[_Connection](), 0
    for _ in range(clients):
        connection = _Connection(address)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        idle.append(connection)
    began, number, is_over = time.perf_counter(), 0, False
    while True:
        now = time.perf_counter()
        while idle and not is_over and (not rate or began + number / rate <= now):
            ask = None if until(now - began) else next(asks, None)
            if ask is None:
                is_over = True
                break
            connection = idle.pop()
            if not connection.is_open:
                connection = _Connection(address)
                selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.begin(ask, began + number / rate if rate else now)
            number, busy = number + 1, busy + 1
            connection.send()
            _watch(selector, connection)
        if is_over and not busy:
            break
        wait = max(0.0, began + number / rate - now) if rate and idle and not is_over else 1.0
        for key, events in selector.select(wait):
            answered = _gone_on(selector, key.data, events)
            if answered is not None:
                load.answered.append(answered)
                idle.append(key.data)
                busy -= 1
    load.seconds = time.perf_counter() - began
    for connection in idle:
        _close(selector, connection)
    selector.close()
    return load


def _gone_on(
    selector: selectors.BaseSelector, connection: _Connection, events: int
) -> Answered | None:
    """Send and receive what can be; returns the answer when it is complete."""
    if events & selectors.EVENT_WRITE:
        connection.send()
        _watch(selector, connection)
    if not events & selectors.EVENT_READ:
        return None
    if connection.ask is None:  # the server has ended an idle connection
        _close(selector, connection)
        return None
    answered = connection.receive()
    if answered is not None:
        connection.ask = None
        head = bytes(connection.received[:2000]).lower()
        if answered.status == 0 or b"connection: close" in head:
            _close(selector, connection)
    return answered


def _watch(selector: selectors.BaseSelector, connection: _Connection) -> None:
    write = selectors.EVENT_WRITE if connection.unsent else 0
    selector.modify(connection.socket, selectors.EVENT_READ | write, connection)


def _close(selector: selectors.BaseSelector, connection: _Connection) -> None:
    """Close a connection; another takes its place when it is needed."""
    if connection.is_open:
        selector.unregister(connection.socket)
        connection.socket.close()
        connection.is_open = False
