"""What a stage trains on and is judged by, handed out a batch at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from efftune.data import augmentation
from efftune.data.images import Pixels
from efftune.features.cache import CachedRows, Digest
from efftune.recipe.recipe import Recipe

_ALIGNMENT = 64  # bytes; TensorFlow uses such memory as it is and copies any other


class Inputs(Protocol):
    """What the network is given of each picture."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's input."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""

    def fill(self, batch: NDArray[Any], pictures: NDArray[np.int64], epoch: int) -> None:
        """Write the inputs of some pictures into a batch, as they are seen in an epoch.

        Args:
            batch: shape (pictures, *shape).
            pictures: their numbers.
            epoch: from 1; 0 for the pictures themselves.
        """


@dataclass(frozen=True)
class LabelledInputs:
    """Pictures with their classes.

    Attributes:
        inputs: what the network is given.
        labels: class numbers, shape (pictures,).
    """

    inputs: Inputs
    labels: NDArray[np.int64]

    def batch(self, pictures: NDArray[np.int64], epoch: int) -> NDArray[Any]:
        """The inputs of some pictures; a copy of its own."""
        batch = _aligned((len(pictures), *self.inputs.shape), self.inputs.dtype)
        self.inputs.fill(batch, pictures, epoch)
        return batch

    def in_order(self, size: int) -> Iterator[NDArray[Any]]:
        """All pictures themselves, in batches of at most `size`."""
        for start in range(0, len(self.labels), size):
            yield self.batch(np.arange(start, min(start + size, len(self.labels))), 0)


class CachedViews:
    """Activations kept of several views of each picture; each epoch sees another view.

    Every view of a picture comes once before any comes again, in an order drawn for that picture.
    They become float32 on the one occasion that they are copied.
    """

    def __init__(self, views: Sequence[CachedRows], seed: int):
        """Views of the same pictures; the first is the picture itself."""
        self.shape = views[0].shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._views = views
        random = np.random.default_rng([seed, len(views)])
        self._order = random.random((len(views[0]), len(views))).argsort(axis=1)

    def fill(self, batch: NDArray[Any], pictures: NDArray[np.int64], epoch: int) -> None:
        """See `Inputs`."""
        for to, picture in enumerate(pictures):
            view = self._order[picture, (epoch - 1) % len(self._views)] if epoch else 0
            batch[to] = self._views[view][picture]


class DecodedImages:
    """Decoded pictures; each epoch sees a fresh view."""

    def __init__(self, pixels: Pixels, digests: Sequence[Digest], recipe: Recipe):
        """Pictures of the network's size, uint8 (pictures, size, size, 3), with their hashes."""
        self.shape = pixels.shape[1:]
        self.dtype = pixels.dtype
        self._pixels = pixels
        self._digests = digests
        self._recipe = recipe

    def fill(self, batch: NDArray[Any], pictures: NDArray[np.int64], epoch: int) -> None:
        """See `Inputs`."""
        recipe = self._recipe
        for to, picture in enumerate(pictures):
            batch[to] = self._pixels[picture]
            if epoch and recipe.augmentation.augment != "none":
                # The numbers after those of the kept views: these are new to the network.
                number = recipe.head.epochs + int(recipe.augmentation.views) + epoch
                digest = self._digests[picture]
                plan = augmentation.plan(recipe.seed, digest, number, *recipe.views_shown)
                batch[to] = augmentation.apply(batch[to], plan)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)
