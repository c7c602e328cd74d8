"""PyTorch weights files, without PyTorch.

They are pickles, and unpickling runs code. The reader here can build tensors and nothing else: a
file that asks for anything more is refused.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.errors import DataError

Tensors = Mapping[str, NDArray[Any]]

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


def read(content: bytes) -> Tensors:
    """Read the tensors of a PyTorch file, of today's format or of that before PyTorch 1.6.

    Args:
        content: the file's bytes: a dictionary of tensors, or one that holds such a dictionary as
            `state_dict`, `model` or `state_dict_ema`.

    Returns:
        Arrays by name, in the file's order.

    Raises:
        DataError: not such a file, truncated, or one that holds more than tensors.
    """
    try:
        entries, storage = _zipped(content) if content[:2] == b"PK" else _sequential(content)
        for key in ("state_dict_ema", "state_dict", "model"):
            if isinstance(entries.get(key), Mapping):
                entries = entries[key]
        tensors = {name: each for name, each in entries.items() if isinstance(each, _Tensor)}
        return {str(name): each.array(storage(each)) for name, each in tensors.items()}
    except DataError:
        raise
    # A damaged pickle fails in as many ways as it has opcodes.
    except Exception as error:  # noqa: BLE001
        raise DataError(f"The PyTorch weights file is damaged: {error}.") from None


@dataclass(frozen=True)
class _Tensor:
    """A tensor of which only the description was read yet."""

    key: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storage: NDArray[Any]) -> NDArray[Any]:
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((length - 1) * stride for length, stride in steps)
        if self.offset < 0 or min(self.shape + self.strides, default=0) < 0 or last >= len(storage):
            raise DataError(
                "The PyTorch weights file is damaged: a tensor reaches beyond its data."
            )
        view = np.lib.stride_tricks.as_strided(
            storage[self.offset :],
            self.shape,
            [stride * storage.itemsize for stride in self.strides],
        )
        return view.copy()


_Storage = Callable[[_Tensor], NDArray[Any]]


class _Reader(pickle.Unpickler):
    """An unpickler that knows tensors, dictionaries, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise DataError(
            f"The PyTorch weights file asks for {module}.{name}, which is not a tensor."
        )

    def persistent_load(self, reference: Any) -> tuple[str, np.dtype[Any]]:
        _kind, dtype, key, *_ = reference
        return key, dtype


def _rebuild(
    storage: tuple[str, np.dtype[Any]],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: object,
) -> _Tensor:
    key, dtype = storage
    return _Tensor(key, dtype, offset, shape, strides)


def _zipped(content: bytes) -> tuple[Mapping[str, Any], _Storage]:
    """An archive with a pickle, `data.pkl`, and a file of raw numbers for each storage."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
    folder = pickled.removesuffix("data.pkl")

    def storage(tensor: _Tensor) -> NDArray[Any]:
        return np.frombuffer(archive.read(f"{folder}data/{tensor.key}"), tensor.dtype)

    return _Reader(io.BytesIO(archive.read(pickled))).load(), storage


def _sequential(content: bytes) -> tuple[Mapping[str, Any], _Storage]:
    """Pickles one after the other, then for each storage a count and as many numbers."""
    stream = io.BytesIO(content)
    if _Reader(stream).load() != _MAGIC:
        raise DataError("Not a PyTorch weights file.")
    _protocol, _system = _Reader(stream).load(), _Reader(stream).load()
    entries = _Reader(stream).load()
    storages = _storages(stream, _Reader(stream).load(), _dtypes(entries))
    return entries, lambda tensor: storages[tensor.key]


def _dtypes(entries: Any) -> dict[str, np.dtype[Any]]:
    """The type of each storage's numbers, wherever in nested dictionaries its tensors are."""
    if isinstance(entries, _Tensor):
        return {entries.key: entries.dtype}
    dtypes: dict[str, np.dtype[Any]] = {}
    for entry in entries.values() if isinstance(entries, Mapping) else ():
        dtypes |= _dtypes(entry)
    return dtypes


def _storages(
    stream: io.BytesIO, keys: list[str], dtypes: Mapping[str, np.dtype[Any]]
) -> dict[str, NDArray[Any]]:
    storages = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little", signed=True)
        size = count * dtypes[key].itemsize
        numbers = stream.read(size)
        if count < 0 or len(numbers) != size:
            raise DataError("The PyTorch weights file is truncated.")
        storages[key] = np.frombuffer(numbers, dtypes[key])
    return storages
