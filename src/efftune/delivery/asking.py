"""The process that answers for an exported file, as its parent sees it; see `answering`."""

import json
import math
import os
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from efftune.data.bit_depth import BitDepth
from efftune.data.images import Pixels
from efftune.delivery import answering, reading
from efftune.errors import DataError
from efftune.model.engines import engine
from efftune.model.engines.engine import Item
from efftune.model.engines.openvino_check import MOST_CLASSES, MOST_SIDE
from efftune.recipe.inputs import Fit
from efftune.system import machine

_PART_PIXELS = 8 * 224**2  # of a request
_SECONDS = 60.0  # to check and load a small file, or to answer a request
_BYTES_PER_SECOND = 2e6  # of a large file
AGAIN = "Give a file that `efftune export` has written."


@dataclass(frozen=True)
class Description:
    """What is needed to ask a file about a picture.

    Attributes:
        classes: in the order of the probabilities.
        image_size: side of the input square, in pixels.
        fit: how pictures are resized to squares.
        depth: which values of pictures of more than 8 bits become black and white.
        temperature: divisor of the logits that has calibrated the probabilities; above 0.
        unsure_below: answers with a lower probability are unsure.
    """

    classes: tuple[str, ...]
    image_size: int
    fit: Fit
    depth: BitDepth
    temperature: float
    unsure_below: float

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Description":
        """From the metadata of a file, as `export` writes them.

        Raises:
            ValueError: a value is missing, of another kind, or out of its range.
        """
        needed = ("classes", "image_size", "fit", "temperature", "unsure_below")
        missing = [key for key in needed if key not in metadata]
        if missing or not all(isinstance(each, str) for each in metadata.values()):
            raise ValueError(f"its metadata have no {missing[0] if missing else 'texts only'}")
        classes = _json(metadata, "classes")
        if not (isinstance(classes, list) and {type(each) for each in classes} == {str}):
            raise ValueError("classes in its metadata are no list of names")
        if not 1 <= len(classes) <= MOST_CLASSES or len(set(classes)) < len(classes):
            raise ValueError(f"classes in its metadata are not 1 to {MOST_CLASSES:,} other names")
        if metadata["fit"] not in get_args(Fit):
            raise ValueError(f"fit in its metadata is none of {', '.join(get_args(Fit))}")
        return cls(
            classes=tuple(classes),
            image_size=int(_number(metadata, "image_size", 1, MOST_SIDE)),
            fit=metadata["fit"],  # type: ignore[arg-type]  # as was checked
            # Unknown in files of earlier versions.
            depth=BitDepth.from_dict(_json(metadata, "depth") if "depth" in metadata else {}),
            temperature=_number(metadata, "temperature", 1e-3, 1e3),
            unsure_below=_number(metadata, "unsure_below", 0, 1.001),
        )


def _json(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{key} in its metadata is no JSON") from None


def _number(metadata: Mapping[str, str], key: str, low: float, high: float) -> float:
    try:
        value = float(metadata[key])
    except ValueError:
        value = math.nan
    if not low <= value <= high:  # nor is "not a number"
        raise ValueError(
            f"{key} in its metadata is {metadata[key][:40]!r}, not {low:g} to {high:g}"
        )
    return value


class Answers:
    """A network that another process computes, which is begun again when it has ended.

    Attributes:
        description: of the file.
        runtime: what computes it, with its version.
    """

    can_be_sent = False

    def __init__(self, path: Path):
        self._path = path
        self._asking = threading.Lock()
        self._read: tuple[int, Description] | None = None  # when the file was last changed
        self._begin()

    def _begin(self) -> None:
        command, environment = machine.own_program("efftune.delivery.answering", str(self._path))
        try:
            self._process = subprocess.Popen(  # noqa: S603  (our own module)
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:  # no memory, or too many processes
            reason = f"{self._path} cannot be answered now: {error.strerror}."
            raise DataError(f"{reason} Try again when other programs have ended.") from None
        self._begun_in = os.getpid()
        self._end = weakref.finalize(self, _ended, self._process, self._begun_in)
        try:
            seconds = _SECONDS + reading.bytes_of(self._path) / _BYTES_PER_SECOND
            changed = self._path.stat().st_mtime_ns
            self.description = Description.of(self._told(seconds)["metadata"])
            told = self._told(seconds)
        except OSError as error:
            raise self._unusable(f"it cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise self._unusable(str(error)) from None
        self._read = self._read or (changed, self.description)
        if self._read != (changed, self.description):
            raise self._unusable("it is another file than when it was loaded")
        self.runtime = str(told["runtime"])
        size = self.description.image_size
        self._part = max(1, _PART_PIXELS // size**2) if told["takes_any"] else 1
        self._answered(np.zeros((1, size, size, 3), np.uint8))

    def run(
        self,
        items: Iterable[Item],
        load: Callable[[Item], Pixels | None],
        deliver: Callable[[Item, int, list[Any]], None],
        *,
        views: int = 1,
    ) -> None:
        """See `engine.Network`; a request has as many views as the file takes."""
        waiting: list[tuple[Item, int, Pixels]] = []

        def flush() -> None:
            rows = self._ask(np.stack([view for _, _, view in waiting]))
            for (item, number, _), row in zip(waiting, rows, strict=True):
                deliver(item, number, [row])
            waiting.clear()

        window = engine.window(views, self.description.image_size)
        with closing(engine.loaded(items, load, window)) as pairs:
            for item, pixels in pairs:
                for number, view in enumerate(() if pixels is None else pixels):
                    waiting.append((item, number, view))
                    if len(waiting) >= self._part:
                        flush()
        if waiting:
            flush()

    def prepare(self) -> None:
        """See `engine.Network`: it is loaded already."""

    def _ask(self, pixels: Pixels) -> NDArray[np.float32]:
        """Probabilities of pictures, float32 (pictures, classes).

        Raises:
            DataError: it does not answer, or otherwise than it should.
        """
        is_forked = self._begun_in != os.getpid()  # the other process asks the one that it began
        if is_forked:
            self._asking = threading.Lock()
        with self._asking:
            if is_forked or self._process.poll() is not None:
                self._end()
                self._begin()
            return self._answered(pixels)

    def _answered(self, pixels: Pixels) -> NDArray[np.float32]:
        """What the process answers, if it is alive; see `_ask`."""
        side = answering.SIDE.pack(pixels.shape[1])
        message = self._exchanged(_SECONDS, side, pixels.tobytes())
        classes, count = len(self.description.classes), len(pixels)
        if len(message) != 4 * count * classes:
            self._raise_if_told(message)
            raise self._unusable(f"it gives other than {classes:,} values, one for each class")
        rows = np.frombuffer(message, np.float32).reshape(count, classes)
        # Values that are stored in bytes are rounded, so their sum may be off by half a step each.
        rounding = 0.05 + classes / 510
        if not (np.abs(rows.sum(axis=1) - 1) < rounding).all() or rows.min() < 0:
            raise self._unusable("what it gives are no probabilities")
        return rows

    def _told(self, seconds: float) -> dict[str, Any]:
        message = self._exchanged(seconds)
        self._raise_if_told(message)
        return dict(json.loads(message))

    def _raise_if_told(self, message: bytes) -> None:
        """Raise what the process says instead of an answer."""
        if message.startswith(b'{"error": '):
            raise self._unusable(str(json.loads(message)["error"]))

    def _exchanged(self, seconds: float, *parts: bytes) -> bytes:
        """Send a message, if there is one, and receive the next."""
        process, is_late = self._process, threading.Event()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            if parts:
                answering.send(process.stdin, *parts)  # type: ignore[arg-type]
            return answering.receive(process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError):  # the last one if its streams are closed
            self._end()
            reason = f"its runtime crashes on it (exit status {process.returncode})"
            if is_late.is_set():
                reason = f"its runtime takes more than {seconds:.0f} seconds for it"
            raise self._unusable(reason) from None
        finally:
            timer.cancel()

    def _unusable(self, reason: str) -> DataError:
        self._end()
        return DataError(f"{self._path} cannot be used: {reason.removesuffix('.')}. {AGAIN}")


def _ended(process: "subprocess.Popen[bytes]", begun_in: int) -> None:
    """End a process that answers, and wait for it; not that of a parent."""
    if os.getpid() == begun_in:
        process.kill()
        process.communicate()
