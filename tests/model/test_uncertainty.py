import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from efftune.errors import DataError
from efftune.model import uncertainty
from efftune.model.uncertainty import Uncertainty


def drawn(temperature, count=4000, classes=5, seed=0):
    """Logits that are `temperature` times too large for labels drawn from their probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, classes))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
    return temperature * logits, labels.clip(0, classes - 1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_is_found_again(temperature):
    assert uncertainty.fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.05)


def test_few_pictures_all_right_do_not_make_answers_certain():
    logits = np.eye(3)[[0, 1, 2]]
    assert uncertainty.fit_temperature(logits, np.arange(3)) > 0.3


@settings(deadline=None)
@given(st.floats(0.2, 5), st.integers(0, 1000))
def test_raw_probabilities_come_back(temperature, seed):
    logits = np.random.default_rng(seed).normal(0, 3, (7, 4)).astype(np.float32)
    calibrated = softmax(logits / np.float32(temperature), axis=1)
    raw = Uncertainty(temperature, 0.5).raw(calibrated)
    assert raw == pytest.approx(softmax(logits, axis=1), abs=1e-4)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0]),
)
def test_threshold_gives_the_most_answers_with_few_enough_errors(cases, max_error):
    confidences = np.array([value / 10 for value, _ in cases])
    right = np.array([each for _, each in cases])
    least = uncertainty.confidence_threshold(confidences, right, max_error)
    given_now = confidences >= least
    assert (~right[given_now]).sum() <= max_error * given_now.sum()
    for lower in {*confidences[confidences < least]}:  # no more could have been given
        more = confidences >= lower
        assert (~right[more]).sum() > max_error * more.sum()


def test_if_nothing_qualifies_even_certainty_is_below_the_threshold():
    confidences = np.ones(3, np.float32)
    least = uncertainty.confidence_threshold(confidences, [False, True, True], 0.1)
    assert (confidences < least).all()
    assert (confidences.astype(np.float64) < least).all()


def clusters(count, seed):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 1, (3, 20))
    labels = random.integers(0, 3, count)
    return (centres[labels] + random.normal(0, 0.1, (count, 20))).astype(np.float32), labels


@pytest.mark.parametrize("kind", ["neighbours", "mahalanobis"])
def test_distance_separates_out_of_distribution_pictures(kind, tmp_path):
    known = uncertainty.fit_detector(*clusters(300, 0), kind=kind)
    like = known.distances(clusters(50, 1)[0])
    unlike = known.distances(np.random.default_rng(2).normal(0, 1, (50, 20)).astype(np.float32))
    assert like.max() < unlike.min()
    Uncertainty(0.7, 0.8, 1.5, known).write(tmp_path / "uncertainty.npz")
    again = Uncertainty.read(tmp_path / "uncertainty.npz")
    assert (again.temperature, again.unsure_below, again.unlike_above) == (0.7, 0.8, 1.5)
    assert np.array_equal(again.detector.distances(clusters(50, 1)[0]), like)


def test_distance_of_one_picture_is_that_among_many():
    known = uncertainty.fit_detector(*clusters(300, 0))
    rows = clusters(5, 1)[0]
    alone = np.concatenate([known.distances(rows[i : i + 1]) for i in range(len(rows))])
    assert alone == pytest.approx(known.distances(rows), rel=1e-4)


def test_neighbour_distance_is_that_to_the_fifth():
    rows = np.eye(6, dtype=np.float32)
    known = uncertainty.fit_detector(rows, np.zeros(6, int))
    assert known.distances(rows[:1]) == pytest.approx([np.sqrt(2)])
    assert uncertainty.fit_detector(rows[:2], np.zeros(2, int)).distances(
        rows[:1]
    ) == pytest.approx([np.sqrt(2)])


def test_uncertainty_without_a_detector_survives(tmp_path):
    Uncertainty(1.0, 0.5).write(tmp_path / "uncertainty.npz")
    assert Uncertainty.read(tmp_path / "uncertainty.npz") == Uncertainty(1.0, 0.5)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_damaged_uncertainty_is_named(tmp_path, content):
    path = tmp_path / "uncertainty.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"uncertainty\.npz is damaged"):
        Uncertainty.read(path)


def test_an_array_whose_header_is_damaged_is_refused(finished_run, tmp_path):
    path = tmp_path / "uncertainty.npz"
    content = (finished_run.folder / "uncertainty.npz").read_bytes()
    assert b", 1280), }" in content  # of an array so large that its checksum is met later
    path.write_bytes(content.replace(b", 1280), }", b", 1280(, }"))
    with pytest.raises(DataError, match="is damaged"):
        Uncertainty.read(path)
