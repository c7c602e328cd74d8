"""Probabilities and labels in, an evaluation out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Split
from efftune.evaluation.calibration import (
    Calibration,
    OutOfDistribution,
    SelectivePrediction,
    expected_calibration_error,
    reliability,
)
from efftune.evaluation.learning_curve import LearningCurve

_PAIRS = 10  # of confused classes, at most


@dataclass(frozen=True)
class ClassScore:
    """How one class fared.

    Attributes:
        name: the class.
        precision: share of the answers "this class" that are right, 0 to 1; 0 if never answered.
        recall: share of the class's pictures that are recognised, 0 to 1; 0 without pictures.
        f1: harmonic mean of precision and recall.
        support: pictures of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ConfusedPair:
    """A class that is taken for another.

    Attributes:
        label: the true class.
        answer: the one that was answered.
        pictures: how often.
    """

    label: str
    answer: str
    pictures: int


@dataclass(frozen=True)
class SplitEvaluation:
    """How a classifier fared on one split.

    Attributes:
        pictures: how many it was judged on.
        accuracy: share of right answers, 0 to 1.
        low: lower end of the accuracy's 95 % interval (Wilson).
        high: upper end of it.
        top5: share of pictures whose class is among the five likeliest; 1 with five classes or
            fewer.
        loss: mean cross-entropy, in nats.
        macro_f1: mean F1 of the classes that the split has pictures of.
        ece: the expected calibration error, 0 to 1; see `calibration.expected_calibration_error`.
        commonest: the class with the most pictures.
        commonest_share: its share of them: the accuracy of always answering it.
        per_class: one score per class, in the order of the class numbers.
        confusion: pictures by true class (row) and answer (column).
        confused: the pairs of classes most often confused, at most ten, most often first.
    """

    pictures: int
    accuracy: float
    low: float
    high: float
    top5: float
    loss: float
    macro_f1: float
    ece: float
    commonest: str
    commonest_share: float
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    confused: tuple[ConfusedPair, ...]

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as plain JSON values; `from_dict` gives it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SplitEvaluation":
        """Read what `to_dict` gave."""
        scores = tuple(ClassScore(**score) for score in values["per_class"])
        confusion = tuple(tuple(row) for row in values["confusion"])
        confused = tuple(ConfusedPair(**pair) for pair in values["confused"])
        read = {"per_class": scores, "confusion": confusion, "confused": confused}
        return cls(**{**values, **read})


@dataclass(frozen=True)
class Evaluation:
    """How a classifier fared on the pictures it was not trained on.

    Attributes:
        val: on the validation split.
        test: on the test split, which chose nothing.
        val_without_leaks: on what of it has no copy in a split before; None where all is so, or
            nothing.
        test_without_leaks: likewise.
        calibration: how far probabilities can be taken at their word.
        unsure: which answers are not given when few may be wrong.
        unlike: which pictures are unlike the training pictures; None if their features are unknown.
        learning_curve: whether more pictures would help; likewise.
    """

    val: SplitEvaluation
    test: SplitEvaluation
    val_without_leaks: SplitEvaluation | None = None
    test_without_leaks: SplitEvaluation | None = None
    calibration: Calibration | None = None
    unsure: SelectivePrediction | None = None
    unlike: OutOfDistribution | None = None
    learning_curve: LearningCurve | None = None

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as plain JSON values; `from_dict` gives it back."""
        return {name: part for name, part in asdict(self).items() if part is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Evaluation":
        """Read what `to_dict` gave."""
        return cls(**{name: _PARTS[name].from_dict(part) for name, part in values.items()})


_PARTS: dict[str, Any] = {
    **dict.fromkeys(("val", "test", "val_without_leaks", "test_without_leaks"), SplitEvaluation),
    "calibration": Calibration,
    "unsure": SelectivePrediction,
    "unlike": OutOfDistribution,
    "learning_curve": LearningCurve,
}


def evaluate(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    class_names: Sequence[str],
) -> SplitEvaluation:
    """Judge probabilities against the true classes.

    Args:
        probabilities: shape (pictures, classes), each row summing to 1; at least one row.
        labels: class numbers, shape (pictures,).
        class_names: names in the order of the class numbers.

    Returns:
        The evaluation of these pictures.
    """
    from sklearn import metrics

    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    numbers = np.arange(len(class_names))
    answers = probabilities.argmax(axis=1)
    right = int((answers == labels).sum())
    low, high = wilson(right, len(labels))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, answers, labels=numbers, zero_division=0
    )
    per_class = [
        ClassScore(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, name in enumerate(class_names)
    ]
    confusion = metrics.confusion_matrix(labels, answers, labels=numbers)
    commonest = int(np.bincount(labels, minlength=len(class_names)).argmax())
    return SplitEvaluation(
        pictures=len(labels),
        accuracy=right / len(labels),
        low=low,
        high=high,
        top5=_top5(probabilities, labels),
        loss=float(metrics.log_loss(labels, probabilities, labels=numbers)),
        macro_f1=float(np.mean([score.f1 for score in per_class if score.support])),
        ece=expected_calibration_error(reliability(probabilities, labels)),
        commonest=class_names[commonest],
        commonest_share=float((labels == commonest).mean()),
        per_class=tuple(per_class),
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        confused=_confused(confusion, class_names),
    )


def evaluate_all(
    judged: Mapping[
        Split, tuple[NDArray[np.floating[Any]], NDArray[np.integer[Any]], Sequence[bool]]
    ],
    class_names: Sequence[str],
) -> Evaluation:
    """Judge validation and test, with and without leaks.

    Args:
        judged: by split: probabilities and labels, as for `evaluate`; and whether a picture has no
            copy in a split before.
        class_names: names in the order of the class numbers.
    """
    scores: dict[str, Any] = {}
    for split, (probabilities, labels, clean) in judged.items():
        scores[split] = evaluate(probabilities, labels, class_names)
        if any(clean) and not all(clean):
            chosen = np.asarray(clean)
            scores[f"{split}_without_leaks"] = evaluate(
                probabilities[chosen], labels[chosen], class_names
            )
    return Evaluation(**scores)


def wilson(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22 (1927).

    Args:
        right: successes, 0 to `total`.
        total: trials, at least 1.
        confidence: of the interval, between 0 and 1.

    Returns:
        Lower and upper end, within 0 to 1.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / total
    centre = share + z * z / (2 * total)
    reach = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def _confused(
    confusion: NDArray[np.integer[Any]], class_names: Sequence[str]
) -> tuple[ConfusedPair, ...]:
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    places = [divmod(int(each), len(confusion)) for each in order]
    return tuple(
        ConfusedPair(class_names[row], class_names[column], int(wrong[row, column]))
        for row, column in places
        if wrong[row, column]
    )


def _top5(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> float:
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return float((likeliest == labels[:, None]).any(axis=1).mean())
