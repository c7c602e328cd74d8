"""Networks that share their lower blocks, as one graph.

Trained from the same pretrained weights, they agree below the first trained block, so only what is
above is copied. Averaging the logits of their heads equals one head on all their features.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from efftune.model import folding
from efftune.model.initial_weights import drawn_by_numpy

Weights = dict[str, list[NDArray[np.float32]]]  # by the layer's name


def weights_above(model: keras.Model, start: keras.KerasTensor) -> Weights:
    """The present weights of the layers above a place in a network.

    Args:
        model: the network.
        start: the activations that the part begins with.
    """
    found: Weights = {}

    def apply(layer: layers.Layer, _inputs: list[Any]) -> Any:
        found[layer.name] = layer.get_weights()
        return layer.output

    folding.rebuilt(model, start, (start, [model.output]), apply)
    return found


def combined(
    model: keras.Model, start: keras.KerasTensor, members: Sequence[Weights]
) -> keras.KerasTensor:
    """The features of several networks, side by side.

    Args:
        model: a network, whose lower part all use.
        start: the activations that the parts of their own begin with.
        members: the weights of these parts, from `weights_above`.

    Returns:
        In the graph of `model`, float32 (batch, members × features).
    """
    features: list[keras.KerasTensor] = []
    for number, weights in enumerate(members, start=1):

        def apply(
            layer: layers.Layer, inputs: list[Any], number: int = number, own: Weights = weights
        ) -> Any:
            copy = type(layer).from_config(layer.get_config() | {"name": f"{layer.name}_{number}"})
            output = copy(inputs if len(inputs) > 1 else inputs[0])
            copy.set_weights(own[layer.name])
            return output

        with drawn_by_numpy():  # and replaced at once
            features += folding.rebuilt(model, start, (start, [model.output]), apply)
    return layers.Concatenate(name="members")(features)
