"""Parts of a saved classifier, from its Keras file."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from efftune.model.engines import keras_check
from efftune.model.engines.engine import KERAS_FILE
from efftune.model.initial_weights import drawn_by_numpy


def load_keras(folder: Path) -> keras.Model:
    """The Keras model in a folder.

    Raises:
        DataError: its file is damaged, or holds more than a network.
    """
    keras_check.require_plain(folder / KERAS_FILE, weights=True)
    with drawn_by_numpy():  # and replaced at once
        return keras.saving.load_model(folder / KERAS_FILE, compile=False)


@dataclass(frozen=True)
class SavedClassifier:
    """What `saving.keras_classifier` was given.

    Attributes:
        backbone: from pixels to features.
        mirrored: whether features are the mean over each picture and its mirror image.
        kernel: of the head, float32 (features, classes).
        bias: of the head, float32 (classes,).
    """

    backbone: keras.Model
    mirrored: bool
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path) -> "SavedClassifier":
        """Read the Keras file in a folder."""
        model = load_keras(folder)
        nested = [each for each in model.layers if isinstance(each, keras.Model)]
        features = model.get_layer("dropout").input
        backbone = nested[0] if nested else keras.Model(model.input, features)
        head = model.get_layer("logits").get_weights()
        kernel, bias = (np.asarray(each, np.float32) for each in head)
        return cls(backbone, bool(nested), kernel, bias)
