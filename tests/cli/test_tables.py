from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from efftune.cli import tables
from efftune.evaluation import metrics
from efftune.evaluation.calibration import SelectiveAccuracy, SelectivePrediction
from efftune.evaluation.learning_curve import ExpectedAccuracy, LearningCurve, Point
from efftune.evaluation.metrics import Evaluation
from efftune.evaluation.out_of_fold import CrossValidation


def evaluation(clean):
    """Of ten pictures as validation and test, of which the first is a mistake."""
    labels = np.arange(10) % 2
    probabilities = np.full((10, 2), 0.1)
    probabilities[np.arange(10), np.where(np.arange(10), labels, 1)] = 0.9
    given = probabilities, labels
    return metrics.evaluate_all({"val": (*given, [True] * 10), "test": (*given, clean)}, "ab")


def printed(capsys, evaluation: Evaluation, folder, **data):
    record = {"data": {"val_is_test": False, **data}}
    run = SimpleNamespace(evaluation=evaluation, record=record, folder=folder)
    tables._show_reliability(run)
    return capsys.readouterr().out


def test_leaks_are_told_beside_the_numbers_that_count_them(tmp_path, capsys):
    of_all, of_clean = (SelectiveAccuracy(count, 4, 1) for count in (10, 4))
    found = evaluation([True] * 4 + [False] * 6)
    for test, told in ((of_all, "40.0 % of the test pictures, also of leaks"), (of_clean, "100")):
        unsure = SelectivePrediction(0.02, 0.7, of_all, test)
        out = printed(capsys, replace(found, unsure=unsure), tmp_path, leaked={"test": 6})
        assert told in out.replace("\N{NO-BREAK SPACE}", " ")
        assert ("also of leaks" in out) == (test is of_all)
        assert "Leaks:" not in out


def test_accuracy_on_leaks_alone_is_told_as_such(tmp_path, capsys):
    out = printed(capsys, evaluation([False] * 10), tmp_path, leaked={"test": 10})
    assert "All test pictures have copies in an earlier split: this accuracy says nothing" in out


def test_few_groups_are_told(tmp_path, capsys):
    assert "Groups:" not in printed(capsys, evaluation([True] * 10), tmp_path)
    finding = "no,few-groups,test,,,test,10 pictures of 2 groups"
    (tmp_path / "findings.csv").write_text(f"problem,kind,name,other,label,split,detail\n{finding}")
    out = printed(capsys, evaluation([True] * 10), tmp_path)
    assert "10 pictures of 2 groups of the source" in out


@pytest.mark.parametrize(("sizes", "told"), [((8,), False), ((4, 8), True)])
def test_one_size_shows_no_trend(sizes, told, tmp_path, capsys):
    now, double = ExpectedAccuracy(8, 0.7, 0.6, 0.8), ExpectedAccuracy(16, 0.8, 0.7, 0.9)
    curve = LearningCurve(tuple(Point(size, (0.7,)) for size in sizes), now, double, ())
    out = printed(capsys, replace(evaluation([True] * 10), learning_curve=curve), tmp_path)
    assert ("Twice the data:" in out) == told


def test_pictures_that_no_fold_could_judge_are_told(tmp_path, capsys):
    """Nine of ten are right; if the mistake's class was unknown, all others are."""
    for unknown, told in (
        (0, ""),
        (1, "1 picture counts as a mistake, since no other fold has its"),
    ):
        judged = CrossValidation(2, (), "head", unknown=unknown)
        found = replace(evaluation([True] * 10), cross_validation=judged)
        out = printed(capsys, found, tmp_path).replace("\N{NO-BREAK SPACE}", " ")
        assert ("Unknown:" in out) == bool(unknown)
        assert told in out
    assert "class; of the other 9, 100 % are right." in out
