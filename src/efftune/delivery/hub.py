"""Repositories of the Hugging Face Hub: their names, its client, and what goes wrong there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from efftune.errors import DataError, EfftuneError, UsageError
from efftune.system import files, packages

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
_PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"{PREFIX}({_PART}/{_PART})", re.ASCII)
_MOST_CHARACTERS = 96
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN."


def repository(name: str) -> str:
    """`USER/NAME` of `hf:USER/NAME`.

    Raises:
        UsageError: it is no name of a repository.
    """
    found = _NAME.fullmatch(name)
    repo = found[1] if found else ""
    if not 0 < len(repo) <= _MOST_CHARACTERS or re.search(r"--|\.\.|\.git$", repo):
        raise UsageError(
            f"{name!r} names no repository. Write hf:USER/NAME, with letters, digits and single "
            "- _ . in between."
        )
    return repo


def require_installed() -> None:
    """Check that the client of the Hub is installed.

    Raises:
        UsageError: it is not.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise UsageError(
            "The Hugging Face Hub needs the package huggingface_hub. Run: "
            f"{packages.install('efftune[hub]')}"
        ) from None


def require_token() -> None:
    """Check that there is a token of the environment's, or of a login.

    Raises:
        UsageError: there is none.
    """
    from huggingface_hub import get_token

    if not get_token():
        raise UsageError(f"There is no token of the Hugging Face Hub. {_LOG_IN}")


@contextmanager
def client(repo: str, place: Path) -> Iterator["HfApi"]:
    """The Hub's own client; what goes wrong with it is told as errors of ours.

    Args:
        repo: `USER/NAME` that it is used for.
        place: a folder that it may write to.

    Raises:
        UsageError: there is no such repository, or access to it is refused.
        DataError: the Hub cannot be reached, does not answer as it should, or breaks off.
        DiskFull: there is no room for what it sends.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="efftune")
    try:
        with _silent():
            yield api
    except EfftuneError:
        raise
    except Exception as error:  # noqa: BLE001  (its exceptions have no common base class)
        raise _local(error, place) or _told(error, repo, str(api.endpoint)) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Without the client's own progress bars and warnings."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    disabled, verbosity = are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not disabled:
            enable_progress_bars()


def _told(error: Exception, repo: str, endpoint: str) -> Exception:
    """The error to raise instead of one of the client's."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    causes = _causes(error)
    host = urlsplit(endpoint).netloc or endpoint
    if any(isinstance(each, OfflineModeIsEnabled) for each in causes):
        return DataError(f"{repo} is not reached: offline mode is on. Unset HF_HUB_OFFLINE.")
    for each in causes:
        if (status := getattr(getattr(each, "response", None), "status_code", None)) is not None:
            return _refused(int(status), each, repo, host)
    if "Consistency check failed" in str(error):
        return DataError(f"The download of {repo} broke off. Try again.")
    if any(_is_of_network(each) for each in causes):
        return DataError(
            f"{host} cannot be reached, or broke off: {_line(causes[-1])} Connect to the network, "
            "and try again."
        )
    return DataError(f"{host} does not do for {repo} what it should: {_line(error)}")


def _is_of_network(error: BaseException) -> bool:
    """Whether an error is one of connections: of the system, or of the HTTP client's own."""
    return isinstance(error, ConnectionError) or type(error).__module__.startswith("http")


def _refused(status: int, error: BaseException, repo: str, host: str) -> EfftuneError:
    """What a status of HTTP means."""
    said = _line(getattr(error, "server_message", None) or error)
    if status == 401:
        return UsageError(
            f"{host} has no {repo}, or does not accept your token for it. Check the name. {_LOG_IN}"
        )
    if status == 403:
        return UsageError(f"{host} refuses access to {repo}: {said} Use a token that may do that.")
    if status == 404:
        return UsageError(
            f"{host} has no {repo}, or it is private and your token may not see it. Check the "
            f"name. {_LOG_IN}"
        )
    if status in (409, 412):
        return DataError(f"{repo} was changed by others meanwhile: {said} Try again.")
    if status == 429:
        return DataError(f"{host} takes no more requests for now. Try again in some minutes.")
    return DataError(f"{host} answered {status} for {repo}: {said} Try again later.")


def _local(error: Exception, place: Path) -> Exception | None:
    """The error to raise for one of this machine's: a full disk, or a file of it."""
    for each in _causes(error):
        if isinstance(each, OSError) and (full := files.disk_full(each, place)):
            return full
    return error if isinstance(error, OSError) and error.filename else None


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from, the first cause last."""
    found: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in found:
        found.append(now)
        now = now.__cause__ or now.__context__
    return found


def _line(error: Any) -> str:
    """The first line of a message, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return first if first.endswith(".") else f"{first}."
