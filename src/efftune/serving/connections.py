"""Connections that do not wait for ever for a request."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_BYTES = 65536  # of a request's headers
KEEP_ALIVE = 75  # seconds that a connection waits for the next request


class Connection(HttpToolsProtocol):
    """A connection that ends when the headers of a request do not, in time or in size.

    What comes after an answer that did not wait for it is read for as long, and thrown away. The
    application watches the rest of the body.
    """

    def __init__(self, receive_seconds: float, **arguments: Any):
        """Begin without a request.

        Args:
            receive_seconds: until all headers must have come.
            arguments: of uvicorn.
        """
        super().__init__(**arguments)
        self._seconds = receive_seconds
        self._patience: asyncio.TimerHandle | None = None
        self._received = 0  # bytes of headers
        self._is_in_headers = self._is_complete = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, unless its headers are too large."""
        if self._is_in_headers:
            self._received += len(data)
            if self._received > _MOST_BYTES + len(data):
                self._give_up()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._received, self._is_in_headers, self._is_complete = 0, True, False
        self._wait()

    def on_headers_complete(self) -> None:
        """The headers have come."""
        self._is_in_headers = False
        self._wait_no_more()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._is_complete = True
        self._wait_no_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent, perhaps before the request is complete."""
        super().on_response_complete()
        if not self._is_complete:
            self._wait()

    def _wait(self) -> None:
        self._wait_no_more()
        self._patience = self.loop.call_later(self._seconds, self._give_up)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._wait_no_more()
        if not self.transport.is_closing():
            self.transport.abort()
