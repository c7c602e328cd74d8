import json
from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as reference

from efftune.evaluation import metrics
from efftune.evaluation.metrics import Evaluation


@st.composite
def predictions(draw):
    classes = draw(st.integers(2, 8))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 60))
    scores = random.gamma(0.5, size=(count, classes)) + 1e-6
    return scores / scores.sum(axis=1, keepdims=True), random.integers(0, classes, count)


@pytest.mark.ci
@settings(deadline=None)
@given(predictions())
def test_scores_equal_scikit_learns(case):
    probabilities, truth = case
    numbers = range(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    score = metrics.evaluate(probabilities, truth, [str(i) for i in numbers])
    assert score.accuracy == pytest.approx(reference.accuracy_score(truth, predicted))
    assert score.loss == pytest.approx(reference.log_loss(truth, probabilities, labels=numbers))
    assert (
        np.array(score.confusion) == reference.confusion_matrix(truth, predicted, labels=numbers)
    ).all()
    present = np.unique(truth)
    f1 = reference.f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    assert score.macro_f1 == pytest.approx(f1)
    if len(numbers) > 5:
        top = reference.top_k_accuracy_score(truth, probabilities, k=5, labels=numbers)
        assert score.top5 == pytest.approx(top)
    else:
        assert score.top5 == 1
    assert [each.support for each in score.per_class] == np.bincount(
        truth, minlength=len(numbers)
    ).tolist()


@settings(deadline=None)
@given(predictions())
def test_commonest_class_and_confused_pairs_are_counted(case):
    probabilities, truth = case
    names = [str(i) for i in range(probabilities.shape[1])]
    predicted = probabilities.argmax(axis=1)
    score = metrics.evaluate(probabilities, truth, names)
    assert score.commonest_share == reference.accuracy_score(
        truth, np.full_like(truth, int(score.commonest))
    )
    assert score.commonest_share == max(np.bincount(truth)) / len(truth)
    wrong = Counter(zip(truth[truth != predicted], predicted[truth != predicted], strict=True))
    pairs = [((int(each.label), int(each.answer)), each.pictures) for each in score.confused]
    assert [count for _, count in pairs] == sorted(wrong.values(), reverse=True)[:10]
    assert all(wrong[pair] == count for pair, count in pairs)


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_equals_scipys(successes, total):
    successes = min(successes, total)
    theirs = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    assert metrics.wilson(successes, total) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_covers_the_truth_about_95_times_in_100():
    random = np.random.default_rng(0)
    covered = 0
    wilson = cache(metrics.wilson)  # of 201 counts
    for _ in range(4000):
        share = random.uniform(0.5, 0.99)
        low, high = wilson(int(random.binomial(200, share)), 200)
        covered += low <= share <= high
    assert covered / 4000 >= 0.94


def test_evaluation_survives_json():
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6]])
    score = metrics.evaluate(probabilities, np.array([0, 0]), ["a", "b"])
    whole = Evaluation(score, score)
    assert Evaluation.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


def test_float32_rows_need_not_sum_to_exactly_one():
    probabilities = np.full((3, 7), 1 / 7, np.float32)
    assert metrics.evaluate(probabilities, np.zeros(3, int), list("abcdefg")).loss > 1.9
