"""The family's networks with other padding and preprocessing than those of their own weights."""

from typing import Any

import keras
import numpy as np
from keras import layers

from efftune.model.weights import readers
from efftune.model.weights_table import IMAGENET_MEAN, IMAGENET_STD, Graph

_EPSILON = 1e-5  # of BatchNorm in PyTorch


def rebuilt(model: keras.Model, graph: Graph) -> keras.Model:
    """The same layers with the padding and the preprocessing of a graph, and random weights.

    With symmetric padding, a convolution with stride 2 and a kernel of k pixels sees k // 2 zeros
    on every side, as in PyTorch; TensorFlow pads as little as it can, and more below and right.

    Args:
        model: from `architectures.backbone`.
        graph: padding and preprocessing.
    """

    def with_graph(layer: layers.Layer) -> layers.Layer:
        config = layer.get_config()
        if isinstance(layer, layers.Rescaling | layers.Normalization):
            config |= _preprocessing(layer, graph)
        elif graph.padding == "symmetric":
            if isinstance(layer, layers.BatchNormalization):
                config["epsilon"] = _EPSILON
            elif isinstance(layer, layers.ZeroPadding2D):
                config["padding"] = [(max(sides), max(sides)) for sides in layer.padding]
            elif _is_strided(layer):
                config["padding"] = "valid"
        return type(layer).from_config(config)

    def padded(layer: layers.Layer, tensor: Any, *others: Any, **named: Any) -> Any:
        # What Keras pads by a layer of its own is valid here too.
        original = model.get_layer(layer.name)
        if graph.padding == "symmetric" and _is_strided(original) and original.padding == "same":
            sides = tuple(side // 2 for side in layer.kernel_size)
            tensor = layers.ZeroPadding2D(sides, name=f"{layer.name}_pad")(tensor)
        return layer(tensor, *others, **named)

    clone = keras.models.clone_model(model, clone_function=with_graph, call_function=padded)
    for layer in clone.layers:
        if isinstance(layer, layers.Normalization) and layer.input_mean is None:
            readers.normalize(layer, *map(np.array, _statistics(graph)))
    return clone


def _is_strided(layer: layers.Layer) -> bool:
    kernels = (layers.Conv2D, layers.DepthwiseConv2D)
    return isinstance(layer, kernels) and max(layer.strides) > 1


def _preprocessing(layer: layers.Layer, graph: Graph) -> dict[str, Any]:
    """What a graph changes in the configuration of a layer that scales pixels."""
    if graph.mean is None or graph.std is None:
        return {}
    if isinstance(layer, layers.Normalization):
        # That of B0 to B7 has its values as weights: see `rebuilt`.
        mean, variance = _statistics(graph)
        return {} if layer.input_mean is None else {"mean": mean, "variance": variance}
    if layer.name == "rescaling" and layer.offset == 0:
        return {}  # a Normalization follows
    return {
        "scale": [1 / (255 * std) for std in graph.std],
        "offset": [-mean / std for mean, std in zip(graph.mean, graph.std, strict=True)],
    }


def _statistics(graph: Graph) -> tuple[list[float], list[float]]:
    """Mean and variance per channel of pixels scaled to 0 to 1."""
    mean, std = graph.mean or IMAGENET_MEAN, graph.std or IMAGENET_STD
    return list(mean), [value**2 for value in std]
