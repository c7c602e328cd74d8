"""The process that serves: its socket, its signals, its end."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn

from efftune.errors import UsageError
from efftune.serving.app import application
from efftune.serving.connections import KEEP_ALIVE, Connection
from efftune.serving.service import Service
from efftune.serving.settings import ServerSettings
from efftune.serving.state import State

_LEAVING = 0.5  # seconds that clients get to leave before nothing new is accepted
_ROUNDS = 100  # of the event loop
_BACKLOG = 2048  # connections that wait to be accepted
_MOST_CONNECTIONS = 10_000  # at the same time
_OTHER_FILES = 100  # that the process may have open beside its connections


def serve(
    run: Path,
    settings: ServerSettings,
    *,
    max_error: str | None = None,
    on_event: Callable[[str, str], None],
) -> None:
    """Serve a classifier until the process is told to stop by Ctrl-C or SIGTERM.

    What was received until then is answered first. A second signal ends the process at once.

    Args:
        run: the run folder, or an exported file.
        settings: of the server.
        max_error: see `load`.
        on_event: called with `listening` and the address, and `ready` and the classifier's name.

    Raises:
        UsageError: the address cannot be used, or there is no such run.
        DataError: the run is damaged.
    """
    with _listening(settings) as listener:
        server = _Server(run, settings, max_error, on_event)
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.serve_until_stopped(listener))


class _Server(uvicorn.Server):
    """uvicorn, which first loads the classifier, and stops without losing what it was sent."""

    def __init__(
        self,
        run: Path,
        settings: ServerSettings,
        max_error: str | None,
        on_event: Callable[[str, str], None],
    ):
        self._run, self._max_error, self._on_event = run, max_error, on_event
        self._state, self._settings = State(settings), settings
        super().__init__(
            uvicorn.Config(
                application(self._state),
                http=partial(  # type: ignore[arg-type]
                    Connection,
                    settings.receive_seconds,
                    _most_connections(),
                    partial(self._state.metrics.responded, "(no request)"),
                ),
                ws="none",
                lifespan="off",
                log_config=None,
                server_header=False,
                access_log=False,
                backlog=_BACKLOG,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # whatever clients send

    async def serve_until_stopped(self, listener: socket.socket) -> None:
        """Serve, load, and serve until a signal comes."""
        if threading.current_thread() is threading.main_thread():  # elsewhere, it is not allowed
            self._watch_signals()
        self._on_event("listening", _address(listener, self._settings))
        loading = asyncio.ensure_future(self._load())
        loading.add_done_callback(self._stop_if_failed)
        await self._serve([listener])
        self._state.answering.close()
        if loading.done() and not loading.cancelled():
            loading.result()

    async def _load(self) -> None:
        service = await asyncio.to_thread(Service.load, self._run, self._max_error)
        self._state.serve(service)
        self._on_event("ready", service.name)

    def _stop_if_failed(self, loading: "asyncio.Future[None]") -> None:
        if not loading.cancelled() and loading.exception() is not None:
            self.should_exit = True

    def stop(self) -> None:
        """Stop; clients are told to leave first, as what they send meanwhile would be lost."""
        self._state.is_draining = True
        self._leaving = asyncio.ensure_future(self._leave())

    async def _leave(self) -> None:
        await asyncio.sleep(_LEAVING)
        for _ in range(_ROUNDS):  # the machine may not have had the time to read what had come
            await asyncio.sleep(0)
        self.should_exit = True

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self._on_signal, number)
            except NotImplementedError:  # on Windows
                signal.signal(
                    number,
                    lambda number, _: loop.call_soon_threadsafe(self._on_signal, number),
                )

    def _on_signal(self, number: int) -> None:
        if not self._state.is_draining:
            self.stop()
            return
        # Else the process would wait for its threads.
        print("efftune: Ended at once.", file=sys.stderr, flush=True)
        os._exit(128 + number)


def _listening(settings: ServerSettings) -> socket.socket:
    """The socket.

    Raises:
        UsageError: the address is unknown, or in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # on Windows, two processes could have the same port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"Cannot listen at {settings.host}:{settings.port}: {reason}. Choose another --host or "
            "--port."
        ) from None
    return listener


def _address(listener: socket.socket, settings: ServerSettings) -> str:
    """What a browser opens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


def _most_connections() -> int:
    """How many connections the system lets the process have; it is let have as many as may be."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows, which has no such limit
        return _MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        _MOST_CONNECTIONS
        if soft == resource.RLIM_INFINITY
        else max(1, min(soft, wanted) - _OTHER_FILES)
    )
