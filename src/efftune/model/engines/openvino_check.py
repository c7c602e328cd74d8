"""OpenVINO models from others, checked before OpenVINO reads them.

OpenVINO believes what a model says of its constants, and some of its operations read files, repeat
graphs or are loaded from libraries. A classifier has none of these.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.parsers import expat

from efftune.errors import DataError

MOST_BYTES = 2**26  # of the .xml
_MOST_DEPTH = 64  # of its elements
_MOST_DIMENSION = 2**31
_MOST_VALUES, _MOST_OF_ALL = 2**28, 2**34  # of an operation, and of all, for one picture
_BYTES = {"f64": 8, "i64": 8, "u64": 8, "f32": 4, "i32": 4, "u32": 4, "f16": 2, "bf16": 2}
_BYTES |= {"i16": 2, "u16": 2}
_LEAST_BYTES = 1 / 8  # of a value of another type
# What converted classifiers consist of, and what quantization adds.
_OPERATION_NAMES = (
    "Add AvgPool BatchNormInference Broadcast Clamp Concat Const Convert Convolution Divide "
    "FakeQuantize Gather GroupConvolution HSigmoid HSwish MatMul MaxPool Maximum Minimum "
    "Multiply Pad Parameter ReLU ReduceMean Reshape Result ShapeOf Sigmoid SoftMax Softmax "
    "Split Squeeze StridedSlice Subtract Swish Transpose Unsqueeze VariadicSplit"
)
_OPERATIONS = frozenset(_OPERATION_NAMES.split())


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Attribute what OpenVINO and the checks raise to a file.

    Raises:
        DataError: it cannot be used.
    """
    try:
        yield
    except (RuntimeError, ValueError, LookupError, AttributeError, OSError) as error:
        reason = (str(error).strip().splitlines() or ["unknown error"])[-1].removesuffix(".")
        raise DataError(f"{path} cannot be used: {reason}. Restore it, or train again.") from None


def metadata(path: Path) -> dict[str, str]:
    """Check a model, and return what it says of itself to efftune.

    Args:
        path: of the `.xml`; its `.bin` is beside it.

    Raises:
        ValueError: it is damaged, or holds more than plain operations on its own constants.
        OSError: one of the two files cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError("it is too large")
    reader = _Reader(path.with_suffix(".bin").stat().st_size)
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_declarations
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise ValueError(f"it is damaged, or no XML: {error}") from None
    if not reader.layers:
        raise ValueError("it is no OpenVINO model")
    return reader.found


def require_small(model: Any) -> None:
    """Check that what a model computes for a picture fits into memory.

    Args:
        model: as OpenVINO has read it.

    Raises:
        ValueError: it does not, or the model has other inputs than a classifier.
    """
    if len(model.inputs) != 1:
        raise ValueError("it has other inputs than a classifier")
    total = 0
    for operation in model.get_ordered_ops():
        for value in operation.outputs():
            shape = value.get_partial_shape()
            if shape.rank.is_dynamic:
                raise ValueError("it has values of any size")
            sizes = [each.get_length() for each in shape if each.is_static]
            total += math.prod(sizes)
            if len(sizes) < len(shape) - 1 or math.prod(sizes) > _MOST_VALUES:
                raise ValueError("it has values of any size")
    if total > _MOST_OF_ALL:
        raise ValueError("it computes too many values")


def _refuse_declarations(*_: Any) -> None:
    raise ValueError("it declares entities")


class _Reader:
    """What has been read of a model.

    Attributes:
        layers: their number.
        found: the metadata, by name.
    """

    def __init__(self, bytes_of_constants: int):
        """Nothing has been read yet."""
        self.layers = 0
        self.found: dict[str, str] = {}
        self._size = bytes_of_constants
        self._within: list[str] = []
        self._kind = ""

    def start(self, name: str, values: dict[str, str]) -> None:
        """An element begins."""
        if not self._within and name != "net":
            raise ValueError("it is no OpenVINO model")
        if self._within == ["net", "rt_info", "efftune"]:
            self.found[name] = values.get("value", "")
        elif name == "layer":
            self.layers += 1
            self._kind = values.get("type", "")
            if self._kind not in _OPERATIONS or not values.get("version", "").startswith("opset"):
                raise ValueError(
                    f"it has an operation {self._kind[:40]!r}, which exports never have"
                )
        elif name == "data" and self._kind == "Const" and self._within[-1] == "layer":
            self._constant(values)
        elif name in ("body", "port_map", "back_edges", "extensions"):
            raise ValueError("it has a graph within its graph")
        self._within.append(name)
        if len(self._within) > _MOST_DEPTH:
            raise ValueError("its elements are nested too deeply")

    def end(self, _name: str) -> None:
        """An element ends."""
        self._within.pop()

    def _constant(self, values: dict[str, str]) -> None:
        try:
            shape = [int(each) for each in values.get("shape", "").split(",") if each.strip()]
            offset, size = int(values["offset"]), int(values["size"])
        except (KeyError, ValueError):
            raise ValueError("a constant of it is damaged") from None
        needed = math.prod(shape) * _BYTES.get(values.get("element_type", ""), _LEAST_BYTES)
        if any(not 0 <= each < _MOST_DIMENSION for each in shape) or needed > size:
            raise ValueError("a constant of it is larger than what is stored of it")
        if offset < 0 or size < 0 or offset + size > self._size:
            raise ValueError("its .bin file is not whole, or another one")
