"""Equivalent graphs of a network that run faster and share its weights.

In fine-tuning and in inference, BatchNorm scales and shifts each channel by constants. Folding
these into the kernel gives the same function and gradients, up to rounding, and saves two passes
over the activations. Convolutions with a 1×1 kernel become matrix products. `Arithmetic` sets the
types: CPUs with bfloat16 gain from it in matrix products only; GPUs, which wait for memory, gain
most from activations that take half of it.

When training from random weights, BatchNorm is trained, too, and cannot be folded. Keras composes
it of many operations, each of which passes over the activations; TensorFlow has a fused one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal

import keras
from keras import layers

from efftune.model.folded_layers import (
    FLOAT32,
    NO_PADDING,
    Arithmetic,
    FoldedConvolution,
    FusedNorm,
    Padding,
)

_OLDEST_GPU = 8.0  # compute capability: Ampere


def arithmetic(device: Literal["cpu", "gpu"], precision: Literal["f32", "bf16"]) -> Arithmetic:
    """The fastest way to compute on a device in a precision.

    JAX on CPUs takes five times as long for its own depthwise convolutions as for shifted products,
    in both directions.
    """
    dtype = "bfloat16" if precision == "bf16" else "float32"
    if keras.backend.backend() != "jax":
        return Arithmetic(dtype)
    if device == "cpu":
        return Arithmetic(dtype, depthwise="shifts")
    return Arithmetic(dtype, dtype, depthwise="kernels" if _can_use_kernels() else "shifts")


def _can_use_kernels() -> bool:
    """Whether there is one GPU, which Triton knows; JAX (still) comes with it; and all works."""
    import jax

    devices = jax.local_devices()
    known = float(getattr(devices[0], "compute_capability", _OLDEST_GPU)) >= _OLDEST_GPU
    if len(devices) > 1 or not known or find_spec("jax.experimental.pallas.triton") is None:
        return False
    from efftune.model import jax_convolution

    return jax_convolution.works()


def folded(
    model: keras.Model,
    start: keras.KerasTensor,
    outputs: Sequence[keras.KerasTensor],
    arithmetic: Arithmetic = FLOAT32,
    *,
    input_name: str = "pixels",
) -> keras.Model:
    """A part of a network with every BatchNorm folded into the convolution before it.

    Args:
        model: the network; the result shares its weights.
        start: where the part begins: the network's input, or the activations at a block's input.
        outputs: of the part: activations at the input of blocks, or features.
        arithmetic: how to compute.
        input_name: of the part.

    Returns:
        A model from activations, of any floating type, or pixels to the outputs: features in
        float32, activations in their own type.
    """
    convolutions: dict[int, layers.Layer] = {}  # by id of their output, until their norm follows
    padding: dict[int, Padding] = {}  # by the same of the layer before

    def apply(layer: layers.Layer, inputs: list[Any]) -> Any:
        if isinstance(layer, layers.ZeroPadding2D) and arithmetic.depthwise == "kernels":
            padding[id(layer.output)] = layer.padding
            return inputs[0]
        if _can_be_folded(layer):
            convolutions[id(layer.output)] = layer
            return inputs[0]
        if isinstance(layer, layers.BatchNormalization):
            convolution = convolutions.pop(id(layer.input))
            padded = padding.get(id(convolution.input), NO_PADDING)
            return FoldedConvolution(convolution, layer, arithmetic, padded)(inputs[0])
        if arithmetic.depthwise == "kernels" and _is_gate(layer):
            return _gate(layer, arithmetic)(inputs[0])
        return _in(layer, arithmetic)(inputs if len(inputs) > 1 else inputs[0])

    entry = keras.Input(start.shape[1:], name=input_name)
    found = rebuilt(model, entry, (start, outputs), apply)
    return keras.Model(entry, found[0] if len(found) == 1 else found, name="part")


def trainable_norms(model: keras.Model, arithmetic: Arithmetic = FLOAT32) -> keras.Model:
    """The whole network with the fastest BatchNorm that trains, for training from random weights.

    Args:
        model: the network; the result shares its weights.
        arithmetic: how to compute.

    Returns:
        A model from pixels to float32 features; the network itself if nothing can be gained.
    """
    fuses = keras.backend.backend() == "tensorflow"
    if not fuses and arithmetic == FLOAT32:
        return model

    def apply(layer: layers.Layer, inputs: list[Any]) -> Any:
        if _can_be_folded(layer) and arithmetic != FLOAT32:
            layer = FoldedConvolution(layer, None, arithmetic)
        elif arithmetic.depthwise == "kernels" and _is_gate(layer):
            layer = _gate(layer, arithmetic)
        elif isinstance(layer, layers.BatchNormalization) and fuses:
            layer = FusedNorm(layer)
        else:
            layer = _in(layer, arithmetic)
        return layer(inputs if len(inputs) > 1 else inputs[0])

    entry = keras.Input(model.input.shape[1:], name="pixels")
    (features,) = rebuilt(model, entry, (model.input, [model.output]), apply)
    return keras.Model(entry, features, name="part")


def has_backend_convolutions(model: keras.Model) -> bool:
    """Whether a network has convolutions that are left to the backend."""

    def is_left(layer: layers.Layer) -> bool:
        if isinstance(layer, keras.Model):
            return has_backend_convolutions(layer)
        if isinstance(layer, FoldedConvolution):
            return layer.is_left_to_backend
        return isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D)

    return any(map(is_left, model.layers))


def _can_be_folded(layer: layers.Layer) -> bool:
    return type(layer) in (layers.Conv2D, layers.DepthwiseConv2D) and not layer.use_bias


def _is_gate(layer: layers.Layer) -> bool:
    """Whether it is one of the two convolutions of squeeze and excitation."""
    return type(layer) is layers.Conv2D and layer.use_bias and layer.input.shape[1:3] == (1, 1)


def _gate(layer: layers.Layer, arithmetic: Arithmetic) -> FoldedConvolution:
    """The same, as a matrix product; its few activations stay float32."""
    return FoldedConvolution(layer, None, replace(arithmetic, activations="float32"))


def _in(layer: layers.Layer, arithmetic: Arithmetic) -> layers.Layer:
    """The same layer for activations of the type in `arithmetic`."""
    if arithmetic.activations == "float32" or not isinstance(layer, _WITHOUT_WEIGHTS):
        return layer
    return type(layer).from_config(layer.get_config() | {"dtype": arithmetic.activations})


# Not dropout, whose seeds belong to the network's own layers.
_WITHOUT_WEIGHTS = (
    *(layers.Activation, layers.ReLU, layers.Multiply, layers.Add),
    layers.ZeroPadding2D,
)


def rebuilt(
    model: keras.Model,
    entry: keras.KerasTensor,
    ends: tuple[keras.KerasTensor, Sequence[keras.KerasTensor]],
    apply: Callable[[layers.Layer, list[Any]], Any],
) -> list[keras.KerasTensor]:
    """The outputs of a part of a network, built anew layer by layer.

    Args:
        model: the network.
        entry: what takes the place of the part's input.
        ends: the tensors in the network where the part begins and ends.
        apply: called with each layer and a list of its input tensors, returns its output tensor.
    """
    start, outputs = ends
    tensors = {id(start): entry}
    for layer in model.layers:
        if all(id(output) in tensors for output in outputs):
            break
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        if not isinstance(layer, keras.layers.InputLayer) and id(inputs[0]) in tensors:
            tensors[id(layer.output)] = apply(layer, [tensors[id(tensor)] for tensor in inputs])
    return [tensors[id(output)] for output in outputs]
