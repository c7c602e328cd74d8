"""OpenVINO models from others, checked before OpenVINO reads them.

OpenVINO believes what a model says of its constants, and some of its operations read files, repeat
graphs or are loaded from libraries. A classifier has none of these.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any
from xml.parsers import expat

from efftune.errors import DataError

MOST_BYTES = 2**26  # of the .xml
MOST_SIDE, MOST_CLASSES = 2048, 100_000  # of any classifier; the side in pixels
_MOST_DEPTH = 64  # of its elements
_MOST_DIMENSION = 2**31
# The largest networks of this family compute some thousand values for each pixel; several of them
# side by side, a multiple of that.
_VALUES_OF_PIXEL, _SMALL_SIDE = 50_000, 64
_BYTES = {"f64": 8, "i64": 8, "u64": 8, "f32": 4, "i32": 4, "u32": 4, "f16": 2, "bf16": 2}
_BYTES |= {"i16": 2, "u16": 2}
_LEAST_BYTES = 1 / 8  # of a value of another type
# What converted classifiers consist of, and what quantization adds, with their numbers of inputs:
# OpenVINO crashes where one is missing.
_INPUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Const", "Parameter"), (0,)),
    **dict.fromkeys(("Clamp", "Convert", "HSigmoid", "HSwish", "ReLU", "Result"), (1,)),
    **dict.fromkeys(("Sigmoid", "SoftMax", "Softmax"), (1,)),
    **dict.fromkeys(("Squeeze", "Swish"), (1, 2)),
    **dict.fromkeys(("Add", "Divide", "Maximum", "Minimum", "Multiply", "Subtract"), (2,)),
    **dict.fromkeys(("Convolution", "GroupConvolution", "MatMul", "ReduceMean"), (2,)),
    **dict.fromkeys(("Reshape", "Split", "Transpose", "Unsqueeze"), (2,)),
    **dict.fromkeys(("Gather", "VariadicSplit"), (3,)),
    **{"Pad": (3, 4), "BatchNormInference": (5,), "FakeQuantize": (5,)},
    "Concat": tuple(range(1, 100)),
}


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
    reader.require_whole()
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
    (_, *sides) = model.input(0).get_partial_shape()
    if len(sides) != 3 or any(each.is_dynamic for each in sides):
        raise ValueError("it has other inputs than a classifier")
    most, total = most_values(sides[0].get_length()), 0
    constant = set[str]()
    for operation in model.get_ordered_ops():
        given = operation.input_values()
        # What the file holds, and what is computed of it alone, as of weights of 8 bits.
        if operation.get_type_name() == "Constant" or (
            given and all(each.get_node().get_friendly_name() in constant for each in given)
        ):
            constant.add(operation.get_friendly_name())
            continue
        for value in operation.outputs():
            shape = value.get_partial_shape()
            if shape.rank.is_dynamic:
                raise ValueError("it has values of any size")
            sizes = [each.get_length() for each in shape if each.is_static]
            if len(sizes) < len(shape) - 1:
                raise ValueError("it has values of any size")
            total += math.prod(sizes)
    if total > most:
        raise ValueError("it computes too many values")


def most_values(side: int) -> float:
    """How many values a network may compute for a picture, of any layer.

    Args:
        side: of the picture, in pixels.
    """
    return _VALUES_OF_PIXEL * float(max(side, _SMALL_SIDE)) ** 2


def _refuse_declarations(*_: Any) -> None:
    raise ValueError("it declares entities")


class _Reader:
    """What has been read of a model.

    Attributes:
        found: the metadata, by name.
    """

    def __init__(self, bytes_of_constants: int):
        """Nothing has been read yet."""
        self.found: dict[str, str] = {}
        self._size = bytes_of_constants
        self._within: list[str] = []
        self._kinds: dict[str, str] = {}  # by the layer's number
        self._ports: dict[str, set[tuple[str, str]]] = {"input": set(), "output": set()}
        self._edges: dict[tuple[str, str], tuple[str, str]] = {}  # from inputs to outputs
        self._layer = ""

    def start(self, name: str, values: dict[str, str]) -> None:
        """An element begins."""
        within = self._within[-1] if self._within else ""
        if not within and name != "net":
            raise ValueError("it is no OpenVINO model")
        if self._within == ["net", "rt_info", "efftune"]:
            self.found[name] = values.get("value", "")
        elif name == "layer":
            self._begin(values)
        elif name == "data" and within == "layer" and self._kinds[self._layer] == "Const":
            self._constant(values)
        elif name == "port" and within in self._ports:
            self._ports[within].add((self._layer, values.get("id", "")))
        elif name == "edge":
            begin, end = (
                (values.get(f"{side}-layer", ""), values.get(f"{side}-port", ""))
                for side in ("from", "to")
            )
            if end in self._edges:
                raise ValueError("its operations are not connected as they should be")
            self._edges[end] = begin
        elif name in ("body", "port_map", "back_edges", "extensions"):
            raise ValueError("it has a graph within its graph")
        self._within.append(name)
        if len(self._within) > _MOST_DEPTH:
            raise ValueError("its elements are nested too deeply")

    def end(self, _name: str) -> None:
        """An element ends."""
        self._within.pop()

    def require_whole(self) -> None:
        """Check that every operation has its inputs, and none depends on itself.

        Raises:
            ValueError: it is not so.
        """
        if not self._kinds:
            raise ValueError("it is no OpenVINO model")
        needs: dict[str, list[str]] = {layer: [] for layer in self._kinds}
        for (layer, _), (before, _) in self._edges.items():
            needs.setdefault(layer, []).append(before)
        counts = {layer: len(before) for layer, before in needs.items()}
        is_connected = (
            self._edges.keys() == self._ports["input"]
            and set(self._edges.values()) <= self._ports["output"]
            and all(counts[layer] in _INPUTS[kind] for layer, kind in self._kinds.items())
        )
        try:
            TopologicalSorter(needs).prepare()
        except CycleError:
            is_connected = False
        if not is_connected:
            raise ValueError("its operations are not connected as they should be")

    def _begin(self, values: dict[str, str]) -> None:
        self._layer, kind = values.get("id", ""), values.get("type", "")
        if self._within != ["net", "layers"] or self._layer in self._kinds:
            raise ValueError("it is damaged")
        if kind not in _INPUTS or not values.get("version", "").startswith("opset"):
            raise ValueError(f"it has an operation {kind[:40]!r}, which exports never have")
        self._kinds[self._layer] = kind

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
