"""Uncertainty of predictions: calibration, low confidence, out-of-distribution pictures."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efftune.errors import DataError
from efftune.system import files

Kind = Literal["neighbours", "mahalanobis"]
Array = NDArray[np.float32]

REFERENCES = 1000  # training pictures that distances are measured to, at most
_NEIGHBOUR = 5  # the fifth nearest, so that a single odd training picture does not count
_BLOCK = 1024  # rows compared at a time
_PRIOR = 0.5  # of a temperature's logarithm: 95 % of temperatures between 0.37 and 2.7


@dataclass(frozen=True)
class OutOfDistributionDetector:
    """Measures how far pictures are from the training pictures, in feature space.

    `neighbours`: features are scaled to length 1; the distance is that to the k-th nearest training
    picture. Source: Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors" (2022),
    https://arxiv.org/abs/2204.06507.

    `mahalanobis`: features are whitened by the covariance within classes; the distance is that to
    the nearest class mean. Source: Lee et al., "A Simple Unified Framework for Detecting
    Out-of-Distribution Samples and Adversarial Attacks" (2018), https://arxiv.org/abs/1807.03888.

    Attributes:
        kind: which of the two.
        references: training pictures, or class means, float16 or float32 (references, dimensions).
        whitening: float32 (features, dimensions) for `mahalanobis`, else empty.
    """

    kind: Kind
    references: NDArray[np.floating]
    whitening: Array

    def distances(self, features: Array) -> Array:
        """Distances of pictures.

        Args:
            features: float32, shape (pictures, features).

        Returns:
            float32, shape (pictures,); 0 or more.
        """
        nearest = min(_NEIGHBOUR if self.kind == "neighbours" else 1, len(self.references)) - 1
        references, lengths = self._prepared
        distances = np.empty(len(features), np.float32)
        for start in range(0, len(features), _BLOCK):
            block = slice(start, start + _BLOCK)
            rows = self._embedded(features[block])
            squares = (rows**2).sum(axis=1)[:, None] - 2 * rows @ references.T + lengths
            distances[block] = np.partition(squares, nearest, axis=1)[:, nearest]
        return np.asarray(np.sqrt(distances.clip(0)))

    @cached_property
    def _prepared(self) -> tuple[Array, Array]:
        """The references and their squared lengths: pictures may come one at a time."""
        references = self.references.astype(np.float32)
        return references, (references**2).sum(axis=1)

    def _embedded(self, features: Array) -> Array:
        if self.kind == "mahalanobis":
            return np.asarray(features @ self.whitening)
        return _unit(features)


def fit_detector(
    features: Array, labels: NDArray[np.int64], kind: Kind = "neighbours"
) -> OutOfDistributionDetector:
    """Fit a detector to the features of training pictures.

    Args:
        features: of training pictures, float32 (pictures, features); `REFERENCES` are enough.
        labels: their class numbers.
        kind: how distances are measured; see `OutOfDistributionDetector`.
    """
    if kind == "neighbours":
        return OutOfDistributionDetector(
            kind, _unit(features).astype(np.float16), np.zeros((0, 0), np.float32)
        )
    from sklearn.covariance import ledoit_wolf

    numbers = np.unique(labels)
    means = np.stack([features[labels == number].mean(axis=0) for number in numbers])
    within = features - means[np.searchsorted(numbers, labels)]
    covariance, _ = ledoit_wolf(within.astype(np.float64), assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    whitening = (vectors / np.sqrt(values.clip(1e-12))).astype(np.float32)
    return OutOfDistributionDetector(kind, (means @ whitening).astype(np.float32), whitening)


def _unit(rows: Array) -> Array:
    lengths = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return np.asarray(rows / lengths.clip(1e-12))


@dataclass(frozen=True)
class Uncertainty:
    """Temperature and thresholds: when a prediction is not to be relied on.

    Attributes:
        temperature: by which the logits were divided to calibrate the probabilities; above 0.
        unsure_below: the confidence below which a prediction is flagged unsure, 0 to 1, or above 1
            if all are.
        unlike_above: the distance above which a picture is flagged as unlike the training pictures
            (out-of-distribution).
        detector: tells distances; None where nothing is known of the training pictures' features.
    """

    temperature: float
    unsure_below: float
    unlike_above: float = np.inf
    detector: OutOfDistributionDetector | None = None

    def raw(self, probabilities: Array) -> Array:
        """The probabilities as they were before calibration, of calibrated ones (rows, classes)."""
        logits = self.temperature * np.log(probabilities.clip(np.finfo(np.float32).tiny))
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)

    def write(self, path: Path) -> None:
        """Write them to a file; `read` gives them back."""
        values = {
            "numbers": np.array([self.temperature, self.unsure_below, self.unlike_above]),
            "kind": np.array("" if self.detector is None else self.detector.kind),
        }
        if self.detector is not None:
            values["references"] = self.detector.references
            values["whitening"] = self.detector.whitening
        with files.written_whole(path) as partial, partial.open("wb") as stream:
            np.savez(stream, **values)  # type: ignore[arg-type]  # NumPy's types want one keyword

    @classmethod
    def read(cls, path: Path) -> "Uncertainty":
        """Read what `write` has written; nothing in the file is executed.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as values:
                temperature, unsure, unlike = map(float, values["numbers"])
                kind = str(values["kind"])
                detector = None
                if kind in ("neighbours", "mahalanobis"):
                    detector = OutOfDistributionDetector(
                        kind,  # type: ignore[arg-type]
                        values["references"],
                        values["whitening"],
                    )
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged: {error}. Restore it, or train again.") from None
        return cls(temperature, unsure, unlike, detector)


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The temperature that calibrates the probabilities.

    It minimises the cross-entropy, regularised by a normal prior on its logarithm: with a handful
    of pictures, all correct, every prediction would otherwise become certain.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017),
    https://arxiv.org/abs/1706.04599; the prior is ours.

    Args:
        logits: shape (pictures, classes).
        labels: class numbers, shape (pictures,).

    Returns:
        A number from 1/20 to 20.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits = logits.astype(np.float64)
    rows = np.arange(len(labels))

    def cost(power: float) -> float:
        likelihoods = log_softmax(logits * np.exp(-power), axis=1)[rows, labels]
        return float(-likelihoods.sum() + 0.5 * (power / _PRIOR) ** 2)

    furthest = float(np.log(20))
    result = minimize_scalar(cost, bounds=(-furthest, furthest), method="bounded")
    return float(np.exp(result.x))


def confidence_threshold(
    confidences: NDArray[np.floating], correct: Sequence[bool] | NDArray[np.bool_], max_error: float
) -> float:
    """The lowest confidence at which at most a share of the predictions is wrong.

    Args:
        confidences: of the likeliest class, shape (pictures,).
        correct: whether it is the true class.
        max_error: the share, 0 to 1.

    Returns:
        A number just below the lowest such confidence: 0 if all predictions qualify, above 1 if
        none does.
    """
    order = np.argsort(-confidences, kind="stable")
    ranked = confidences[order].astype(np.float64)
    wrong = np.cumsum(~np.asarray(correct, bool)[order])
    # Equal confidences are given together or not at all.
    ends = np.append(ranked[1:] < ranked[:-1], True)
    qualifying = np.flatnonzero(ends & (wrong <= max_error * np.arange(1, len(ranked) + 1)))
    if not len(qualifying):
        return float(np.nextafter(1.0, 2.0))
    last = int(qualifying[-1])
    return 0.0 if last == len(ranked) - 1 else float((ranked[last] + ranked[last + 1]) / 2)
