"""Uncertainty of predictions: calibration, low confidence and out-of-distribution pictures."""

import tokenize
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

REFERENCES = 1000  # maximum number of training pictures that distances are measured to
_NEIGHBOUR = 5  # the fifth nearest neighbour, for robustness to single odd training pictures
_BLOCK_ROWS = 1024  # compared at a time
_PRIOR_DEVIATION = 0.5  # of the temperature's logarithm: 95 % between 0.37 and 2.7


@dataclass(frozen=True)
class OutOfDistributionDetector:
    """Measures the distance of pictures from the training pictures, in feature space.

    `neighbours`: features are scaled to norm 1; the distance is that to the k-th nearest training
    picture. Source: Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors" (2022),
    https://arxiv.org/abs/2204.06507.

    `mahalanobis`: features are whitened by the within-class covariance; the distance is that to the
    nearest class mean. Source: Lee et al., "A Simple Unified Framework for Detecting
    Out-of-Distribution Samples and Adversarial Attacks" (2018), https://arxiv.org/abs/1807.03888.

    Attributes:
        kind: the distance measure.
        references: embedded training pictures or class means, float16 or float32 (references,
            dimensions).
        whitening: float32 (features, dimensions) for `mahalanobis`, otherwise empty.
    """

    kind: Kind
    references: NDArray[np.floating]
    whitening: Array

    @property
    def least_features(self) -> int:
        """How many features a picture needs to have."""
        of_whitening = self.kind == "mahalanobis"
        return len(self.whitening) if of_whitening else self.references.shape[1]

    def require_whole(self) -> None:
        """Check the arrays.

        Raises:
            ValueError: they are of another shape or type, or not finite.
        """
        for each in (self.references, self.whitening):
            if each.ndim != 2 or each.dtype.kind != "f" or not np.isfinite(each).all():
                raise ValueError("an array in it is not of finite numbers")
        if not self.references.size or (
            self.kind == "mahalanobis" and self.whitening.shape[1] != self.references.shape[1]
        ):
            raise ValueError("its arrays do not belong together")

    def distances(self, features: Array) -> Array:
        """Distances of pictures from the training pictures.

        Args:
            features: float32, shape (pictures, features); if there are more than the detector was
                fitted on, the last ones count.

        Returns:
            float32, shape (pictures,); 0 or more.
        """
        nearest = min(_NEIGHBOUR if self.kind == "neighbours" else 1, len(self.references)) - 1
        references, squared_norms = self._prepared_references
        distances = np.empty(len(features), np.float32)
        for start in range(0, len(features), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            rows = self.embed(features[block])
            if len(rows) == 1:  # BLAS would wait for threads, which costs more than it saves
                products = np.einsum("ij,j->i", references, rows[0])[None]
            else:
                products = rows @ references.T
            squared = (rows**2).sum(axis=1)[:, None] - 2 * products + squared_norms
            distances[block] = np.partition(squared, nearest, axis=1)[:, nearest]
        return np.asarray(np.sqrt(distances.clip(0)))

    @cached_property
    def _prepared_references(self) -> tuple[Array, Array]:
        """The references in float32 and their squared norms, computed once for many calls."""
        references = self.references.astype(np.float32)
        return references, (references**2).sum(axis=1)

    def embed(self, features: Array) -> Array:
        """Pictures where distances between them are measured, float32 (pictures, dimensions).

        Args:
            features: as for `distances`.
        """
        if self.kind == "mahalanobis":
            return np.asarray(features[:, -len(self.whitening) :] @ self.whitening)
        return _normalized(features[:, -self.references.shape[1] :])


def fit_detector(
    features: Array, labels: NDArray[np.int64], kind: Kind = "neighbours"
) -> OutOfDistributionDetector:
    """Fit a detector to the features of training pictures.

    Args:
        features: of training pictures, float32 (pictures, features); `REFERENCES` pictures are
            enough.
        labels: their class numbers, int64 (pictures,).
        kind: the distance measure; see `OutOfDistributionDetector`.
    """
    if kind == "neighbours":
        return OutOfDistributionDetector(
            kind, _normalized(features).astype(np.float16), np.zeros((0, 0), np.float32)
        )
    from sklearn.covariance import ledoit_wolf

    classes = np.unique(labels)
    means = np.stack([features[labels == number].mean(axis=0) for number in classes])
    centred = features - means[np.searchsorted(classes, labels)]
    covariance, _ = ledoit_wolf(centred.astype(np.float64), assume_centered=True)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    whitening = (eigenvectors / np.sqrt(eigenvalues.clip(1e-12))).astype(np.float32)
    return OutOfDistributionDetector(kind, (means @ whitening).astype(np.float32), whitening)


def _normalized(rows: Array) -> Array:
    """Rows scaled to norm 1."""
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return np.asarray(rows / norms.clip(1e-12))


@dataclass(frozen=True)
class Uncertainty:
    """Temperature and thresholds: when a prediction should not be relied on.

    Attributes:
        temperature: divisor of the logits that calibrates the probabilities; above 0.
        unsure_below: predictions with a lower confidence are flagged unsure; 0 to 1, or above 1
            to flag all.
        unlike_above: pictures at a larger distance are flagged as unlike the training pictures
            (out-of-distribution).
        detector: measures the distances; None if there are no features of training pictures.
    """

    temperature: float
    unsure_below: float
    unlike_above: float = np.inf
    detector: OutOfDistributionDetector | None = None

    def raw(self, probabilities: Array) -> Array:
        """Uncalibrated probabilities, computed from calibrated ones, shape (rows, classes)."""
        logits = self.temperature * np.log(probabilities.clip(np.finfo(np.float32).tiny))
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), np.float32)

    def write(self, path: Path) -> None:
        """Write the values to a file for `read`."""
        values = {
            "numbers": np.array([self.temperature, self.unsure_below, self.unlike_above]),
            "kind": np.array("" if self.detector is None else self.detector.kind),
        }
        if self.detector is not None:
            values["references"] = self.detector.references
            values["whitening"] = self.detector.whitening
        with files.written_whole(path) as partial, partial.open("wb") as stream:
            np.savez(stream, **values)  # type: ignore[arg-type]  # NumPy's stub expects allow_pickle

    @classmethod
    def read(cls, path: Path) -> "Uncertainty":
        """Read a file written by `write`; nothing in the file is executed.

        Raises:
            DataError: the file is missing or damaged.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                    raise ValueError("it is compressed")
            with np.load(path, allow_pickle=False) as values:
                temperature, unsure, unlike = map(float, values["numbers"])
                kind = str(values["kind"])
                if not 0 < temperature < np.inf or np.isnan([unsure, unlike]).any():
                    raise ValueError("a number in it is out of its range")
                detector = None
                if kind in ("neighbours", "mahalanobis"):
                    detector = OutOfDistributionDetector(
                        kind,  # type: ignore[arg-type]
                        values["references"],
                        values["whitening"],
                    )
                    detector.require_whole()
        except (
            *(OSError, EOFError, ValueError, KeyError, TypeError, MemoryError),
            *(zipfile.BadZipFile, NotImplementedError, SyntaxError, tokenize.TokenError),
        ) as error:
            raise DataError(f"{path} is damaged: {error}. Restore it, or train again.") from None
        return cls(temperature, unsure, unlike, detector)


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Temperature scaling: fit the temperature that calibrates the probabilities.

    It minimises the cross-entropy with a normal prior on the logarithm of the temperature. Without
    the prior, a handful of correct predictions would all become certain.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017),
    https://arxiv.org/abs/1706.04599; the prior is ours.

    Args:
        logits: shape (pictures, classes).
        labels: class numbers, shape (pictures,).

    Returns:
        The temperature, 1/20 to 20.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits = logits.astype(np.float64)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        log_likelihoods = log_softmax(logits * np.exp(-log_temperature), axis=1)[rows, labels]
        return float(-log_likelihoods.sum() + 0.5 * (log_temperature / _PRIOR_DEVIATION) ** 2)

    limit = float(np.log(20))
    result = minimize_scalar(loss, bounds=(-limit, limit), method="bounded")
    return float(np.exp(result.x))


def confidence_threshold(
    confidences: NDArray[np.floating], correct: Sequence[bool] | NDArray[np.bool_], max_error: float
) -> float:
    """The confidence threshold above which at most a given share of the predictions is wrong.

    Args:
        confidences: probability of the predicted class, shape (pictures,).
        correct: whether each prediction is correct.
        max_error: the largest share of errors, 0 to 1.

    Returns:
        The lowest such threshold, halfway between two confidences: 0 if all predictions qualify,
        above 1 if none does.
    """
    order = np.argsort(-confidences, kind="stable")
    ranked = confidences[order].astype(np.float64)
    wrong = np.cumsum(~np.asarray(correct, bool)[order])
    # A threshold cannot separate equal confidences.
    ends = np.append(ranked[1:] < ranked[:-1], True)
    qualifying = np.flatnonzero(ends & (wrong <= max_error * np.arange(1, len(ranked) + 1)))
    if not len(qualifying):
        return float(np.nextafter(np.float32(1), np.float32(2)))  # above 1 in that type, too
    last = int(qualifying[-1])
    return 0.0 if last == len(ranked) - 1 else float((ranked[last] + ranked[last + 1]) / 2)
