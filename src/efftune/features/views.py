"""The views of a picture that a network is run on: decoded and augmented, from its file.

Helpers import this module, so it imports no network.
"""

from collections.abc import Sequence
from pickle import PickleBuffer
from typing import TYPE_CHECKING

import numpy as np

from efftune.data import augmentation, images
from efftune.data.images import Pixels

if TYPE_CHECKING:
    from efftune.features.extraction import ExtractionSettings

MIRRORED = -1  # number of the view that is flipped horizontally and otherwise unchanged


def views_of(
    content: PickleBuffer,
    digest: bytes,
    size: int,
    settings: "ExtractionSettings",
    views: Sequence[int],
) -> Pixels:
    """Views of a picture.

    Args:
        content: of its file.
        digest: of the content; the views depend on it.
        size: side of the views, in pixels.
        settings: how the picture is decoded and augmented.
        views: numbers of the views; see `extract`.

    Returns:
        uint8 (views, size, size, 3).

    Raises:
        BadImage: the picture cannot be decoded.
    """
    pixels = images.decode(bytes(content), size, settings.fit, settings.depth)
    return np.stack([_view(pixels, digest, settings, view) for view in views])


def _view(pixels: Pixels, digest: bytes, settings: "ExtractionSettings", view: int) -> Pixels:
    if view in (0, MIRRORED):
        return pixels[:, ::-1] if view else pixels
    plan = augmentation.plan(settings.seed, digest, view, settings.augment, settings.flip)
    return augmentation.apply(pixels, plan)
