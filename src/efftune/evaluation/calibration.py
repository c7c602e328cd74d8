"""Whether probabilities are as right as they say, and what is left without unsure answers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Split

BINS = 15  # as usual; see Guo et al. (2017)


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence.

    Attributes:
        low: end of the bin, 0 to 1.
        high: the other end.
        pictures: how many answers are in it, 1 or more.
        confidence: their mean confidence.
        accuracy: the share of them that is right.
    """

    low: float
    high: float
    pictures: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How probabilities were calibrated, and what that did.

    Attributes:
        temperature: fitted on validation.
        ece: the expected calibration error by split, `before` and `after`, 0 to 1.
        bins: of the test split, `before` and `after`, for a reliability diagram.
    """

    temperature: float
    ece: Mapping[str, Mapping[str, float]]
    bins: Mapping[str, tuple[Bin, ...]]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """Read what `dataclasses.asdict` gave."""
        bins = {
            when: tuple(Bin(**each) for each in found) for when, found in values["bins"].items()
        }
        return cls(values["temperature"], values["ece"], bins)


@dataclass(frozen=True)
class SelectiveAccuracy:
    """What is left of a split's answers when the unsure ones are not given.

    Attributes:
        pictures: of the split.
        answered: answers that are given.
        wrong: those of them that are wrong.
    """

    pictures: int
    answered: int
    wrong: int

    @property
    def coverage(self) -> float:
        """Share of the pictures that get an answer, 0 to 1."""
        return self.answered / self.pictures

    @property
    def error(self) -> float:
        """Share of the answers given that is wrong, 0 to 1; 0 without any."""
        return self.wrong / max(self.answered, 1)


@dataclass(frozen=True)
class SelectivePrediction:
    """When an answer is unsure.

    Attributes:
        max_error: the share of the answers given that may be wrong, as asked for.
        threshold: the confidence below which an answer is unsure, chosen on validation.
        val: what that leaves on validation.
        test: and on test.
    """

    max_error: float
    threshold: float
    val: SelectiveAccuracy
    test: SelectiveAccuracy

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SelectivePrediction":
        """Read what `dataclasses.asdict` gave."""
        parts = {split: SelectiveAccuracy(**values[split]) for split in ("val", "test")}
        return cls(values["max_error"], values["threshold"], **parts)


@dataclass(frozen=True)
class FlaggedCount:
    """How many pictures are unlike the training pictures.

    Attributes:
        pictures: of the split.
        flagged: those that are.
    """

    pictures: int
    flagged: int


@dataclass(frozen=True)
class OutOfDistribution:
    """When a picture is unlike the training pictures.

    Attributes:
        threshold: the distance above which it is, chosen on validation.
        val: how many of validation are.
        test: and of test.
    """

    threshold: float
    val: FlaggedCount
    test: FlaggedCount

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OutOfDistribution":
        """Read what `dataclasses.asdict` gave."""
        parts = {split: FlaggedCount(**values[split]) for split in ("val", "test")}
        return cls(values["threshold"], **parts)


def reliability(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], bins: int = BINS
) -> tuple[Bin, ...]:
    """Answers in bins of equal width by their confidence; empty bins are left out.

    Args:
        probabilities: shape (pictures, classes), rows summing to 1.
        labels: class numbers, shape (pictures,).
        bins: how many.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    # A bin holds its upper end, so that certainty is in the last one.
    places = (np.ceil(confidences * bins).astype(int) - 1).clip(0, bins - 1)
    found = []
    for number in np.unique(places):
        inside = places == number
        found.append(
            Bin(
                number / bins,
                (number + 1) / bins,
                int(inside.sum()),
                float(confidences[inside].mean()),
                float(right[inside].mean()),
            )
        )
    return tuple(found)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """The expected calibration error (ECE), 0 to 1: mean distance of confidence and accuracy.

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
    """Judge a temperature.

    Args:
        temperature: that was fitted on validation.
        raw: probabilities by split before it was applied.
        calibrated: and after.
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
        split: {when: expected_calibration_error(found) for when, found in both.items()}
        for split, both in bins.items()
    }
    return Calibration(temperature, ece, bins["test"])


def answered(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], threshold: float
) -> SelectiveAccuracy:
    """What is left of the answers at a threshold; see `reliability` for the arguments."""
    given = probabilities.max(axis=1) >= threshold
    wrong = given & (probabilities.argmax(axis=1) != labels)
    return SelectiveAccuracy(len(labels), int(given.sum()), int(wrong.sum()))


def to_dict(part: Calibration | SelectivePrediction | OutOfDistribution) -> dict[str, Any]:
    """A part of an evaluation as plain JSON values; its `from_dict` gives it back."""
    return asdict(part)
