"""Trained classifiers, of backbone, head and class names: prediction, saving and loading."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efftune.data import images
from efftune.data.images import Pixels
from efftune.errors import BadImage, DataError, UsageError
from efftune.model.backbone import Backbone
from efftune.model.engines import openvino_engine
from efftune.model.uncertainty import Uncertainty
from efftune.recipe.inputs import Fit
from efftune.system import files

if TYPE_CHECKING:
    import keras

KERAS_FILE = "model.keras"
OPENVINO_FILE = "openvino/model.xml"
CLASSES_FILE = "classes.json"
UNCERTAINTY_FILE = "uncertainty.npz"
UNCERTAINTY_FILE_BEFORE = "doubts.npz"  # its name in runs of earlier versions
FILES = (KERAS_FILE, OPENVINO_FILE, "openvino/model.bin", CLASSES_FILE)


@dataclass(frozen=True)
class Prediction:
    """The prediction for one picture.

    Attributes:
        path: the picture.
        label: the most probable class.
        confidence: its probability, 0 to 1.
        top: the most probable classes with their probabilities, in descending order.
        unsure: whether the confidence is too low to rely on.
        unlike: whether the picture is out-of-distribution: unlike the training pictures.
    """

    path: Path
    label: str
    confidence: float
    top: tuple[tuple[str, float], ...]
    unsure: bool = False
    unlike: bool = False


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of a classifier for many pictures.

    Attributes:
        probabilities: float32 (pictures, classes), zero where a picture cannot be decoded.
        distances: distance to the training pictures, float32 (pictures,); 0 without a detector.
        failures: the reason, by path, for each picture that cannot be decoded.
    """

    probabilities: NDArray[np.float32]
    distances: NDArray[np.float32]
    failures: dict[Path, str]


class Classifier:
    """A trained classifier, loaded from a run folder.

    Predictions are computed by the OpenVINO model in float32, on every CPU, without importing a
    training framework. `model` is the same classifier in Keras.

    Attributes:
        folder: the run that it was loaded from.
        class_names: in the order of the probabilities.
        image_size: side of the input square, in pixels.
        fit: how pictures are resized to squares.
        uncertainty: temperature and thresholds; None for a published model.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        image_size: int,
        fit: Fit,
        uncertainty: Uncertainty | None = None,
    ):
        self.folder = folder
        self.class_names = tuple(class_names)
        self.image_size = image_size
        self.fit = fit
        self.uncertainty = uncertainty

    @cached_property
    def model(self) -> "keras.Model":
        """The Keras model, from float32 pixels, 0 to 255, to probabilities. Imports Keras."""
        import keras

        return keras.saving.load_model(self.folder / KERAS_FILE)

    @cached_property
    def _network(self) -> openvino_engine.Network:
        def load_model() -> Any:
            return openvino_engine.read(self.folder / OPENVINO_FILE)

        outputs = 1 if self.uncertainty is None else 2
        return openvino_engine.Network(
            load_model, size=self.image_size, dtypes=["float32"] * outputs
        )

    def predict(
        self,
        pictures: Sequence[str | Path] | str | Path,
        top: int = 1,
        *,
        raw: bool = False,
        on_unreadable: Callable[[Path, str], None] | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> list[Prediction]:
        """Predict the classes of pictures.

        Args:
            pictures: paths, or one path.
            top: number of most probable classes to return, 1 or more.
            raw: return uncalibrated probabilities.
            on_unreadable: called with the path and the reason for each picture that cannot be
                decoded, which is then skipped. Without it such a picture is an error.
            on_progress: called with the number of pictures done and the total.

        Returns:
            One prediction per readable picture, in order.

        Raises:
            UsageError: `top` is below 1.
            DataError: a picture cannot be decoded and `on_unreadable` is not given.
        """
        if top < 1:
            raise UsageError(f"top must be 1 or more. Received: {top}.")
        pictures = [pictures] if isinstance(pictures, str | Path) else pictures
        paths = list(map(files.user_path, pictures))
        outputs = self.outputs(paths, on_progress)
        for path, reason in outputs.failures.items():
            if on_unreadable is None:
                raise DataError(f"Cannot predict {path}: {reason}.")
            on_unreadable(path, reason)
        rows = zip(paths, outputs.probabilities, outputs.distances, strict=True)
        return [
            self._prediction(path, row, float(distance), top, raw=raw)
            for path, row, distance in rows
            if path not in outputs.failures
        ]

    def probabilities(
        self,
        paths: Sequence[Path],
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> tuple[NDArray[np.float32], dict[Path, str]]:
        """Class probabilities of pictures.

        Args:
            paths: the pictures.
            on_progress: called with the number of pictures done and the total, from several
                threads.

        Returns:
            Probabilities, float32 (pictures, classes), zero where a picture cannot be decoded;
            and the reasons for those that cannot, by path.
        """
        outputs = self.outputs(paths, on_progress)
        return outputs.probabilities, outputs.failures

    def outputs(
        self,
        paths: Sequence[Path],
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> ModelOutputs:
        """Probabilities and distances of pictures; see `probabilities` for the arguments."""
        probabilities = np.zeros((len(paths), len(self.class_names)), np.float32)
        distances = np.zeros(len(paths), np.float32)
        detector = None if self.uncertainty is None else self.uncertainty.detector
        failures: dict[Path, str] = {}
        done = itertools.count(1)  # safe to use from several threads

        def load(i: int) -> Pixels | None:
            try:
                return images.decode(images.read(paths[i]), self.image_size, self.fit)[None]
            except BadImage as error:
                failures[paths[i]] = error.reason
                on_progress(next(done), len(paths))
                return None

        def deliver(i: int, _view: int, values: list[NDArray[np.float32]]) -> None:
            probabilities[i] = values[0]
            if detector is not None:
                distances[i] = detector.distances(values[1][None])[0]
            on_progress(next(done), len(paths))

        self._network.run(range(len(paths)), load, deliver)
        ordered = {path: failures[path] for path in paths if path in failures}
        return ModelOutputs(probabilities, distances, ordered)

    def _prediction(
        self,
        path: Path,
        probabilities: NDArray[np.float32],
        distance: float,
        top: int,
        *,
        raw: bool,
    ) -> Prediction:
        unsure = unlike = False
        if self.uncertainty is not None:
            unsure = bool(probabilities.max() < self.uncertainty.unsure_below)
            unlike = distance > self.uncertainty.unlike_above
            probabilities = self.uncertainty.raw(probabilities) if raw else probabilities
        order = np.argsort(-probabilities, kind="stable")[:top]
        ranked = tuple((self.class_names[i], float(probabilities[i])) for i in order)
        return Prediction(path, *ranked[0], ranked, unsure, unlike)


def save(
    folder: Path,
    backbone: Backbone,
    head: tuple[NDArray[np.float32], NDArray[np.float32]],
    class_names: Sequence[str],
    uncertainty: Uncertainty | None = None,
    *,
    mirrored: bool = False,
) -> dict[str, str]:
    """Write a classifier's files: Keras model, OpenVINO model, class names, uncertainty.

    Args:
        folder: where to write `FILES`, and `UNCERTAINTY_FILE` if `uncertainty` is given.
        backbone: the trained or pretrained backbone.
        head: kernel (features, classes) and bias (classes,).
        class_names: in the order of the head's outputs.
        uncertainty: temperature and thresholds.
        mirrored: average the logits of each picture and its mirror image.

    Returns:
        The SHA-256 of each file, by its path within the folder.
    """
    if uncertainty is not None:
        uncertainty.write(folder / UNCERTAINTY_FILE)
    with files.written_whole(folder / KERAS_FILE) as partial:
        backbone.keras_classifier(*head, mirrored=mirrored).save(partial)
    with files.folder_written_whole((folder / OPENVINO_FILE).parent) as partial:
        classifier = backbone.openvino_classifier(*head, mirrored=mirrored)
        openvino_engine.write(classifier, partial / Path(OPENVINO_FILE).name)
    files.write(folder / CLASSES_FILE, json.dumps(list(class_names), indent=1, ensure_ascii=False))
    written = FILES if uncertainty is None else (*FILES, UNCERTAINTY_FILE)
    return {name: files.sha256(folder / name) for name in written}


def summary(folder: Path) -> str:
    """Keras' layer summary of a run's classifier."""
    import keras

    lines: list[str] = []
    keras.saving.load_model(folder / KERAS_FILE).summary(
        line_length=100, print_fn=lambda line, **_: lines.append(line)
    )
    return "\n".join(lines) + "\n"
