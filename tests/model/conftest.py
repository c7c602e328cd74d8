import itertools
from functools import cache

import keras
import numpy as np
import pytest
from keras import layers

from efftune.model import architectures, catalogue

# Big enough for everything that depends on a network's depth, and quick.
SIZE = 64
_seeds = itertools.count(1)
LARGE = ("b5", "b6", "b7", "v2-m", "v2-l")


SMALLEST = ("-lite0", "efficientnet-b0", "v2-b0")  # of each family


def each(names, smallest=SMALLEST):
    """Names as parameters of a test; all but the smallest marked, and the largest as slow."""

    def marks(name):
        if name.endswith(smallest):
            return []
        slow = [pytest.mark.slow] if name.endswith(LARGE) else []
        return [pytest.mark.variant, *slow]

    return [pytest.param(name, marks=marks(name)) for name in names]


every_variant = pytest.mark.parametrize("name", each(row.name for row in catalogue.MODELS))


def shaken(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give every weight a random value, the statistics of norms too."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            parts = (random.uniform(0.5, 1.5, size), random.normal(0, 0.3, size))
            statistics = (random.normal(0, 0.3, size), random.uniform(0.5, 1.5, size))
            layer.set_weights([*parts, *statistics])
        elif isinstance(layer, layers.Normalization):
            if layer.input_mean is None:
                layer.set_weights(
                    [random.uniform(0, 1, 3), random.uniform(0.5, 1.5, 3), np.zeros(())]
                )
                layer.finalize_state()
        elif layer.weights:
            kernel, *biases = layer.get_weights()
            depthwise = isinstance(layer, layers.DepthwiseConv2D)
            fan_in = np.prod(kernel.shape[: 2 if depthwise else 3])
            kernel = random.normal(0, 1 / np.sqrt(fan_in), kernel.shape)
            layer.set_weights([kernel, *(random.normal(0, 0.3, each.shape) for each in biases)])
    return model


@cache
def _graph(name: str, copy: int) -> keras.Model:
    return architectures.backbone(name, SIZE)


def fresh(name: str, copy: int = 0) -> keras.Model:
    """A backbone with random weights, other ones each time; only its graph is built once."""
    return shaken(_graph(name, copy), seed=next(_seeds))


def noise(count: int = 2, size: int = SIZE) -> np.ndarray:
    """Pixels of pictures of nothing, float32 (count, size, size, 3)."""
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3)).astype(np.float32)


def answers(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(pixels, training=False))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference, in units of the second one's spread."""
    return float(np.abs(first - second).max() / max(second.std(), 1e-6))
