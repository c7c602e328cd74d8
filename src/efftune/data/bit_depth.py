"""Bit depth: which values of pictures of more than 8 bits become black and white.

A file of 16 bits often holds 10, 12 or 14, or another part of its range, and says so nowhere. So
the range is found over a set of pictures: equal values stay equally bright.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from efftune.data import formats
from efftune.errors import BadImage

Values: TypeAlias = NDArray[Any]  # of a picture of more than 8 bits, see `grey_values`
Kind: TypeAlias = Literal["integers", "floats"]
Range: TypeAlias = tuple[float, float]  # the values that become black and white

KINDS: tuple[Kind, ...] = ("integers", "floats")
_WHITES = (1, 255, 1023, 4095, 16383, 65535)  # of shares, and of 8, 10, 12, 14 and 16 bits
_LEAST_USED = 0.25  # of a range from 0: values that fill less get a range of their own
_INNER = (0.1, 99.9)  # percentiles of a picture: hot pixels and burnt-in marks lie outside
_INNER_PICTURES = (1, 99)  # percentiles over the pictures of a set
_SAMPLED = 500_000  # values of a picture that its range is found from
_LEAST_RANGE = 1e-30  # of values; 255 over it is still a float32
_WIDTH, _HEIGHT, _PHOTOMETRIC, _WHITE_IS_ZERO = 256, 257, 262, 0  # TIFF tags, and a value
_BIG = 43  # the version of BigTIFF in the header


@dataclass(frozen=True, slots=True)
class BitDepth:
    """The ranges of a set of pictures, separately for integers and floats.

    Attributes:
        integers: None if the set has no picture with integers of more than 8 bits. Such a picture
            gets the range of its own values.
        floats: the same for floats.
    """

    integers: Range | None = None
    floats: Range | None = None

    @classmethod
    def of_set(cls, inner_ranges: Mapping[Kind, Sequence[Range]]) -> "BitDepth":
        """The ranges of a set, from the `inner_range` of each of its pictures, by kind."""
        ranges = {}
        for kind, found in inner_ranges.items():
            if found:
                lows, highs = zip(*found, strict=True)
                low = np.percentile(lows, _INNER_PICTURES[0], method="lower")
                high = np.percentile(highs, _INNER_PICTURES[1], method="higher")
                ranges[kind] = usual_range(float(low), float(high))
        return cls(**ranges)

    @classmethod
    def from_dict(cls, stored: Mapping[Kind, Sequence[float] | None]) -> "BitDepth":
        """The opposite of `dataclasses.asdict`, after a way through JSON.

        Raises:
            ValueError: these are no ranges.
        """
        try:
            ranges: dict[Kind, Range] = {
                kind: (float(each[0]), float(each[1])) for kind, each in stored.items() if each
            }
            if all(math.isfinite(low) and low < high < math.inf for low, high in ranges.values()):
                return cls(**ranges)
        except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
            pass
        raise ValueError("the ranges of pictures of more than 8 bits are damaged")

    @property
    def notes(self) -> tuple[str, ...]:
        """The ranges in words, for people."""
        return tuple(
            f"pictures of more than 8 bits ({kind}): {limits[0]:g} is black, {limits[1]:g} is white"
            for kind, limits in (("integers", self.integers), ("floats", self.floats))
            if limits
        )

    def range_for(self, values: Values) -> Range | None:
        """The range for the values of a picture; None if the set had none like them."""
        return self.floats if kind_of(values) == "floats" else self.integers


UNKNOWN = BitDepth()


def kind_of(values: Values) -> Kind:
    """Whether values are integers or floats."""
    return "floats" if values.dtype.kind == "f" else "integers"


def inner_range(values: Values) -> Range:
    """The lowest and the highest value, but for 0.1 % of outliers on each side."""
    step = max(1, int((values.size / _SAMPLED) ** 0.5))
    sample = values[::step, ::step]
    if kind_of(sample) == "floats":
        sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 0.0
    low = np.percentile(sample, _INNER[0], method="lower")
    high = np.percentile(sample, _INNER[1], method="higher")
    return float(low), float(high)


def usual_range(low: float, high: float) -> Range:
    """The smallest usual range that holds `low` to `high`, or these if they fill little of it."""
    white = next((white for white in _WHITES if high <= white), high)
    if low < 0 or 0 < high - low < _LEAST_USED * white:
        return low, high
    return 0.0, float(white)


def to_8_bits(values: Values, black_and_white: Range) -> NDArray[np.uint8]:
    """Map black to 0 and white to 255, and clip what lies outside. NaN becomes 0."""
    black, white = black_and_white
    if values.dtype == np.uint16:  # a table needs no copy of the values as floats
        return to_8_bits(np.arange(65536, dtype=np.float32), black_and_white)[values]
    if white - black < _LEAST_RANGE:  # all values are the same
        return np.where(values > 0, np.uint8(255), np.uint8(0))
    scaled = np.subtract(values, black, dtype=np.float32)
    with np.errstate(over="ignore"):  # of values far outside
        scaled *= np.float32(255 / (white - black))
    np.nan_to_num(scaled, copy=False, posinf=255, neginf=0)
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)


def grey_values(image: Image.Image) -> Values | None:
    """The values of a loaded grey picture, (height, width); None if it has 8 bits or colours."""
    if not image.mode.startswith(("I", "F")):
        return None
    values = np.asarray(image)
    if (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    ):
        return np.invert(values) if kind_of(values) == "integers" else -values
    return values


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a colour picture, not loaded yet, has 16 bits a channel: Pillow drops 8 of them."""
    parts = getattr(image, "tile", ())
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(part.args) for part in parts)


def colour_values(content: bytes) -> Values | None:
    """The values of a PNG or TIFF file of more than 8 bits; None if OpenCV cannot read them.

    Returns:
        Integers or floats (height, width, 3 or 4), red, green, blue and opacity, or (height, width)
        if it is grey; upright if it is a TIFF file, else before EXIF orientation.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # or it remarks on files
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype == np.uint8:
        return None
    if values.ndim == 2:
        return np.asarray(values)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(values.shape[2])
    return None if order is None else np.asarray(values[..., order])


def float_tiff_values(content: bytes) -> Values | None:
    """The values of a TIFF file that Pillow does not identify, if they are floats; else None.

    Pillow reads neither colours nor 64 bits as floats.

    Raises:
        BadImage: the picture is too large.
    """
    stream = io.BytesIO(content)
    header = stream.read(16)
    first = TiffImagePlugin.ImageFileDirectory_v2(header if header[2] == _BIG else header[:8])
    stream.seek(first.next)
    first.load(stream)
    if first[_WIDTH] * first[_HEIGHT] > formats.MOST_PIXELS:
        raise BadImage(formats.TOO_LARGE)
    values = colour_values(content)
    return values if values is not None and kind_of(values) == "floats" else None
