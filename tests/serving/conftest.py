"""The real server, in a thread of the tests or in a process of its own, on a run of squares."""

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from conftest import COLOURS, square
from efftune.runs import loading
from efftune.serving.reloading import Served
from efftune.serving.server import _listening, _Server
from efftune.serving.settings import ServerSettings

from . import processes
from .client import Client

READY = 60  # seconds


@contextmanager
def serving(run: Path, **choices: object) -> Iterator[Client]:
    """A server in a thread of this process; it stops as at a signal."""
    settings = ServerSettings(port=0, **choices)
    loops, ready = list[asyncio.AbstractEventLoop](), threading.Event()

    def on_event(event: str, _: str) -> None:
        if event == "ready":
            ready.set()

    async def until_stopped() -> None:
        loops.append(asyncio.get_running_loop())
        await served.serve_until_stopped(listener)

    def whole() -> None:
        with asyncio.Runner(loop_factory=served.config.get_loop_factory()) as runner:
            runner.run(until_stopped())

    with _listening(settings) as listener:
        port = listener.getsockname()[1]
        served = _Server(Served(run, loading.load, print, is_latest=False), settings, on_event)
        thread = threading.Thread(target=whole, daemon=True)
        thread.start()
        try:
            assert ready.wait(READY)
            client = Client(port)
            client.state, client.run = served.state, run
            client.connections = served.server_state.connections
            client.stop = lambda: loops[0].call_soon_threadsafe(served.stop)
            yield client
        finally:
            if not served.state.is_draining:
                client.stop()
            thread.join(40)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(finished_run) -> Iterator[Client]:
    """Of a server with the usual settings, but short patience."""
    with serving(finished_run.folder, receive_seconds=1.0) as found:
        yield found


@pytest.fixture(scope="session")
def squares() -> dict[str, bytes]:
    """Pictures that the run knows, as PNG and JPEG, by file name."""
    found = dict[str, bytes]()
    for number, (name, colour) in enumerate(COLOURS.items()):
        for form in ("PNG", "JPEG"):
            stream = io.BytesIO()
            square(colour, 7000 + number).save(stream, form)
            found[f"{name}.{form.lower()}"] = stream.getvalue()
    return found


@pytest.fixture(scope="session")
def picture(squares) -> bytes:
    return squares["red.jpeg"]


class Process:
    """`efftune serve` in a process of its own."""

    def __init__(self, run: object, *options: object):
        words = [sys.executable, "-m", "efftune", "serve", run, "--port", 0, "--json", *options]
        self.process = subprocess.Popen(
            list(map(str, words)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        line = self.process.stdout.readline()
        self.client = Client(int(json.loads(line)["value"].rpartition(":")[2])) if line else None

    def wait_until_ready(self) -> None:
        assert json.loads(self.process.stdout.readline())["event"] == "ready"

    def ended(self, seconds: float = 40) -> tuple[int, str]:
        """The exit code, and what it said of errors."""
        _, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, errors


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """Starts servers, and ends those that are left."""
    started = list[Process]()

    def start(*arguments: object) -> Process:
        started.append(Process(*arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@contextmanager
def _stopping_well(run: Path, *options: str, **environment: str) -> Iterator[str]:
    with processes.process(run, *options, **environment) as started:
        started.wait_for("ready")
        yield started.url
        code, errors = started.stop()
        assert code == 0, errors


@pytest.fixture(scope="session")
def server() -> Callable[..., AbstractContextManager[str]]:
    """Start a server: `with server(run, *options, **environment) as url`; it must end with 0."""
    return _stopping_well
