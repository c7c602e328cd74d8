"""Trained classifiers, of backbone, head and class names, and their predictions."""

import itertools
from collections.abc import Callable, Iterable, Sequence, Sized
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efftune.data import bit_depth
from efftune.data.bit_depth import BitDepth
from efftune.data.images import Pixels
from efftune.data.pictures import Picture, decode, decoded_alone, listed, path_of, sendable
from efftune.data.resizing import Framing
from efftune.errors import DataError, UsageError
from efftune.model.engines import devices, running
from efftune.model.engines.devices import Device
from efftune.model.engines.engine import Engine, Network, Precision
from efftune.model.engines.running import Loading
from efftune.model.prediction import ModelOutputs, Prediction
from efftune.model.uncertainty import Uncertainty

if TYPE_CHECKING:
    import keras


class Classifier:
    """A trained classifier, loaded from a run folder.

    Predictions are computed on the CPU by the OpenVINO model, without importing a training
    framework; where OpenVINO is not installed, and on GPUs, by JAX. `model` is the same in Keras.

    Attributes:
        folder: the run that it was loaded from.
        class_names: in the order of the probabilities.
        image_size: side of the input square, in pixels.
        fit: how pictures are resized to squares; of a published model, as it was evaluated.
        uncertainty: temperature and thresholds; None for a published model.
        depth: which values of pictures of more than 8 bits become black and white.
        device: where it is computed; may be set before the first prediction, as the next may.
        precision: of the computation.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        image_size: int,
        fit: Framing,
        uncertainty: Uncertainty | None = None,
        depth: BitDepth = bit_depth.UNKNOWN,
    ):
        self.folder = folder
        self.class_names = tuple(class_names)
        self.image_size = image_size
        self.fit = fit
        self.uncertainty = uncertainty
        self.depth = depth
        self.device: Device = "cpu"
        self.precision: Precision = "f32"
        self._made: Network | None = None
        self._making = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings: the network is read from `folder` again when it is needed."""
        settings = (self.class_names, self.image_size, self.fit, self.uncertainty, self.depth)
        chosen = {"device": self.device, "precision": self.precision}
        return Classifier, (self.folder, *settings), chosen

    @property
    def engine(self) -> Engine:
        """What computes it."""
        return devices.engine(self.device)

    @property
    def network(self) -> Network:
        """The network, made on first use."""
        with self._making:
            if self._made is None:
                size, has_features = self.image_size, self.uncertainty is not None
                self._made = self.engine.classifier(
                    self.folder, size=size, has_features=has_features, precision=self.precision
                )
            return self._made

    @cached_property
    def model(self) -> "keras.Model":
        """The Keras model, from float32 pixels, 0 to 255, to probabilities. Imports Keras."""
        from efftune.model.engines.saved import load_keras

        return load_keras(self.folder)

    def predict(
        self,
        pictures: Picture | Iterable[Picture],
        top: int = 1,
        *,
        raw: bool = False,
        on_unreadable: Callable[[Any, str], None] | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> list[Prediction]:
        """Predict the classes of pictures.

        Args:
            pictures: one picture or several, each a path, bytes, a file object, a Pillow picture or
                an array; see `pictures.decode`. An iterator is advanced as pictures are needed.
            top: number of most probable classes to return, 1 or more.
            raw: return uncalibrated probabilities.
            on_unreadable: called with the path and the reason for each picture that cannot be
                decoded, which is then skipped. Without it such a picture is an error. Instead of
                the path of a picture that is not given as one, it gets the position.
            on_progress: called with the number of pictures done and the total, which is 0 if
                `pictures` is an iterator.

        Returns:
            One prediction per readable picture, in order.

        Raises:
            UsageError: `top` is below 1, or a picture is of another kind.
            DataError: a picture cannot be decoded and `on_unreadable` is not given.
        """
        if top < 1:
            raise UsageError(f"top must be 1 or more. Received: {top}.")
        outputs = self.outputs(listed(pictures), on_progress)
        paths = outputs.paths
        for i, reason in outputs.failures.items():
            if on_unreadable is None:
                raise DataError(f"Cannot predict {paths[i] or f'picture {i}'}: {reason}.")
            on_unreadable(i if paths[i] is None else paths[i], reason)
        return [
            self._prediction(outputs, i, top, path=paths[i], raw=raw)
            for i in range(len(paths))
            if i not in outputs.failures
        ]

    def decode(self, picture: Picture) -> Pixels:
        """Decode a picture to the pixels of the model input, uint8 (size, size, 3).

        Raises:
            BadImage: it cannot be decoded.
            UsageError: it is of another kind; see `pictures.decode`.
        """
        return decode(picture, self.image_size, self.fit, self.depth)

    def predict_decoded(self, pixels: Pixels, top: int = 1) -> Prediction:
        """Predict the class of a picture that `decode` has returned; see `predict`."""
        outputs = self._outputs([pixels], lambda each: (each, 0), np.expand_dims)
        return self._prediction(outputs, 0, top, path=None, raw=False)

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
        return outputs.probabilities, {paths[i]: why for i, why in outputs.failures.items()}

    def outputs(
        self,
        pictures: Iterable[Picture],
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> ModelOutputs:
        """Probabilities and distances of pictures; see `predict` for the arguments."""

        def read(picture: Picture) -> tuple[Any, ...]:
            return sendable(picture), self.image_size, self.fit, self.depth

        return self._outputs(pictures, read, decoded_alone, on_progress)

    def _outputs(
        self,
        pictures: Iterable[Picture],
        read: Callable[[Any], tuple[Any, ...]],
        decode: Callable[..., Pixels],
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> ModelOutputs:
        total = len(pictures) if isinstance(pictures, Sized) else 0
        detector = None if self.uncertainty is None else self.uncertainty.detector
        rows: dict[int, tuple[NDArray[np.float32], float]] = {}
        failures: dict[int, str] = {}
        paths: dict[int, Path | None] = {}
        done = itertools.count(1)  # safe to use from several threads

        def read_one(item: tuple[int, Picture]) -> tuple[Any, ...]:
            i, picture = item
            paths[i] = path_of(picture)
            return read(picture)

        def failed(item: tuple[int, Picture], reason: str) -> None:
            failures[item[0]] = reason
            on_progress(next(done), total)

        def deliver(item: tuple[int, Picture], _: int, values: list[NDArray[np.float32]]) -> None:
            self._require_fitting(values)
            distance = 0.0 if detector is None else detector.distances(values[1][None])[0]
            rows[item[0]] = values[0].copy(), distance
            on_progress(next(done), total)

        running.run(self.network, enumerate(pictures), Loading(read_one, decode, failed), deliver)
        count = len(paths)
        nothing = np.zeros(len(self.class_names), np.float32), 0.0
        found = [rows.get(i, nothing) for i in range(count)]
        probabilities = np.array([row for row, _ in found], np.float32)
        return ModelOutputs(
            probabilities.reshape(count, len(self.class_names)),
            np.array([distance for _, distance in found], np.float32),
            dict(sorted(failures.items())),
            [paths[i] for i in range(count)],
        )

    def _require_fitting(self, values: list[NDArray[np.float32]]) -> None:
        """Check what the network gives for a picture.

        Raises:
            DataError: it is not that of these classes.
        """
        detector = None if self.uncertainty is None else self.uncertainty.detector
        classes, least = len(self.class_names), 0 if detector is None else detector.least_features
        if values[0].shape != (classes,) or not np.isfinite(values[0]).all():
            raise DataError(
                f"The network in {self.folder} gives no probabilities of {classes:,} classes: it "
                "is damaged. Restore it, or train again."
            )
        if least and (len(values) < 2 or values[1].shape[-1] < least):
            raise DataError(
                f"The network in {self.folder} gives other features than its thresholds are for: "
                "one of them is damaged. Restore it, or train again."
            )

    def _prediction(
        self, outputs: ModelOutputs, index: int, top: int, *, path: Path | None, raw: bool
    ) -> Prediction:
        probabilities, distance = outputs.probabilities[index], float(outputs.distances[index])
        unsure = unlike = False
        if self.uncertainty is not None:
            unsure = bool(probabilities.max() < self.uncertainty.unsure_below)
            unlike = distance > self.uncertainty.unlike_above
            probabilities = self.uncertainty.raw(probabilities) if raw else probabilities
        order = np.argsort(-probabilities, kind="stable")[:top].tolist()
        ranked = tuple((self.class_names[i], float(probabilities[i])) for i in order)
        return Prediction(
            path,
            *ranked[0],
            ranked,
            **{"unsure": unsure, "unlike": unlike, "class_index": order[0], "index": index},
            top_indices=tuple(order),
        )
