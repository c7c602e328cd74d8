"""Files at addresses that fsspec knows: `s3://`, `gs://`, `az://`, `hf://`, `https://` and others.

Credentials are those that the library of each kind of address finds, such as `AWS_PROFILE`. What
fails is tried again; some libraries try again by themselves before.
"""

import errno
import hashlib
import posixpath
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from efftune.data.sources import addresses
from efftune.errors import DataError, EfftuneError, UsageError

_AT_ONCE = 16  # requests
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.5  # before the second attempt; doubled for each further one
# What file systems call what changes with a file's content; what tells most about it is first.
_VERSIONS = (
    *("ETag", "etag", "generation", "blob_id", "Content-MD5", "Digest", "Last-Modified"),
    *("LastModified", "last_modified", "mtime", "modified", "created"),
)
_DISKS = ("file", "local")
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NOT_TRIED_AGAIN = (
    *(*_NO_FILE, PermissionError, InterruptedError),
    *(NotImplementedError, ValueError, TypeError),
)
_TRIED_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_GONE = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_CLOSED = {
    *(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
    HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
}
_MOST_FOLDERS = 100_000  # a web server may have pages without end
_FULL = (errno.ENOSPC, errno.EDQUOT)

_AWS = (
    "Credentials are those of AWS' own tools, such as AWS_PROFILE or AWS_ACCESS_KEY_ID; for what "
    "anyone may read, set FSSPEC_S3_ANON=true."
)
_GOOGLE = (
    "Credentials are those of gcloud, or GOOGLE_APPLICATION_CREDENTIALS; for what anyone may read, "
    "set FSSPEC_GS_TOKEN=anon."
)
_AZURE = (
    "Credentials are AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY; for what anyone may read, set AZURE_STORAGE_ANON=true."
)
_CREDENTIALS = {
    **dict.fromkeys(("s3", "s3a"), _AWS),
    **dict.fromkeys(("gs", "gcs"), _GOOGLE),
    **dict.fromkeys(("az", "abfs"), _AZURE),
    "hf": "Credentials are HF_TOKEN, or those of `hf auth login`.",
}

Result = TypeVar("Result")


class Missing(UsageError):
    """There is no file at an address, or none for the public."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file at an address.

    Attributes:
        path: in its file system.
        name: relative to the address, with slashes.
        size: in bytes; None if it is not known before the file is read.
        version: a text that changes with the content; empty if there is none.
    """

    path: str
    name: str
    size: int | None
    version: str


class Storage:
    """The file system of an address.

    Attributes:
        address: as it was given.
        retries: number of requests that were tried again.
    """

    def __init__(self, address: str):
        """Find the library for an address; nothing is read yet.

        Raises:
            UsageError: there is none, it is not installed, or the address holds a password, or
                nothing.
        """
        scheme, _, rest = address.partition("://")
        address = f"{scheme.lower()}://{rest}"
        self.address, self.retries = address, 0
        if not rest.strip("/"):
            raise UsageError(f"{address} names no place. Give a bucket or a server, and a folder.")
        if urlsplit(address).password:
            raise UsageError(
                "An address with a password is not read, since it would be kept in the run's "
                "files. Set the password as the library reads it, such as AWS_SECRET_ACCESS_KEY."
            )
        self._protocol = scheme.lower().rpartition("::")[2]
        self._system, self._root = addresses.file_system(address)
        self._lock = threading.Lock()

    def files(self, on_found: Callable[[int], None] = lambda _: None) -> list[Entry]:
        """All files below the address, sorted by name.

        Args:
            on_found: called with their number so far.

        Raises:
            Missing: there are none.
            DataError: the address cannot be read.
        """
        found, folders = dict[str, Entry](), [self._root]
        with self._readable(self.address), ThreadPoolExecutor(self.at_once) as pool:
            self._system.invalidate_cache()
            seen = {self._root.rstrip("/")}
            while folders:
                inner = dict[str, None]()
                for listing in pool.map(self._listing, folders):
                    for info in listing:
                        if not (entry := self._entry(info)):
                            continue
                        if info["type"] == "directory":
                            inner[entry.path.rstrip("/")] = None
                        else:
                            found[entry.name] = entry
                    on_found(len(found))
                folders = [each for each in inner if each not in seen]
                seen.update(folders)
                if len(seen) > _MOST_FOLDERS:
                    raise DataError(f"{self.address} has more than {_MOST_FOLDERS:,} folders.")
            self._system.invalidate_cache()  # it would keep them all in memory
        if not found:
            raise Missing(f"There is no file in {self.address}.")
        return [found[name] for name in sorted(found)]

    def file(self) -> Entry:
        """The file at the address itself; its name is the last part of that.

        Raises:
            Missing: there is none.
            DataError: the address cannot be read.
        """
        self._system.invalidate_cache()
        name = addresses.path_of(self.address).rpartition("/")[2]
        name = unquote(name) if self._protocol in addresses.WEB else name
        return self.known(Entry(self._root, name, None, ""))

    def entry(self, address: str) -> Entry:
        """Any file of the same file system, of which nothing is known; named by its address."""
        digest = hashlib.sha256(address.encode(errors="surrogateescape")).hexdigest()[:32]
        suffix = PurePosixPath(addresses.path_of(address)).suffix[:10]
        return Entry(str(self._system._strip_protocol(address)), f"{digest}{suffix}", None, "")

    def inside(self, name: str) -> Entry:
        """A file below the address, of which nothing else is known."""
        path = quote(name) if self._protocol in addresses.WEB else name
        return Entry(f"{self._root.rstrip('/')}/{path}", name, None, "")

    def known(self, entry: Entry) -> Entry:
        """An entry with its size and version, if the file system tells.

        Raises:
            Missing: there is no such file.
            DataError: the address cannot be read.
        """
        with self._readable(entry.path):
            info = self._again(self._system.info, entry.path)
            if info["type"] == "directory":
                raise IsADirectoryError
            return replace(entry, size=info.get("size"), version=_version(info))

    def fetch(self, entry: Entry, target: Path, on_bytes: Callable[[int], None]) -> int:
        """Copy a file.

        Args:
            entry: which one.
            target: where to. It may hold a part of the content if this fails.
            on_bytes: called with the number of bytes that came, from several threads; a negative
                one takes back what came twice. What it raises ends the copying.

        Returns:
            The number of bytes.

        Raises:
            Missing: it is no longer there.
            DataError: it cannot be read.
            OSError: there is no room for it.
        """
        from fsspec.callbacks import Callback

        class Counter(Callback):  # type: ignore[misc]
            def relative_update(self, inc: int = 1) -> None:
                self.value += inc
                on_bytes(inc)

        counter = Counter()

        def copy() -> int:
            self._system.get_file(entry.path, str(target), callback=counter)
            size = target.stat().st_size
            if entry.size not in (None, size):
                raise ConnectionError(f"{size:,} of {entry.size:,} bytes came")
            # Some file systems report nothing, and what comes again is reported again.
            counter.relative_update(size - counter.value)
            return size

        with self._readable(entry.path):
            return self._again(copy)

    def put(self, file: Path) -> None:
        """Write a file of this machine below the address, under its name.

        Raises:
            DataError: it cannot be written.
        """
        path = f"{self._root.rstrip('/')}/{file.name}"
        with self._readable(path, "written"):
            if self._protocol not in _DISKS:
                self._again(self._system.put_file, str(file), path)
                return
            # On a disk, others would see half of it, and it would go where a link leads.
            partial = f"{path}.{secrets.token_hex(4)}.partial"
            try:
                self._again(self._system.put_file, str(file), partial)
                Path(partial).replace(path)
            finally:
                Path(partial).unlink(missing_ok=True)

    def make_folder(self) -> None:
        """Make the address a folder; object storage needs none, and would make a bucket.

        Raises:
            DataError: it cannot be made.
        """
        if not self._system.async_impl:
            with self._readable(self._root, "written"):
                self._again(self._system.makedirs, self._root, exist_ok=True)

    @property
    def at_once(self) -> int:
        """How many requests the file system can answer at a time."""
        return _AT_ONCE if self._system.async_impl else 1

    @contextmanager
    def _readable(self, what: str, how: str = "read") -> Iterator[None]:
        """Convert what file systems raise; their exceptions have no common base class."""
        where = what if addresses.is_address(what) else f"{self._protocol}://{what}"
        try:
            yield
        except EfftuneError:
            raise
        except Exception as raised:
            error = _origin(raised)
            status = getattr(error, "status", None)
            if isinstance(error, _NO_FILE) or status in _GONE:
                nowhere = f"{where} cannot be {how}: make its folder or bucket first."
                raise Missing(
                    f"There is nothing at {where}." if how == "read" else nowhere
                ) from None
            if status in _CLOSED:
                raise Missing(f"{where} is not for everyone: the server says {status}.") from None
            if getattr(error, "errno", None) in _FULL:
                raise
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            advice = "Start again: what was copied is kept."
            if not _may_pass(error):
                advice = _CREDENTIALS.get(self._protocol, "Check your permission for it.")
            elif how != "read":
                advice = "Start again with a new folder."
            raise DataError(f"{where} cannot be {how}: {reason}. {advice}") from None

    def _listing(self, folder: str) -> Sequence[Mapping[str, Any]]:
        # `walk` of fsspec leaves out what cannot be listed.
        listed: Sequence[Mapping[str, Any]] = self._again(self._system.ls, folder, detail=True)
        return listed

    def _entry(self, info: Mapping[str, Any]) -> Entry | None:
        """What is in a listing; None for what lies elsewhere, or stands for a folder itself."""
        path, is_web = str(info["name"]), self._protocol in addresses.WEB
        if is_web:  # where any link on a page is taken for a file
            parts = urlsplit(path)
            if parts.query or parts.fragment:
                return None
            path = urlunsplit(parts._replace(path=posixpath.normpath(parts.path)))
        elif path.endswith("/") and info["type"] != "directory":
            return None
        root = self._root.rstrip("/")
        name = path.removeprefix(f"{root}/")
        if not name.strip("/") or (name == path and root):
            return None
        return Entry(path, unquote(name) if is_web else name, info.get("size"), _version(info))

    def _again(self, function: Callable[..., Result], *arguments: Any, **more: Any) -> Result:
        """What a function returns, which is tried again if that may help."""
        for attempt in range(_ATTEMPTS):
            try:
                return function(*arguments, **more)
            except Exception as error:
                if attempt == _ATTEMPTS - 1 or not _may_pass(_origin(error)):
                    raise
            with self._lock:
                self.retries += 1
            time.sleep(_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in _VERSIONS if info.get(name)), "")


def _origin(error: Exception) -> Exception:
    """What is behind an error: of web pages, fsspec says that they do not exist, whatever it is."""
    cause = error.__cause__
    is_of_web = type(cause).__module__.partition(".")[0] == "aiohttp"
    is_of_system = isinstance(cause, OSError) and not isinstance(cause, _NO_FILE)
    return cause if isinstance(cause, Exception) and (is_of_web or is_of_system) else error


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    status = getattr(error, "status", None)  # of HTTP
    if isinstance(status, int) and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return status in _TRIED_AGAIN
    is_refused = any(word in type(error).__name__ for word in ("Credential", "Authentication"))
    return not isinstance(error, _NOT_TRIED_AGAIN) and not is_refused
