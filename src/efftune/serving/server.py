"""The process that serves: its socket, its signals, its end."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import uvicorn

from efftune.errors import UsageError
from efftune.serving.app import application
from efftune.serving.connections import KEEP_ALIVE, Connection
from efftune.serving.feedback import Feedback
from efftune.serving.service import Service
from efftune.serving.settings import ServerSettings
from efftune.serving.state import State

_LEAVING = 0.5  # seconds that clients get to leave before nothing new is accepted
_BACKLOG = 2048  # connections that wait to be accepted


def serve(
    run: Path,
    settings: ServerSettings,
    *,
    max_error: str | None = None,
    on_event: Callable[[str, str], None],
) -> None:
    """Serve a classifier until the process is told to stop by Ctrl-C or SIGTERM.

    What was received until then is answered first. A second signal ends it at once.

    Args:
        run: the run folder, or an exported file.
        settings: of the server.
        max_error: see `load`.
        on_event: called with `listening` and the address, and `ready` and the classifier's name.

    Raises:
        UsageError: the address cannot be used, or there is no such run.
        DataError: the run is damaged.
    """
    with _listening(settings) as listener, ExitStack() as closed:
        server = _Server(run, settings, max_error, on_event)
        if settings.feedback is not None:
            server.state.feedback = Feedback(settings.feedback)
            closed.callback(server.state.feedback.close)
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
        self.state, self._settings = State(settings), settings
        super().__init__(
            uvicorn.Config(
                application(self.state),
                http=partial(Connection, settings.receive_seconds),  # type: ignore[arg-type]
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
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        self._on_event("listening", _address(listener, self._settings))
        loading = asyncio.ensure_future(self._load())
        loading.add_done_callback(self._stop_if_failed)
        await self._serve([listener])
        self.state.answering.close()
        if loading.done() and not loading.cancelled():
            loading.result()

    async def _load(self) -> None:
        service = await asyncio.to_thread(Service.load, self._run, self._max_error)
        self.state.serve(service)
        self._on_event("ready", service.name)

    def _stop_if_failed(self, loading: "asyncio.Future[None]") -> None:
        if not loading.cancelled() and loading.exception() is not None:
            self.should_exit = True

    def _stop(self) -> None:
        """Stop; clients are told to leave first, as what they send meanwhile would be lost."""
        if self.state.is_draining:
            self.force_exit = self.should_exit = True
            return
        self.state.is_draining = True
        asyncio.get_running_loop().call_later(_LEAVING, setattr, self, "should_exit", True)


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
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.set_inheritable(True)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"Cannot listen at {settings.host}:{settings.port}: {reason}. Choose another --port."
        ) from None
    return listener


def _address(listener: socket.socket, settings: ServerSettings) -> str:
    """What a browser opens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"
