"""Calibration of probabilities, and selective prediction (leaving out unsure predictions)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Split

BINS = 15  # as in Guo et al. (2017)


@dataclass(frozen=True)
class Bin:
    """A bin of predictions with similar confidence.

    Attributes:
        low: lower end of the bin, 0 to 1.
        high: upper end of the bin, 0 to 1.
        pictures: number of predictions in it, 1 or more.
        confidence: their mean confidence.
        accuracy: the share of correct predictions.
    """

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Temperature scaling and its effect.

    Attributes:
        temperature: fitted on validation.
        ece: expected calibration error by split, `before` and `after` scaling, 0 to 1.
        bins: of the test split, `before` and `after`, for a reliability diagram.
    """

    temperature: float
    ece: Mapping[str, Mapping[str, float]]
    bins: Mapping[str, tuple[Bin, ...]]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """Rebuild the object from `dataclasses.asdict`."""
        bins = {when: tuple(Bin(**each) for each in part) for when, part in values["bins"].items()}
        return cls(values["temperature"], values["ece"], bins)


@dataclass(frozen=True)
class SelectiveAccuracy:
    """The predictions of a split that remain when unsure ones are left out.

    Attributes:
        pictures: number of pictures in the split.
        answered: number of remaining predictions.
        wrong: number of remaining predictions that are wrong.
    """

    pictures: int
    answered: int
    wrong: int

    @property
    def coverage(self) -> float:
        """Share of the pictures whose prediction remains, 0 to 1."""
        return self.answered / self.pictures

    @property
    def error(self) -> float:
        """Share of the remaining predictions that is wrong, 0 to 1; 0 if none remain."""
        return self.wrong / max(self.answered, 1)


@dataclass(frozen=True)
class SelectivePrediction:
    """The confidence threshold for unsure predictions, and its effect.

    Attributes:
        max_error: requested upper limit of the share of wrong predictions.
        threshold: confidence below which a prediction is unsure, chosen on validation.
        val: the effect on validation.
        test: the effect on test.
    """

    max_error: float
    threshold: float
    val: SelectiveAccuracy
    test: SelectiveAccuracy

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SelectivePrediction":
        """Rebuild the object from `dataclasses.asdict`."""
        parts = {split: SelectiveAccuracy(**values[split]) for split in ("val", "test")}
        return cls(values["max_error"], values["threshold"], **parts)


@dataclass(frozen=True)
class FlaggedCount:
    """How many pictures of a split are flagged as unlike the training pictures.

    Attributes:
        pictures: number of pictures in the split.
        flagged: number of flagged pictures.
    """

    pictures: int
    flagged: int


@dataclass(frozen=True)
class OutOfDistribution:
    """Detection of pictures that are unlike the training pictures.

    Attributes:
        threshold: distance above which a picture is flagged, chosen on validation.
        val: flagged pictures of validation.
        test: flagged pictures of test.
    """

    threshold: float
    val: FlaggedCount
    test: FlaggedCount

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OutOfDistribution":
        """Rebuild the object from `dataclasses.asdict`."""
        parts = {split: FlaggedCount(**values[split]) for split in ("val", "test")}
        return cls(values["threshold"], **parts)


def reliability(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], bins: int = BINS
) -> tuple[Bin, ...]:
    """Group predictions into confidence bins of equal width; empty bins are left out.

    Args:
        probabilities: shape (pictures, classes), rows summing to 1.
        labels: class numbers, shape (pictures,).
        bins: number of bins.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    # A bin includes its upper end, so that a confidence of 1 falls into the last bin.
    indices = (np.ceil(confidences * bins).astype(int) - 1).clip(0, bins - 1)
    result = []
    for number in np.unique(indices):
        inside = indices == number
        result.append(
            Bin(
                number / bins,
                (number + 1) / bins,
                int(inside.sum()),
                float(confidences[inside].mean()),
                float(correct[inside].mean()),
            )
        )
    return tuple(result)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """The expected calibration error (ECE), 0 to 1.

    It is the mean absolute difference of confidence and accuracy, weighted by bin size.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017),
    https://arxiv.org/abs/1706.04599.
    """
    total = sum(each.pictures for each in bins)
    return sum(each.pictures * abs(each.confidence - each.accuracy) for each in bins) / total


def calibration(
    temperature: float,
    raw: Mapping[Split, NDArray[np.floating]],
    calibrated: Mapping[Split, NDArray[np.floating]],
    labels: Mapping[Split, NDArray[np.integer]],
) -> Calibration:
    """Measure the effect of temperature scaling.

    Args:
        temperature: fitted on validation.
        raw: probabilities by split, before scaling.
        calibrated: probabilities by split, after scaling.
        labels: class numbers by split.
    """
    bins = {
        split: {
            "before": reliability(raw[split], labels[split]),
            "after": reliability(calibrated[split], labels[split]),
        }
        for split in labels
    }
    ece: dict[str, dict[str, float]] = {
        split: {when: expected_calibration_error(part) for when, part in parts.items()}
        for split, parts in bins.items()
    }
    return Calibration(temperature, ece, bins["test"])


def answered(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], unsure: NDArray[np.bool_]
) -> SelectiveAccuracy:
    """Count the predictions that remain without unsure ones.

    Args:
        probabilities: shape (pictures, classes), rows summing to 1.
        labels: class numbers, shape (pictures,).
        unsure: whether each prediction is left out, bool (pictures,).
    """
    remaining = ~unsure
    wrong = remaining & (probabilities.argmax(axis=1) != labels)
    return SelectiveAccuracy(len(labels), int(remaining.sum()), int(wrong.sum()))


def to_dict(part: Calibration | SelectivePrediction | OutOfDistribution) -> dict[str, Any]:
    """A part of an evaluation as JSON values; the inverse of its `from_dict`."""
    return asdict(part)
