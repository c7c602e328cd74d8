"""Batches of cached activations or decoded pictures, for training and validation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from efftune.data import augmentation
from efftune.data.images import Pixels
from efftune.features.cache import CachedRows, Digest
from efftune.recipe.recipe import Recipe

_ALIGNMENT = 64  # bytes; TensorFlow uses aligned arrays without a copy


class Inputs(Protocol):
    """The network's inputs for a set of pictures."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input of one picture."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def fill(self, batch: NDArray[Any], pictures: NDArray[np.int64], epoch: int) -> None:
        """Write the inputs of some pictures for an epoch into a batch.

        Args:
            batch: the array to fill, shape (pictures, *shape).
            pictures: indices of the pictures.
            epoch: from 1; 0 for the unaugmented pictures.
        """


@dataclass(frozen=True)
class LabelledInputs:
    """Inputs and labels of a split.

    Attributes:
        inputs: the network's inputs.
        labels: class numbers, shape (pictures,).
    """

    inputs: Inputs
    labels: NDArray[np.int64]

    def batch(self, pictures: NDArray[np.int64], epoch: int) -> NDArray[Any]:
        """The inputs of some pictures for an epoch, in a new array; see `Inputs.fill`."""
        batch = _aligned((len(pictures), *self.inputs.shape), self.inputs.dtype)
        self.inputs.fill(batch, pictures, epoch)
        return batch

    def in_order(self, size: int) -> Iterator[NDArray[Any]]:
        """All unaugmented pictures in order, in batches of at most `size`."""
        for start in range(0, len(self.labels), size):
            yield self.batch(np.arange(start, min(start + size, len(self.labels))), 0)


class CachedViews:
    """Cached activations of several views of each picture; each epoch uses another view.

    All views of a picture are used once before any is repeated, in a random order per picture.
    Values are converted to float32 when they are copied into a batch.
    """

    def __init__(self, views: Sequence[CachedRows], seed: int):
        """Views of the same pictures, the first of which epoch 0 uses."""
        self.shape = views[0].shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._views = views
        random = np.random.default_rng([seed, len(views)])
        self._order = random.random((len(views[0]), len(views))).argsort(axis=1)

    def fill(self, batch: NDArray[Any], pictures: NDArray[np.int64], epoch: int) -> None:
        """See `Inputs`."""
        for i, picture in enumerate(pictures):
            view = self._order[picture, (epoch - 1) % len(self._views)] if epoch else 0
            batch[i] = self._views[view][picture]


class DecodedImages:
    """Decoded pictures, augmented anew in each epoch."""

    def __init__(self, pixels: Pixels, digests: Sequence[Digest], recipe: Recipe):
        """Pictures at the network's size, uint8 (pictures, size, size, 3), and their SHA-256s."""
        self.shape = pixels.shape[1:]
        self.dtype = pixels.dtype
        self._pixels = pixels
        self._digests = digests
        self._recipe = recipe

    def fill(self, batch: NDArray[Any], pictures: NDArray[np.int64], epoch: int) -> None:
        """See `Inputs`."""
        recipe = self._recipe
        for i, picture in enumerate(pictures):
            batch[i] = self._pixels[picture]
            if epoch and recipe.augmentation.augment != "none":
                # Numbered after the cached views, so that the network has not seen these yet.
                number = recipe.head.epochs + int(recipe.augmentation.views) + epoch
                digest = self._digests[picture]
                plan = augmentation.plan(recipe.seed, digest, number, *recipe.view_settings)
                batch[i] = augmentation.apply(batch[i], plan)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An uninitialised array at an aligned address."""
    size = int(np.prod(shape)) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
