"""EfficientNet-Lite in Keras.

EfficientNet without squeeze-and-excitation, with ReLU6, and with stem and top of one width for
all variants, so that it runs well on phones and quantises well. Architecture: Tan and Le,
"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019),
https://arxiv.org/abs/1905.11946, and the TensorFlow TPU models' `efficientnet/lite`.
"""

import math
from dataclasses import dataclass

import keras
from keras import layers


@dataclass(frozen=True)
class Variant:
    """How a variant is scaled against Lite0.

    Attributes:
        width: factor of the number of channels.
        depth: factor of the number of blocks a stage repeats.
        dropout: rate before the logits.
    """

    width: float
    depth: float
    dropout: float


VARIANTS = {
    "efficientnet-lite0": Variant(1.0, 1.0, 0.2),
    "efficientnet-lite1": Variant(1.0, 1.1, 0.2),
    "efficientnet-lite2": Variant(1.1, 1.2, 0.3),
    "efficientnet-lite3": Variant(1.2, 1.4, 0.3),
    "efficientnet-lite4": Variant(1.4, 1.8, 0.3),
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
_EPSILON = 1e-3  # of BatchNorm; Keras' default since the original TensorFlow code
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
    for number, stage in enumerate(_STAGES, start=1):
        # The first and the last stage keep their depth, as the stem and the top keep their width.
        fixed = number in (1, len(_STAGES))
        repeats = stage.repeats if fixed else math.ceil(stage.repeats * variant.depth)
        channels = _rounded(stage.channels * variant.width)
        for i in range(repeats):
            x = _block(
                x, stage, channels, stage.stride if i == 0 else 1, f"block{number}{chr(97 + i)}_"
            )
    x = _convolution(x, 1280, name="top_conv")
    x = _activation(_norm(x, "top_bn"), "top_activation")
    features = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(pixels, features, name=name)


def _block(
    x: keras.KerasTensor, stage: _Stage, channels: int, stride: int, name: str
) -> keras.KerasTensor:
    """An inverted bottleneck: expand, filter each channel, project, add the input if it fits."""
    entry = x
    if stage.expansion != 1:
        x = _convolution(x, x.shape[-1] * stage.expansion, name=f"{name}expand_conv")
        x = _activation(_norm(x, f"{name}expand_bn"), f"{name}expand_activation")
    x = layers.DepthwiseConv2D(
        stage.kernel, stride, padding="same", use_bias=False, name=f"{name}dwconv"
    )(x)
    x = _activation(_norm(x, f"{name}bn"), f"{name}activation")
    x = _norm(_convolution(x, channels, name=f"{name}project_conv"), f"{name}project_bn")
    if stride == 1 and entry.shape[-1] == channels:
        x = layers.Add(name=f"{name}add")([x, entry])
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
    """To the nearest multiple of 8, but never more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
