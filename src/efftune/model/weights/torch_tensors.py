"""Reading PyTorch weights files without PyTorch.

They are pickles, and unpickling can execute code. This reader builds tensors and dictionaries only;
a file that refers to anything else is rejected.
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

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


def read(content: bytes) -> Tensors:
    """Read the tensors of a PyTorch file, in the current format or that before PyTorch 1.6.

    Args:
        content: the file's bytes: a dictionary of tensors, or one with such a dictionary under
            `state_dict`, `model` or `state_dict_ema`.

    Returns:
        Arrays by name, in the file's order.

    Raises:
        DataError: it is not a PyTorch file, is truncated, or contains other objects than tensors.
    """
    try:
        entries, storage = _from_zip(content) if content[:2] == b"PK" else _from_pickles(content)
        for key in ("state_dict_ema", "state_dict", "model"):
            if isinstance(entries.get(key), Mapping):
                entries = entries[key]
        tensors = {name: each for name, each in entries.items() if isinstance(each, _Tensor)}
        return {str(name): each.array(storage(each)) for name, each in tensors.items()}
    except DataError:
        raise
    # A damaged pickle can raise almost any exception.
    except Exception as error:  # noqa: BLE001
        raise DataError(f"The PyTorch weights file is damaged: {error}.") from None


@dataclass(frozen=True)
class _Tensor:
    """A tensor whose description has been read, but not its values."""

    key: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storage: NDArray[Any]) -> NDArray[Any]:
        axes = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((length - 1) * stride for length, stride in axes)
        if self.offset < 0 or min(self.shape + self.strides, default=0) < 0 or last >= len(storage):
            raise DataError(
                "The PyTorch weights file is damaged: a tensor extends beyond its data."
            )
        view = np.lib.stride_tricks.as_strided(
            storage[self.offset :],
            self.shape,
            [stride * storage.itemsize for stride in self.strides],
        )
        return view.copy()


_Storage = Callable[[_Tensor], NDArray[Any]]


class _Unpickler(pickle.Unpickler):
    """An unpickler that supports tensors and dictionaries only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise DataError(
            f"The PyTorch weights file refers to {module}.{name}, which is not a tensor."
        )

    def persistent_load(self, reference: Any) -> tuple[str, np.dtype[Any]]:
        _kind, dtype, key, *_ = reference
        return key, dtype


def _rebuilt_tensor(
    storage: tuple[str, np.dtype[Any]],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_: object,
) -> _Tensor:
    key, dtype = storage
    return _Tensor(key, dtype, offset, shape, strides)


def _from_zip(content: bytes) -> tuple[Mapping[str, Any], _Storage]:
    """A ZIP archive with a pickle, `data.pkl`, and a file of raw values for each storage."""
    archive = zipfile.ZipFile(io.BytesIO(content))
    (pickle_name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
    folder = pickle_name.removesuffix("data.pkl")

    def storage(tensor: _Tensor) -> NDArray[Any]:
        return np.frombuffer(archive.read(f"{folder}data/{tensor.key}"), tensor.dtype)

    return _Unpickler(io.BytesIO(archive.read(pickle_name))).load(), storage


def _from_pickles(content: bytes) -> tuple[Mapping[str, Any], _Storage]:
    """Consecutive pickles, followed by the number of values and the values of each storage."""
    stream = io.BytesIO(content)
    if _Unpickler(stream).load() != _MAGIC_NUMBER:
        raise DataError("Not a PyTorch weights file.")
    _protocol, _system = _Unpickler(stream).load(), _Unpickler(stream).load()
    entries = _Unpickler(stream).load()
    storages = _storages(stream, _Unpickler(stream).load(), _dtypes(entries))
    return entries, lambda tensor: storages[tensor.key]


def _dtypes(entries: Any) -> dict[str, np.dtype[Any]]:
    """The dtype of each storage, from the tensors in (nested) dictionaries."""
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
        values = stream.read(size)
        if count < 0 or len(values) != size:
            raise DataError("The PyTorch weights file is truncated.")
        storages[key] = np.frombuffer(values, dtypes[key])
    return storages
