"""Judging a classifier by cross-validation: each picture by networks that were trained without it.

Whatever is chosen (whether to fine-tune, the temperature, the thresholds) is chosen for the
pictures of a fold on those of the other folds, so that they are judged as new pictures would be.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.model import uncertainty as uncertainties
from efftune.training import validation

IN_DISTRIBUTION = 0.99  # quantile of the distances of held-out pictures that is in-distribution
_FEW = 20  # pictures; fewer cannot show that fine-tuning is worse

Matrix = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """What a classifier says of pictures that it was not trained on.

    Attributes:
        raw: probabilities before calibration, float32 (pictures, classes).
        probabilities: calibrated, float32 (pictures, classes).
        unsure: whether each prediction is unsure, bool (pictures,).
        unlike: whether each picture is unlike the training pictures, bool (pictures,).
    """

    raw: Matrix
    probabilities: Matrix
    unsure: Mask
    unlike: Mask


@dataclass(frozen=True)
class Candidate:
    """The outputs of networks trained alike, one without each fold, for the pictures of its fold.

    Attributes:
        stage: the last stage of their training.
        logits: float32 (pictures, classes).
        distances: from the training pictures, float32 (pictures,).
    """

    stage: str
    logits: Matrix
    distances: Matrix


@dataclass(frozen=True)
class CandidateScore:
    """How well a way of training did out of fold.

    Attributes:
        stage: the last stage of it.
        pictures: that it was judged by: all, unless it was given up early.
        accuracy: 0 to 1.
        loss: mean cross-entropy, in nats.
        calibrated_loss: the same at the best temperature.
    """

    stage: str
    pictures: int
    accuracy: float
    loss: float
    calibrated_loss: float


@dataclass(frozen=True)
class CrossValidation:
    """How a classifier was judged and chosen by cross-validation.

    Attributes:
        folds: number of folds.
        tried: what was tried, in order of training.
        chosen: the last stage that the classifier was trained with.
        failure: why fine-tuning failed; empty if it did not.
        alone: the score of the head alone on those pictures that fine-tuning was judged by, if it
            was given up early.
        unknown: number of pictures whose class their judges could not know; see `judgeable`.
    """

    folds: int
    tried: tuple[CandidateScore, ...]
    chosen: str
    failure: str = ""
    alone: CandidateScore | None = None
    unknown: int = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CrossValidation":
        """Rebuild the object from `dataclasses.asdict`."""
        tried = tuple(CandidateScore(**each) for each in values["tried"])
        alone = CandidateScore(**values["alone"]) if values.get("alone") else None
        unknown = values.get("unknown", 0)
        return cls(values["folds"], tried, values["chosen"], values["failure"], alone, unknown)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class OutOfFold:
    """The outcome of a cross-validation.

    Attributes:
        judged: all pictures, each by networks trained without its fold.
        folds: number of folds.
        chosen: number of the chosen candidate.
        temperature: for the classifier trained on all pictures.
        unsure_below: its threshold for the confidence.
        unlike_above: its threshold for the distance.
        tried: scores of what was tried, also of what was given up before all folds were tried.
        failure: why fine-tuning failed; empty if it did not.
        alone: as in `CrossValidation`.
        unknown: likewise.
    """

    judged: Judged
    folds: int
    chosen: int
    temperature: float
    unsure_below: float
    unlike_above: float
    tried: tuple[CandidateScore, ...] = ()
    failure: str = ""
    alone: CandidateScore | None = None
    unknown: int = 0

    @property
    def summary(self) -> CrossValidation:
        """What is told of it."""
        chosen = self.tried[self.chosen].stage
        return CrossValidation(
            self.folds, self.tried, chosen, self.failure, self.alone, self.unknown
        )


def judge(
    candidates: Sequence[Candidate],
    folds: NDArray[np.int64],
    labels: NDArray[np.int64],
    max_error: float,
) -> OutOfFold:
    """Choose one of several ways of training, and judge what it leads to.

    Args:
        candidates: in order of training, with outputs for all pictures.
        folds: fold numbers of the pictures, shape (pictures,).
        labels: their class numbers, shape (pictures,).
        max_error: the largest share of errors among predictions that are not unsure, 0 to 1.
    """
    raw, probabilities = np.empty_like(candidates[0].logits), np.empty_like(candidates[0].logits)
    unsure, unlike = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    known = judgeable(labels, folds)
    for fold in np.unique(folds):
        inside, others = folds == fold, (folds != fold) & known
        best = candidates[choose(candidates, labels, others)]
        temperature = uncertainties.fit_temperature(best.logits[others], labels[others])
        raw[inside] = _softmax(best.logits[inside])
        probabilities[inside] = _softmax(best.logits[inside] / temperature)
        seen = _softmax(best.logits[others] / temperature)
        threshold = _unsure_below(seen, labels[others], max_error)
        unsure[inside] = probabilities[inside].max(axis=1) < threshold
        unlike[inside] = best.distances[inside] > unlike_above(best.distances[others])
    chosen = choose(candidates, labels, known)
    return OutOfFold(
        Judged(raw, probabilities, unsure, unlike),
        len(np.unique(folds)),
        chosen,
        uncertainties.fit_temperature(candidates[chosen].logits[known], labels[known]),
        _unsure_below(probabilities[known], labels[known], max_error),
        unlike_above(candidates[chosen].distances),
        unknown=int((~known).sum()),
    )


def judgeable(labels: NDArray[np.int64], folds: NDArray[np.int64]) -> Mask:
    """Whether other folds have pictures of a picture's class, so that its judges know the class.

    The others count as mistakes, but nothing can be chosen by them.

    Args:
        labels: class numbers, shape (pictures,).
        folds: fold numbers, shape (pictures,).
    """
    spread = {label: len(np.unique(folds[labels == label])) for label in np.unique(labels)}
    return np.array([spread[label] > 1 for label in labels], bool)


def choose(candidates: Sequence[Candidate], labels: NDArray[np.int64], pictures: Mask) -> int:
    """The number of the candidate that none after it beats by more than noise.

    A candidate beats one before it if its loss at the best temperature is lower by more than the
    `noise` of the difference.

    Args:
        candidates: in order of training.
        labels: class numbers of all pictures, shape (pictures,).
        pictures: those to choose by, bool (pictures,).
    """
    found = [losses(each.logits[pictures], labels[pictures]) for each in candidates]
    best = 0
    for number in range(1, len(found)):
        gain = found[best] - found[number]
        if gain.mean() > noise(gain):
            best = number
    return best


def is_hopeless(head: Matrix, tuned: Matrix, labels: NDArray[np.int64]) -> bool:
    """Whether fine-tuning is clearly worse than the head alone, so that no fold more need be tried.

    Args:
        head: logits of the heads, shape (pictures, classes).
        tuned: logits of the fine-tuned networks for the same pictures.
        labels: class numbers, shape (pictures,).
    """
    loss = losses(tuned, labels) - losses(head, labels)
    return len(labels) >= _FEW and float(loss.mean()) > 2 * noise(loss)


def score(stage: str, logits: Matrix, labels: NDArray[np.int64], known: Mask) -> CandidateScore:
    """How well a candidate does.

    Args:
        stage: the last stage of its training.
        logits: shape (pictures, classes).
        labels: class numbers of these pictures.
        known: whether each picture can be judged; see `judgeable`. The losses are of these.
    """
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    loss, _, calibrated_loss = validation.validation_metrics(logits[known], labels[known])
    return CandidateScore(stage, len(labels), accuracy, loss, calibrated_loss)


def losses(logits: Matrix, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy of each picture at the best temperature, in nats."""
    from scipy.special import log_softmax

    temperature = uncertainties.fit_temperature(logits, labels)
    log_probabilities = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return np.asarray(-log_probabilities[np.arange(len(labels)), labels])


def noise(values: NDArray[np.float64]) -> float:
    """The standard error of a mean difference of losses, but at least that of 1 nat in one picture.

    Where hardly any picture is a mistake, losses are almost 0 and vary hardly, although the next
    picture may be one. Infinite for fewer than two pictures.
    """
    if len(values) < 2:
        return np.inf
    return max(float(values.std(ddof=1) / np.sqrt(len(values))), 1 / len(values))


def _unsure_below(probabilities: Matrix, labels: NDArray[np.int64], max_error: float) -> float:
    correct = probabilities.argmax(axis=1) == labels
    return uncertainties.confidence_threshold(probabilities.max(axis=1), correct, max_error)


def unlike_above(distances: Matrix) -> float:
    """The distance above which a picture is unlike the training pictures.

    Args:
        distances: of pictures that were not trained on, shape (pictures,).
    """
    return float(np.quantile(distances, IN_DISTRIBUTION, method="higher"))


def _softmax(logits: Matrix) -> Matrix:
    from scipy.special import softmax

    return np.asarray(softmax(logits, axis=1), np.float32)
