"""The program of a helper: a process that computes what its parent asks, one call at a time.

python -P -m efftune.system.helper

A request is a function, which is imported by its name, and its arguments; the answer is its result,
or what it raised. It ends when its parent does, or has not asked for a while.
"""

import os
import pickle
import signal
import struct
import threading
import time
from typing import Any, BinaryIO

import numpy as np

_LENGTH = struct.Struct("<Q")
_IDLE_SECONDS = 60.0  # after which its memory is given back


def send(stream: BinaryIO, message: Any) -> None:
    """Write a message: the contents of arrays follow what describes them, and are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    described = pickle.dumps(message, 5, buffer_callback=buffers.append)
    contents = [buffer.raw() for buffer in buffers]
    head = pickle.dumps((described, [len(content) for content in contents]))
    _write(stream, _LENGTH.pack(len(head)) + head)
    for content in contents:
        _write(stream, content)


def receive(stream: BinaryIO) -> Any:
    """Read a message.

    Raises:
        EOFError: there is none, or it is not whole.
    """
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    described, lengths = pickle.loads(_read(stream, length))  # noqa: S301  (from our own process)
    contents = [_read(stream, length) for length in lengths]
    return pickle.loads(described, buffers=contents)  # noqa: S301


def _write(stream: BinaryIO, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:  # a pipe may take only a part
        left = left[stream.write(left) :]


def _read(stream: BinaryIO, length: int) -> memoryview:
    content = left = np.empty(length, np.uint8).data  # which fills no memory with zeros before
    while left:
        count = stream.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        left = left[count:]
    return content


def main() -> None:
    """Answer until there are no more requests."""
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # decoders may write to it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells when to end
    asked = [time.monotonic()]
    threading.Thread(target=_end_when_idle, args=(asked,), daemon=True).start()
    while True:
        try:
            function, arguments = receive(requests)
        except EOFError:
            return
        asked[0] = float("inf")
        try:
            answer = True, function(*arguments)
        except Exception as error:  # noqa: BLE001  (the parent raises it)
            answer = False, error
        send(answers, answer)
        asked[0] = time.monotonic()


def _end_when_idle(asked: list[float]) -> None:
    while time.monotonic() < asked[0] + _IDLE_SECONDS:
        time.sleep(_IDLE_SECONDS / 4)
    os._exit(0)


if __name__ == "__main__":
    main()
