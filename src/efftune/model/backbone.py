"""The pretrained part: built in Keras, converted once for fast forward passes."""

import hashlib
import json
import shutil
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efftune import files
from efftune.model import catalogue, inference

if TYPE_CHECKING:
    import keras
    import openvino as ov

WIDTH = 1280  # features of every Lite variant
VERSION = 1  # part of every cache key: raise it when a backbone gives other features


class Backbone:
    """A pretrained network up to global average pooling.

    Keras is imported when `keras_model` is asked for, not before.

    Attributes:
        entry: its row in the catalogue.
        image_size: side of the input square, in pixels.
    """

    def __init__(self, name: str, image_size: int = 0):
        """Choose a model.

        Args:
            name: as `efftune models` lists it.
            image_size: side of the input square, in pixels; 0 means the model's own.

        Raises:
            UsageError: unknown name, or its weights are not installed.
        """
        self.entry = catalogue.model(name)
        self.image_size = image_size or self.entry.resolution
        self._weights_path = catalogue.weights_path(self.entry)

    @cached_property
    def keras_model(self) -> "keras.Model":
        """From float32 pixels (batch, size, size, 3), 0 to 255, to features (batch, 1280).

        Raises:
            DataError: the weights file is not the published one.
        """
        from efftune.model import lite, weights

        tensors = weights.read_verified(self._weights_path, self.entry.weights.sha256)
        model = lite.backbone(self.entry.name, self.image_size)
        weights.load_lite(model, tensors)
        return model

    @cached_property
    def openvino_model(self) -> "ov.Model":
        """The same for OpenVINO, converted once and then kept in the cache folder."""
        folder = files.cache_folder() / "backbones" / self._conversion_key
        if _intact(folder):
            return inference.read(folder / "model.xml")
        from efftune.model.conversion import convert

        model = convert(self.keras_model)
        if not _intact(folder):  # another process may have been quicker
            shutil.rmtree(folder, ignore_errors=True)
            _keep(model, folder)
        return model

    def keras_classifier(
        self, kernel: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> "keras.Model":
        """The backbone's own graph, carried on to probabilities.

        Args:
            kernel: the head's weights, shape (1280, classes).
            bias: the head's bias, shape (classes,).

        Returns:
            A model from float32 pixels to float32 probabilities (batch, classes).
        """
        import keras
        from keras import layers

        from efftune.model import lite

        rate = lite.VARIANTS[self.entry.name].dropout
        x = layers.Dropout(rate, name="dropout")(self.keras_model.output)
        logits = layers.Dense(len(bias), name="logits")
        probabilities = layers.Softmax(name="probabilities", dtype="float32")(logits(x))
        logits.set_weights([kernel, bias])
        return keras.Model(self.keras_model.input, probabilities, name=self.entry.short_name)

    @property
    def _conversion_key(self) -> str:
        shaping = {
            "weights": self.entry.weights.sha256,
            "image_size": self.image_size,
            "versions": [VERSION, version("keras"), version("openvino")],
        }
        digest = hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:16]
        return f"{self.entry.name}-{digest}"


def _keep(model: "ov.Model", folder: Path) -> None:
    with files.folder_written_whole(folder) as partial:
        inference.write(model, partial / "model.xml")
        sums = {path.name: files.sha256(path) for path in partial.iterdir()}
        files.write(partial / "sha256.json", json.dumps(sums))


def _intact(folder: Path) -> bool:
    """Whether a kept conversion is there, whole and unaltered."""
    try:
        sums = json.loads((folder / "sha256.json").read_text())
        return bool(sums) and all(files.sha256(folder / name) == sums[name] for name in sums)
    except (OSError, ValueError):
        return False
