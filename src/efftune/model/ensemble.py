"""Networks that share their lower blocks, as one graph.

Trained from the same pretrained weights, they agree below the first trained block, so only what is
above is copied. Averaging the logits of their heads equals one head on all their features.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from efftune.model import folding
from efftune.model.initial_weights import drawn_by_numpy
from efftune.model.tensors import set_weights

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
) -> keras.Model:
    """The features of several networks, side by side.

    Every layer is a copy: a layer remembers all graphs that it is part of, so graphs built on those
    of `model` would stay in memory as long as it does.

    Args:
        model: a network, whose lower part all use.
        start: the activations that the parts of their own begin with.
        members: the weights of these parts, from `weights_above`; at least two.

    Returns:
        From pixels to features, float32 (batch, members × features).
    """

    def apply(
        layer: layers.Layer, inputs: list[Any], suffix: str = "", own: Weights | None = None
    ) -> Any:
        copy = type(layer).from_config(layer.get_config() | {"name": layer.name + suffix})
        output = copy(inputs if len(inputs) > 1 else inputs[0])
        set_weights(copy, layer.get_weights() if own is None else own[layer.name])
        if isinstance(copy, layers.Normalization):
            copy.finalize_state()  # it computes with what it derives from its weights
        return output

    pixels = keras.Input(model.input.shape[1:], name=model.input.name)
    with drawn_by_numpy():  # and replaced at once
        (shared,) = folding.rebuilt(model, pixels, (model.input, [start]), apply)
        features = [
            tensor
            for number, weights in enumerate(members, start=1)
            for tensor in folding.rebuilt(
                model,
                shared,
                (start, [model.output]),
                partial(apply, suffix=f"_{number}", own=weights),
            )
        ]
    return keras.Model(pixels, layers.Concatenate(name="members")(features), name=model.name)
