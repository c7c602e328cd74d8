"""EfficientNet-Lite in Keras.

EfficientNet without squeeze-and-excitation, with ReLU6, and with a stem and a top of the same width
in all variants, which makes it fast on phones and easy to quantise. Architecture: Tan and Le,
"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019),
https://arxiv.org/abs/1905.11946, and `efficientnet/lite` of the TensorFlow TPU models.
"""

import math
from dataclasses import dataclass

import keras
from keras import layers


@dataclass(frozen=True)
class Variant:
    """Scaling of a variant relative to Lite0.

    Attributes:
        width: factor for the number of channels.
        depth: factor for the number of blocks per stage.
    """

    width: float
    depth: float


VARIANTS = {
    "efficientnet-lite0": Variant(1.0, 1.0),
    "efficientnet-lite1": Variant(1.0, 1.1),
    "efficientnet-lite2": Variant(1.1, 1.2),
    "efficientnet-lite3": Variant(1.2, 1.4),
    "efficientnet-lite4": Variant(1.4, 1.8),
}


@dataclass(frozen=True)
class _Stage:
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
DROP_CONNECT_RATE = 0.2  # of the top block; lower ones in proportion to their depth
_EPSILON = 1e-3  # of BatchNorm, as in the original TensorFlow code
_MOMENTUM = 0.99


def backbone(name: str, image_size: int) -> keras.Model:
    """A variant up to global average pooling, with random weights.

    Args:
        name: one of `VARIANTS`.
        image_size: side of the input square, in pixels.

    Returns:
        A model from float32 pixels (batch, image_size, image_size, 3), 0 to 255, to float32
        features (batch, 1280). Layers are named as in `keras.applications`: `stem_conv`,
        `block1a_dwconv`, …, `top_conv`, `avg_pool`.
    """
    variant = VARIANTS[name]
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="preprocessing")(pixels)
    x = _convolution(x, 32, kernel=3, stride=2, name="stem_conv")
    x = _activation(_norm(x, "stem_bn"), "stem_activation")
    # The first and last stages keep their depth, as the stem and the top keep their width.
    inner = [math.ceil(stage.repeats * variant.depth) for stage in _STAGES[1:-1]]
    depths = [_STAGES[0].repeats, *inner, _STAGES[-1].repeats]
    index = 0
    for number, (stage, repeats) in enumerate(zip(_STAGES, depths, strict=True), start=1):
        channels = _rounded(stage.channels * variant.width)
        for i in range(repeats):
            stride = stage.stride if i == 0 else 1
            drop_rate = DROP_CONNECT_RATE * index / sum(depths)
            x = _block(x, stage, channels, stride, drop_rate, f"block{number}{chr(97 + i)}_")
            index += 1
    x = _convolution(x, 1280, name="top_conv")
    x = _activation(_norm(x, "top_bn"), "top_activation")
    features = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(pixels, features, name=name)


def _block(
    x: keras.KerasTensor,
    stage: _Stage,
    channels: int,
    stride: int,
    drop_rate: float,
    name: str,
) -> keras.KerasTensor:
    """An inverted bottleneck: expansion, depthwise convolution, projection, residual connection."""
    block_input = x
    if stage.expansion != 1:
        x = _convolution(x, x.shape[-1] * stage.expansion, name=f"{name}expand_conv")
        x = _activation(_norm(x, f"{name}expand_bn"), f"{name}expand_activation")
    x = layers.DepthwiseConv2D(
        stage.kernel, stride, padding="same", use_bias=False, name=f"{name}dwconv"
    )(x)
    x = _activation(_norm(x, f"{name}bn"), f"{name}activation")
    x = _norm(_convolution(x, channels, name=f"{name}project_conv"), f"{name}project_bn")
    if stride == 1 and block_input.shape[-1] == channels:
        x = layers.Dropout(drop_rate, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(x)
        x = layers.Add(name=f"{name}add")([x, block_input])
    return x


def _convolution(
    x: keras.KerasTensor, channels: int, *, kernel: int = 1, stride: int = 1, name: str
) -> keras.KerasTensor:
    return layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(epsilon=_EPSILON, momentum=_MOMENTUM, name=name)(x)


def _activation(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.ReLU(6.0, name=name)(x)


def _rounded(channels: float) -> int:
    """Round to the nearest multiple of 8, but to no less than 90 % of the value."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
