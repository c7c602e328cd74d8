"""What is measured on each picture of a source, on its pixels decoded to a small square.

The quality measures are those of cleanvision (https://github.com/cleanlab/cleanvision), computed
on the picture decoded to a square of SIDE pixels instead of the original picture.
"""

import hashlib
import mmap
from collections.abc import Sequence
from contextlib import suppress

import cv2
import numpy as np
from numpy.typing import NDArray

from efftune.data import bit_depth, images
from efftune.data.bit_depth import BitDepth
from efftune.data.formats import FORMATS
from efftune.data.images import Pixels
from efftune.system import files

SIDE = 128  # of the decoded pictures that are measured, in pixels
SMALL = 48  # side of the greyscale thumbnails, used for finding copies, in pixels

_KEPT = 2**15  # thumbnails, of 75 MB together
_FORMATS = tuple(FORMATS)

MEASUREMENTS = np.dtype(
    [
        *(("sha256", "V32"), ("pixels", "V16")),
        *(("width", np.int32), ("height", np.int32), ("format", np.int8)),
        *(("orientation", np.int8), ("several", np.bool_), ("grey", np.bool_)),
        *(("bright", np.float32), ("dark", np.float32)),
        *(("spread", np.float32), ("detail", np.float32)),
        *(("kind", np.int8), ("low", np.float64), ("high", np.float64)),
    ]
)

_MEASUREMENTS_AND_THUMBNAIL = np.dtype([*MEASUREMENTS.descr, ("small", np.uint8, (SMALL, SMALL))])


class Thumbnails:
    """Greyscale thumbnails of many pictures, in an unnamed file to save memory."""

    def __init__(self, count: int) -> None:
        """Room for the thumbnails of `count` pictures."""
        self._all: Pixels = files.temporary_array((count, SMALL, SMALL), np.uint8)
        self._indices: Sequence[int] | None = None
        self._touched = 0

    def put(self, index: int, thumbnail: bytes) -> None:
        """Store a thumbnail, of SMALL × SMALL bytes, at an index; from any thread."""
        self._all[index] = np.frombuffer(thumbnail, np.uint8).reshape(SMALL, SMALL)
        self._touch()

    def choose(self, indices: Sequence[int]) -> None:
        """Keep only the thumbnails at `indices`, numbered in that order."""
        self._indices = indices

    def __getitem__(self, number: int) -> Pixels:
        """A thumbnail, uint8 (SMALL, SMALL)."""
        index = number if self._indices is None else self._indices[number]
        thumbnail: Pixels = self._all[index]
        self._touch()
        return thumbnail

    def _touch(self) -> None:
        """Take what was used out of this process's memory now and then; it stays in the file."""
        self._touched += 1
        mapped = self._all.base
        if self._touched % _KEPT == 0 and isinstance(mapped, mmap.mmap):
            with suppress(AttributeError, OSError):  # where the system has nothing of that kind
                mapped.madvise(mmap.MADV_DONTNEED)


def measure(content: bytes, depth: BitDepth = bit_depth.UNKNOWN) -> NDArray[np.void]:
    """Measure one picture.

    Args:
        content: the bytes of its file.
        depth: see `images.decoded`.

    Returns:
        A record with the fields of `MEASUREMENTS`, and `small`, the greyscale thumbnail. `sha256`
        is the hash of the file, `pixels` that of the decoded pixels and the picture's size.
        `bright` and `dark` are the 99th and the 5th percentile of the brightness, `spread` is its
        standard deviation, 0 to 255, and `detail` the fraction of its variance in the finest
        details. `kind` is 0 for a picture of 8 bits; for others, 1 and more if `depth` did not
        know the range of their values: `low` to `high`.

    Raises:
        BadImage: the picture cannot be decoded.
    """
    decoded = images.decoded(content, SIDE, "stretch", depth)
    pixels = decoded.pixels
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    record = np.zeros((), _MEASUREMENTS_AND_THUMBNAIL)
    record["sha256"] = np.void(hashlib.sha256(content).digest())
    pixels_and_size = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16)
    pixels_and_size.update(np.array([decoded.width, decoded.height], np.int64).data)
    record["pixels"] = np.void(pixels_and_size.digest())
    record["small"] = cv2.resize(grey, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    record["width"], record["height"] = decoded.width, decoded.height
    record["format"] = _FORMATS.index(decoded.format)
    record["orientation"], record["several"] = decoded.orientation, decoded.several
    red, green, blue = cv2.split(pixels)
    largest = cv2.NORM_INF  # difference
    record["grey"] = max(cv2.norm(red, green, largest), cv2.norm(green, blue, largest)) <= 2
    record["dark"], record["bright"] = _percentiles(grey, (0.05, 0.99))
    variance = float(grey.var(dtype=np.float64))
    record["spread"] = variance**0.5
    if decoded.kind and decoded.inner_range:
        record["kind"] = 1 + bit_depth.KINDS.index(decoded.kind)
        record["low"], record["high"] = decoded.inner_range
    record["detail"] = cv2.Laplacian(grey, cv2.CV_32F).var() / max(20 * variance, 1e-6)
    return record


def _percentiles(values: Pixels, shares: tuple[float, ...]) -> list[float]:
    """As `np.percentile`, by counting, which takes a tenth of the time."""
    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    ends = counts.cumsum()
    places = np.array(shares) * (values.size - 1)
    whole = places.astype(np.int64)
    below, above = ends.searchsorted([whole, whole + 1], "right")
    return list(below + (above - below) * (places - whole))
