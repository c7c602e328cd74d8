"""ONNX files, from a classifier's OpenVINO model, operation by operation.

The OpenVINO model of a run consists of some twenty types of operation, all of which ONNX has too.
To convert them takes a second, and needs neither Keras nor what it trains with.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from efftune.errors import DataError

OPSET = 18  # of ONNX 1.13, which ONNX Runtime for the web reads, too
_IR_VERSION = 8  # of the same ONNX
_INSTEAD = "Export another format, and please report that."

Operation = Any  # OpenVINO's nodes and their outputs have no useful static type
Value = Any


def write(
    model: ov.Model,
    path: Path,
    metadata: Mapping[str, str],
    *,
    output: str = "probabilities",
    batch: int | None = None,
) -> None:
    """Write an OpenVINO model with one of its outputs as an ONNX file.

    Args:
        model: as `conversion.convert` makes it, perhaps with a head. Its input is float32 pixels, 0
            to 255, (batch, height, width, channels).
        path: where to write it.
        metadata: what programs can read from the file without running it.
        output: the name of the output.
        batch: how many pictures each call takes; any number if None.

    Raises:
        DataError: the model has an operation of another type.
    """
    graph, (pixels,), result = _Graph(), model.inputs, model.output(output)
    (source,) = result.get_node().input_values()
    needed = _before(source.get_node())
    for operation in model.get_ordered_ops():
        if operation.get_friendly_name() in needed:
            graph.add(operation)
    graph.node("Identity", [graph.name(source)], output)
    made = helper.make_graph(
        graph.nodes,
        model.get_friendly_name(),
        [_described(pixels, graph.name(pixels), batch)],
        [_described(source, output, batch)],
        graph.constants,
    )
    document = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="efftune",
    )
    helper.set_model_props(document, dict(metadata))
    onnx.checker.check_model(document, full_check=True)
    onnx.save(document, path)


def _before(operation: Operation) -> set[str]:
    """The names of an operation and of all that it depends on."""
    names, left = set[str](), [operation]
    while left:
        each = left.pop()
        if each.get_friendly_name() not in names:
            names.add(each.get_friendly_name())
            left += [value.get_node() for value in each.input_values()]
    return names


def _described(value: Value, name: str, batch: int | None) -> onnx.ValueInfoProto:
    """The name, type and shape of an input or output, whose first dimension is the batch."""
    _, *sides = value.get_partial_shape()
    shape = [batch or "batch", *(side.get_length() for side in sides)]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


class _Graph:
    """The parts of an ONNX graph, as they are added.

    Attributes:
        nodes: in an order in which they can be computed.
        constants: weights and the like, by name.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operation: Operation) -> None:
        """Add an operation, whose inputs have been added before."""
        kind = operation.get_type_name()
        if kind == "Parameter":
            return
        if kind == "Constant":
            if not _is_attribute(operation):
                self._constant(self.name(operation.output(0)), operation.get_data())
            return
        if kind not in _CONVERTERS:
            raise DataError(f"ONNX files cannot hold operations of type {kind}. {_INSTEAD}")
        _CONVERTERS[kind](self, operation)

    def name(self, value: Value) -> str:
        """What a value is called: the input by its own name, the others by their operation."""
        operation = value.get_node()
        if operation.get_type_name() == "Parameter":
            return str(value.get_any_name())
        return f"{operation.get_friendly_name()}:{value.get_index()}"

    def node(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> None:
        """Add a node."""
        self.nodes.append(helper.make_node(kind, inputs, list(outputs), **attributes))

    def simple(
        self,
        operation: Operation,
        kind: str,
        *more: NDArray[Any],
        count: int = 0,
        **attributes: Any,
    ) -> None:
        """Add a node with the outputs of an operation.

        Args:
            operation: in OpenVINO.
            kind: its type in ONNX.
            more: further inputs, which are constant.
            count: how many inputs of the operation are inputs of the node, too; 0 for all.
            attributes: of the node.
        """
        values = operation.input_values()
        inputs = [self.name(value) for value in values[: count or len(values)]]
        for i, values_of_constant in enumerate(more):
            inputs.append(f"{operation.get_friendly_name()}/{i}")
            self._constant(inputs[-1], values_of_constant)
        self.node(kind, inputs, *map(self.name, operation.outputs()), **attributes)

    def _constant(self, name: str, values: NDArray[Any]) -> None:
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))


def _is_attribute(constant: Operation) -> bool:
    """Whether all that a constant is used for is written in another way."""
    users = [each.get_node() for each in constant.output(0).get_target_inputs()]
    return all(each.get_type_name() in _WITH_ATTRIBUTES for each in users)


def _ints(operation: Operation, position: int) -> NDArray[np.int64]:
    """A constant input of whole numbers."""
    constant = operation.input_value(position).get_node()
    return np.atleast_1d(constant.get_data()).astype(np.int64)


def _convolution(graph: _Graph, operation: Operation) -> None:
    """A convolution; kernels of grouped ones are (groups, outputs, inputs, height, width)."""
    found = operation.get_attributes()
    attributes = {
        "strides": found["strides"],
        "dilations": found["dilations"],
        "pads": [*found["pads_begin"], *found["pads_end"]],
    }
    kernel = operation.input_value(1).get_node().get_data()
    if operation.get_type_name() == "GroupConvolution":
        attributes["group"] = kernel.shape[0]
        kernel = kernel.reshape(-1, *kernel.shape[2:])
    graph.simple(operation, "Conv", kernel, count=1, **attributes)


def _clip(graph: _Graph, operation: Operation) -> None:
    limits = operation.get_attributes()
    ends = (np.float32(limits[end]) for end in ("min", "max"))
    graph.simple(operation, "Clip", *map(np.asarray, ends))


def _swish(graph: _Graph, operation: Operation) -> None:
    x, *factors = operation.input_values()
    if any(float(factor.get_node().get_data()) != 1 for factor in factors):
        raise DataError(f"ONNX files cannot hold swish with a factor of its own. {_INSTEAD}")
    gate = f"{operation.get_friendly_name()}/gate"
    graph.node("Sigmoid", [graph.name(x)], gate)
    graph.node("Mul", [graph.name(x), gate], graph.name(operation.output(0)))


def _padding(graph: _Graph, operation: Operation) -> None:
    pads = np.concatenate([_ints(operation, 1), _ints(operation, 2)])
    graph.simple(operation, "Pad", pads, np.zeros((), np.float32), count=1)


def _named(kind: str, **attributes: Any) -> Callable[[_Graph, Operation], None]:
    """An operation with the same inputs and no attributes but these."""
    return lambda graph, operation: graph.simple(operation, kind, **attributes)


_CONVERTERS: dict[str, Callable[[_Graph, Operation], None]] = {
    "Add": _named("Add"),
    "Subtract": _named("Sub"),
    "Multiply": _named("Mul"),
    "Divide": _named("Div"),
    "Sigmoid": _named("Sigmoid"),
    "Swish": _swish,
    "Clamp": _clip,
    "Convolution": _convolution,
    "GroupConvolution": _convolution,
    "BatchNormInference": lambda graph, operation: graph.simple(
        operation, "BatchNormalization", epsilon=operation.get_attributes()["epsilon"]
    ),
    "Pad": _padding,
    "Transpose": lambda graph, operation: graph.simple(
        operation, "Transpose", count=1, perm=_ints(operation, 1).tolist()
    ),
    "Unsqueeze": lambda graph, operation: graph.simple(
        operation, "Unsqueeze", _ints(operation, 1), count=1
    ),
    "ReduceMean": lambda graph, operation: graph.simple(
        *(operation, "ReduceMean", _ints(operation, 1)),
        count=1,
        keepdims=int(operation.get_attributes()["keep_dims"]),
    ),
    "Concat": lambda graph, operation: graph.simple(
        operation, "Concat", axis=operation.get_attributes()["axis"]
    ),
    "Gather": lambda graph, operation: graph.simple(
        operation, "Gather", count=2, axis=int(_ints(operation, 2)[0])
    ),
    "Split": lambda graph, operation: graph.simple(
        *(operation, "Split"),
        count=1,
        axis=int(_ints(operation, 1)[0]),
        num_outputs=operation.get_attributes()["num_splits"],
    ),
    "MatMul": _named("MatMul"),
    "Softmax": lambda graph, operation: graph.simple(
        operation, "Softmax", axis=operation.get_attributes()["axis"]
    ),
}
# What these have as constant inputs is written as attributes, or in another shape.
_WITH_ATTRIBUTES = (
    *("Convolution", "GroupConvolution", "Pad", "Transpose", "Unsqueeze", "ReduceMean", "Split"),
    "Swish",
)
