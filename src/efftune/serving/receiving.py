"""The pictures that a request brings."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from efftune.serving.answering import Gone
from efftune.serving.settings import ServerSettings

_BOUNDARY = re.compile(r"""boundary=(?:"([^"]+)"|([^\s;"]+))""", re.IGNORECASE)
_HOW = "for example: curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' URL/predict"


@dataclass(frozen=True)
class Received:
    """A picture that was sent.

    Attributes:
        name: that the client gives it; None if it gives none.
        content: of the file.
    """

    name: str | None
    content: bytes


async def body(request: Request, settings: ServerSettings) -> bytes:
    """The body of a request.

    Raises:
        HTTPException: it is too large, or takes too long to come.
    """
    async with _in_time(settings):
        return b"".join([chunk async for chunk in _limited(request, settings)])


async def picture(request: Request, settings: ServerSettings) -> bytes:
    """The one picture that is the body of a request.

    Raises:
        HTTPException: it is of another type, empty, too large, or takes too long to come.
    """
    kind = _kind(request)
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(
            415, f"Send a picture as image/… or application/octet-stream, {_HOW}. Received: {kind}."
        )
    content = await body(request, settings)
    if not content:
        raise HTTPException(422, f"There is no picture in the request. Send it, {_HOW}.")
    return content


async def pictures(request: Request, settings: ServerSettings) -> list[Received]:
    """The pictures of a request: one as its body, or several as `multipart/form-data`.

    Raises:
        HTTPException: there are none or too many, they are too large, or take too long to come.
    """
    if not is_multipart(request):
        return [Received(None, await picture(request, settings))]
    parser = MultiPartParser(
        _with_boundary(request),
        _limited(request, settings),
        max_files=settings.most_pictures,
        max_fields=1,
    )
    parser.spool_max_size = settings.most_bytes  # in memory: nothing of a request is written
    ends = list[bool]()
    parser.on_end = lambda: ends.append(True)  # type: ignore[method-assign]
    try:
        async with _in_time(settings):
            form = await parser.parse()
    except MultiPartException as error:
        reason = f"The multipart body cannot be read: {error.message}"
        raise HTTPException(400, reason) from None
    try:
        found = [
            Received(_name(each), await each.read())
            for _, each in form.multi_items()
            if isinstance(each, UploadFile)
        ]
    finally:
        await form.close()
    if not ends:  # else a picture that is cut would be left out without a word
        raise HTTPException(400, "The multipart body cannot be read: its end is missing.")
    if not found:
        raise HTTPException(422, "There is no picture in the request: send files, not fields.")
    return found


def is_gone(request: Request) -> Callable[[], bool]:
    """Tells whether the client has left, from any thread."""
    found: Callable[[], bool] = request.scope.get("is_gone", lambda: False)
    return found


def is_multipart(request: Request) -> bool:
    """Whether several pictures may be in a request."""
    return _kind(request) == "multipart/form-data"


def _with_boundary(request: Request) -> Headers:
    """The content type without what else is in it, such as a character set of the client's choice.

    In Latin-1, each byte is a character, so that `_name` gets the bytes as they are.

    Raises:
        HTTPException: it has no boundary.
    """
    found = _BOUNDARY.search(request.headers["content-type"])
    boundary = (found[1] or found[2]) if found else ""
    if not 1 <= len(boundary) <= 70:
        raise HTTPException(400, "The multipart body cannot be read: it has no boundary.")
    return Headers({"content-type": f'multipart/form-data; charset=latin-1; boundary="{boundary}"'})


def _name(file: UploadFile) -> str:
    """The name of a file; bytes that are not UTF-8 are written as in a run's tables."""
    sent = (file.filename or "").encode("latin-1")
    return sent.decode(errors="surrogateescape").encode(errors="backslashreplace").decode()


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def _in_time(settings: ServerSettings) -> AsyncIterator[None]:
    """A block that receives a request, and has to end in time.

    Raises:
        HTTPException: it does not.
        Gone: the client has left.
    """
    try:
        async with asyncio.timeout(settings.receive_seconds):
            yield
    except TimeoutError:
        text = f"The request did not come within {settings.receive_seconds:g} s."
        raise HTTPException(408, text, {"connection": "close"}) from None
    except ClientDisconnect:
        raise Gone from None


async def _limited(request: Request, settings: ServerSettings) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > settings.most_bytes:
            raise HTTPException(413, f"More than {settings.most_bytes:,} bytes.")
        yield chunk
