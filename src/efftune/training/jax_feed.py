"""How the pictures of a stage reach the devices: once and for all, or in blocks of steps."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Axes
from numpy.typing import NDArray

from efftune.system import machine
from efftune.training import jax_augmentation
from efftune.training.batches import Inputs

RESIDENT_SHARE = 0.4  # of a device's free memory that the inputs of a split may take
_READS = 2  # of each row on average; rows that are read less often need not lie on the device
_BLOCK_BYTES = 128 * 2**20
_BLOCK_PICTURES = 2048  # in a block; drawing their views takes about a tenth of a second
_AXIS = "pictures"

Item = TypeVar("Item")
Arrays = dict[str, Any]


def devices_for(batch_size: int) -> Mesh:
    """The local devices that share each batch: as many of them as divide it evenly."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    return Mesh(np.array(devices[:count]), (_AXIS,), axis_types=(AxisType.Auto,))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Each device has all of an array."""
    return NamedSharding(mesh, Axes())


def divided(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Each device has its part of the pictures, which an axis of an array runs over."""
    return NamedSharding(mesh, Axes(*[None] * axis, _AXIS))


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items, each made in a thread while the one before it is used."""
    nothing = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, nothing)
        while (item := coming.result()) is not nothing:
            coming = thread.submit(next, items, nothing)
            yield item  # type: ignore[misc]


class Feed:
    """The inputs of a split, on the devices.

    They stay there if they fit into `RESIDENT_SHARE` of the free memory and are read often enough
    to be worth it. Otherwise each block brings its own.

    Attributes:
        block_steps: steps per block.
    """

    def __init__(self, inputs: Inputs, mesh: Mesh, steps: tuple[int, int], reads: int):
        """Nothing is read before the first block is made.

        Args:
            inputs: the inputs.
            mesh: the devices.
            steps: largest number of steps of an epoch, and pictures per step.
            reads: number of pictures that are read in all.
        """
        self._inputs = inputs
        self._mesh = mesh
        count, self._batch_size = steps
        self._row_bytes = int(np.prod(inputs.shape)) * inputs.row_dtype.itemsize
        most = min(_BLOCK_PICTURES, _BLOCK_BYTES // self._row_bytes) // self._batch_size
        self.block_steps = max(1, min(count, most))
        self._worth_keeping = reads >= _READS * inputs.row_count

    def block(self, pictures: NDArray[np.int64], epoch: int) -> tuple[jax.Array, Arrays]:
        """What a program needs to know of at most `block_steps` steps.

        Args:
            pictures: of each step, int64 (steps, pictures per step).
            epoch: from 1; 0 for the unaugmented pictures.

        Returns:
            The array that `batch` takes a step's inputs from; and arrays by name, each with an axis
            for steps and one for pictures.
        """
        arrays: Arrays = {}
        if self._kept is not None:
            rows = [self._inputs.rows(each, epoch) for each in pictures]
            data, arrays["rows"] = self._kept, np.array(rows, np.int32)
        else:
            shape = (self.block_steps, self._batch_size, *self._inputs.shape)
            values = np.empty(shape, self._inputs.row_dtype)
            for step, each in enumerate(pictures):
                self._inputs.read(values[step], self._inputs.rows(each, epoch))
            data = jax.device_put(values, divided(self._mesh, axis=1))
        views = self._inputs.views(pictures.ravel(), epoch)
        if views is not None:
            found = jax_augmentation.parameters(views, self._inputs.shape[0])
            arrays |= {
                name: each.reshape(*pictures.shape, *each.shape[1:]) for name, each in found.items()
            }
        return data, self.placed(arrays)

    def placed(self, arrays: Arrays, axis: int | None = 1) -> Arrays:
        """Arrays with an axis for steps, padded to `block_steps`, on the devices.

        Args:
            arrays: by name.
            axis: the axis for pictures, if there is one.
        """
        where = everywhere(self._mesh) if axis is None else divided(self._mesh, axis)
        padded = {
            name: np.pad(each, [(0, self.block_steps - len(each)), *[(0, 0)] * (each.ndim - 1)])
            for name, each in arrays.items()
        }
        placed: Arrays = jax.device_put(padded, where)
        return placed

    @cached_property
    def _kept(self) -> jax.Array | None:
        """All rows, on every device; None if each block brings its own."""
        size = self._inputs.row_count * self._row_bytes
        if not self._worth_keeping or size > RESIDENT_SHARE * _free_bytes(self._mesh.devices[0]):
            return None
        count = self._inputs.row_count
        part = min(count, max(1, _BLOCK_BYTES // self._row_bytes))
        where, shape = everywhere(self._mesh), self._inputs.shape
        write = jax.jit(_with_rows, donate_argnums=0, out_shardings=where)

        def parts() -> Iterator[tuple[jax.Array, int]]:
            for start in range(0, count, part):
                first = min(start, count - part)  # one program writes the last part, too
                values = np.empty((part, *shape), self._inputs.row_dtype)
                self._inputs.read(values, np.arange(first, first + part))
                yield jax.device_put(values, where), first

        kept = jnp.zeros((count, *shape), self._inputs.row_dtype, device=where)
        for values, first in ahead(parts()):
            kept = write(kept, values, first)
        return kept


def batch(data: jax.Array, arrays: Arrays, step: Any, mesh: Mesh) -> jax.Array:
    """The inputs of one step of a block (see `Feed.block`), divided among the devices."""
    found = data[arrays["rows"][step]] if "rows" in arrays else data[step]
    found = jax.lax.with_sharding_constraint(found, divided(mesh))
    if "affine" not in arrays:
        return found
    names = ("affine", "gain", "contrast")
    return jax_augmentation.apply(found, *(arrays[name][step] for name in names))


def _with_rows(kept: jax.Array, values: jax.Array, first: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(kept, values, first, axis=0)


def _free_bytes(device: jax.Device) -> int:
    stats: dict[str, int] | None = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform != "cpu":
        return 0  # unknown
    return machine.free_memory()
