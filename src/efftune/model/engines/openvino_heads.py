"""Heads of OpenVINO classifiers: added to a backbone; with what they see, for heat maps."""

from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

Array = NDArray[np.float32]


def with_head(
    backbone: ov.Model, kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> ov.Model:
    """Add a softmax head to a backbone, like `saving.keras_classifier` for Keras.

    Args:
        backbone: from `conversion.convert`, with features (batch, features) as its output.
        kernel: shape (features, classes).
        bias: shape (classes,).

    Returns:
        A model with two outputs: `probabilities`, then `features`.
    """
    copy = backbone.clone()
    features = copy.output(0).get_node().input_value(0)
    features.tensor.set_names({"features"})
    logits = ops.add(ops.matmul(features, kernel, False, False), bias[None])
    probabilities = ops.softmax(logits, 1)
    probabilities.output(0).tensor.set_names({"probabilities"})
    name = backbone.get_friendly_name()
    return ov.Model([probabilities, ops.result(features)], copy.get_parameters(), name)


def with_activations(model: Any) -> tuple[Any, Array]:
    """Add the activations whose means are the features to a classifier's outputs.

    Args:
        model: an OpenVINO classifier, as returned by `with_head`.

    Returns:
        A model that outputs probabilities (pictures, classes) and, for each stage that the head
        sees, the activations before global average pooling (pictures, channels, height, width);
        and the head's kernel (features, classes), minus its mean over the classes.
    """
    nodes = model.get_ordered_ops()
    (*_, head) = (node for node in nodes if node.get_type_name() == "MatMul")
    splits = [node for node in nodes if node.get_type_name() == "Split"]  # built with `mirrored`
    pooled = (splits[0] if splits else head).input_value(0).get_node()
    means = [pooled]
    if pooled.get_type_name() == "Concat":  # features of all stages
        means = [each.get_node() for each in pooled.input_values()]
    activations = [each.input_value(0) for each in means]
    if splits:
        activations = [_flipped_back(each) for each in activations]
    probabilities = model.output(0).get_node().input_value(0)
    kernel = np.array(head.input_value(1).get_node().data, np.float32)
    explainer = ov.Model([probabilities, *activations], model.get_parameters(), "explainer")
    return explainer, kernel - kernel.mean(axis=1, keepdims=True)


def _flipped_back(activations: Any) -> Any:
    """Mean activations of pictures and their mirror images (the second half), flipped back."""
    plain, mirror = ops.split(activations, 0, 2).outputs()
    width = activations.get_partial_shape()[3].get_length()
    flipped = ops.gather(mirror, np.arange(width)[::-1].copy(), np.int64(3))
    return ops.multiply(ops.add(plain, flipped), np.float32(0.5)).output(0)
