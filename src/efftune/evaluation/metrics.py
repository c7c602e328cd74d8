"""Classification metrics from probabilities and labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
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
from efftune.evaluation.out_of_fold import CrossValidation
from efftune.system import text

_MAX_PAIRS = 10  # of confused classes
_MAX_SHOWN = 20  # classes in a notebook

# In cross-validation, the error of the estimate is larger than that of as many independent trials:
# the folds share training pictures, and the classifier is another one than those judged. Source:
# Bates et al., "Cross-validation: what does it estimate and how well does it do it?" (2021),
# https://arxiv.org/abs/2104.00673. The factor of the standard error is measured; see the results.
CROSS_VALIDATION_SPREAD = 1.2


@dataclass(frozen=True)
class ClassScore:
    """Metrics of one class.

    Attributes:
        name: the class.
        precision: share of predictions of this class that are correct, 0 to 1; 0 if there are none.
        recall: share of the class's pictures predicted correctly, 0 to 1; 0 without pictures.
        f1: harmonic mean of precision and recall.
        support: number of pictures of the class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ConfusedPair:
    """A class that is confused with another.

    Attributes:
        label: the true class.
        answer: the predicted class.
        pictures: how often.
    """

    label: str
    answer: str
    pictures: int


@dataclass(frozen=True, repr=False)
class SplitEvaluation:
    """Metrics of a classifier on one split.

    Attributes:
        pictures: number of pictures evaluated.
        accuracy: share of correct predictions, 0 to 1.
        low: lower end of the accuracy's 95 % interval (Wilson; in cross-validation, a wider one).
        high: upper end of it; in cross-validation, with the gain that the learning curve expects,
            because the classifier is trained on more pictures than those that are judged.
        top5: top-5 accuracy, 0 to 1; 1 with five classes or fewer.
        loss: mean cross-entropy, in nats.
        macro_f1: mean F1 of the classes that occur in the split.
        ece: the expected calibration error, 0 to 1; see `calibration.expected_calibration_error`.
        commonest: the class with the most pictures.
        commonest_share: its share of the pictures: the accuracy of always predicting it.
        per_class: one score per class, in the order of the class numbers.
        confusion: number of pictures by true class (row) and predicted class (column).
        confused: the most frequent confusions, at most ten, in descending order.
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

    def __repr__(self) -> str:
        """The accuracy, with its interval."""
        ends = f"{self.low:.3f} to {self.high:.3f}"
        return f"SplitEvaluation(accuracy={self.accuracy:.3f} ({ends}), pictures={self.pictures})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the accuracy, and the classes, weakest first."""
        line = Markup("<div><b>{}</b> of {}, 95 % interval {}</div>").format(
            text.percent(self.accuracy),
            text.counted(self.pictures, "picture"),
            text.interval(self.low, self.high),
        )
        return str(line + self.class_table)

    @property
    def class_table(self) -> Markup:
        """The classes as HTML, those with the lowest F1 first and those without pictures last."""
        ranked = sorted(self.per_class, key=lambda each: (not each.support, each.f1, each.name))
        rows = [
            (
                *(text.name(each.name), f"{each.support:,}"),
                *(text.bar(each.recall), text.bar(each.precision), f"{each.f1:.2f}"),
            )
            if each.support
            else (text.name(each.name), "0", "", "", "")
            for each in ranked[:_MAX_SHOWN]
        ]
        more = len(ranked) - len(rows)
        table = text.table(("class", "pictures", "recall", "precision", "F1"), rows)
        return table + (f"and {text.counted(more, 'class', 'classes')} more" if more else "")

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON values; the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SplitEvaluation":
        """Rebuild the evaluation from `to_dict`."""
        scores = tuple(ClassScore(**score) for score in values["per_class"])
        confusion = tuple(tuple(row) for row in values["confusion"])
        confused = tuple(ConfusedPair(**pair) for pair in values["confused"])
        nested = {"per_class": scores, "confusion": confusion, "confused": confused}
        return cls(**{**values, **nested})


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The evaluation of a classifier on validation and test.

    Attributes:
        val: metrics of the validation split; in cross-validation, the same as `test`.
        test: metrics of the test split, on which nothing was chosen; in cross-validation, of all
            pictures, each judged by networks that were trained and chosen without it.
        val_without_leaks: metrics of the validation pictures without copies in an earlier split;
            None if there are no leaks, or only leaks.
        test_without_leaks: the same for the test split.
        calibration: temperature scaling and calibration error.
        unsure: the confidence threshold and what remains above it.
        unlike: detection of pictures unlike the training pictures; None if not available.
        learning_curve: accuracy by number of training pictures; None if not available.
        cross_validation: how it was judged without validation and test pictures; None with them.
    """

    val: SplitEvaluation
    test: SplitEvaluation
    val_without_leaks: SplitEvaluation | None = None
    test_without_leaks: SplitEvaluation | None = None
    calibration: Calibration | None = None
    unsure: SelectivePrediction | None = None
    unlike: OutOfDistribution | None = None
    learning_curve: LearningCurve | None = None
    cross_validation: CrossValidation | None = None

    def __repr__(self) -> str:
        """The accuracies on validation and test, with and without leaks."""
        if self.cross_validation:
            return f"Evaluation(out_of_fold={self.test!r})"
        scores = {name: getattr(self, name) for name in _PARTS if name.startswith(("val", "test"))}
        return f"Evaluation({', '.join(f'{name}={each}' for name, each in scores.items() if each)})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the scores of all splits, and the classes of the test split."""
        scores = {
            **{"validation": self.val, "validation, without leaks": self.val_without_leaks},
            **{"test": self.test, "test, without leaks": self.test_without_leaks},
        }
        if self.cross_validation:
            scores = {"out of fold": self.test}
        rows = [
            (
                *(name, f"{score.pictures:,}", text.percent(score.accuracy)),
                *(text.interval(score.low, score.high), f"{score.macro_f1:.3f}"),
            )
            for name, score in scores.items()
            if score is not None
        ]
        headings = ("split", "pictures", "accuracy", "95 % interval", "macro-F1")
        return str(text.table(headings, rows) + self.test.class_table)

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON values; the inverse of `from_dict`."""
        return {name: part for name, part in asdict(self).items() if part is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Evaluation":
        """Rebuild the evaluation from `to_dict`."""
        return cls(**{name: _PARTS[name].from_dict(part) for name, part in values.items()})


_PARTS: dict[str, Any] = {
    **dict.fromkeys(("val", "test", "val_without_leaks", "test_without_leaks"), SplitEvaluation),
    "calibration": Calibration,
    "unsure": SelectivePrediction,
    "unlike": OutOfDistribution,
    "learning_curve": LearningCurve,
    "cross_validation": CrossValidation,
}


def evaluate(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    class_names: Sequence[str],
    *,
    out_of_fold: bool = False,
) -> SplitEvaluation:
    """Compute the metrics of probabilities against the true classes.

    Args:
        probabilities: shape (pictures, classes), each row summing to 1; at least one row.
        labels: class numbers, shape (pictures,).
        class_names: names in the order of the class numbers.
        out_of_fold: whether the probabilities come from a cross-validation, which makes the
            interval wider; see `CROSS_VALIDATION_SPREAD`.

    Returns:
        The evaluation of these pictures.
    """
    from sklearn import metrics

    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    numbers = np.arange(len(class_names))
    predicted = probabilities.argmax(axis=1)
    correct = int((predicted == labels).sum())
    low, high = accuracy_interval(correct, len(labels), out_of_fold=out_of_fold)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=0
    )
    per_class = [
        ClassScore(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, name in enumerate(class_names)
    ]
    confusion = metrics.confusion_matrix(labels, predicted, labels=numbers)
    commonest = int(np.bincount(labels, minlength=len(class_names)).argmax())
    return SplitEvaluation(
        pictures=len(labels),
        accuracy=correct / len(labels),
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
    splits: Mapping[
        Split, tuple[NDArray[np.floating[Any]], NDArray[np.integer[Any]], Sequence[bool]]
    ],
    class_names: Sequence[str],
) -> Evaluation:
    """Compute the metrics of validation and test, with and without leaks.

    Args:
        splits: for each split: probabilities and labels, as for `evaluate`, and for each picture
            whether it has no copy in an earlier split.
        class_names: names in the order of the class numbers.
    """
    scores: dict[str, Any] = {}
    for split, (probabilities, labels, clean) in splits.items():
        scores[split] = evaluate(probabilities, labels, class_names)
        if any(clean) and not all(clean):
            mask = np.asarray(clean)
            scores[f"{split}_without_leaks"] = evaluate(
                probabilities[mask], labels[mask], class_names
            )
    return Evaluation(**scores)


def accuracy_interval(correct: int, pictures: int, *, out_of_fold: bool) -> tuple[float, float]:
    """The 95 % interval of an accuracy.

    Args:
        correct: number of correct predictions.
        pictures: their total, at least 1.
        out_of_fold: whether the predictions are those of a cross-validation.
    """
    factor = CROSS_VALIDATION_SPREAD**2 if out_of_fold else 1.0
    return wilson(correct / factor, pictures / factor)


def wilson(successes: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    Journal of the American Statistical Association 22 (1927).

    Args:
        successes: 0 to `total`.
        total: number of trials, above 0; not whole if trials count as fewer independent ones.
        confidence: level of the interval, between 0 and 1.

    Returns:
        Lower and upper end, within 0 to 1.
    """
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    share, squared = successes / total, z * z
    centre = (share + squared / (2 * total)) / (1 + squared / total)
    half = z * math.sqrt(share * (1 - share) / total + squared / (4 * total**2))
    half /= 1 + squared / total
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _confused(
    confusion: NDArray[np.integer[Any]], class_names: Sequence[str]
) -> tuple[ConfusedPair, ...]:
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_PAIRS]
    cells = [divmod(int(each), len(confusion)) for each in order]
    return tuple(
        ConfusedPair(class_names[row], class_names[column], int(wrong[row, column]))
        for row, column in cells
        if wrong[row, column]
    )


def _top5(probabilities: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> float:
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    return float((top == labels[:, None]).any(axis=1).mean())
