"""Layers of folded graphs; they share the weights of the layers that they stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import layers, ops


@dataclass(frozen=True)
class Arithmetic:
    """How a graph computes.

    Attributes:
        products: type in which matrix products are computed.
        activations: type of the activations between layers; weights, preprocessing, spatial means
            and features are float32 in any case.
        depthwise: how depthwise convolutions are computed: by the backend's own kernels; as shifted
            products, which XLA fuses into one pass; or by `jax_convolution`, for one GPU.
    """

    products: str = "float32"
    activations: str = "float32"
    depthwise: Literal["backend", "shifts", "kernels"] = "backend"


FLOAT32 = Arithmetic()
Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros before and after, on both axes
NO_PADDING: Padding = ((0, 0), (0, 0))
_FEW_CHANNELS = 4  # of pixels: cuDNN has no fast kernels for them


class FoldedConvolution(layers.Layer):  # type: ignore[misc]
    """A convolution and the frozen BatchNorm that follows it, as one convolution with a bias.

    Without a BatchNorm, it is the convolution itself.
    """

    def __init__(
        self,
        convolution: layers.Layer,
        norm: layers.Layer | None,
        arithmetic: Arithmetic = FLOAT32,
        padding: Padding = NO_PADDING,
    ):
        """Fold two layers, sharing their weights.

        Args:
            convolution: a Conv2D or DepthwiseConv2D; without bias or activation if there is a norm.
            norm: the BatchNormalization that follows it; None to leave that as it is.
            arithmetic: how to compute.
            padding: rows and columns of zeros before and after, if the layer itself adds none.
        """
        # Without casts by Keras: it would fold in the type of the activations.
        super().__init__(name=f"folded_{convolution.name}", dtype="float32", autocast=False)
        self.convolution = convolution
        self.norm = norm
        self.arithmetic = arithmetic
        self._padding = padding
        self._depthwise = isinstance(convolution, layers.DepthwiseConv2D)
        pointwise = (*convolution.kernel_size, *convolution.strides) == (1, 1, 1, 1)
        self._is_product = pointwise and not self._depthwise
        self.built = True

    def call(self, x: Any) -> Any:
        """Convolve activations (batch, height, width, channels)."""
        kernel, bias = self._weights
        dtype = self.arithmetic.activations
        x = self._convolved(ops.cast(x, dtype), kernel)
        x = x if bias is None else x + ops.cast(bias, dtype)
        return self.convolution.activation(x)

    @property
    def is_left_to_backend(self) -> bool:
        """Whether the backend's own kernel computes it."""
        if self._is_product or self._depthwise:
            return self._depthwise and self.arithmetic.depthwise == "backend"
        channels = self.convolution.kernel.shape[-2]
        return self.arithmetic.depthwise != "kernels" or channels > _FEW_CHANNELS

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        """Shape and type of the result, which Keras would otherwise find by tracing `call`."""
        sides = (side + sum(ends) for side, ends in zip(x.shape[1:3], self._padding, strict=True))
        shape = self.convolution.compute_output_shape((x.shape[0], *sides, x.shape[3]))
        return keras.KerasTensor(shape, self.arithmetic.activations)

    @property
    def _weights(self) -> tuple[Any, Any]:
        """Kernel and bias, float32."""
        kernel, norm = self.convolution.kernel, self.norm
        if norm is None:
            return kernel, self.convolution.bias if self.convolution.use_bias else None
        scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)
        return (
            kernel * (scale[:, None] if self._depthwise else scale),
            norm.beta - norm.moving_mean * scale,
        )

    def _convolved(self, x: Any, kernel: Any) -> Any:
        strides, padding = self.convolution.strides, self.convolution.padding
        if self._is_product:
            return self._product(x, kernel[0, 0])
        if self.is_left_to_backend:
            if self._padding != NO_PADDING:
                x = ops.pad(x, [(0, 0), *self._padding, (0, 0)])
            convolve = ops.depthwise_conv if self._depthwise else ops.conv
            return convolve(x, ops.cast(kernel, x.dtype), strides, padding=padding)
        size, stride, ends = kernel.shape[0], strides[0], self._padding
        if padding == "same":
            ends = same_padding(x.shape[1:3], size, stride)
        if self.arithmetic.depthwise == "shifts":
            return shifted(x, kernel[..., 0], stride, ends)
        from efftune.model import jax_convolution

        if not self._depthwise:
            x = jax_convolution.patches(x, size, stride, ends)
            return self._product(x, ops.reshape(kernel, (-1, kernel.shape[-1])))
        depthwise = jax_convolution.depthwise if jax_convolution.fits(x) else shifted
        return depthwise(x, kernel[..., 0], stride, ends)

    def _product(self, x: Any, kernel: Any) -> Any:
        rows = ops.cast(ops.reshape(x, (-1, x.shape[-1])), self.arithmetic.products)
        if self.arithmetic.depthwise == "kernels":
            from efftune.model import jax_convolution

            product = jax_convolution.product(rows, kernel)
        else:
            product = ops.matmul(rows, ops.cast(kernel, self.arithmetic.products))
        shape = (-1, *x.shape[1:3], kernel.shape[1])
        return ops.reshape(ops.cast(product, self.arithmetic.activations), shape)


def same_padding(sides: Sequence[int], size: int, stride: int) -> Padding:
    """Zeros before and after, on both axes, as TensorFlow pads for `same`.

    Args:
        sides: height and width.
        size: of the kernel, on both axes.
        stride: on both axes.
    """
    missing = [max(0, (-(-side // stride) - 1) * stride + size - side) for side in sides]
    top, left = (each // 2 for each in missing)
    return (top, missing[0] - top), (left, missing[1] - left)


def shifted(x: Any, kernel: Any, stride: int, padding: Padding) -> Any:
    """Depthwise convolution as a sum of shifted products in float32.

    Args:
        x: activations (batch, height, width, channels).
        kernel: float32 (size, size, channels).
        stride: on both axes.
        padding: zeros before and after, on both axes.

    Returns:
        Activations of the type of `x`.
    """
    size = kernel.shape[0]
    x = _channels_last(x)
    if padding != NO_PADDING:
        x = ops.pad(x, [(0, 0), *padding, (0, 0)])
    # The last row and column that the kernel's first value meets, and one more.
    bottom, right = ((side - size) // stride * stride + 1 for side in x.shape[1:3])
    total = 0.0
    for i in range(size):
        for j in range(size):
            part = x[:, i : i + bottom : stride, j : j + right : stride]
            total += ops.cast(part, "float32") * kernel[i, j]
    return _channels_last(ops.cast(total, x.dtype))


def _channels_last(x: Any) -> Any:
    """Otherwise XLA moves activations about in memory, to sum over places side by side."""
    if keras.backend.backend() != "jax":
        return x
    from efftune.model import jax_convolution

    return jax_convolution.channels_last(x)


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
