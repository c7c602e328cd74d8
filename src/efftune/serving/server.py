"""The process that serves: its socket, its signals, its end."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from efftune.errors import UsageError
from efftune.model.classifier import Classifier
from efftune.serving import showing
from efftune.serving.app import application
from efftune.serving.connections import KEEP_ALIVE, Connection
from efftune.serving.feedback import Feedback
from efftune.serving.reloading import Served
from efftune.serving.service import Service
from efftune.serving.settings import POLL, ServerSettings
from efftune.serving.state import State
from efftune.serving.watching import Watcher
from efftune.system import machine

_log = logging.getLogger(__name__)
_LEAVING = 0.5  # seconds that clients get to leave before nothing new is accepted
_ROUNDS = 100  # of the event loop
_TIDYING = 10.0  # seconds between two of the times that freed memory is given back
_BACKLOG = 2048  # connections that wait to be accepted
_MOST_CONNECTIONS = 10_000  # at the same time
_OTHER_FILES = 100  # that the process may have open beside its connections


def serve(
    place: Path,
    settings: ServerSettings,
    load: Callable[[Path], Classifier],
    on_event: Callable[[str, str], None],
) -> None:
    """See `entry.serve`."""
    with _listening(settings) as listener, ExitStack() as closed:
        on_problem = partial(on_event, "problem")
        served = Served(place, load, on_problem, is_latest=settings.serves_latest)
        server = _Server(served, settings, on_event)
        if settings.watch is not None and settings.sort_into is not None:
            server.watcher = Watcher(settings.watch, settings.sort_into, on_event)
            closed.callback(server.watcher.close)
        if settings.feedback is not None:
            server.state.feedback = Feedback(settings.feedback)
            closed.callback(server.state.feedback.close)
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.serve_until_stopped(listener))


async def _give_back_memory() -> None:
    """Give the system what answers have left of freed memory, which would grow for hours."""
    while True:
        await asyncio.sleep(_TIDYING)
        await asyncio.to_thread(machine.give_back_memory)


class _Server(uvicorn.Server):
    """uvicorn, which first loads the classifier, and stops without losing what it was sent."""

    def __init__(
        self, served: Served, settings: ServerSettings, on_event: Callable[[str, str], None]
    ):
        self._served, self._settings, self._on_event = served, settings, on_event
        self.state = State(settings)
        self.watcher: Watcher | None = None
        self._gathering: asyncio.Future[None] | None = None
        super().__init__(
            uvicorn.Config(
                application(self.state),
                http=partial(  # type: ignore[arg-type]
                    Connection,
                    settings.receive_seconds,
                    _most_connections(),
                    partial(self.state.metrics.responded, "(no request)"),
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
        asked = asyncio.Event()
        if threading.current_thread() is threading.main_thread():  # elsewhere, it is not allowed
            self._watch_signals(asked)
        self._on_event("listening", _address(listener, self._settings))
        working = asyncio.ensure_future(self._work(asked))
        working.add_done_callback(self._stop_if_failed)
        await self._serve([listener])
        self.state.answering.close()
        if working.done() and not working.cancelled():
            working.result()
        working.cancel()

    async def _work(self, asked: asyncio.Event) -> None:
        """Load the classifier; then do whatever else there is to do, until the server stops."""
        service = await asyncio.to_thread(self._served.first)
        self._begin(service, "ready")
        others = [self._reload(asked), _give_back_memory()]
        if self.watcher is not None:
            others.append(self.watcher.watch(self.state))
        await asyncio.gather(*map(_going_on, others))

    def _begin(self, service: Service, event: str) -> None:
        """Answer with a classifier from now on; get its training pictures ready meanwhile."""
        self.state.serve(service)
        self._on_event(event, service.run)
        if self._settings.shows_training:
            if self._gathering is not None:
                self._gathering.cancel()
            gathering = showing.gather(self.state, service, self._on_event)
            self._gathering = asyncio.ensure_future(_going_on(gathering))

    async def _reload(self, asked: asyncio.Event) -> None:
        """Serve another classifier when that is asked for, or when there is a newer one.

        It is loaded beside the old one, which answers until then whatever it was asked.
        """
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(asked.wait(), POLL if self._served.is_latest else None)
            find = self._served.again if asked.is_set() else self._served.newer
            asked.clear()
            service = await asyncio.to_thread(find)
            if service is not None:
                self._begin(service, "reloaded")

    def _stop_if_failed(self, working: "asyncio.Future[None]") -> None:
        if not working.cancelled() and working.exception() is not None:
            self.should_exit = True

    def stop(self) -> None:
        """Stop; clients are told to leave first, as what they send meanwhile would be lost."""
        self.state.is_draining = True
        self._leaving = asyncio.ensure_future(self._leave())

    async def _leave(self) -> None:
        await asyncio.sleep(_LEAVING)
        for _ in range(_ROUNDS):  # the machine may not have had the time to read what had come
            await asyncio.sleep(0)
        self.should_exit = True

    def _watch_signals(self, asked: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self._on_signal, number)
            except NotImplementedError:  # on Windows
                signal.signal(
                    number,
                    lambda number, _: loop.call_soon_threadsafe(self._on_signal, number),
                )
        if self._settings.reloads or self._settings.serves_latest:
            with suppress(NotImplementedError, AttributeError):  # there is no such signal
                loop.add_signal_handler(signal.SIGHUP, asked.set)

    def _on_signal(self, number: int) -> None:
        if not self.state.is_draining:
            self.stop()
            return
        # Else the process would wait for its threads.
        print("efftune: Ended at once.", file=sys.stderr, flush=True)
        os._exit(128 + number)


async def _going_on(work: Coroutine[Any, Any, None]) -> None:
    """Do something without which the server can go on."""
    try:
        await work
    except Exception:  # noqa: BLE001  (whatever it is)
        _log.error(traceback.format_exc())


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
