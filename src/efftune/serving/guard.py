"""What is checked of every request before it reaches the application, and added to each answer."""

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

from efftune.serving.metrics import Metrics
from efftune.serving.settings import ServerSettings

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
_METHODS = "GET, POST"


class Guard:
    """Lets through what may use the server; the outermost part of the application."""

    def __init__(
        self,
        application: Application,
        settings: ServerSettings,
        metrics: Metrics,
        is_draining: Callable[[], bool],
    ):
        """Put a guard before an application.

        Args:
            application: what answers.
            settings: who may use it.
            metrics: count the answers.
            is_draining: whether the server is about to stop, so connections are not kept.
        """
        self._application, self._settings, self._metrics = application, settings, metrics
        self._is_draining = is_draining

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI asks."""
        if scope["type"] != "http":
            return
        request_id = uuid.uuid4().hex
        scope["request_id"] = request_id
        headers = _headers(scope)
        added = [*_SECURITY.items(), ("x-request-id", request_id)]
        origin = headers.get("origin", "")
        if origin in self._settings.origins:
            added += [("access-control-allow-origin", origin), ("vary", "Origin")]
        if self._is_draining():
            added.append(("connection", "close"))
        encoded, status = [(key.encode(), value.encode()) for key, value in added], 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {key.lower() for key, _ in message["headers"]}
                extra = [each for each in encoded if each[0] not in given]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                await respond(sent, request_id, *refusal)
            elif scope["method"] == "OPTIONS":
                await _allow(sent)
            else:
                await self._application(scope, receive, sent)
        except Exception:  # noqa: BLE001  (whatever it is, the server goes on)
            _log.error("%s\n%s", request_id, traceback.format_exc())
            if not status:
                text = f"The server has failed; its log has more under {request_id}."
                await respond(sent, request_id, 500, text)
        self._metrics.responded(scope.get("counted as", "(other)"), status)

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
        return self._refusal_of_body(headers)

    def _has_token(self, authorization: str) -> bool:
        token = self._settings.token
        given = authorization.removeprefix("Bearer ").encode()
        return token is None or hmac.compare_digest(given, token.encode())

    def _refusal_of_body(self, headers: dict[str, str]) -> tuple[int, str] | None:
        if "content-encoding" in headers:
            return 415, "Send the picture as it is, without Content-Encoding."
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._settings.most_bytes:
            return 413, f"More than {self._settings.most_bytes:,} bytes."
        return None


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
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _allow(send: Send) -> None:
    """Tell a browser what a page of an allowed origin, or of this server, may send."""
    headers = [
        (b"access-control-allow-methods", _METHODS.encode()),
        (b"access-control-allow-headers", b"Authorization, Content-Type, Accept"),
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
    return name if colon and (port.isdigit() or not port) and not host.endswith("]") else host


def _is_same(origin: str, host: str) -> bool:
    """Whether a page is of the server that was asked."""
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
