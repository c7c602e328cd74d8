"""The server itself, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@contextmanager
def serving(run: Path, *options: str, **environment: str) -> Iterator[str]:
    """The address of a server, which is ready; it stops by SIGTERM, and must say it did well."""
    port = () if "--port" in options else ("--port", "0")
    process = subprocess.Popen(
        [sys.executable, "-m", "efftune", "serve", str(run), *port, "--json", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        events = {}
        while "ready" not in events:
            line = process.stdout.readline()
            assert line, f"The server ended with {process.wait(10)}."
            told = json.loads(line)
            events[told["event"]] = told["value"]
        yield events["listening"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def server() -> Callable[..., AbstractContextManager[str]]:
    """Start a server: `with server(run, *options) as url`."""
    return serving
