"""Batches of cached activations or decoded pictures, for training and validation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from efftune.data import augmentation, images, picture_bytes
from efftune.data.augmentation import View
from efftune.data.bit_depth import BitDepth
from efftune.data.images import Pixels
from efftune.errors import BadImage, DataError
from efftune.features.cache import CachedRows, Digest
from efftune.recipe.inputs import Fit
from efftune.recipe.recipe import Recipe

Array = NDArray[np.float32]

_ALIGNMENT = 64  # bytes; TensorFlow uses aligned arrays without a copy


class Inputs(Protocol):
    """The network's inputs for a set of pictures: rows that are kept, perhaps augmented anew.

    `fill` gives a network what it trains on. Where the device itself augments, it is given what the
    other methods say: which rows an epoch shows, their values, and the views to make of them.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input of one picture."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that `fill` writes."""

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """Type of the values of the rows."""

    @property
    def row_count(self) -> int:
        """Number of rows that all epochs choose from."""

    def rows(self, pictures: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Numbers of the rows that an epoch shows of some pictures, int64 (pictures,)."""

    def read(self, batch: NDArray[Any], rows: NDArray[np.int64]) -> None:
        """Write some rows, as they are kept, into an array of shape (rows, *shape)."""

    def views(self, pictures: NDArray[np.int64], epoch: int) -> list[View] | None:
        """The augmented views to make of the rows of an epoch; None for none."""

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


@dataclass(frozen=True)
class StageData:
    """What a network is trained and validated on.

    Attributes:
        train: training inputs and labels.
        weights: loss weight of each training picture, float32 (pictures,).
        val: validation inputs and labels, if there are any.
        epochs: how often each training picture will be used.
        batch_size: pictures per training step.
        val_batch_size: pictures per batch of validation.
    """

    train: LabelledInputs
    weights: Array
    val: LabelledInputs | None
    epochs: int
    batch_size: int
    val_batch_size: int

    @property
    def steps(self) -> int:
        """Steps per epoch, without the last partial batch."""
        return max(1, len(self.train.labels) // self.batch_size)


class Mix(NamedTuple):
    """How the pictures of a step are blended (mixup and CutMix).

    Attributes:
        partners: place in the batch of each picture's partner, int32 (pictures,).
        mask: weight of a picture against its partner at each position, float32 (1, height, width,
            1).
        ratio: the mean of the mask.
    """

    partners: NDArray[np.int32]
    mask: Array
    ratio: float


class CachedViews:
    """Cached activations of several views of each picture; each epoch uses another view.

    All views of a picture are used once before any is repeated, in a random order per picture.
    Values are converted to float32 when they are copied into a batch.

    Attributes:
        cached: the rows of each view.
    """

    def __init__(self, views: Sequence[CachedRows], seed: int):
        """Views of the same pictures, the first of which epoch 0 uses."""
        self.shape = views[0].shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self.row_dtype = views[0].dtype
        self.row_count = len(views) * len(views[0])
        self.cached = views
        random = np.random.default_rng([seed, len(views)])
        self._order = random.random((len(views[0]), len(views))).argsort(axis=1)

    def rows(self, pictures: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """See `Inputs`; the rows of a view follow those of the view before it."""
        if not epoch:
            return pictures
        views = self._order[pictures, (epoch - 1) % len(self.cached)]
        rows: NDArray[np.int64] = views * len(self.cached[0]) + pictures
        return rows

    def read(self, batch: NDArray[Any], rows: NDArray[np.int64]) -> None:
        """See `Inputs`."""
        for i, row in enumerate(rows.tolist()):
            view, picture = divmod(row, len(self.cached[0]))
            batch[i] = self.cached[view][picture]

    def views(self, _pictures: NDArray[np.int64], _epoch: int) -> None:
        """See `Inputs`."""

    def fill(self, batch: NDArray[Any], pictures: NDArray[np.int64], epoch: int) -> None:
        """See `Inputs`."""
        self.read(batch, self.rows(pictures, epoch))


class DecodedAgain:
    """Pictures that are decoded each time they are asked for: rows as of the array of them all."""

    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(self, paths: Sequence[Path], size: int, fit: Fit, depth: BitDepth):
        """Pictures at the network's size; see `images.decode`."""
        self.shape = (len(paths), size, size, 3)
        self._paths = paths
        self._settings = size, fit, depth

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._paths)

    def __getitem__(self, picture: int) -> Pixels:
        """A picture, uint8 (size, size, 3).

        Raises:
            DataError: it cannot be decoded any more.
        """
        path = self._paths[picture]
        try:
            return images.decode(picture_bytes.read(path), *self._settings)
        except BadImage as error:
            raise DataError(
                f"{path} changed during the run: {error.reason}. Start again."
            ) from None


class DecodedImages:
    """Decoded pictures, augmented anew in each epoch."""

    def __init__(self, pixels: Pixels | DecodedAgain, digests: Sequence[Digest], recipe: Recipe):
        """Pictures at the network's size, uint8 (pictures, size, size, 3), and their SHA-256s."""
        self.shape = pixels.shape[1:]
        self.dtype = self.row_dtype = pixels.dtype
        self.row_count = len(pixels)
        self._pixels = pixels
        self._digests = digests
        self._recipe = recipe

    def rows(self, pictures: NDArray[np.int64], _epoch: int) -> NDArray[np.int64]:
        """See `Inputs`."""
        return pictures

    def read(self, batch: NDArray[Any], rows: NDArray[np.int64]) -> None:
        """See `Inputs`."""
        for i, row in enumerate(rows):
            batch[i] = self._pixels[row]

    def views(self, pictures: NDArray[np.int64], epoch: int) -> list[View] | None:
        """See `Inputs`."""
        recipe = self._recipe
        if not epoch or recipe.augmentation.augment == "none":
            return None
        # Numbered after the cached views, so that the network has not seen these yet.
        number = recipe.head.epochs + int(recipe.augmentation.views) + epoch
        digests = [self._digests[picture] for picture in pictures]
        return [
            augmentation.plan(recipe.seed, digest, number, *recipe.view_settings)
            for digest in digests
        ]

    def fill(self, batch: NDArray[Any], pictures: NDArray[np.int64], epoch: int) -> None:
        """See `Inputs`."""
        self.read(batch, pictures)
        for i, view in enumerate(self.views(pictures, epoch) or []):
            batch[i] = augmentation.apply(batch[i], view)


class ArrayViews:
    """Inputs from a function that gives those of all pictures for an epoch, as float32."""

    def __init__(self, arrays: Callable[[int], Array], shape: tuple[int, ...], epochs: int = 1):
        """Each epoch is asked for once, when it begins.

        Args:
            arrays: returns the inputs of an epoch, counted from 1; epoch 0 shows the first's.
            shape: of such an array, the number of pictures first.
            epochs: number of epochs.
        """
        self._pictures, *row_shape = shape
        self.shape = tuple(row_shape)
        self.dtype = self.row_dtype = np.dtype(np.float32)
        self.row_count = epochs * self._pictures
        self._arrays = lru_cache(maxsize=1)(arrays)

    def rows(self, pictures: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """See `Inputs`; the rows of an epoch follow those of the epoch before it."""
        return max(0, epoch - 1) * self._pictures + pictures

    def read(self, batch: NDArray[Any], rows: NDArray[np.int64]) -> None:
        """See `Inputs`."""
        epochs, pictures = np.divmod(rows, self._pictures)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            batch[of_epoch] = self._arrays(int(epoch) + 1)[pictures[of_epoch]]

    def views(self, _pictures: NDArray[np.int64], _epoch: int) -> None:
        """See `Inputs`."""

    def fill(self, batch: NDArray[Any], pictures: NDArray[np.int64], epoch: int) -> None:
        """See `Inputs`."""
        self.read(batch, self.rows(pictures, epoch))


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An uninitialised array at an aligned address."""
    size = int(np.prod(shape)) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
