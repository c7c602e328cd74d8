"""Reproducible data augmentation: one affine and one colour transform per view.

The parameters of a view depend only on the seed, the picture's content and the view's number, so
views are identical whatever the order of processing or the number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.recipe.training import Flip, Strength

VERSION = 2  # part of every cache key: increase it when the pixels of views change


class _Ranges(NamedTuple):
    """Parameter ranges of one augmentation strength."""

    rotation: float  # maximum, in degrees, in both directions
    min_scale: float  # of the visible part, as a fraction of the picture's side
    brightness: float  # maximum relative change, up or down
    tint: float  # the same, per channel
    contrast: float  # the same
    max_scale: float = 1.05  # of the visible part, as a fraction of the picture's side
    overhang: float = 0.05  # of the visible part over the edge, as a fraction of the picture's side


_RANGES: dict[Strength, _Ranges] = {
    "light": _Ranges(7, 0.85, 0.1, 0.03, 0.1),
    "standard": _Ranges(15, 0.7, 0.2, 0.05, 0.2),
    "strong": _Ranges(25, 0.5, 0.35, 0.1, 0.35),
    "keras-example": _Ranges(54, 1.0, 0.0, 0.0, 0.1, max_scale=1.0, overhang=0.1),
}


@dataclass(frozen=True)
class View:
    """The augmentation parameters of one view of a picture.

    Attributes:
        rotation: degrees, anticlockwise.
        scale: size of the visible part as a fraction of the picture's side; below 1 zooms in.
        shift: offset (x, y) of the visible part from the centre, as fractions of the side.
        flip: whether to flip horizontally.
        gain: factor for each channel (red, green, blue).
        contrast: factor for the difference from the picture's mean.
        upside_down: whether to flip vertically.
    """

    rotation: float
    scale: float
    shift: tuple[float, float]
    flip: bool
    gain: tuple[float, float, float]
    contrast: float
    upside_down: bool = False


def plan(seed: int, picture: bytes, number: int, strength: Strength, flip: Flip) -> View:
    """Draw the parameters of one view of a picture.

    Args:
        seed: the run's seed.
        picture: the SHA-256 of the picture's file (32 bytes).
        number: of the view, from 1 (0 is the unaugmented picture).
        strength: selects the parameter ranges. `standard`: rotation ±15°, scale 0.7–1.05, shift
            up to the picture's edge and 5 % beyond it, brightness ±20 %, tint ±5 %, contrast ±20 %.
            `light` is about half as strong, `strong` nearly twice as strong. `keras-example` is
            as in the public example: rotation ±54°, shift ±10 %, contrast ±10 %, for use with
            flips in both directions.
        flip: `no` disables flips. Otherwise half of the views are flipped horizontally, and with
            `both` half are also flipped vertically, independently.
    """
    ranges = _RANGES[strength]
    random = np.random.default_rng([seed, number, int.from_bytes(picture[:8], "big")])
    # One call for all: each would take longer than what is done with its number.
    u = iter(random.random(11).tolist())
    scale = ranges.min_scale + (ranges.max_scale - ranges.min_scale) * next(u)
    max_shift = abs(1 - scale) / 2 + ranges.overhang
    brightness = 1 + ranges.brightness * _signed(u)
    red, green, blue = (brightness * (1 + ranges.tint * _signed(u)) for _ in range(3))
    return View(
        rotation=ranges.rotation * _signed(u),
        scale=scale,
        shift=(_signed(u, max_shift), _signed(u, max_shift)),
        flip=next(u) < 0.5 and flip != "no",
        gain=(red, green, blue),
        contrast=1 + ranges.contrast * _signed(u),
        upside_down=next(u) < 0.5 and flip == "both",
    )


def _signed(random: Iterator[float], limit: float = 1) -> float:
    """A number from -limit to limit, of one from 0 to 1; as NumPy's `uniform` computes it."""
    return -limit + (limit - -limit) * next(random)


def apply(pixels: Pixels, view: View) -> Pixels:
    """Apply the transforms of `view` to `pixels`, with a single resampling.

    Args:
        pixels: uint8 array of shape (size, size, 3).
        view: from `plan`.

    Returns:
        A new uint8 array of the same shape. Areas outside the picture are filled by reflection.
    """
    size = pixels.shape[0]
    warped = cv2.warpAffine(
        pixels,
        affine(view, size),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    mean = warped.mean(dtype=np.float64)
    factors = view.contrast * np.asarray(view.gain)
    offsets = (1 - view.contrast) * mean * np.asarray(view.gain)
    levels = np.arange(256)[:, None] * factors + offsets
    table = levels.clip(0, 255).round().astype(np.uint8).reshape(1, 256, 3)
    return np.asarray(cv2.LUT(warped, table))


def affine(view: View, size: int) -> NDArray[np.float64]:
    """The (2, 3) matrix that maps coordinates in the view to coordinates in the picture."""
    angle = np.deg2rad(view.rotation)
    linear = view.scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]],
    )
    if view.flip:
        linear[:, 0] *= -1
    if view.upside_down:
        linear[:, 1] *= -1
    centre = np.full(2, (size - 1) / 2)
    offset = centre + size * np.asarray(view.shift) - linear @ centre
    return np.column_stack([linear, offset])
