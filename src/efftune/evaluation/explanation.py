"""Where in a picture a classifier finds its evidence: Grad-CAM, from forward passes alone.

Grad-CAM weighs the last activations by the gradient of a class's logit, averaged over places, and
keeps what is positive. Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks
via Gradient-based Localization" (2017), https://arxiv.org/abs/1610.02391.

Every network here ends in global average pooling and a dense layer. There the gradient is the
class's column of the head's kernel, divided by the number of places: it is known without
backpropagation, and a saved OpenVINO model is enough.

Softmax does not change when the same is added to all logits, so a logit alone says nothing: with
two classes, the first column of the head that efftune fits is zero. What is explained is therefore
how far a class's logit is above the mean of all.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from efftune.data import images
from efftune.data.images import Pixels
from efftune.errors import BadImage, DataError, unknown_name
from efftune.model.classifier import OPENVINO_FILE, Classifier
from efftune.model.engines import openvino_engine
from efftune.model.engines.activations import with_activations
from efftune.system import files

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in a picture the evidence for a class lies.

    Attributes:
        path: the picture.
        label: the class.
        confidence: its probability, 0 to 1.
        square: the picture as the network sees it, uint8 (size, size, 3).
        heat: float32 (size, size), 0 to 1: the evidence in each place, 1 where there is most; all
            zero where no place speaks for the class.
    """

    path: Path
    label: str
    confidence: float
    square: Pixels
    heat: Array


class Explainer:
    """Explains a classifier's answers.

    Its network is read and compiled when the first picture is explained. Of a classifier that sees
    each picture and its mirror image, activations are averaged place by place.

    Attributes:
        classifier: whose answers it explains.
    """

    def __init__(self, classifier: Classifier):
        self.classifier = classifier

    def explain(self, path: str | Path, label: str | None = None) -> Explanation:
        """Explain one picture.

        Args:
            path: the picture.
            label: the class to find the evidence for; by default the likeliest.

        Raises:
            UsageError: the classifier does not know that class.
            DataError: the picture cannot be decoded.
        """
        path = files.user_path(path)
        try:
            return self.explain_readable(path, label)
        except BadImage as error:
            raise DataError(f"Cannot explain {path}: {error.reason}.") from None

    def explain_readable(self, path: Path, label: str | None) -> Explanation:
        """As `explain`, but for a picture that cannot be decoded.

        Raises:
            BadImage: the picture cannot be decoded.
        """
        names, size = self.classifier.class_names, self.classifier.image_size
        if label is not None and label not in names:
            raise unknown_name("class", label, names)
        square = images.decode(images.read(path), size, self.classifier.fit)
        found = self._network.compiled(square[None])
        probabilities, activations = found[0][0], found[1][0]
        number = int(probabilities.argmax()) if label is None else names.index(label)
        heat = _heat(activations, self._opened[1][:, number], size)
        return Explanation(path, names[number], float(probabilities[number]), square, heat)

    @cached_property
    def _opened(self) -> tuple[Any, Array]:
        return with_activations(openvino_engine.read(self.classifier.folder / OPENVINO_FILE))

    @cached_property
    def _network(self) -> openvino_engine.Network:
        return openvino_engine.Network(
            lambda: self._opened[0],
            size=self.classifier.image_size,
            dtypes=("float32", "float32"),
        )


def _heat(activations: Array, weights: Array, size: int) -> Array:
    """Grad-CAM of one picture, float32 (size, size), 0 to 1.

    Args:
        activations: float32, shape (features, height, width).
        weights: the gradient by feature, whatever its length, shape (features,).
        size: side of the picture, in pixels.
    """
    evidence = np.tensordot(weights, activations, 1).clip(0)
    heat = resized(np.ascontiguousarray(evidence, np.float32), size).clip(0)
    peak = heat.max()
    return np.asarray(heat / peak if peak > 0 else heat, np.float32)


def resized(square: NDArray[Any], side: int) -> NDArray[Any]:
    """A square array (size, size, …) at another side length."""
    smaller = side < len(square)
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(square, (side, side), interpolation=way))
