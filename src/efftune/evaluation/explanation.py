"""Grad-CAM heat maps, computed from forward passes alone.

Grad-CAM weights the last activations by the spatially averaged gradient of a class's logit and
keeps the positive part. Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks
via Gradient-based Localization" (2017), https://arxiv.org/abs/1610.02391.

Every network here ends in global average pooling and a dense layer. The gradient is therefore the
class's column of the kernel, divided by the number of positions. No backpropagation is needed, and
a saved OpenVINO model is enough. If the head sees the means of several stages, its logit is the sum
of what each of them contributes, and so is the map.

Softmax is invariant to a constant added to all logits, so a single logit has no meaning: with two
classes, the first column of the kernel that efftune fits is zero. The map therefore explains the
difference between a class's logit and the mean of all logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.errors import BadImage, DataError, unknown_name
from efftune.model.classifier import Classifier
from efftune.model.engines.engine import Network
from efftune.system import files

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Explanation:
    """The heat map of a class for a picture.

    Attributes:
        path: the picture; None if it was not given as a path.
        label: the class.
        confidence: its probability, 0 to 1.
        pixels: the network's input, uint8 (size, size, 3).
        heat: float32 (size, size), 0 to 1, scaled to a maximum of 1; all zero if nothing in the
            picture supports the class.
    """

    path: Path | None
    label: str
    confidence: float
    pixels: Pixels
    heat: Array


class Explainer:
    """Explains a classifier's predictions.

    The network is read and compiled when the first picture is explained. If the classifier also
    uses the mirror image of each picture, the activations of both are averaged.

    Attributes:
        classifier: whose predictions are explained.
    """

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self._made: tuple[Network, Array] | None = None
        self._making = Lock()

    def explain(self, path: str | Path, label: str | None = None) -> Explanation:
        """Explain one picture.

        Args:
            path: the picture.
            label: the class to explain; by default the predicted one.

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
        """Like `explain`, but with the exception of the decoder.

        Raises:
            BadImage: the picture cannot be decoded.
        """
        self._require(label)
        return self.explain_decoded(self.classifier.decode(path), label, path)

    def explain_decoded(
        self, pixels: Pixels, label: str | None = None, path: Path | None = None
    ) -> Explanation:
        """Explain the prediction for a picture that `Classifier.decode` has returned.

        Args:
            pixels: uint8 (size, size, 3).
            label: the class to explain; by default the predicted one.
            path: of the picture, if it has one.

        Raises:
            UsageError: the classifier does not know that class.
        """
        self._require(label)
        names, size = self.classifier.class_names, self.classifier.image_size
        network, kernel = self._network
        outputs: list[Array] = []

        def deliver(_item: Pixels, _view: int, values: list[Array]) -> None:
            outputs.extend(map(np.copy, values))

        network.run([pixels], lambda each: each[None], deliver)
        probabilities, *activations = outputs
        number = int(probabilities.argmax()) if label is None else names.index(label)
        heat = _heat(_evidence(activations, kernel[:, number]), size)
        return Explanation(path, names[number], float(probabilities[number]), pixels, heat)

    def _require(self, label: str | None) -> None:
        names = self.classifier.class_names
        if label is not None and label not in names:
            raise unknown_name("class", label, names)

    @property
    def _network(self) -> tuple[Network, Array]:
        """The network with the activations that its features come from, and the head's kernel."""
        with self._making:  # several threads may explain their first picture at the same time
            if self._made is None:
                self._made = self.classifier.engine.explainer(
                    self.classifier.folder, size=self.classifier.image_size
                )
            return self._made


def _evidence(activations: Sequence[Array], weights: Array) -> Array:
    """What each place contributes to a logit, float32 (side, side).

    The mean over the places is the logit without its bias. The maps of all stages are reduced to
    the size of the last one's.

    Args:
        activations: of each stage that the head sees, the smallest at the end, float32 (channels,
            height, width).
        weights: of the logit for the mean of each channel, shape (channels of all stages,).
    """
    ends = np.cumsum([len(each) for each in activations])[:-1]
    parts = [
        np.tensordot(part, each, 1)
        for part, each in zip(np.split(weights, ends), activations, strict=True)
    ]
    side = len(parts[-1])
    return np.asarray(sum(resized(np.ascontiguousarray(each), side) for each in parts), np.float32)


def _heat(evidence: Array, size: int) -> Array:
    """Grad-CAM of one picture, float32 (size, size), 0 to 1.

    Args:
        evidence: for the class, float32 (side, side).
        size: side of the picture, in pixels.
    """
    heat = resized(evidence.clip(0), size).clip(0)
    peak = heat.max()
    return np.asarray(heat / peak if peak > 0 else heat, np.float32)


def resized(array: NDArray[Any], side: int) -> NDArray[Any]:
    """Resize a square array (size, size, …) to another side length, in pixels."""
    interpolation = cv2.INTER_AREA if side < len(array) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(array, (side, side), interpolation=interpolation))
