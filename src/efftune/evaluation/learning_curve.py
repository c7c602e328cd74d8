"""Would more pictures help? A learning curve, carried on to more pictures than there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_POWERS = np.linspace(0.1, 1.0, 10)  # how fast the error falls: those seen in practice
_RESAMPLES = 200
_ENDS = (2.5, 97.5)  # of a 95 % interval, in percent
_GAINS = 5  # classes told of, at most
_LEAST_GAIN = 0.005  # of recall: less is not worth telling


@dataclass(frozen=True)
class Point:
    """Heads fitted on a part of the training pictures.

    Attributes:
        pictures: how many they were fitted on.
        accuracy: of each head on validation, 0 to 1.
    """

    pictures: int
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class ExpectedAccuracy:
    """What a number of training pictures leads to.

    Attributes:
        pictures: how many.
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
    """What twice the pictures would do for a class.

    Attributes:
        name: the class.
        now: its recall on validation, 0 to 1.
        double: the recall expected then.
    """

    name: str
    now: float
    double: float


@dataclass(frozen=True)
class LearningCurve:
    """How accuracy grows with the training pictures, as heads on the frozen network's features do.

    Attributes:
        points: what was measured, fewest pictures first.
        now: what the curve says of all pictures.
        double: and of twice as many.
        gains: the classes that would gain most, most first.
    """

    points: tuple[Point, ...]
    now: ExpectedAccuracy
    double: ExpectedAccuracy
    gains: tuple[ExpectedGain, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LearningCurve":
        """Read what `dataclasses.asdict` gave."""
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
) -> LearningCurve:
    """Carry a learning curve on.

    The error is taken to fall as `a + b * pictures**-c`, with `a` and `b` at least 0 and `c` from
    0.1 to 1. Its interval comes from 200 curves, each through the answers to pictures drawn anew.
    Source of the law: Cortes et al., "Learning Curves: Asymptotic Values and Rate of Convergence",
    Advances in Neural Information Processing Systems 6 (1993).

    Args:
        correct_by_size: by number of training pictures: whether heads answered right, bool (heads,
            validation pictures).
        labels: class numbers of the validation pictures.
        class_names: in the order of the numbers.
    """
    counts = sorted(correct_by_size)
    most = counts[-1]
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
    gains = [each for each in gains if each.double - each.now >= _LEAST_GAIN]
    gains.sort(key=lambda each: each.now - each.double)
    return LearningCurve(tuple(points), now, double, tuple(gains[:_GAINS]))


def expected(
    counts: Sequence[int], wrong: Sequence[NDArray[np.float64]], sizes: Sequence[int]
) -> list[ExpectedAccuracy]:
    """The accuracy that numbers of training pictures lead to; see `learning_curve`.

    Args:
        counts: of training pictures, rising.
        wrong: for each: 1 where a head was wrong, else 0; shape (heads, validation pictures).
        sizes: the numbers of training pictures to tell of.
    """
    random = np.random.default_rng(0)
    size = wrong[0].shape[1]
    best = _predicted(counts, np.array([part.mean() for part in wrong]), sizes)
    drawn = []
    for _ in range(_RESAMPLES):
        chosen = random.integers(0, size, size)
        errors = [part[random.integers(0, len(part)), chosen].mean() for part in wrong]
        drawn.append(_predicted(counts, np.array(errors), sizes, random))
    high, low = np.percentile(1 - np.array(drawn), _ENDS[::-1], axis=0)
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
    """The errors at other counts, by the law that fits best, or by one drawn of those that fit."""
    from scipy.optimize import nnls

    # More pictures say more: of the future, and with less chance in their choice.
    weights = np.sqrt(np.asarray(counts) / counts[-1])
    fits, costs = [], []
    for power in _POWERS:
        falling = (np.asarray(counts) / counts[-1]) ** -power
        factors, cost = nnls(np.stack([weights, weights * falling], 1), weights * errors)
        fits.append(factors)
        costs.append(cost)
    if random is None:
        number = int(np.argmin(costs))
    else:
        number = int(random.choice(np.flatnonzero(np.array(costs) <= 2 * min(costs) + 1e-9)))
    base, slope = fits[number]
    return np.asarray(base + slope * (np.asarray(sizes) / counts[-1]) ** -_POWERS[number])
