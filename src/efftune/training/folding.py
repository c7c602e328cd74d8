"""Equivalent graphs of the trained blocks that train faster and share the backbone's weights.

In fine-tuning, BatchNorm stays in inference mode, where it scales and shifts each channel by
constants. Folding these into the kernel gives the same function and gradients, up to rounding, and
saves two passes over the activations. Convolutions with a 1×1 kernel become matrix products, in
bfloat16 where the CPU is faster at it.

When training from random weights, BatchNorm is trained, too, and cannot be folded. Keras composes
it of many operations, each of which passes over the activations; TensorFlow has a fused one.
"""

from typing import Any

import keras
from keras import layers, ops

from efftune.model.backbone import Backbone


class FoldedConvolution(layers.Layer):  # type: ignore[misc]
    """A convolution and the frozen BatchNorm that follows it, as one convolution with a bias."""

    def __init__(self, convolution: layers.Layer, norm: layers.Layer, product_dtype: str):
        """Fold two layers, sharing their weights.

        Args:
            convolution: a Conv2D or DepthwiseConv2D without bias or activation.
            norm: the BatchNormalization that follows it.
            product_dtype: type in which matrix products are computed.
        """
        super().__init__(name=f"folded_{convolution.name}", dtype="float32")
        self.convolution = convolution
        self.norm = norm
        self.product_dtype = product_dtype
        self._depthwise = isinstance(convolution, layers.DepthwiseConv2D)
        pointwise = (*convolution.kernel_size, *convolution.strides) == (1, 1, 1, 1)
        self._is_product = pointwise and not self._depthwise
        self.built = True

    def call(self, x: Any) -> Any:
        """Convolve activations (batch, height, width, channels)."""
        norm, convolution = self.norm, self.convolution
        scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)
        bias = norm.beta - norm.moving_mean * scale
        if self._is_product:
            return self._product(x, convolution.kernel[0, 0] * scale) + bias
        strides = convolution.strides
        if self._depthwise:
            kernel = convolution.kernel * scale[:, None]
            return ops.depthwise_conv(x, kernel, strides, padding=convolution.padding) + bias
        return ops.conv(x, convolution.kernel * scale, strides, padding=convolution.padding) + bias

    def _product(self, x: Any, kernel: Any) -> Any:
        height, width, channels = x.shape[1:]
        rows = ops.cast(ops.reshape(x, (-1, channels)), self.product_dtype)
        product = ops.matmul(rows, ops.cast(kernel, self.product_dtype))
        shape = (-1, height, width, kernel.shape[1])
        return ops.reshape(ops.cast(product, "float32"), shape)


class FusedNorm(layers.Layer):  # type: ignore[misc]
    """BatchNorm by TensorFlow's fused operation in training; the wrapped layer in inference."""

    def __init__(self, norm: layers.Layer):
        """Share the weights of a BatchNormalization over the last axis."""
        super().__init__(name=f"fused_{norm.name}", dtype="float32")
        self.norm = norm
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Normalise activations (batch, height, width, channels); training updates the averages."""
        norm = self.norm
        if not training:
            return norm(x, training=False)
        import tensorflow as tf

        result = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=norm.gamma, offset=norm.beta, mean=[], variance=[], epsilon=norm.epsilon
        )
        # The operation returns the unbiased variance; Keras averages the biased one.
        count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), "float32")
        variance = result.batch_variance * (tf.maximum(count - 1, 1) / count)
        for average, value in (
            (norm.moving_mean, result.batch_mean),
            (norm.moving_variance, variance),
        ):
            average.assign(average * norm.momentum + value * (1 - norm.momentum))
        return result.y


def fused(backbone: Backbone) -> keras.Model:
    """The whole backbone with fused BatchNorm layers, for training from random weights.

    Returns:
        A model that shares the backbone's Keras weights; with a Keras backend other than
        TensorFlow, the backbone's own model.
    """
    if keras.backend.backend() != "tensorflow":
        return backbone.keras_model

    def apply(layer: layers.Layer, inputs: list[Any]) -> Any:
        if isinstance(layer, layers.BatchNormalization):
            layer = FusedNorm(layer)
        return layer(inputs if len(inputs) > 1 else inputs[0])

    return backbone.upper("pixels", apply)


def folded(backbone: Backbone, block: str, product_dtype: str = "float32") -> keras.Model:
    """The part of a backbone from a block up, with every BatchNorm folded into its convolution.

    Args:
        backbone: the backbone; the result shares its Keras weights.
        block: the first block of the part; `pixels` for the whole backbone.
        product_dtype: type in which matrix products are computed; all else is float32.

    Returns:
        A model from activations, of any floating type, or pixels to float32 features.
    """
    convolutions: dict[int, layers.Layer] = {}  # by id of their input, until their norm follows

    def apply(layer: layers.Layer, inputs: list[Any]) -> Any:
        if type(layer) in (layers.Conv2D, layers.DepthwiseConv2D) and not layer.use_bias:
            convolutions[id(inputs[0])] = layer
            return inputs[0]
        if isinstance(layer, layers.BatchNormalization):
            convolution = convolutions.pop(id(inputs[0]))
            return FoldedConvolution(convolution, layer, product_dtype)(inputs[0])
        return layer(inputs if len(inputs) > 1 else inputs[0])

    return backbone.upper(block, apply)
