"""Extrapolation of the learning curve: would more training pictures help?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_POWERS = np.linspace(0.1, 1.0, 10)  # candidate exponents; the range seen in practice
_RESAMPLES = 200
_ENDS = (2.5, 97.5)  # of a 95 % interval, in percent
_MAX_GAINS = 5  # classes listed
_MIN_GAIN = 0.005  # of recall; smaller gains are not listed


@dataclass(frozen=True)
class Point:
    """The accuracy of heads fitted on a training subset.

    Attributes:
        pictures: size of the subset.
        accuracy: of each head on validation, 0 to 1.
    """

    pictures: int
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class ExpectedAccuracy:
    """The accuracy expected with a number of training pictures.

    Attributes:
        pictures: number of training pictures.
        accuracy: on validation, 0 to 1.
        low: lower end of its 95 % interval.
        high: upper end of it.
    """

    pictures: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class ExpectedGain:
    """The gain in recall of a class expected with twice as many training pictures.

    Attributes:
        name: the class.
        now: its current recall on validation, 0 to 1.
        double: the expected recall, 0 to 1.
    """

    name: str
    now: float
    double: float


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy by number of training pictures, for heads on the frozen network's features.

    Attributes:
        points: measurements, in order of size.
        now: the fitted curve at the current number of training pictures.
        double: the fitted curve at twice that number.
        gains: the classes that would gain most, in descending order.
    """

    points: tuple[Point, ...]
    now: ExpectedAccuracy
    double: ExpectedAccuracy
    gains: tuple[ExpectedGain, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LearningCurve":
        """Rebuild the object from `dataclasses.asdict`."""
        return cls(
            tuple(Point(each["pictures"], tuple(each["accuracy"])) for each in values["points"]),
            ExpectedAccuracy(**values["now"]),
            ExpectedAccuracy(**values["double"]),
            tuple(ExpectedGain(**each) for each in values["gains"]),
        )


def learning_curve(
    correct_by_size: Mapping[int, NDArray[np.bool_]],
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    pictures: int | None = None,
) -> LearningCurve:
    """Extrapolate a learning curve to twice the number of training pictures.

    The error is modelled as `a + b * pictures**-c`, with `a` and `b` at least 0 and `c` from 0.1
    to 1. The interval comes from 200 bootstrap resamples of the validation pictures. Source of the
    power law: Cortes et al., "Learning Curves: Asymptotic Values and Rate of Convergence",
    Advances in Neural Information Processing Systems 6 (1993).

    Args:
        correct_by_size: whether predictions are correct, by number of training pictures; bool
            (heads, validation pictures).
        labels: class numbers of the validation pictures.
        class_names: in the order of the numbers.
        pictures: the current number of training pictures; by default the largest measured one.
    """
    counts = sorted(correct_by_size)
    most = pictures or counts[-1]
    wrong = [(~correct_by_size[count]).astype(np.float64) for count in counts]
    points = [
        Point(count, tuple(map(float, correct_by_size[count].mean(axis=1)))) for count in counts
    ]
    now, double = expected(counts, wrong, (most, 2 * most))
    gains = []
    for number, name in enumerate(class_names):
        inside = labels == number
        if inside.any():
            errors = np.array([part[:, inside].mean() for part in wrong])
            before, after = _predicted(counts, errors, (most, 2 * most))
            recall = float(1 - errors[-1])
            gains.append(ExpectedGain(name, recall, min(1.0, recall + float(before - after))))
    gains = [each for each in gains if each.double - each.now >= _MIN_GAIN]
    gains.sort(key=lambda each: each.now - each.double)
    return LearningCurve(tuple(points), now, double, tuple(gains[:_MAX_GAINS]))


def gain_to_all(curve: LearningCurve) -> float:
    """The gain in accuracy from the pictures of the largest measured number to all, 0 to 1.

    In cross-validation, the classifier is trained on all pictures, and those that are judged on
    fewer: it is likely to be more accurate by this.
    """
    counts = [point.pictures for point in curve.points]
    errors = np.array([1 - np.mean(point.accuracy) for point in curve.points])
    before, after = _predicted(counts, errors, (counts[-1], curve.now.pictures))
    return max(0.0, float(before - after))


def expected(
    counts: Sequence[int], wrong: Sequence[NDArray[np.float64]], sizes: Sequence[int]
) -> list[ExpectedAccuracy]:
    """The accuracy expected with numbers of training pictures; see `learning_curve`.

    Args:
        counts: measured numbers of training pictures, ascending.
        wrong: for each count: 1 where a head was wrong, else 0; shape (heads, validation pictures).
        sizes: numbers of training pictures to predict for.
    """
    random = np.random.default_rng(0)
    size = wrong[0].shape[1]
    best = _predicted(counts, np.array([part.mean() for part in wrong]), sizes)
    resampled = []
    for _ in range(_RESAMPLES):
        chosen = random.integers(0, size, size)
        errors = [part[random.integers(0, len(part)), chosen].mean() for part in wrong]
        resampled.append(_predicted(counts, np.array(errors), sizes, random))
    high, low = np.percentile(1 - np.array(resampled), _ENDS[::-1], axis=0)
    accuracy = 1 - best
    return [
        ExpectedAccuracy(count, float(value), float(min(below, value)), float(max(above, value)))
        for count, value, below, above in zip(sizes, accuracy, low, high, strict=True)
    ]


def _predicted(
    counts: Sequence[int],
    errors: NDArray[np.float64],
    sizes: Sequence[int],
    random: np.random.Generator | None = None,
) -> NDArray[np.float64]:
    """The errors at other sizes, from the best fit or, with `random`, from a random good fit."""
    from scipy.optimize import nnls

    # Larger subsets are less noisy and closer to the extrapolated sizes, so they weigh more.
    weights = np.sqrt(np.asarray(counts) / counts[-1])
    fits, costs = [], []
    for power in _POWERS:
        decay = (np.asarray(counts) / counts[-1]) ** -power
        factors, cost = nnls(np.stack([weights, weights * decay], 1), weights * errors)
        fits.append(factors)
        costs.append(cost)
    if random is None:
        number = int(np.argmin(costs))
    else:
        number = int(random.choice(np.flatnonzero(np.array(costs) <= 2 * min(costs) + 1e-9)))
    base, slope = fits[number]
    return np.asarray(base + slope * (np.asarray(sizes) / counts[-1]) ** -_POWERS[number])
