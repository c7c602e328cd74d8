"""Servers that tests start: in a thread, or as processes of their own; and clients."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from urllib.parse import quote

import uvicorn

from efftune.serving.app import application
from efftune.serving.connections import Connection


@contextmanager
def in_thread(state, *, also=None):
    """Serve a state on a free port of this machine; `also` is a coroutine function beside it.

    Yields its address.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application(state),
        http=partial(Connection, state.settings.receive_seconds, 1000, lambda _: None),
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)

    async def work():
        beside = asyncio.ensure_future(also()) if also else None
        await server.serve(sockets=[listener])
        if beside:
            beside.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        state.answering.close()
        listener.close()
        assert not thread.is_alive()


class Process:
    """`efftune serve` as a process."""

    def __init__(self, *arguments, **environment):
        self.events = []
        port = () if "--port" in arguments else ("--port", "0")
        command = [sys.executable, "-m", "efftune", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(
            [*command, *port, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def values(self, event):
        """What was told of a kind of event so far."""
        return [each["value"] for each in list(self.events) if each["event"] == event]

    def wait_for(self, event, count=1):
        """The value of an event, once there were so many of it."""
        until(lambda: len(self.values(event)) >= count or self.process.poll() is not None)
        return self.values(event)[count - 1]

    @property
    def url(self):
        return self.wait_for("listening")

    def stop(self):
        """Stop it; returns its exit code and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(40)
        self._reader.join(10)
        return code, self.process.stderr.read()


@contextmanager
def process(*arguments, **environment):
    """A server as a process, which ends with the block."""
    started = Process(*arguments, **environment)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()
        started.process.stdout.close()
        started.process.stderr.close()


def until(is_so, seconds=30):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.02)


def ask(url, content=None, kind="image/png", **query):
    """Status and answer of a request: JSON where it is that."""
    words = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in query.items())
    request = urllib.request.Request(
        f"{url}?{words}" if words else url, data=content, headers={"content-type": kind}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
