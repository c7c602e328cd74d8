import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import efftune
from conftest import TUNED, fill
from efftune.evaluation import cross_validation, evaluator, learning_curve, metrics
from efftune.evaluation.learning_curve import ExpectedAccuracy, LearningCurve, Point
from efftune.model.backbone import Backbone
from efftune.training import fine_tuning, fold_heads, regression_head
from efftune.training.regression_head import Head

CHOICES = {key: value for key, value in TUNED.items() if key != "test"}
UNUSED = Head(np.zeros((0, 3)), np.zeros(3))  # there is enough to choose by


def table(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    """A fine-tuned run judged by 3 folds, and the data of each call that trained."""
    seen = []
    run_stages, judge = fine_tuning.run_stages, cross_validation.train

    def spy(backbone, head, data, plan, timer):
        seen.append(data)
        yield from run_stages(backbone, head, data, plan, timer)

    def with_all(head, heads, data, *others):
        seen.append(data)
        return judge(head, heads, data, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_validation.fine_tuning, "run_stages", spy)
        patch.setattr("efftune.run.cross_validation.train", with_all)
        # The squares are easy for the heads alone, too.
        patch.setattr(cross_validation.out_of_fold, "choose", lambda each, *_: len(each) - 1)
        patch.setattr(cross_validation.out_of_fold, "is_hopeless", lambda *_: False)
        folder = tmp_path_factory.mktemp("folds") / "run"
        run = efftune.train(source, run=folder, folds=3, **CHOICES)
    return run, seen


@pytest.mark.ci
def test_each_network_is_trained_without_its_fold_and_the_last_on_all(trained):
    _, (everything, *parts, whole) = trained
    assert len(parts) == 3
    paths = everything.paths["train"]
    for fold, part in enumerate(parts):
        held_out = {p for p, f in zip(paths, everything.folds, strict=True) if f == fold}
        assert held_out
        assert set(part.paths["train"]) == set(everything.paths["train"]) - held_out
        assert part.paths["val"] == []  # so that no epoch is chosen by the pictures that judge
        for rows in part.features["train"].rows.values():
            assert len(rows) == len(part.paths["train"]) == len(part.labels["train"])
    assert whole.paths["train"] == everything.paths["train"]
    assert whole.paths["val"] == []


@pytest.mark.ci
def test_all_pictures_are_judged_and_trained_on(trained):
    run, _ = trained
    examples = table(run.folder / "examples.csv")
    assert {row["split"] for row in examples} == {"train"}
    assert {row["fold"] for row in examples} == {"1", "2", "3"}
    predictions = table(run.folder / "predictions.csv")
    assert {row["split"] for row in predictions} == {"out-of-fold"}
    assert [row["path"] for row in predictions] == [row["path"] for row in examples]
    evaluation = run.evaluation
    assert evaluation.test.pictures == evaluation.unsure.test.pictures == 30
    assert evaluation.val == evaluation.test
    assert evaluation.cross_validation.chosen == "upper"
    assert [each.stage for each in evaluation.cross_validation.tried] == ["head", "upper"]
    assert efftune.Run.load(run.folder).evaluation == evaluation


@pytest.mark.ci
def test_comparison_expects_the_gain_that_the_interval_has(trained, finished_run, monkeypatch):
    run, _ = trained
    monkeypatch.setattr(learning_curve, "gain_to_all", lambda _curve: 0.02)
    assert {each.run.expected_gain for each in efftune.compare([run, run]).standings} == {0.02}
    by_split = efftune.compare([finished_run, finished_run]).standings
    assert {each.run.expected_gain for each in by_split} == {0.0}


@pytest.mark.ci
def test_classifier_handed_out_is_the_one_trained_on_all(trained, source):
    run, _ = trained
    paths = [source / row["path"] for row in table(run.folder / "predictions.csv")]
    predicted, failures = run.classifier.probabilities(paths)
    assert not failures
    labels = [row["label"] for row in table(run.folder / "predictions.csv")]
    right = [run.classifier.class_names[i] for i in predicted.argmax(axis=1)]
    assert np.mean([a == b for a, b in zip(right, labels, strict=True)]) > 0.9
    record = json.loads((run.folder / "run.json").read_text())
    (stage,) = record["stages"]
    assert stage["epochs"] == stage["best_epoch"] == CHOICES["epochs"]
    tried = run.evaluation.cross_validation.tried
    assert stage["val_accuracy"] == {"before": tried[0].accuracy, "after": tried[1].accuracy}


@pytest.mark.ci
def test_heads_of_folds_are_fitted_without_them(trained):
    run, (data, *_) = trained
    found = fold_heads.fit(UNUSED, data, Backbone("efficientnet-lite0", 32), run.recipe)
    features, labels = data.features["train"].pooled(), data.labels["train"]
    logits = found.logits(features)
    for fold in range(3):
        inside = data.folds != fold
        alone = regression_head.fit(
            features[inside], labels[inside], data.groups[inside], run.recipe, 1280
        )
        assert np.array_equal(logits[~inside], alone.logits(features[~inside]))


@pytest.mark.ci
def test_class_missing_from_a_fold_is_never_predicted_there(trained):
    run, (data, *_) = trained
    labels = data.labels["train"].copy()
    labels[data.folds != 0] %= 2  # class 2 is in fold 0 alone
    known = type(data)(
        data.paths, data.labels | {"train": labels}, data.groups, data.features, data.folds
    )
    found = fold_heads.fit(UNUSED, known, Backbone("efficientnet-lite0", 32), run.recipe)
    probabilities = found.probabilities(data.features["train"].pooled())
    assert probabilities[data.folds == 0, 2].max() < 1e-3


@pytest.mark.ci
def test_one_picture_left_of_each_class_is_judged_by_such_a_head_as_is_handed_out(trained):
    _, (data, *_) = trained
    pairs = np.concatenate(
        [np.flatnonzero(data.labels["train"] == label)[:2] for label in range(3)]
    )
    folds = np.tile([0, 1], 3)
    few = replace(
        data,
        paths={"train": [data.paths["train"][i] for i in pairs]},
        labels={"train": data.labels["train"][pairs]},
        groups=data.groups[pairs],
        features={"train": data.features["train"].subset(pairs)},
        folds=folds,
    )
    recipe, backbone = efftune.Recipe(), Backbone("efficientnet-lite0", 32)
    whole = regression_head.fit(
        few.features["train"].pooled(), few.labels["train"], few.groups, recipe, 1280
    )
    whole = replace(whole, strength=0.0777)
    found = fold_heads.fit(whole, few, backbone, recipe)
    assert {each.strength for each in found.heads} == {0.0777}
    alone = regression_head.fit(
        few.features["train"].pooled()[:, -1280:], few.labels["train"], few.groups, recipe, 1280
    )
    assert {each.strength for each in found.starts} == {alone.strength}
    sees_all = np.abs(whole.kernel[:-1280]).max() > 0
    assert [np.abs(each.kernel[:-1280]).max() > 0 for each in found.heads] == [sees_all] * 2


@pytest.mark.long
def test_fine_tuning_that_does_harm_is_given_up(source, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validation.out_of_fold, "is_hopeless", lambda *_: True)
    run = efftune.train(source, run=tmp_path / "run", folds=3, **CHOICES | {"epochs": 1})
    verdict = run.evaluation.cross_validation
    assert verdict.chosen == "head"
    assert (verdict.tried[0].pictures, verdict.tried[1].pictures) == (30, 10)
    assert verdict.alone.pictures == 10
    assert efftune.Run.load(run.folder).evaluation == run.evaluation
    (stage,) = run.record["stages"]
    assert stage["rolled_back"]
    assert not stage["failures"]
    page = (run.folder / "report.html").read_text()
    assert "so only the head was trained: on the first 10 pictures left out, loss was" in page


@pytest.mark.long
def test_fine_tuning_that_diverges_leaves_the_head(tmp_path):
    choices = CHOICES | {"learning_rate": 5.0, "epochs": 2, "optimizer": "adam"}
    source = fill(tmp_path / "photos", count=25)
    run = efftune.train(source, run=tmp_path / "run", folds=3, **choices)
    verdict = run.evaluation.cross_validation
    assert verdict.chosen == "head"
    assert "Training diverged in stage upper" in verdict.failure
    assert run.evaluation.test.accuracy == verdict.tried[0].accuracy
    assert run.record["stages"] == []
    page = (run.folder / "report.html").read_text()
    assert "so only the head was trained: Training diverged in stage upper" in page


@pytest.mark.long
def test_training_on_all_that_fails_leaves_the_head(source, tmp_path, monkeypatch):
    run_stages = fine_tuning.run_stages

    def failing(backbone, head, data, plan, timer):
        yield from run_stages(backbone, head, data, plan, timer)
        if len(data.paths["train"]) == 30:
            raise cross_validation.TrainingDiverged("it diverged.")

    monkeypatch.setattr(cross_validation.fine_tuning, "run_stages", failing)
    monkeypatch.setattr(cross_validation.out_of_fold, "choose", lambda each, *_: len(each) - 1)
    monkeypatch.setattr(cross_validation, "islice", lambda stages, _count: stages)
    run = efftune.train(source, run=tmp_path / "run", folds=3, **CHOICES | {"epochs": 1})
    verdict = run.evaluation.cross_validation
    assert (verdict.chosen, verdict.failure) == ("head", "it diverged.")
    assert run.evaluation.test.accuracy == verdict.tried[0].accuracy
    layer = "block7a_project_conv"
    saved = run.classifier.model.get_layer(layer).get_weights()[0]
    pretrained = Backbone("efficientnet-lite0", 32).keras_model.get_layer(layer).get_weights()[0]
    assert np.array_equal(saved, pretrained)


@pytest.mark.long
@pytest.mark.parametrize(
    "choices",
    [
        {"whole_epochs": 1},
        {"recipe": "thorough", "members": 2},
        {"ema": 0.9, "mix": "mixup", "patience": 1},
        {"head_start": "random", "class_weights": "balanced"},
    ],
)
def test_other_choices_are_cross_validated(choices, source, tmp_path):
    run = efftune.train(source, run=tmp_path / "run", folds=3, **CHOICES | {"epochs": 2} | choices)
    stages = len([each for each in run.recipe.stages if each.name != "head"])
    assert len(run.evaluation.cross_validation.tried) == 1 + stages
    assert len(run.record["stages"]) == stages
    assert run.evaluation.test.pictures == 30


def test_the_interval_reaches_up_to_what_more_pictures_may_bring():
    labels = np.repeat([0, 1], 20)
    probabilities = np.full((40, 2), 0.5, np.float32)
    probabilities[np.arange(40), np.where(np.arange(40) % 4, labels, 1 - labels)] = 0.9
    examples = SimpleNamespace(fold_of={"a": 0}, class_names=("x", "y"))
    points = (Point(8, (0.5,)), Point(16, (0.65,)), Point(32, (0.75,)))
    now = ExpectedAccuracy(40, 0.78, 0.7, 0.8)
    curve = LearningCurve(points, now, now, ())
    given = {"test": probabilities}, {"test": labels}, examples
    plain = evaluator._scores(*given, None).test
    found = evaluator._scores(*given, curve).test
    assert plain.accuracy == found.accuracy == 0.75
    assert (plain.low, plain.high) == metrics.accuracy_interval(30, 40, out_of_fold=True)
    assert found.low == plain.low
    assert found.high == pytest.approx(plain.high + learning_curve.gain_to_all(curve))
    assert 0.01 < found.high - plain.high < 0.05
