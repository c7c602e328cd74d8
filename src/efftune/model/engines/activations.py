"""A saved classifier's graph, opened at its last activations."""

from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

Array = NDArray[np.float32]


def with_activations(model: Any) -> tuple[Any, Array]:
    """A classifier's graph taken apart.

    Args:
        model: an OpenVINO classifier, as `openvino_engine.with_head` makes it.

    Returns:
        A model that gives probabilities (pictures, classes) and the activations before global
        average pooling (pictures, features, height, width); and the head's kernel (features,
        classes), its columns above their mean.
    """
    nodes = model.get_ordered_ops()
    # Squeeze-and-excitation takes means over places, too: the last mean is the pooling.
    (*_, pooling) = (node for node in nodes if node.get_type_name() == "ReduceMean")
    (*_, head) = (node for node in nodes if node.get_type_name() == "MatMul")
    activations = pooling.input_value(0)
    followers = (each.get_node() for each in pooling.output(0).get_target_inputs())
    if any(node.get_type_name() == "Split" for node in followers):
        activations = _flipped_back(activations)
    probabilities = model.output(0).get_node().input_value(0)
    kernel = np.array(head.input_value(1).get_node().data, np.float32)
    whole = ov.Model([probabilities, activations], model.get_parameters(), "explainer")
    return whole, kernel - kernel.mean(axis=1, keepdims=True)


def _flipped_back(activations: Any) -> Any:
    """The mean activations of pictures and, after them, as many mirror images, turned back."""
    plain, mirror = ops.split(activations, 0, 2).outputs()
    width = activations.get_partial_shape()[3].get_length()
    back = ops.gather(mirror, np.arange(width)[::-1].copy(), np.int64(3))
    return ops.multiply(ops.add(plain, back), np.float32(0.5)).output(0)
