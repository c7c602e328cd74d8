"""Downloads of weights: verified, shared between processes, and resumed after interruptions."""

import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from efftune.errors import DataError, UsageError
from efftune.model import catalogue
from efftune.model.weights import recognition
from efftune.model.weights_table import OWN, Graph, Weights
from efftune.system import files
from efftune.system.progress import Progress, silent

_ATTEMPTS = 4
_PAUSE_SECONDS = 1.0  # before the second attempt; doubled for each further one
_TIMEOUT_SECONDS = 20.0  # without receiving data
_CHUNK_BYTES = 2**18


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on this machine.

    Attributes:
        path: the file; None for random weights.
        checksum: algorithm and digits, such as `sha256:…`; `none` for random weights.
        graph: the network that they were trained in.
        published: their row in the table, if they are published.
    """

    path: Path | None
    checksum: str
    graph: Graph = OWN
    published: Weights | None = None

    @property
    def identity(self) -> str:
        """What features depend on: the checksum, and the graph if it isn't the family's own."""
        return self.checksum if self.graph == OWN else f"{self.checksum} {self.graph}"


def locate(
    entry: catalogue.Model, weights: str | Path, on_progress: Progress = silent
) -> WeightsFile:
    """Locate a model's weights; published ones are downloaded if needed.

    Args:
        entry: the model.
        weights: the name of published weights, such as `imagenet`; `none` or a file.
        on_progress: called with `download`, the bytes received and the total.

    Raises:
        UsageError: there is no such file, no such weights are published for the model, or their
            package is not installed.
        DataError: they cannot be downloaded; the message says why and what to do.
    """
    if weights == "none":
        return WeightsFile(None, "none")
    if weights in catalogue.WEIGHTS_NAMES:
        chosen = entry.with_weights(str(weights))
        path = ensure_downloaded(chosen, on_progress)
        return WeightsFile(path, chosen.weights.checksum, chosen.weights.graph, chosen.weights)
    path = files.user_path(weights)
    if not path.is_file():
        names = ", ".join(each.name for each in entry.published)
        raise UsageError(f"There is no weights file {path}. Pass a file, {names} or none.")
    sha256 = files.sha256(path)
    return WeightsFile(path, f"sha256:{sha256}", recognition.recognise(entry, path, sha256))


def ensure_downloaded(entry: catalogue.Model, on_progress: Progress = silent) -> Path:
    """The file of a model's weights, downloaded if it is missing.

    Args:
        entry: the model.
        on_progress: called with `download`, the bytes received and the total.

    Raises:
        UsageError: its package is not installed; the message says how to install it.
        DataError: it cannot be downloaded; the message says why and what to do.
    """
    catalogue.require_package(entry)
    path = entry.weights.path
    if path is None:
        path = files.cache_folder() / "weights" / entry.weights.file
        path.parent.mkdir(parents=True, exist_ok=True)
        on_progress("download", 0, 0)
        with FileLock(f"{path}.lock"):  # a second process waits for the first
            if entry.weights.path is None:
                fetch(entry, path, on_progress)
    return path


def fetch(entry: catalogue.Model, path: Path, on_progress: Progress = silent) -> None:
    """Download a model's weights to `path`, which is created once they are complete and verified.

    After an interruption, the partial file stays in the same folder and the next call resumes it.

    Raises:
        DataError: see `ensure_downloaded`.
    """
    partial = path.with_name(f"{path.name}.partial")
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            _resume_download(entry.weights.url, partial, on_progress)
            break
        except urllib.error.HTTPError as error:
            if error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise DataError(
                    f"The weights of {entry.name} are not available: {entry.weights.url} returned "
                    f"{error.code} {error.reason}. {_alternatives()}"
                ) from None
            problem = f"the server returned {error.code} {error.reason}"
        except urllib.error.URLError as error:
            # The host is unreachable: further attempts would only make the user wait.
            raise DataError(
                f"The weights of {entry.name} cannot be downloaded, because "
                f"{urlsplit(entry.weights.url).hostname} cannot be reached ({error.reason}). "
                f"{_alternatives()}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
    else:
        raise DataError(
            f"The download of {entry.weights.url} failed {_ATTEMPTS} times ({problem}). "
            "Run again to resume it."
        )
    if not entry.weights.is_published(partial):
        partial.unlink()
        raise DataError(
            f"The file from {entry.weights.url} is not the published file (expected "
            f"{entry.weights.checksum}) and was deleted. Run again; if that does not help, a proxy "
            f"may be altering downloads. {_alternatives()}"
        )
    partial.replace(path)


def _resume_download(url: str, partial: Path, on_progress: Progress) -> None:
    """Append the missing bytes to `partial`.

    Raises:
        OSError: the connection was lost, or the response was incomplete.
    """
    received = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={received}-"} if received else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (from our own table)
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


def _alternatives() -> str:
    return (
        "Pass a file with --weights, or choose a model whose weights are installed: "
        f"{catalogue.installed_models()}."
    )
