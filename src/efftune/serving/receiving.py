"""The pictures that a request brings."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from efftune.serving.settings import MOST_PICTURES, ServerSettings

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
        request.headers, _limited(request, settings), max_files=MOST_PICTURES, max_fields=1
    )
    parser.spool_max_size = settings.most_bytes  # in memory: nothing of a request is written
    try:
        async with _in_time(settings):
            form = await parser.parse()
    except (MultiPartException, KeyError) as error:  # KeyError: no boundary
        reason = getattr(error, "message", "It has no boundary.")
        raise HTTPException(400, f"The multipart body cannot be read: {reason}") from None
    try:
        found = [
            Received(each.filename, await each.read())
            for _, each in form.multi_items()
            if isinstance(each, UploadFile)
        ]
    finally:
        await form.close()
    if not found:
        raise HTTPException(422, "There is no picture in the request: send files, not fields.")
    return found


def is_multipart(request: Request) -> bool:
    """Whether several pictures may be in a request."""
    return _kind(request) == "multipart/form-data"


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def _in_time(settings: ServerSettings) -> AsyncIterator[None]:
    """A block that receives a request, and has to end in time.

    Raises:
        HTTPException: it does not, or the client is gone.
    """
    try:
        async with asyncio.timeout(settings.receive_seconds):
            yield
    except TimeoutError:
        text = f"The request did not come within {settings.receive_seconds:g} s."
        raise _ending(408, text) from None
    except ClientDisconnect:
        raise HTTPException(400, "The connection ended before the request did.") from None


async def _limited(request: Request, settings: ServerSettings) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > settings.most_bytes:
            raise _ending(413, f"More than {settings.most_bytes:,} bytes.")
        yield chunk


def _ending(status: int, text: str) -> HTTPException:
    """An error after which the connection ends, as the rest of the request is not read."""
    return HTTPException(status, text, {"connection": "close"})
