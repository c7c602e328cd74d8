"""From a picture of any size to the square of the model input.

Pillow and OpenCV are imported only when a picture is resized: the table of models needs neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from efftune.recipe.inputs import Fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

Filter = Literal["bicubic", "bilinear"]

_GREY = 127  # mapped to zero by the models' preprocessing


@dataclass(frozen=True)
class Resizing:
    """The resizing and the central crop of a published evaluation.

    Attributes:
        share: share of the shorter side that the central square keeps, above 0 and up to 1.
        filter: how pixels are interpolated. `bicubic`: Pillow's, over all pixels, as timm
            evaluates. `bilinear`: between neighbouring pixels, as TensorFlow 2 resizes; here after
            averaging to less than twice the size.
        stretch: ignore the aspect ratio: the share is one of both sides.
    """

    share: float = 1.0
    filter: Filter = "bicubic"
    stretch: bool = False

    def scaled(self, width: int, height: int, size: int) -> tuple[int, int]:
        """Width and height, in pixels, that a picture is resized to before the crop.

        Args:
            width: of the picture, in pixels.
            height: of the picture, in pixels.
            size: side of the square that is cropped, in pixels.
        """
        side = math.floor(size / self.share + 1e-6)  # 240 / (240 / 272) is 272
        if self.stretch:
            return side, side
        shorter = min(width, height)
        return side * width // shorter, side * height // shorter

    def box(self, width: int, height: int, size: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part of a picture that becomes the square."""
        scaled = self.scaled(width, height, size)
        left, top = (round((side - size) / 2) for side in scaled)
        across, down = width / scaled[0], height / scaled[1]
        return left * across, top * down, (left + size) * across, (top + size) * down


Framing: TypeAlias = Fit | Resizing  # how a picture becomes a square


def fitted(image: Image.Image, size: int, fit: Framing) -> NDArray[np.uint8]:
    """The pixels of a picture as a square.

    Args:
        image: in mode `RGB`.
        size: side of the square, in pixels.
        fit: `stretch`, `crop` or `pad`; see `Recipe`. Or the resizing of a published evaluation.

    Returns:
        uint8 (size, size, 3).
    """
    width, height = image.size
    if isinstance(fit, Resizing):
        return _as_evaluated(image, size, fit)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return _resized(image, (left, top, left + side, top + side), (size, size))
    whole = (0, 0, width, height)
    if fit == "stretch":
        return _resized(image, whole, (size, size))
    return _padded(image, size)


def _padded(image: Image.Image, size: int) -> NDArray[np.uint8]:
    import numpy as np

    width, height = image.size
    scale = size / max(width, height)
    scaled_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top = (size - scaled_size[0]) // 2, (size - scaled_size[1]) // 2
    canvas = np.full((size, size, 3), _GREY, np.uint8)
    canvas[top : top + scaled_size[1], left : left + scaled_size[0]] = _resized(
        image, (0, 0, width, height), scaled_size
    )
    return canvas


def _as_evaluated(image: Image.Image, size: int, resizing: Resizing) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    box = resizing.box(*image.size, size)
    if resizing.filter == "bicubic":
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box), np.uint8)
    left, top, right, bottom = map(round, box)
    part = (left, top, max(right, left + 1), max(bottom, top + 1))
    return _resized(image, part, (size, size))


def _resized(
    image: Image.Image, box: tuple[int, int, int, int], to: tuple[int, int]
) -> NDArray[np.uint8]:
    """Crop to `box` (left, top, right, bottom) and resize to `to` (width, height).

    Averages blocks of pixels to less than twice the target size, then interpolates linearly. This
    is several times faster than a filter over all pixels, and the sharper result is closer to the
    preprocessing with which the backbones were pretrained.
    """
    import cv2
    import numpy as np

    factors = (max(1, (box[2] - box[0]) // to[0]), max(1, (box[3] - box[1]) // to[1]))
    if factors != (1, 1):
        part = np.asarray(image.reduce(factors, box))
    else:
        part = np.asarray(image)[box[1] : box[3], box[0] : box[2]]
    return np.asarray(cv2.resize(part, to, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
