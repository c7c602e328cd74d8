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

# What `onnx_file` writes, and what quantization and the usual optimisers add to it: none of them
# runs a graph within the graph, reads a file, or repeats anything.
_ONNX_NAMES = (
    "Add AveragePool BatchNormalization Cast Clip Concat Conv ConvInteger DequantizeLinear Div "
    "DynamicQuantizeLinear Flatten Gather Gemm GlobalAveragePool HardSigmoid HardSwish Identity "
    "MatMul MatMulInteger Mul Pad QLinearConv QLinearMatMul QuantizeLinear ReduceMean Relu "
    "Reshape Sigmoid Softmax Split Squeeze Sub Transpose Unsqueeze"
)
_ONNX_OPERATIONS = frozenset(_ONNX_NAMES.split())


def onnx(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file.

    Raises:
        ValueError: it is damaged, or holds more than plain operations on its own constants.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError:
        raise ValueError("it is damaged, or no ONNX file") from None
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ValueError("it has functions of its own")
    if any(each.domain not in ("", "ai.onnx") for each in model.opset_import):
        raise ValueError("it needs operations that are not ONNX's")
    for node in graph.node:
        if node.op_type not in _ONNX_OPERATIONS or node.domain not in ("", "ai.onnx"):
            raise ValueError(f"it has an operation {node.op_type[:40]!r}, which exports never have")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.sparse_tensors:
                raise ValueError("it has a graph within its graph")
    attributes = chain.from_iterable(node.attribute for node in graph.node)
    held = chain.from_iterable((each.t, *each.tensors) for each in attributes)
    for tensor in chain(graph.initializer, held):
        if tensor.external_data or tensor.data_location != onnx.TensorProto.DEFAULT:
            raise ValueError("it names another file")
        if any(each < 0 for each in tensor.dims) or math.prod(tensor.dims) > MOST_BYTES:
            raise ValueError("a constant of it is too large")
        if tensor.HasField("raw_data") and math.prod(tensor.dims) > 2 * len(tensor.raw_data):
            raise ValueError("a constant of it is not whole")  # two values of 4 bits are a byte
    return {each.key: each.value for each in model.metadata_props}


def openvino(path: Path) -> dict[str, str]:
    """The metadata of an OpenVINO model; see `openvino_check.metadata`."""
    return openvino_check.metadata(path)


def litert(path: Path) -> dict[str, str]:
    """The metadata of a LiteRT file.

    Raises:
        ValueError: it is damaged, or holds more than plain operations on its own constants.
    """
    import struct

    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError("it is damaged, or no LiteRT file")
    try:
        model = schema.Model.GetRootAs(content)
        if model.SubgraphsLength() != 1:
            raise ValueError("it has a graph within its graph")
        for code in _each(model, "OperatorCodes"):
            if code.CustomCode() is not None or code.BuiltinCode() == schema.BuiltinOperator.CUSTOM:
                raise ValueError("it needs operations that are not LiteRT's")
        sizes = [_buffer_size(each, len(content)) for each in _each(model, "Buffers")]
        _require_consistent(model.Subgraphs(0), sizes, model.OperatorCodesLength())
        stored = [
            each for each in _each(model, "Metadata") if each.Name() == litert_file.ENTRY.encode()
        ]
        if not stored:
            raise ValueError("it has no metadata of efftune")
        found = json.loads(model.Buffers(stored[0].Buffer()).DataAsNumpy().tobytes())
    except (struct.error, IndexError, TypeError, AttributeError, UnicodeError, RecursionError):
        raise ValueError("it is damaged") from None
    except json.JSONDecodeError:
        raise ValueError("its metadata are damaged") from None
    return dict(found) if isinstance(found, dict) else {}


def _each(table: Any, name: str) -> Iterator[Any]:
    """The elements of a vector of tables, whose length may be made up."""
    for number in range(getattr(table, f"{name}Length")()):
        yield getattr(table, name)(number)


def _buffer_size(buffer: Any, most: int) -> int:
    if buffer.Offset() > 1 or buffer.Size() > 1:
        raise ValueError("a constant of it lies elsewhere")
    length = int(buffer.DataLength())
    if length > most:
        raise ValueError("a constant of it is not whole")
    return length


def _require_consistent(graph: Any, sizes: list[int], codes: int) -> None:
    """Check the numbers by which the parts of a LiteRT graph refer to each other.

    Raises:
        ValueError: one refers to nothing, or a tensor is larger than its constant.
    """
    tensors = graph.TensorsLength()
    for tensor in _each(graph, "Tensors"):
        values = math.prod(tensor.Shape(i) for i in range(tensor.ShapeLength()))
        stored = sizes[tensor.Buffer()]
        if not 0 <= values <= _MOST_VALUES or (stored and values > 2 * stored):
            raise ValueError("a tensor of it is too large")
        if tensor.IsVariable() or tensor.Sparsity() is not None:
            raise ValueError("it has tensors that exports never have")
    for operator in _each(graph, "Operators"):
        ends = [operator.Inputs(i) for i in range(operator.InputsLength())]
        ends += [operator.Outputs(i) for i in range(operator.OutputsLength())]
        if operator.OpcodeIndex() >= codes or not all(-1 <= each < tensors for each in ends):
            raise ValueError("it is damaged")
    if graph.InputsLength() != 1 or graph.OutputsLength() != 1:
        raise ValueError("it has other inputs and outputs than a classifier")
    if not all(0 <= each < tensors for each in (graph.Inputs(0), graph.Outputs(0))):
        raise ValueError("it is damaged")


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
