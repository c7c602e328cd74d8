"""Weights that are downloaded: once, whole, verified, and going on where it was cut off."""

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
from efftune.system import files
from efftune.system.progress import Progress, silent

_ATTEMPTS = 4
_PAUSE_SECONDS = 1.0  # before the second attempt; then twice that, and so on
_TIMEOUT_SECONDS = 20.0  # without a byte
_PIECE = 2**18  # bytes


@dataclass(frozen=True)
class WeightsFile:
    """Weights on this machine.

    Attributes:
        path: of the file; None for random weights.
        checksum: of its bytes, with its kind before a colon; `none` for random weights.
    """

    path: Path | None
    checksum: str


def locate(
    entry: catalogue.Model, weights: str | Path, on_progress: Progress = silent
) -> WeightsFile:
    """Where a model's weights are; those of ImageNet are downloaded if need be.

    Args:
        entry: the model.
        weights: `imagenet`, `none` or a file.
        on_progress: called with `download`, the bytes that are here and their total.

    Raises:
        UsageError: there is no such file, or the weights' package is not installed.
        DataError: they cannot be downloaded; the message says why and what to do.
    """
    if weights == "none":
        return WeightsFile(None, "none")
    if weights == "imagenet":
        return WeightsFile(ensure_downloaded(entry, on_progress), entry.weights.checksum)
    path = files.user_path(weights)
    if not path.is_file():
        raise UsageError(f"There is no weights file {path}. Name a file, or imagenet, or none.")
    return WeightsFile(path, f"sha256:{files.sha256(path)}")


def ensure_downloaded(entry: catalogue.Model, on_progress: Progress = silent) -> Path:
    """The file of a model's ImageNet weights, downloaded if it is not here yet.

    Args:
        entry: the model.
        on_progress: called with `download`, the bytes that are here and their total.

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
        with FileLock(f"{path}.lock"):  # a second process waits for the first, and then has it too
            if entry.weights.path is None:
                fetch(entry, path, on_progress)
    return path


def fetch(entry: catalogue.Model, path: Path, on_progress: Progress = silent) -> None:
    """Download a model's weights to `path`, which appears when it is whole and verified.

    What came before a cut stays beside it, and the next call goes on from there.

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
                    f"The weights of {entry.name} are not to be had: {entry.weights.url} answers "
                    f"{error.code} {error.reason}. {_other_ways()}"
                ) from None
            problem = f"it answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            # Nobody answers: more attempts would only make the user wait.
            raise DataError(
                f"The weights of {entry.name} cannot be downloaded, because "
                f"{urlsplit(entry.weights.url).hostname} cannot be reached ({error.reason}). "
                f"{_other_ways()}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
    else:
        raise DataError(
            f"The download of {entry.weights.url} was cut off {_ATTEMPTS} times ({problem}). "
            "Run again: it goes on where it stopped."
        )
    if not entry.weights.is_published(partial):
        partial.unlink()
        raise DataError(
            f"What {entry.weights.url} sent is not the published file ({entry.weights.checksum} "
            "was expected), and was deleted. Run again; if that does not help, something between "
            f"here and there changes it. {_other_ways()}"
        )
    partial.replace(path)


def _resume_download(url: str, partial: Path, on_progress: Progress) -> None:
    """Add to `partial` what it lacks.

    Raises:
        OSError: the connection was cut, or too little came.
    """
    received = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={received}-"} if received else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (from our own table)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # all of it is here; whether it is right, the checksum tells
    with answer, partial.open("ab") as stream:
        if answer.status != HTTPStatus.PARTIAL_CONTENT:
            received = 0
            stream.truncate(0)  # the server begins at the beginning
        total = received + int(answer.headers.get("Content-Length") or 0)
        while piece := answer.read(_PIECE):
            stream.write(piece)
            received += len(piece)
            on_progress("download", received, max(received, total))
    if received < total:
        raise OSError(f"{received:,} of {total:,} bytes came")


def _other_ways() -> str:
    return f"Name a file with --weights, or a model whose weights are here: {catalogue.installed_models()}."
