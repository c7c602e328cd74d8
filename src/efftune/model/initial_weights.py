"""Random weights of new networks, without a program for each of their shapes.

Under JAX, Keras' initializers compile a program for every shape and distribution, which takes 20
seconds for an EfficientNet, whose weights are then mostly replaced by pretrained ones.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import initializers, layers

from efftune.model.tensors import set_weights, tensor

_LIMIT = 2.0  # of truncated normal distributions, in standard deviations
_TRUNCATED = 0.87962566103423978  # the standard deviation that is left
_lock = threading.RLock()  # the initializers are those of the whole process


@contextmanager
def drawn_by_numpy() -> Iterator[None]:
    """Let NumPy draw the initial weights of what is built inside, if Keras runs on JAX.

    The distributions are the same, the numbers are not.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    ours: dict[type[Any], Callable[..., Any]] = {
        initializers.VarianceScaling: _variance_scaling,
        initializers.Zeros: _zeros,
        initializers.Ones: _ones,
    }
    with _lock:
        theirs = {kind: kind.__call__ for kind in ours}
        try:
            for kind, call in ours.items():
                kind.__call__ = call
            yield
        finally:
            for kind, call in theirs.items():
                kind.__call__ = call


@drawn_by_numpy()
def initialize(model: keras.Model, seed: int) -> None:
    """Give a backbone the random weights that EfficientNet's authors begin with.

    Kernels are drawn by He initialization by fan-out (scale 2, truncated normal).

    Args:
        model: the backbone.
        seed: seed of the initialization.
    """
    for i, layer in enumerate(model.layers):
        if isinstance(layer, layers.BatchNormalization):
            shape = layer.gamma.shape
            set_weights(layer, [np.ones(shape), *np.zeros((2, *shape)), np.ones(shape)])
        elif isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            initializer = initializers.VarianceScaling(
                2.0, "fan_out", "truncated_normal", seed=np.uint32(seed + 7919 * i).item()
            )
            kernel, *biases = layer.weights
            zeros = [np.zeros(bias.shape) for bias in biases]
            set_weights(layer, [initializer(kernel.shape), *zeros])


def _zeros(_self: Any, shape: Any, dtype: str | None = None) -> Any:
    return tensor(np.zeros(shape, dtype or keras.config.floatx()))


def _ones(_self: Any, shape: Any, dtype: str | None = None) -> Any:
    return tensor(np.ones(shape, dtype or keras.config.floatx()))


def _variance_scaling(self: Any, shape: Any, dtype: str | None = None) -> Any:
    """As `keras.initializers.VarianceScaling`."""
    from scipy.special import ndtr, ndtri

    field = int(np.prod(shape[:-2]))  # of a convolution
    fan_in, fan_out = field * shape[-2], field * shape[-1]
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    scale = self.scale / max(1.0, fans[self.mode])
    seed = self.seed if isinstance(self.seed, int) else None
    random = np.random.default_rng(None if seed is None else seed % 2**64)
    if self.distribution == "truncated_normal":
        shares = random.uniform(ndtr(-_LIMIT), ndtr(_LIMIT), shape)
        values = ndtri(shares) * np.sqrt(scale) / _TRUNCATED
    elif self.distribution == "untruncated_normal":
        values = random.normal(0, np.sqrt(scale), shape)
    else:
        limit = np.sqrt(3 * scale)
        values = random.uniform(-limit, limit, shape)
    return tensor(np.asarray(values, dtype or keras.config.floatx()))
