"""What a server is allowed to take and to do."""

import ipaddress
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path

from efftune.errors import UsageError
from efftune.system.machine import usable_processors

POLL = 2.0  # seconds between two looks at a folder
MOST_PICTURES = 64  # of a request
_MOST_HELD = 256_000_000  # bytes
_DAY = 86_400  # seconds
_NAME = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server.

    Attributes:
        host: the address that it listens at: an IP address, or `localhost`.
        port: the TCP port; 0 for one that is free.
        token: what clients have to send; without one, only this machine is listened to.
        hosts: names of the server, beside its address, that clients may use.
        origins: web pages of other servers that may use it, such as `https://photos.example`.
        most_bytes: of a request's body.
        most_pixels: of a picture, by its header; those of DICOM and floating-point TIFF files have
            the decoder's own limit.
        receive_seconds: within which a request has to be received.
        most_waiting: pictures that may wait; more are refused.
        at_work: pictures that are decoded or computed at the same time.
        drain_seconds: within which what was received is answered when the server is to stop.
        reloads: whether SIGHUP makes it read its run again; else it ends it.
        serves_latest: whether it serves the newest of the runs in a folder, and SIGHUP makes it
            look for a newer one at once.
        feedback: the folder where corrected pictures are kept.
        shows_training: whether it shows the training pictures that are nearest to a picture.
        watch: the folder whose new photos are sorted by class.
        sort_into: the folder where they are sorted into.

    Raises:
        UsageError: a value is out of its range, or other machines could use it without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    most_bytes: int = 20_000_000
    most_pixels: int = 50_000_000
    receive_seconds: float = 15.0
    most_waiting: int = 64
    at_work: int = field(default_factory=lambda: 2 * usable_processors())
    drain_seconds: float = 30.0
    reloads: bool = False
    serves_latest: bool = False
    feedback: Path | None = None
    shows_training: bool = False
    watch: Path | None = None
    sort_into: Path | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port must be 0 to 65535. Received: {self.port}.")
        for flag, value, least, most in (
            ("--max-body", self.most_bytes, 1, 10**9),
            ("--max-pixels", self.most_pixels, 1, 10**9),
            ("--receive-seconds", self.receive_seconds, 0.1, _DAY),
            ("--max-waiting", self.most_waiting, 1, 10**6),
            ("--at-work", self.at_work, 1, 1000),
            ("--drain-seconds", self.drain_seconds, 0, _DAY),
        ):
            if not least <= value <= most:
                raise UsageError(f"{flag} must be {least:g} to {most:g}. Received: {value:g}.")
        if self.token is not None and not re.fullmatch(r"[!-~]{16,}", self.token):
            raise UsageError(
                "--token must be 16 or more letters, digits and signs, without blanks, and hard to "
                "guess."
            )
        if not self.is_loopback and self.token is None:
            raise UsageError(
                f"At {self.host}, other machines could use the server: give a secret --token, or "
                "set EFFTUNE_TOKEN. Without --host, only this machine can."
            )
        if self.reloads and not hasattr(signal, "SIGHUP"):
            raise UsageError(
                "--reload waits for SIGHUP, which this system does not have. Serve the newest run "
                "in a folder: --latest FOLDER."
            )
        if (self.watch is None) != (self.sort_into is None):
            raise UsageError("--watch FOLDER and --sort-into FOLDER go together: give both.")
        self._require_names()

    def _require_names(self) -> None:
        """Check the names of this server and of others."""
        for host in self.hosts:
            if not _NAME.fullmatch(host):
                raise UsageError(
                    f"--allow-host is a name without port, like photos.example. Received: {host!r}."
                )
        object.__setattr__(self, "origins", tuple(map(_as_browsers_write, self.origins)))
        for origin in self.origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise UsageError(
                    f"--allow-origin is like https://photos.example. Received: {origin!r}."
                )

    @property
    def most_held(self) -> int:
        """Most bytes of all requests together that are not answered yet."""
        return max(_MOST_HELD, 2 * self.most_bytes)

    @property
    def most_pictures(self) -> int:
        """Most pictures of one request: no more than may wait or be at work at once."""
        return min(MOST_PICTURES, self.most_waiting + self.at_work)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def names(self, host: str) -> bool:
        """Whether a `Host` without port is one of this server's.

        A page of another site may have its own name point to this machine (DNS rebinding), but not
        an address.
        """
        host = host.removesuffix(".").lower()
        if host in {
            "localhost",
            "127.0.0.1",
            "[::1]",
            self.host.lower(),
            *map(str.lower, self.hosts),
        }:
            return True
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return not self.is_loopback


def _as_browsers_write(origin: str) -> str:
    """An origin in small letters, without the port that its scheme has anyway."""
    origin = origin.lower()
    for scheme, port in (("http://", ":80"), ("https://", ":443")):
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin
