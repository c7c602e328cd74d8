"""Addresses such as `s3://bucket/photos`, and the libraries that read them, which fsspec knows."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from efftune.errors import DataError, UsageError
from efftune.system import packages

WEB = ("http", "https")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.\-]+(::[a-z][a-z0-9+.\-]+)*://", re.IGNORECASE)
_PACKAGED = ("s3", "s3a", "gs", "gcs", "az", "abfs", "hf", *WEB)  # by the extra `cloud`
_SILENT_SECONDS = 60.0
_copied: dict[Path, str] = {}


def is_address(text: str | Path) -> bool:
    """Whether a text is an address rather than a path."""
    if not _ADDRESS.match(str(text)):
        return False
    try:
        urlsplit(str(text))
    except ValueError:  # half an IPv6 address
        return False
    return True


def note_copy(path: Path, address: str) -> None:
    """Remember what a file or folder of this process is a copy of, for `shown`."""
    _copied[path] = address


def shown(path: Path | None) -> str | None:
    """A path as the user knows it: of a copy, the address; None if there is none."""
    if path is None:
        return None
    for place in (path, *path.parents) if _copied else ():
        if place in _copied:
            return "/".join([_copied[place].rstrip("/"), *path.relative_to(place).parts])
    return str(path)


def is_listed(address: str) -> bool:
    """Whether folders at an address tell what is in them, which those of web pages may not do."""
    return protocol_of(address) not in WEB


def plain(source: str) -> str:
    """A source without what follows a question mark on the web, which may be a password."""
    is_web = is_address(source) and protocol_of(source) in WEB
    return source.partition("?")[0] if is_web else source


def path_of(address: str) -> str:
    """The path in an address, behind the bucket or server; on the web, without what follows."""
    path = address.partition("://")[2].partition("/")[2]
    is_web = protocol_of(address) in WEB
    return path.partition("#")[0].partition("?")[0] if is_web else path


def protocol_of(address: str) -> str:
    """What an address begins with, such as `s3`; of chained ones, the outermost."""
    return address.partition("://")[0].rpartition("::")[2].lower()


def file_system(address: str) -> tuple[Any, str]:
    """Fsspec's file system for an address, and the path in it.

    Raises:
        UsageError: its library is not installed, or there is none.
        DataError: it connects at once, and cannot.
    """
    protocol = protocol_of(address)
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UsageError(f"{address} needs fsspec. {_install(protocol)}") from None
    try:
        system, path = url_to_fs(address, **_web_options(address))
    except ImportError as error:
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
        raise UsageError(f"{address} cannot be read: {reason}. {_install(protocol)}") from None
    except (ValueError, TypeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
        raise UsageError(f"{address} is no address that can be read: {reason}.") from None
    except Exception as error:  # noqa: BLE001  (some connect at once)
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".") or type(error).__name__
        raise DataError(f"{address} cannot be reached: {reason}.") from None
    return system, str(path)


def _web_options(address: str) -> dict[str, Any]:
    """Large files may take as long as they do; aiohttp would stop after five minutes in all."""
    used = {each.rpartition("::")[2].lower() for each in address.split("://")[:-1]} & {*WEB}
    if not used or find_spec("aiohttp") is None:
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS)
    return {each: {"client_kwargs": {"timeout": timeout}} for each in used}


def _install(protocol: str) -> str:
    command = packages.install("efftune[cloud]")
    return f"Run: {command}" if protocol in _PACKAGED else "Install that."
