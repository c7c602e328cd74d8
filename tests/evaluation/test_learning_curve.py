import json
from dataclasses import asdict

import numpy as np
import pytest

from efftune.evaluation import learning_curve
from efftune.evaluation.learning_curve import LearningCurve


def correct_by_size(law, counts=(100, 200, 400, 700, 1000), pictures=400, seed=0):
    """Simulated heads whose error follows a law."""
    random = np.random.default_rng(seed)
    difficulty = random.random(pictures)
    noise = random.normal(0, 0.03, (len(counts), 3, pictures))
    return {
        count: difficulty + noise[i, : 1 if count == counts[-1] else 3] > law(count)
        for i, count in enumerate(counts)
    }


@pytest.mark.parametrize("power", [0.2, 0.5, 1.0])
def test_extrapolation_follows_the_law(power):
    def law(count):
        return 0.05 + 0.3 * (count / 100) ** -power

    inside = 0
    for seed in range(10):
        labels = np.arange(400) % 4
        found = learning_curve.learning_curve(correct_by_size(law, seed=seed), labels, list("abcd"))
        assert [each.pictures for each in found.points] == [100, 200, 400, 700, 1000]
        assert (found.now.pictures, found.double.pictures) == (1000, 2000)
        assert found.double.low <= found.double.accuracy <= found.double.high
        assert found.double.accuracy >= found.now.accuracy
        inside += found.double.low <= 1 - law(2000) <= found.double.high
    assert inside >= 9


def test_flat_curve_promises_nothing():
    found = learning_curve.learning_curve(
        correct_by_size(lambda _: 0.1), np.arange(400) % 4, list("abcd")
    )
    assert found.double.accuracy - found.now.accuracy < 0.01


def test_class_that_still_learns_gains_most():
    labels = np.arange(400) % 2
    both = {
        count: np.stack([np.arange(400) // 2 % 100 >= (1000 / count) * 5 * labels + 2] * 2)
        for count in (100, 200, 400, 700, 1000)
    }
    found = learning_curve.learning_curve(both, labels, ["known", "hard"])
    assert [each.name for each in found.gains] == ["hard"]
    assert found.gains[0].double > found.gains[0].now


def test_curve_survives_json():
    found = learning_curve.learning_curve(
        correct_by_size(lambda _: 0.1), np.arange(400) % 4, list("abcd")
    )
    assert LearningCurve.from_dict(json.loads(json.dumps(asdict(found)))) == found


def test_perfect_heads_stay_perfect():
    right = {count: np.ones((2, 50), bool) for count in (10, 20, 40)}
    found = learning_curve.learning_curve(right, np.zeros(50, int), ["a"])
    assert (found.now.accuracy, found.double.accuracy, found.double.low) == (1, 1, 1)
    assert found.gains == ()


@pytest.mark.parametrize(("law", "gain"), [(0.3, 0.0), (0.6, 0.032)])
def test_the_gain_to_all_pictures_is_that_of_the_curve(law, gain):
    """Errors of 0.3 that no picture changes, or of 0.6 / (n / 20) ** 0.5, for 80 of 100."""
    counts = (10, 20, 40, 80)
    errors = [0.3 if law == 0.3 else law * (count / 20) ** -0.5 for count in counts]
    points = [
        learning_curve.Point(count, (1 - error,))
        for count, error in zip(counts, errors, strict=True)
    ]
    now = learning_curve.ExpectedAccuracy(100, 0.7, 0.6, 0.8)
    curve = LearningCurve(tuple(points), now, now, ())
    assert learning_curve.gain_to_all(curve) == pytest.approx(gain, abs=0.001)
