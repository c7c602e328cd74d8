"""Downloads of published files: verified, and resumed after interruptions."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from efftune.errors import DataError
from efftune.system.progress import Progress, silent

_ATTEMPTS = 4
_PAUSE_SECONDS = 1.0  # before the second attempt; doubled for each further one
_TIMEOUT_SECONDS = 20.0  # without receiving data
_CHUNK_BYTES = 2**18


@dataclass(frozen=True)
class Published:
    """A file that can be downloaded.

    Attributes:
        what: its name in messages, such as `The weights of efficientnet-b0`.
        url: its address.
        checksum: algorithm and digits, such as `sha256:…`, for messages.
        is_right: whether a file has this checksum.
        instead: what to do without a download, in one sentence.
    """

    what: str
    url: str
    checksum: str
    is_right: Callable[[Path], bool]
    instead: str


def fetch(file: Published, path: Path, on_progress: Progress = silent) -> None:
    """Download a file to `path`, which is created once it is complete and verified.

    After an interruption, the partial file stays in the same folder and the next call resumes it.

    Args:
        file: what to download.
        path: where to; its folder exists.
        on_progress: called with `download`, the bytes received and the total.

    Raises:
        DataError: it cannot be downloaded; the message says why and what to do.
    """
    partial = path.with_name(f"{path.name}.partial")
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            _resume(file.url, partial, on_progress)
            break
        except urllib.error.HTTPError as error:
            problem = f"the server returned {error.code} {error.reason}"
            if error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                reason = f"{file.url} returned {error.code} {error.reason}"
                raise _failed(file, reason) from None
        except urllib.error.URLError as error:
            # The host is unreachable: further attempts would only make the user wait.
            host = urlsplit(file.url).hostname
            raise _failed(file, f"{host} cannot be reached ({error.reason})") from None
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
    else:
        raise DataError(
            f"The download of {file.url} failed {_ATTEMPTS} times ({problem}). "
            "Run again to resume it."
        )
    if not file.is_right(partial):
        partial.unlink()
        raise DataError(
            f"The file from {file.url} is not the published file (expected {file.checksum}) and "
            "was deleted. Run again; if that does not help, a proxy may be altering downloads. "
            f"{file.instead}"
        )
    partial.replace(path)


def _failed(file: Published, problem: str) -> DataError:
    return DataError(f"{file.what} cannot be downloaded: {problem}. {file.instead}")


def _resume(url: str, partial: Path, on_progress: Progress) -> None:
    """Append the missing bytes to `partial`.

    Raises:
        OSError: the connection was lost, or the response was incomplete.
    """
    received = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={received}-"} if received else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (from our own tables)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # the file is already complete; the caller verifies its checksum
    with response, partial.open("ab") as stream:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            received = 0
            stream.truncate(0)  # the server ignored the range and sends the whole file
        total = received + int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK_BYTES):
            stream.write(chunk)
            received += len(chunk)
            on_progress("download", received, max(received, total))
    if received < total:
        raise OSError(f"received {received:,} of {total:,} bytes")
