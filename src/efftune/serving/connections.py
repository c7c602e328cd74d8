"""Connections that do not wait for ever for a request."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_MOST_BYTES = 65536  # of a request's headers; and of what comes after its body, in chunked ones
_MOST_HEADERS = 100
_MOST_PIPELINED = 32  # requests that wait for the answer to one before them
_LINGERING = 2.0  # seconds until a refused client, which may still be sending, has to be gone
KEEP_ALIVE = 75  # seconds that a connection waits for the next request, or for its answer's way


class Connection(HttpToolsProtocol):
    """A connection that ends when the headers of a request do not, in time or in size.

    What comes after an answer that did not wait for it is read for as long, and thrown away. The
    application watches the rest of the body. It finds in the scope of a request, as `is_gone`, a
    function that tells whether the client has left; any thread may call it.
    """

    def __init__(
        self, receive_seconds: float, most: int, on_refused: Callable[[int], None], **arguments: Any
    ):
        """Begin without a request.

        Args:
            receive_seconds: until all headers must have come.
            most: connections at the same time; others are ended at once.
            on_refused: called with the status of an answer to what is no request.
            arguments: of uvicorn.
        """
        super().__init__(**arguments)
        self._seconds, self._most, self._on_refused = receive_seconds, most, on_refused
        self._patience: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None  # while the client does not read
        self._received = 0  # bytes that are no part of a body
        self._is_in_headers, self._is_complete, self._is_refused = False, True, False
        self._goes_on = False  # with what has just come: to a request, its body or a part of it
        self._refusal = 400, "This is no HTTP request."

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._give_up()
        else:
            self._wait(self._seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._wait_no_more()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, unless there is too much beside its body."""
        if self._is_refused:
            return
        self._goes_on = self._is_complete
        self._unset_keepalive_if_required()
        self._feed(data)
        if not (self._goes_on or self._is_complete):
            self._received += len(data)
            if self._received > _MOST_BYTES:
                self._refusal = 431, f"The headers have more than {_MOST_BYTES:,} bytes."
                self.send_400_response("")
        elif self._is_idle and self.timeout_keep_alive_task is None and self._patience is None:
            self._wait(self._seconds)  # what came belongs to no request

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._received, self._is_in_headers, self._is_complete = 0, True, False
        self._goes_on = True
        self._wait(self._seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come; those after the body mean nothing here."""
        if self._is_in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers have come."""
        self._is_in_headers = False
        self._wait_no_more()
        self._require_modest()
        if self.parser.should_upgrade():
            return  # and begin again, in `_feed`
        super().on_headers_complete()
        self.scope["is_gone"] = self.transport.is_closing  # type: ignore[typeddict-unknown-key]
        self._received, self._goes_on = 0, True

    def on_body(self, body: bytes) -> None:
        """A part of the body has come."""
        self._goes_on = True
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """A chunk of the body begins."""
        self._goes_on = True

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._is_complete = True
        self._wait_no_more()
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent, perhaps before the request is complete."""
        super().on_response_complete()
        if not self._is_complete:
            self._wait(self._seconds)

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(KEEP_ALIVE, self._give_up)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def timeout_keep_alive_handler(self) -> None:
        """No other request has come."""
        self._give_up()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, if the client cannot take that for the answer to another."""
        del msg
        self._is_refused = True
        is_awaited = self._is_idle or not (
            self._is_complete or self._is_in_headers or self.cycle.response_started or self.pipeline
        )
        if not is_awaited:
            self.cycle.keep_alive = False  # what came before is answered
            return
        if self.transport.is_closing():
            return
        status, text = self._refusal
        body = json.dumps({"error": text}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self._on_refused(status)
        self.transport.write_eof()
        self._wait(_LINGERING)  # else the answer could be lost on its way

    def _feed(self, data: bytes) -> None:
        """Parse what has come.

        A client may offer another protocol with any request, as Java's does. It is answered in this
        one: the parser, which would stop there, is given the request without the offer.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            parts = [b"%b %b HTTP/1.1\r\n" % (self.parser.get_method(), self.url)]
            parts += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self._feed(b"".join([*parts, b"\r\n", data[upgrade.args[0] :]]))
        except httptools.HttpParserError:
            self.send_400_response("")

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _require_modest(self) -> None:
        """Check the headers of a request.

        Raises:
            ValueError: they are not what a server like this one takes.
        """
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > _MOST_BYTES or len(self.headers) > _MOST_HEADERS:
            self._refusal = (
                431,
                f"The headers have more than {_MOST_BYTES:,} bytes, or are more than "
                f"{_MOST_HEADERS}.",
            )
        elif not self.url.startswith(b"/"):
            self._refusal = (
                400,
                "The target of a request is a path of this server, such as /predict.",
            )
        elif len(self.pipeline) >= _MOST_PIPELINED:
            self._refusal = 400, "Too many requests that do not wait for an answer."
        else:
            return
        raise ValueError(self._refusal)

    def _wait(self, seconds: float) -> None:
        self._wait_no_more()
        self._patience = self.loop.call_later(seconds, self._give_up)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._wait_no_more()
        if not self.transport.is_closing():
            self.transport.abort()
