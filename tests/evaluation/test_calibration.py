import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efftune.evaluation import calibration
from efftune.evaluation.calibration import Calibration


def binary(confidences, labels):
    """Probabilities of two classes, of which 1 is predicted; and labels."""
    confidences = np.asarray(confidences)
    return np.stack([1 - confidences, confidences], axis=1), np.asarray(labels, int)


def test_ece_of_a_known_case():
    # Ten predictions with confidence 0.9, six of them correct; ten with 0.6, all correct.
    probabilities, labels = binary([0.9] * 10 + [0.6] * 10, [1] * 6 + [0] * 4 + [1] * 10)
    found = calibration.reliability(probabilities, labels)
    assert [each.pictures for each in found] == [10, 10]
    assert calibration.expected_calibration_error(found) == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=60))
def test_bins_hold_every_picture_within_their_ends(cases):
    probabilities, labels = binary(*zip(*cases, strict=True))
    found = calibration.reliability(probabilities, labels)
    assert sum(each.pictures for each in found) == len(cases)
    assert all(each.low - 1e-9 <= each.confidence <= each.high + 1e-9 for each in found)
    correct = sum(each.pictures * each.accuracy for each in found)
    predicted = probabilities.argmax(axis=1)
    assert correct == pytest.approx((predicted == labels).sum())
    assert 0 <= calibration.expected_calibration_error(found) <= 1


def test_calibrated_probabilities_have_no_error():
    random = np.random.default_rng(0)
    confidences = random.uniform(0.5, 1, 200_000)
    probabilities, labels = binary(confidences, random.random(200_000) < confidences)
    assert (
        calibration.expected_calibration_error(calibration.reliability(probabilities, labels))
        < 0.005
    )


def test_calibration_survives_json():
    probabilities, labels = binary([0.9, 0.6, 0.7], [1, 0, 1])
    both = {"val": probabilities, "test": probabilities}
    found = calibration.calibration(0.8, both, both, {"val": labels, "test": labels})
    assert found.ece["test"]["before"] == found.ece["test"]["after"]
    assert Calibration.from_dict(json.loads(json.dumps(asdict(found)))) == found


def test_remaining_predictions_are_counted():
    probabilities, labels = binary([0.9, 0.6, 0.7], [1, 1, 0])
    unsure = np.array([False, True, False])
    left = calibration.answered(probabilities, labels, unsure)
    assert (left.pictures, left.answered, left.wrong) == (3, 2, 1)
    assert (left.coverage, left.error) == (pytest.approx(2 / 3), 0.5)
    assert calibration.answered(probabilities, labels, np.ones(3, bool)).error == 0
