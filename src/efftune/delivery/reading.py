"""What exported files say of themselves, read without running them.

A file may come from anyone. So it is checked before a runtime gets it: it holds nothing but plain
operations on its own constants, none of which names another file or claims more than there is.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from efftune.delivery import litert_file, runtimes
from efftune.delivery.runtimes import Loaded
from efftune.model.engines import openvino_check

MOST_BYTES = 2**31  # of a file
_MOST_VALUES = 2**28  # of a tensor, for one picture
_SMALL_BYTES = 4096

# What `onnx_file` writes, and what quantization and the usual optimisers add to it: none of them
# runs a graph within the graph, reads a file, or repeats anything.
_ONNX_NAMES = (
    "Add AveragePool BatchNormalization Cast Clip Concat Conv ConvInteger DequantizeLinear Div "
    "DynamicQuantizeLinear Flatten Gather Gemm GlobalAveragePool HardSigmoid HardSwish Identity "
    "MatMul MatMulInteger Mul Pad QLinearConv QLinearMatMul QuantizeLinear ReduceMean Relu "
    "Reshape Sigmoid Softmax Split Squeeze Sub Transpose Unsqueeze"
)
_ONNX_OPERATIONS = frozenset(_ONNX_NAMES.split())


class Unfit(ValueError):
    """A file is damaged or holds what exports never do. The message says what."""


def onnx(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file.

    Raises:
        Unfit: it is damaged, or holds more than plain operations on its own constants.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError:
        raise Unfit("it is damaged, or no ONNX file") from None
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise Unfit("it has functions of its own")
    if any(each.domain not in ("", "ai.onnx") for each in model.opset_import):
        raise Unfit("it needs operations that are not ONNX's")
    for node in graph.node:
        if node.op_type not in _ONNX_OPERATIONS or node.domain not in ("", "ai.onnx"):
            raise Unfit(f"it has an operation {node.op_type[:40]!r}, which exports never have")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.sparse_tensors:
                raise Unfit("it has a graph within its graph")
    attributes = chain.from_iterable(node.attribute for node in graph.node)
    held = chain.from_iterable((each.t, *each.tensors) for each in attributes)
    for tensor in chain(graph.initializer, held):
        if tensor.external_data or tensor.data_location != onnx.TensorProto.DEFAULT:
            raise Unfit("it names another file")
        if any(each < 0 for each in tensor.dims) or math.prod(tensor.dims) > MOST_BYTES:
            raise Unfit("a constant of it is too large")
        if tensor.HasField("raw_data") and math.prod(tensor.dims) > 2 * len(tensor.raw_data):
            raise Unfit("a constant of it is not whole")  # two values of 4 bits are a byte
    _require_small(model)
    return {each.key: each.value for each in model.metadata_props}


def _require_small(model: Any) -> None:
    """Check that what an ONNX model computes for a picture fits into memory, as far as is known.

    Raises:
        Unfit: it does not.
    """
    import onnx

    sides = [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if len(tensor.raw_data) > _SMALL_BYTES:  # its shape is enough
            tensor.ClearField("raw_data")
    try:
        known = onnx.shape_inference.infer_shapes(bare).graph.value_info
    except (RuntimeError, onnx.shape_inference.InferenceError):
        raise Unfit("it is damaged") from None
    shapes = [[each.dim_value or 1 for each in value.type.tensor_type.shape.dim] for value in known]
    most = openvino_check.most_values(min(max(sides, default=0), openvino_check.MOST_SIDE))
    if sum(map(math.prod, shapes)) > most:
        raise Unfit("it computes too many values")


def openvino(path: Path) -> dict[str, str]:
    """The metadata of an OpenVINO model.

    Raises:
        Unfit: it is damaged, or holds more than plain operations on its own constants.
    """
    try:
        return openvino_check.metadata(path)
    except ValueError as error:
        raise Unfit(str(error)) from None


def litert(path: Path) -> dict[str, str]:
    """The metadata of a LiteRT file.

    Raises:
        Unfit: it is damaged, or holds more than plain operations on its own constants.
    """
    import struct

    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise Unfit("it is damaged, or no LiteRT file")
    try:
        model = schema.Model.GetRootAs(content)
        if model.SubgraphsLength() != 1:
            raise Unfit("it has a graph within its graph")
        for code in _each(model, "OperatorCodes"):
            if code.CustomCode() is not None or code.BuiltinCode() == schema.BuiltinOperator.CUSTOM:
                raise Unfit("it needs operations that are not LiteRT's")
        sizes = [_buffer_size(each, len(content)) for each in _each(model, "Buffers")]
        _require_consistent(model.Subgraphs(0), sizes, model.OperatorCodesLength())
        stored = [
            each for each in _each(model, "Metadata") if each.Name() == litert_file.ENTRY.encode()
        ]
        if not stored:
            raise Unfit("it has no metadata of efftune")
        found = json.loads(model.Buffers(stored[0].Buffer()).DataAsNumpy().tobytes())
    except (struct.error, IndexError, TypeError, AttributeError, UnicodeError, RecursionError):
        raise Unfit("it is damaged") from None
    except json.JSONDecodeError:
        raise Unfit("its metadata are damaged") from None
    return dict(found) if isinstance(found, dict) else {}


def _each(table: Any, name: str) -> Iterator[Any]:
    """The elements of a vector of tables, whose length may be made up."""
    for number in range(getattr(table, f"{name}Length")()):
        yield getattr(table, name)(number)


def _buffer_size(buffer: Any, most: int) -> int:
    if buffer.Offset() > 1 or buffer.Size() > 1:
        raise Unfit("a constant of it lies elsewhere")
    length = int(buffer.DataLength())
    if length > most:
        raise Unfit("a constant of it is not whole")
    return length


def _require_consistent(graph: Any, sizes: list[int], codes: int) -> None:
    """Check the numbers by which the parts of a LiteRT graph refer to each other.

    Raises:
        Unfit: one refers to nothing, or a tensor is larger than its constant.
    """
    tensors = graph.TensorsLength()
    for tensor in _each(graph, "Tensors"):
        values = math.prod(tensor.Shape(i) for i in range(tensor.ShapeLength()))
        stored = sizes[tensor.Buffer()]
        if not 0 <= values <= _MOST_VALUES or (stored and values > 2 * stored):
            raise Unfit("a tensor of it is too large")
        if tensor.IsVariable() or tensor.Sparsity() is not None:
            raise Unfit("it has tensors that exports never have")
    for operator in _each(graph, "Operators"):
        ends = [operator.Inputs(i) for i in range(operator.InputsLength())]
        ends += [operator.Outputs(i) for i in range(operator.OutputsLength())]
        if operator.OpcodeIndex() >= codes or not all(-1 <= each < tensors for each in ends):
            raise Unfit("it is damaged")
    if graph.InputsLength() != 1 or graph.OutputsLength() != 1:
        raise Unfit("it has other inputs and outputs than a classifier")
    if not all(0 <= each < tensors for each in (graph.Inputs(0), graph.Outputs(0))):
        raise Unfit("it is damaged")


@dataclass(frozen=True)
class Kind:
    """Files with a suffix.

    Attributes:
        read: checks a file and returns its metadata.
        load: loads it in its runtime.
        needs: packages for that.
        beside: suffixes of the files that belong to it, of the same name.
    """

    read: Callable[[Path], dict[str, str]]
    load: Callable[[Path], Loaded]
    needs: tuple[str, ...]
    beside: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    ".onnx": Kind(onnx, runtimes.onnx, ("onnx", "onnxruntime")),
    ".xml": Kind(openvino, runtimes.openvino, ("openvino",), (".bin",)),
    ".tflite": Kind(litert, runtimes.litert, ("ai_edge_litert",)),
}


def bytes_of(path: Path) -> int:
    """The size of an exported file, with those that belong to it, which are there."""
    beside = KINDS[path.suffix.lower()].beside
    return sum(each.stat().st_size for each in (path, *map(path.with_suffix, beside)))
