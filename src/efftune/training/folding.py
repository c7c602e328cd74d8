"""The trainable part in the form that trains fastest, with the whole network's own weights.

A pretrained network's BatchNorm stays in inference mode, so it is a constant factor and offset of
each channel. Putting them on the kernel instead of on the activations gives the same function and
the same gradients, up to rounding, without passing over the activations twice more. Convolutions
of one pixel are matrix products, in bfloat16 where the processor is faster at that.

From random weights BatchNorm has to learn and cannot be folded. Keras puts it together from many
operations, each of which passes over the activations; TensorFlow has a single one.
"""

from typing import Any

import keras
from keras import layers, ops

from efftune.model.backbone import Backbone


class FoldedConvolution(layers.Layer):  # type: ignore[misc]
    """A convolution and the frozen BatchNorm after it, as one convolution with a bias."""

    def __init__(self, convolution: layers.Layer, norm: layers.Layer, product_dtype: str):
        """Share the weights of two layers.

        Args:
            convolution: a Conv2D or DepthwiseConv2D without bias or activation.
            norm: the BatchNormalization that follows it.
            product_dtype: in which matrix products are computed.
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
    """BatchNorm as TensorFlow's single operation in training; otherwise the layer that it wraps."""

    def __init__(self, norm: layers.Layer):
        """Share the weights of a BatchNormalization over the last axis."""
        super().__init__(name=f"fused_{norm.name}", dtype="float32")
        self.norm = norm
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Normalise activations (batch, height, width, channels); training moves the averages."""
        norm = self.norm
        if not training:
            return norm(x, training=False)
        import tensorflow as tf

        result = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=norm.gamma, offset=norm.beta, mean=[], variance=[], epsilon=norm.epsilon
        )
        # It tells the unbiased variance, Keras averages the biased one.
        values = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), "float32")
        variance = result.batch_variance * (tf.maximum(values - 1, 1) / values)
        for average, training_data_of in (
            (norm.moving_mean, result.batch_mean),
            (norm.moving_variance, variance),
        ):
            average.assign(average * norm.momentum + training_data_of * (1 - norm.momentum))
        return result.y


def fused(backbone: Backbone) -> keras.Model:
    """The whole backbone in the form that trains fastest while its BatchNorm learns.

    Returns:
        A model that shares the backbone's Keras weights; under another Keras backend than
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
    """The part of a backbone above a cut, with every BatchNorm folded into its convolution.

    Args:
        backbone: whose Keras weights the result shares.
        block: the first block of the part; `pixels` for the whole.
        product_dtype: in which matrix products are computed; all else is float32.

    Returns:
        A model from activations, of any floating type, or pixels to float32 features.
    """
    convolutions: dict[int, layers.Layer] = {}  # by what they give, waiting for their norm

    def apply(layer: layers.Layer, inputs: list[Any]) -> Any:
        if type(layer) in (layers.Conv2D, layers.DepthwiseConv2D) and not layer.use_bias:
            convolutions[id(inputs[0])] = layer
            return inputs[0]
        if isinstance(layer, layers.BatchNormalization):
            convolution = convolutions.pop(id(inputs[0]))
            return FoldedConvolution(convolution, layer, product_dtype)(inputs[0])
        return layer(inputs if len(inputs) > 1 else inputs[0])

    return backbone.upper(block, apply)
