"""The program that asks an exported file, in a process of its own.

python -P -m efftune.delivery.answering FILE

A file may come from anyone, and may be made to crash its runtime, or to take all memory. Here that
ends this process only, and its parent tells the user.

Messages are their number of bytes, then those. The first to come from here is JSON: `metadata`; so
is the second: `runtime` and `takes_any`; or `error` instead of either. Then requests are read: the
side of the pictures, then their pixels, uint8 (pictures, side, side, 3). The answer to each is
float32 (pictures, classes).
"""

import json
import os
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from efftune.delivery import reading

SIDE = struct.Struct("<Q")
_LENGTH = struct.Struct("<Q")
_MOST_BYTES = 2**30  # of a message
_MEMORY = 3 * 2**30  # bytes, for what is made of a small file
_OF_SIZE = 16  # for each byte of a large one


def send(stream: BinaryIO, *parts: bytes) -> None:
    """Write a message."""
    stream.write(_LENGTH.pack(sum(map(len, parts))))
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: BinaryIO) -> bytes:
    """Read a message.

    Raises:
        EOFError: there is none, or it is not whole.
    """
    head = stream.read(_LENGTH.size)
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else _MOST_BYTES
    message = stream.read(length) if length < _MOST_BYTES else b""
    if length >= _MOST_BYTES or len(message) < length:
        raise EOFError
    return message


def main() -> None:
    """Check the file, load it, and answer until there are no more requests."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # runtimes write to it
    # The parent ends this process, by a signal that cannot be ignored or by closing its input, when
    # it has answered what it was asked; these come to both at once.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    path = Path(sys.argv[1])
    kind = reading.KINDS[path.suffix.lower()]
    _limit_memory(max(_MEMORY, _OF_SIZE * reading.bytes_of(path)))

    def tell(**values: Any) -> None:
        send(answers, json.dumps(values).encode())

    failed = "it is damaged"
    try:
        tell(metadata=kind.read(path))
        failed = "its runtime refuses it"
        loaded = kind.load(path)
        tell(runtime=loaded.runtime, takes_any=loaded.takes_any)
        with suppress(EOFError):
            while True:
                message = receive(requests)
                (side,) = SIDE.unpack_from(message)
                pixels = np.frombuffer(message, np.uint8, offset=SIDE.size)
                found = loaded.answer(pixels.reshape(-1, side, side, 3).astype(np.float32))
                send(answers, np.ascontiguousarray(found, np.float32).tobytes())
    except reading.Unfit as error:
        tell(error=str(error))
    except OSError as error:
        tell(error=f"it cannot be read: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001  (runtimes raise what they like)
        reason = " ".join((str(error) or type(error).__name__).replace(str(path), "it").split())
        tell(error=f"{failed}: {reason[:200]}")


def _limit_memory(most: int) -> None:
    """Let no more than so many bytes be taken, where the system can see to that, and no dump."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    main()
