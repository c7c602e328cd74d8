"""Clients for the tests of the server: an ordinary one, and one that sends any bytes."""

import http.client
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BOUNDARY = "between-the-pictures"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
PICTURE = {"content-type": "application/octet-stream"}


@dataclass(frozen=True)
class Answer:
    """What a server has answered.

    Attributes:
        status: of HTTP.
        headers: by name in lower case.
        body: of any kind.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Talks to a server at a port of this machine, over a connection for each request."""

    def __init__(self, port: int):
        self.port = port

    def ask(self, path: str, *, method: str = "GET", timeout: float = 30, **headers: str) -> Answer:
        return self._ask(method, path, None, headers, timeout)

    def send(self, path: str, body: bytes, timeout: float = 60, **headers: str) -> Answer:
        return self._ask("POST", path, body, headers or PICTURE, timeout)

    def send_several(self, path: str, pictures: dict[str, bytes], **headers: str) -> Answer:
        return self.send(path, multipart(pictures), **MULTIPART, **headers)

    def _ask(self, method, path, body, headers, timeout) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        try:
            connection.request(method, path, body, names)
            return _answer(connection.getresponse())
        finally:
            connection.close()

    def connect(self, timeout: float = 30) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def raw(self, *parts: bytes, answers: int = 1, pause: float = 0) -> list[Answer]:
        """Send bytes, and read as many answers as come, at most so many."""
        with self.connect() as link:
            for part in parts:
                link.sendall(part)
                time.sleep(pause)
            return read(link, answers)

    def holds(self, link: socket.socket) -> bool:
        """Whether the server still has a connection."""
        return link.getsockname() in {each.client for each in list(self.connections)}

    def counted(self) -> dict[str, float]:
        """The requests that the server has counted, by status."""
        page, found = self.ask("/metrics").body.decode(), dict[str, float]()
        pattern = r'^efftune_requests_total\{code="(\d+)",path="[^"]*"\} (\S+)$'
        for code, value in re.findall(pattern, page, re.MULTILINE):
            found[code] = found.get(code, 0) + float(value)
        return found

    def gauge(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", self.ask("/metrics").body.decode(), re.MULTILINE)
        return float(found[1])


def read(link: socket.socket, answers: int = 1) -> list[Answer]:
    """The answers that come over a connection, fewer if it ends."""
    found = list[Answer]()
    stream = _Kept(link)
    while len(found) < answers:
        response = http.client.HTTPResponse(stream)
        try:
            response.begin()
        except (http.client.HTTPException, OSError):
            break
        found.append(_answer(response))
    return found


class _Kept:
    """A connection whose file several responses read from."""

    def __init__(self, link: socket.socket):
        self._file = link.makefile("rb")
        self._file_close, self._file.close = self._file.close, lambda: None  # type: ignore[method-assign]

    def makefile(self, _mode: str):
        return self._file


def _answer(response: http.client.HTTPResponse) -> Answer:
    headers = {key.lower(): value for key, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


def multipart(pictures: dict[str, bytes], kind: str = "") -> bytes:
    """A body with files, by name."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="picture"; filename="{name}"'
        f"\r\n{kind}\r\n".encode()
        + content
        + b"\r\n"
        for name, content in pictures.items()
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def head(line: str, **headers: object) -> bytes:
    """The start of a request."""
    known = {"Host": "127.0.0.1", **headers}
    lines = [f"{key.replace('_', '-')}: {value}" for key, value in known.items()]
    return "\r\n".join([f"{line} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def is_ended(link: socket.socket, seconds: float) -> bool:
    """Whether the server ends a connection in time, whatever it says before."""
    link.settimeout(seconds)
    try:
        while link.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def eventually(holds: Callable[[], object], seconds: float = 10) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(found)
