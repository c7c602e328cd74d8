from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from efftune.evaluation import out_of_fold
from efftune.evaluation.out_of_fold import Candidate, CrossValidation

FOLDS = np.arange(60) % 5
LABELS = np.random.default_rng(3).integers(0, 3, 60)


def candidate(signal, seed, stage="head"):
    """Logits that know the class, the better the larger the signal."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(60, 3)) + signal * np.eye(3)[LABELS]
    return Candidate(stage, logits.astype(np.float32), random.random(60).astype(np.float32))


def judge(*candidates, labels=LABELS, max_error=0.1):
    return out_of_fold.judge(candidates, FOLDS, labels, max_error)


def test_better_candidate_is_chosen_and_judged():
    head, tuned = candidate(1, 0), candidate(4, 1, "upper")
    outcome = judge(head, tuned)
    assert outcome.chosen == 1
    assert np.array_equal(outcome.judged.raw.argmax(axis=1), tuned.logits.argmax(axis=1))


def test_candidate_that_is_hardly_better_is_not_chosen():
    head = candidate(2, 0)
    nudged, pushed = (
        Candidate("upper", head.logits + np.float32(by) * np.eye(3)[LABELS], head.distances)
        for by in (0.01, 0.5)
    )
    noise = np.random.default_rng(5).normal(size=(60, 3)).astype(np.float32)
    noisy = Candidate("upper", head.logits + 0.3 * noise, head.distances)
    mask = np.ones(60, bool)
    assert out_of_fold.choose([head, noisy], LABELS, mask) == 0
    assert out_of_fold.choose([head, head], LABELS, mask) == 0
    # The same gain on every picture is no noise, unless one mistake more would outweigh it.
    assert out_of_fold.choose([head, pushed], LABELS, mask) == 1
    assert out_of_fold.choose([head, nudged], LABELS, mask) == 0


def test_losses_of_almost_nothing_do_not_tell_that_one_is_better():
    head, better = candidate(9, 0), candidate(12, 0)
    gains = [out_of_fold.losses(each.logits, LABELS) for each in (head, better)]
    assert 0 < (gains[0] - gains[1]).mean() < 1e-3
    assert out_of_fold.choose([head, better], LABELS, np.ones(60, bool)) == 0
    assert not out_of_fold.is_hopeless(better.logits, head.logits, LABELS)
    assert out_of_fold.noise(np.zeros(60)) == 1 / 60
    assert out_of_fold.noise(np.zeros(1)) == np.inf


def test_scale_of_the_logits_does_not_matter():
    head = candidate(2, 0)
    loud = Candidate("upper", 3 * head.logits, head.distances)
    assert out_of_fold.choose([head, loud], LABELS, np.ones(60, bool)) == 0


@pytest.mark.parametrize("fold", range(5))
def test_nothing_is_chosen_by_the_pictures_that_it_judges(fold):
    inside = fold == FOLDS
    candidates = candidate(1, 0), candidate(1.6, 1, "upper")
    before = judge(*candidates).judged
    for other in ((LABELS + 1) % 3, np.zeros(60, int)):
        after = judge(*candidates, labels=np.where(inside, other, LABELS)).judged
        for part in ("raw", "probabilities", "unlike"):
            assert np.array_equal(getattr(before, part)[inside], getattr(after, part)[inside])
    far = np.where(inside, 100, candidates[0].distances).astype(np.float32)
    moved = judge(Candidate("head", candidates[0].logits, far)).judged
    assert moved.unlike[inside].all()
    assert not moved.unlike[~inside].any()


def test_calibrated_probabilities_follow_from_the_other_folds():
    loud = candidate(2, 0)
    outcome = judge(Candidate("head", 20 * loud.logits, loud.distances))
    assert outcome.temperature > 3
    assert outcome.judged.probabilities.max(axis=1).mean() < outcome.judged.raw.max(axis=1).mean()
    assert np.allclose(outcome.judged.probabilities.sum(axis=1), 1, atol=1e-5)


def test_sure_predictions_keep_the_promise_about():
    outcome = judge(candidate(2, 0), max_error=0.1)
    sure = ~outcome.judged.unsure
    wrong = outcome.judged.probabilities.argmax(axis=1) != LABELS
    assert 15 < sure.sum() < 60
    assert (sure & wrong).sum() <= 0.1 * sure.sum() + 2


def test_hopeless_is_what_is_clearly_worse():
    head, bad = candidate(3, 0).logits, candidate(0, 1).logits
    assert out_of_fold.is_hopeless(head, bad, LABELS)
    assert not out_of_fold.is_hopeless(bad, head, LABELS)
    assert not out_of_fold.is_hopeless(head, head, LABELS)
    assert not out_of_fold.is_hopeless(head[:10], bad[:10], LABELS[:10])  # too few to tell


@given(
    arrays.arrays(np.float32, (8, 3), elements=st.floats(-50, 50, width=32)),
    arrays.arrays(np.int64, 8, elements=st.integers(0, 2)),
)
def test_few_pictures_of_any_kind_are_judged(logits, labels):
    distances = np.abs(logits[:, 0])
    folds = np.arange(8) % 4
    outcome = out_of_fold.judge([Candidate("head", logits, distances)], folds, labels, 0.02)
    assert outcome.folds == 4
    assert np.isfinite(outcome.judged.probabilities).all()
    assert 1 / 20 <= outcome.temperature <= 20.001


def test_summary_goes_through_json():
    score = out_of_fold.score("head", candidate(2, 0).logits, LABELS, np.ones(60, bool))
    summary = CrossValidation(5, (score,), "head")
    assert CrossValidation.from_dict(summary.to_dict()) == summary
    assert score.pictures == 60
    assert score.calibrated_loss <= score.loss


def test_picture_whose_class_its_judges_do_not_know_chooses_nothing():
    labels = LABELS.copy()
    labels[0] = 3
    logits = np.pad(candidate(2, 0).logits, ((0, 0), (0, 1)), constant_values=-20)
    distances = candidate(2, 0).distances
    known = out_of_fold.judgeable(labels, FOLDS)
    assert np.array_equal(known, np.arange(60) > 0)
    outcome = out_of_fold.judge([Candidate("head", logits, distances)], FOLDS, labels, 0.1)
    without = out_of_fold.judge(
        [Candidate("head", logits[1:], distances[1:])], FOLDS[1:], labels[1:], 0.1
    )
    assert outcome.temperature == pytest.approx(without.temperature)
    assert np.allclose(outcome.judged.probabilities[1:], without.judged.probabilities, atol=1e-6)
    score = out_of_fold.score("head", logits, labels, known)
    assert score.loss < 5
    assert score.pictures == 60


def test_thresholds_of_a_fold_are_chosen_without_it():
    inside = FOLDS == 2
    before = judge(candidate(2, 0), max_error=0.1).judged
    for other in range(3):
        labels = np.where(inside, other, LABELS)
        after = judge(candidate(2, 0), labels=labels, max_error=0.1).judged
        assert np.array_equal(before.unsure[inside], after.unsure[inside])


def test_summary_counts_pictures_whose_class_their_judges_cannot_know():
    labels = LABELS.copy()
    labels[[0, 5]] = 3  # of the same fold
    logits = np.pad(candidate(2, 0).logits, ((0, 0), (0, 1)), constant_values=-20)
    given = [Candidate("head", logits, candidate(2, 0).distances)]
    outcome = out_of_fold.judge(given, FOLDS, labels, 0.1)
    score = out_of_fold.score("head", logits, labels, out_of_fold.judgeable(labels, FOLDS))
    summary = replace(outcome, tried=(score,), alone=score).summary
    assert summary.unknown == 2
    assert summary.alone == score
    assert CrossValidation.from_dict(summary.to_dict()) == summary
    older = {k: each for k, each in summary.to_dict().items() if k not in ("alone", "unknown")}
    assert CrossValidation.from_dict(older).unknown == 0
