"""Conversion of Keras models to OpenVINO, layer by layer.

Keras can export to OpenVINO itself, but only through TensorFlow: importing it, tracing the model
and converting the trace takes 8 to 15 seconds. The few types of layer in an EfficientNet have
direct counterparts, and this conversion takes 0.2 seconds with any Keras backend. Convolutions run
channels-first, as OpenVINO prefers; inputs and outputs are channels-last.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import openvino as ov
from keras import layers
from numpy.typing import NDArray
from openvino import opset13 as ops

Node = Any  # OpenVINO's nodes have no useful static type


def convert(model: keras.Model, *, mirrored: bool = False) -> ov.Model:
    """Convert a functional model with one input; weights stay in float32.

    Args:
        model: made of the layers in `_CONVERTERS`, each used once. Its input is a batch of
            channels-last pictures.
        mirrored: output the mean over each picture and its mirror image.

    Returns:
        An equivalent model for any batch size; its activations are channels-last.

    Raises:
        TypeError: the model has a layer of another type.
    """
    height, width, channels = model.input.shape[1:]
    pixels = ops.parameter([-1, height, width, channels], np.float32, "pixels")
    batch = pixels
    if mirrored:
        mirror = ops.gather(pixels, np.arange(width)[::-1].copy(), np.int64(2))
        batch = ops.concat([pixels, mirror], 0)
    nodes: dict[int, Node] = {id(model.input): ops.transpose(batch, [0, 3, 1, 2])}
    for layer in model.layers:
        if not isinstance(layer, layers.InputLayer):
            tensors = layer.input if isinstance(layer.input, list) else [layer.input]
            inputs = [nodes[id(tensor)] for tensor in tensors]
            nodes[id(layer.output)] = _converter(layer)(layer, *inputs)
    results = [_result(nodes[id(output)], output, mirrored) for output in model.outputs]
    pixels.output(0).tensor.set_names({"pixels"})
    return ov.Model(results, [pixels], model.name)


def _result(node: Node, output: keras.KerasTensor, mirrored: bool) -> Node:
    if mirrored:
        plain, mirror = ops.split(node, 0, 2).outputs()
        node = ops.multiply(ops.add(plain, mirror), np.float32(0.5))
    if len(output.shape) == 4:
        node = ops.transpose(node, [0, 2, 3, 1])
    node.output(0).tensor.set_names({output.name})
    return node


def _converter(layer: layers.Layer) -> Callable[..., Node]:
    converter = _CONVERTERS.get(type(layer))
    if converter is None:
        raise TypeError(
            f"Layers of type {type(layer).__name__} ({layer.name}) cannot be converted."
        )
    return converter


def _rescaling(layer: layers.Rescaling, x: Node) -> Node:
    # One value, or one per channel.
    scale, offset = (
        np.asarray(each, np.float32).reshape(-1, 1, 1) for each in (layer.scale, layer.offset)
    )
    return ops.add(ops.multiply(x, scale), offset)


def _convolution(layer: layers.Conv2D, x: Node) -> Node:
    kernel = _array(layer.kernel).transpose(3, 2, 0, 1)
    x = ops.convolution(x, np.ascontiguousarray(kernel), **_geometry(layer))
    if layer.use_bias:
        x = ops.add(x, _array(layer.bias)[:, None, None])
    return _activation(layer, x)


def _depthwise(layer: layers.DepthwiseConv2D, x: Node) -> Node:
    if layer.use_bias or layer.activation is not keras.activations.linear:
        raise TypeError(
            f"{layer.name}: depthwise layers with bias or activation cannot be converted."
        )
    kernel = _array(layer.kernel).transpose(2, 3, 0, 1)[:, None]
    return ops.group_convolution(x, np.ascontiguousarray(kernel), **_geometry(layer))


def _geometry(layer: layers.Layer) -> dict[str, Any]:
    if set(layer.dilation_rate) != {1} or getattr(layer, "groups", 1) != 1:
        raise TypeError(f"{layer.name}: dilated or grouped convolutions cannot be converted.")
    return {
        "strides": list(layer.strides),
        "pads_begin": [0, 0],
        "pads_end": [0, 0],
        "dilations": [1, 1],
        "auto_pad": {"same": "same_upper", "valid": "valid"}[layer.padding],
    }


def _norm(layer: layers.BatchNormalization, x: Node) -> Node:
    statistics = (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    return ops.batch_norm_inference(x, *map(_array, statistics), layer.epsilon)


def _activation(layer: layers.Layer, x: Node) -> Node:
    activation = keras.activations.serialize(layer.activation)
    if activation not in _ACTIVATIONS:
        raise TypeError(f"{layer.name}: activation {activation} cannot be converted.")
    return _ACTIVATIONS[activation](x)


def _relu(layer: layers.ReLU, x: Node) -> Node:
    return ops.clamp(x, 0.0, float(layer.max_value))


def _normalization(layer: layers.Normalization, x: Node) -> Node:
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(each), np.float32).reshape(-1, 1, 1)
        for each in (layer.mean, layer.variance)
    )
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    return ops.divide(ops.subtract(x, mean), deviation)


def _padding(layer: layers.ZeroPadding2D, x: Node) -> Node:
    (top, bottom), (left, right) = layer.padding
    return ops.pad(x, [0, 0, top, left], [0, 0, bottom, right], "constant", np.float32(0))


def _reshape(layer: layers.Reshape, x: Node) -> Node:
    """Squeeze-and-excitation reshapes (channels,) to (1, 1, channels): (channels, 1, 1) here."""
    if layer.target_shape[:2] != (1, 1):
        raise TypeError(f"{layer.name}: target shape {layer.target_shape} cannot be converted.")
    return ops.unsqueeze(x, np.array([2, 3]))


def _identity(_layer: layers.Dropout, x: Node) -> Node:
    return x


def _multiply(_layer: layers.Multiply, x: Node, y: Node) -> Node:
    return ops.multiply(x, y)


def _add(_layer: layers.Add, x: Node, y: Node) -> Node:
    return ops.add(x, y)


def _concatenate(_layer: layers.Concatenate, *vectors: Node) -> Node:
    return ops.concat(vectors, 1)


def _average(_layer: layers.GlobalAveragePooling2D, x: Node) -> Node:
    return ops.reduce_mean(x, np.array([2, 3]), keep_dims=False)


_ACTIVATIONS: dict[str, Callable[[Node], Node]] = {
    "linear": lambda x: x,
    "silu": ops.swish,
    "sigmoid": ops.sigmoid,
}
_CONVERTERS: dict[type[layers.Layer], Callable[..., Node]] = {
    layers.Rescaling: _rescaling,
    layers.Normalization: _normalization,
    layers.ZeroPadding2D: _padding,
    layers.Conv2D: _convolution,
    layers.DepthwiseConv2D: _depthwise,
    layers.BatchNormalization: _norm,
    layers.ReLU: _relu,
    layers.Activation: _activation,
    layers.Dropout: _identity,
    layers.Reshape: _reshape,
    layers.Multiply: _multiply,
    layers.Add: _add,
    layers.Concatenate: _concatenate,
    layers.GlobalAveragePooling2D: _average,
}


def _array(variable: keras.Variable) -> NDArray[np.float32]:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
