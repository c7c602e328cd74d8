"""Access to the last activations of a saved classifier, for class activation maps."""

from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

Array = NDArray[np.float32]


def with_activations(model: Any) -> tuple[Any, Array]:
    """Add the last activations to a classifier's outputs.

    Args:
        model: an OpenVINO classifier, as returned by `openvino_engine.with_head`.

    Returns:
        A model that outputs probabilities (pictures, classes) and the activations before global
        average pooling (pictures, features, height, width); and the head's kernel (features,
        classes), minus its mean over the classes.
    """
    nodes = model.get_ordered_ops()
    # Squeeze-and-excitation takes spatial means, too: the last one is global average pooling.
    (*_, pooling) = (node for node in nodes if node.get_type_name() == "ReduceMean")
    (*_, head) = (node for node in nodes if node.get_type_name() == "MatMul")
    activations = pooling.input_value(0)
    consumers = (each.get_node() for each in pooling.output(0).get_target_inputs())
    if any(node.get_type_name() == "Split" for node in consumers):  # built with `mirrored`
        activations = _flipped_back(activations)
    probabilities = model.output(0).get_node().input_value(0)
    kernel = np.array(head.input_value(1).get_node().data, np.float32)
    explainer = ov.Model([probabilities, activations], model.get_parameters(), "explainer")
    return explainer, kernel - kernel.mean(axis=1, keepdims=True)


def _flipped_back(activations: Any) -> Any:
    """Mean activations of pictures and their mirror images (the second half), flipped back."""
    plain, mirror = ops.split(activations, 0, 2).outputs()
    width = activations.get_partial_shape()[3].get_length()
    flipped = ops.gather(mirror, np.arange(width)[::-1].copy(), np.int64(3))
    return ops.multiply(ops.add(plain, flipped), np.float32(0.5)).output(0)
