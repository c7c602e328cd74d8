"""What is checked of every request before it reaches the application, and added to each answer."""

import asyncio
import hmac
import json
import logging
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from efftune.serving.answering import BUSY, Busy
from efftune.serving.state import State
from efftune.system.text import escape_control

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
# What needs no token: whether it is alive and ready, and the page, which asks for the token.
OPEN = frozenset(
    {"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
)
OPEN_FOLDER = "/page/"
_SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_SECURITY_HEADERS = [(key.encode(), value.encode()) for key, value in _SECURITY.items()]
_METHODS = "GET, HEAD, POST"
# What pages of other servers may read of answers, and send.
_SHOWN = (
    b"X-Request-Id, X-Label, X-Confidence, X-Unreadable, Inference-Header-Content-Length, "
    b"Retry-After"
)
_TAKEN = b"Authorization, Content-Type, Accept, Inference-Header-Content-Length"
_AT_WORK = frozenset({"/predict", "/explain"})  # what most requests want, refused first of all
_BY_STATUS = {
    401: [(b"www-authenticate", b"Bearer")],
    405: [(b"allow", _METHODS.encode())],
    503: [(b"retry-after", b"1")],
}


class Guard:
    """Lets through what may use the server; the outermost part of the application."""

    def __init__(self, application: Application, state: State):
        """Put a guard before an application.

        Args:
            application: what answers.
            state: of the server.
        """
        self._application, self._state = application, state
        self._settings, self._metrics = state.settings, state.metrics
        self._held = 0  # bytes of the bodies of all requests that are not answered

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI asks."""
        if scope["type"] != "http":
            return
        request_id = scope["request_id"] = uuid.uuid4().hex
        headers = _headers(scope)
        exchange = _Exchange(receive, send, self._added(request_id, headers), "expect" in headers)
        try:
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                await respond(exchange.send, request_id, *refusal)
            elif scope["method"] == "OPTIONS":
                await _allow(exchange.send)
            else:
                await self._application(scope, self._holding(exchange), exchange.send)
        except asyncio.CancelledError:
            if not exchange.status:
                await respond(exchange.send, request_id, 503, "The server had to stop first.")
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, the server goes on)
            log_failure(request_id, error)
            if not exchange.status:
                text = f"The server has failed; its log has more under {request_id}."
                await respond(exchange.send, request_id, 500, text)
        finally:
            self._held -= exchange.held
            self._metrics.responded(scope.get("counted as", "(other)"), exchange.status)

    def _holding(self, exchange: "_Exchange") -> Receive:
        """Receives the body of a request while all of them together are not too large."""

        async def receive() -> Message:
            message = await exchange.receive()
            size = len(message.get("body", b""))
            exchange.held += size
            self._held += size
            if self._held > self._settings.most_held:
                raise Busy
            return message

        return receive

    def _added(self, request_id: str, headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
        """The headers that every answer has."""
        added = [*_SECURITY_HEADERS, (b"x-request-id", request_id.encode())]
        origin = headers.get("origin", "")
        if origin in self._settings.origins:
            added += [
                (b"access-control-allow-origin", origin.encode()),
                (b"access-control-expose-headers", _SHOWN),
                (b"vary", b"Origin"),
            ]
        if self._state.is_draining:
            added.append((b"connection", b"close"))
        return added

    def _refusal(self, scope: Message, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and reason, if a request may not pass."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._settings.names(_without_port(host)):
            return 421, "This server has another name. If this one is right: --allow-host NAME."
        if (
            origin is not None
            and origin not in self._settings.origins
            and not _is_same(origin, host)
        ):
            return 403, "Pages of other servers may not use this one; its owner can --allow-origin."
        if scope["method"] == "OPTIONS" and origin is None:
            return 405, "This method is not used here."
        path = scope["path"]
        is_open = path in OPEN or path.startswith(OPEN_FOLDER) or scope["method"] == "OPTIONS"
        if not (is_open or self._has_token(headers.get("authorization", ""))):
            return 401, "Send the server's token: Authorization: Bearer TOKEN."
        if path in _AT_WORK and self._state.answering.is_full:
            scope["counted as"] = path
            return 503, BUSY
        return self._refusal_of_body(headers)

    def _has_token(self, authorization: str) -> bool:
        token = self._settings.token
        scheme, _, given = authorization.partition(" ")
        return token is None or (
            hmac.compare_digest(given.strip().encode(), token.encode())
            and scheme.lower() == "bearer"
        )

    def _refusal_of_body(self, headers: dict[str, str]) -> tuple[int, str] | None:
        if "content-encoding" in headers:
            return 415, "Send the picture as it is, without Content-Encoding."
        length = headers.get("content-length", "0")
        if length.isdigit() and (len(length) > 20 or int(length) > self._settings.most_bytes):
            return 413, f"More than {self._settings.most_bytes:,} bytes."
        return None


class _Exchange:
    """A request and its answer.

    Attributes:
        status: of the answer; 0 before there is one.
        held: bytes of the body that were received.
    """

    def __init__(
        self, receive: Receive, send: Send, added: list[tuple[bytes, bytes]], is_asking: bool
    ):
        """Begin.

        Args:
            receive: as ASGI gives it.
            send: likewise.
            added: headers of the answer, if it has not got them.
            is_asking: whether the client asks before it sends the body (`Expect: 100-continue`).
        """
        self.status = self.held = 0
        self._receive, self._send, self._added = receive, send, added
        self._is_asking = is_asking

    async def receive(self) -> Message:
        """Receive a part of the body; the client is told to send it."""
        self._is_asking = False
        return await self._receive()

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {key.lower() for key, _ in message["headers"]}
            extra = [each for each in self._added if each[0] not in given]
            if self._is_asking:  # whether it sends the body now nobody knows
                extra.append((b"connection", b"close"))
            message = {**message, "headers": [*message["headers"], *extra]}
        await self._send(message)


def route(path: str, function: Any, *, post: bool = False) -> Route:
    """A path that a function answers, by which its requests are counted."""

    async def counted(request: Request) -> Response:
        request.scope["counted as"] = path
        response: Response = await function(request)
        return response

    return Route(path, counted, methods=["POST"] if post else ["GET"])


async def respond(send: Send, request_id: str, status: int, error: str) -> None:
    """Answer with an error."""
    body = json.dumps({"error": error, "request_id": request_id}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    headers += _BY_STATUS.get(status, [])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _allow(send: Send) -> None:
    """Tell a browser what a page of an allowed origin, or of this server, may send."""
    headers = [
        (b"access-control-allow-methods", _METHODS.encode()),
        (b"access-control-allow-headers", _TAKEN),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _headers(scope: Message) -> dict[str, str]:
    """The headers; of one that is given twice, both, so that no check sees only one of them."""
    found = dict[str, str]()
    for key, value in scope["headers"]:
        name, text = key.decode("latin-1"), value.decode("latin-1")
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    is_port = port.isascii() and port.isdigit()
    return name if colon and (is_port or not port) and not host.endswith("]") else host


def _is_same(origin: str, host: str) -> bool:
    """Whether a page is of the server that was asked."""
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def log_failure(request_id: str, error: Exception) -> None:
    """Log an error; what it quotes of a request has no control characters."""
    where = "".join(traceback.format_tb(error.__traceback__))
    _log.error("%s\n%s%s", request_id, where, escape_control(repr(error)))
