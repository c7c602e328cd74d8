"""How pictures were made square when the accuracy of published weights was measured."""

import math
from dataclasses import dataclass
from typing import Literal

Filter = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class Resizing:
    """The resizing and the central crop of a published evaluation.

    Attributes:
        share: share of the shorter side that the central square keeps, above 0 and up to 1.
        filter: how pixels are interpolated. `bicubic`: Pillow's, over all pixels, as timm
            evaluates. `bilinear`: between neighbouring pixels, as TensorFlow 2 resizes.
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
