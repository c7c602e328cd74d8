"""Training-time randomness as a plan per view: one affine and one colour change.

A view's plan depends on nothing but the seed, the picture's content and the view's number, so the
same pixels come out every time, whatever the order or the number of threads.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.recipe.training import Flip, Strength

VERSION = 2  # part of every cache key: raise it when a view's pixels change


class _Reach(NamedTuple):
    """How far the views of one strength go from the picture itself."""

    rotation: float  # degrees, either way
    smallest: float  # share of the picture's side that is shown at least
    brightness: float  # share, either way
    tint: float  # the same, for each channel alone
    contrast: float  # the same
    largest: float = 1.05  # share of the picture's side that is shown at most
    beyond: float = 0.05  # how far the shown part may leave the picture, as a share of its side


_REACHES: dict[Strength, _Reach] = {
    "light": _Reach(7, 0.85, 0.1, 0.03, 0.1),
    "standard": _Reach(15, 0.7, 0.2, 0.05, 0.2),
    "strong": _Reach(25, 0.5, 0.35, 0.1, 0.35),
    "keras-example": _Reach(54, 1.0, 0.0, 0.0, 0.1, largest=1.0, beyond=0.1),
}


@dataclass(frozen=True)
class View:
    """One way to see a picture again.

    Attributes:
        rotation: degrees, anticlockwise.
        scale: size of the shown part, as a share of the picture's side; below 1 zooms in.
        shift: offset of the shown part from the centre, as shares of the picture's side (x, y).
        flip: whether left and right change places.
        gain: factor of each channel (red, green, blue).
        contrast: factor of the distance from the picture's mean.
        upside_down: whether top and bottom change places.
    """

    rotation: float
    scale: float
    shift: tuple[float, float]
    flip: bool
    gain: tuple[float, float, float]
    contrast: float
    upside_down: bool = False


def plan(seed: int, picture: bytes, number: int, strength: Strength, flip: Flip) -> View:
    """The plan of a picture's view.

    Args:
        seed: the run's seed.
        picture: the SHA-256 of the picture's file (32 bytes).
        number: which view, from 1 (0 is the picture itself).
        strength: how far views go. `standard` draws from: rotation ±15°, scale 0.7–1.05, shift as
            far as the picture reaches and 5 % beyond, brightness ±20 %, tint ±5 %, contrast ±20 %.
            `light` goes half as far, `strong` nearly twice as far. `keras-example` is as in the
            public example: rotation ±54°, shift ±10 %, contrast ±10 %, and it flips both ways.
        flip: whether left and right change places half the time; with `both`, top and bottom do
            too.
    """
    reach = _REACHES[strength]
    random = np.random.default_rng([seed, number, int.from_bytes(picture[:8], "big")])
    scale = random.uniform(reach.smallest, reach.largest)
    furthest = abs(1 - scale) / 2 + reach.beyond
    brightness = 1 + reach.brightness * random.uniform(-1, 1)
    red, green, blue = brightness * (1 + reach.tint * random.uniform(-1, 1, 3))
    return View(
        rotation=reach.rotation * random.uniform(-1, 1),
        scale=scale,
        shift=(random.uniform(-furthest, furthest), random.uniform(-furthest, furthest)),
        flip=bool(random.random() < 0.5) and flip != "no",
        gain=(red, green, blue),
        contrast=1 + reach.contrast * random.uniform(-1, 1),
        upside_down=bool(random.random() < 0.5) and flip == "both",
    )


def apply(pixels: Pixels, view: View) -> Pixels:
    """Show `pixels` as `view` says, in a single resampling.

    Args:
        pixels: uint8 array of shape (size, size, 3).
        view: from `plan`.

    Returns:
        A new uint8 array of the same shape. What lies beyond the picture's edge mirrors it.
    """
    size = pixels.shape[0]
    moved = cv2.warpAffine(
        pixels,
        _affine(view, size),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    mean = moved.mean(dtype=np.float64)
    factors = view.contrast * np.asarray(view.gain)
    offsets = (1 - view.contrast) * mean * np.asarray(view.gain)
    levels = np.arange(256)[:, None] * factors + offsets
    table = levels.clip(0, 255).round().astype(np.uint8).reshape(1, 256, 3)
    return np.asarray(cv2.LUT(moved, table))


def _affine(view: View, size: int) -> NDArray[np.float64]:
    """The matrix that takes a point of the view to its place in the picture."""
    angle = np.deg2rad(view.rotation)
    turn = view.scale * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]],
    )
    if view.flip:
        turn[:, 0] *= -1
    if view.upside_down:
        turn[:, 1] *= -1
    centre = np.full(2, (size - 1) / 2)
    offset = centre + size * np.asarray(view.shift) - turn @ centre
    return np.column_stack([turn, offset])
