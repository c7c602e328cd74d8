"""Evaluation of a trained network: calibration, thresholds, scores, suspects, learning curve."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Examples, Split
from efftune.evaluation import (
    calibration,
    cross_fitting,
    learning_curve,
    metrics,
    out_of_fold,
    trained_features,
)
from efftune.evaluation.calibration import (
    Calibration,
    FlaggedCount,
    OutOfDistribution,
    SelectivePrediction,
)
from efftune.evaluation.cross_fitting import CrossFitting
from efftune.evaluation.learning_curve import LearningCurve
from efftune.evaluation.metrics import Evaluation
from efftune.evaluation.out_of_fold import Judged, OutOfFold
from efftune.evaluation.predictions import OUT_OF_FOLD, JudgedSplit, SplitPredictions
from efftune.evaluation.suspects import Suspect, suspects
from efftune.model import uncertainty as uncertainties
from efftune.model.uncertainty import Uncertainty
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training.fine_tuning import TrainingResult
from efftune.training.regression_head import Head, Labels, Matrix
from efftune.training.stage_result import NetworkState
from efftune.training.training_data import TrainingData

HELD_OUT: tuple[Split, ...] = ("val", "test")
_FEWEST_CLEAN = 20  # validation pictures, to choose thresholds on


@dataclass(frozen=True)
class EvaluationResult:
    """The evaluation of a trained network.

    Attributes:
        head: divided by the temperature, so that its probabilities are calibrated.
        uncertainty: thresholds for flagging predictions.
        predictions: for validation and test, or out of fold.
        evaluation: metrics of these predictions.
        suspects: training pictures whose label looks wrong, the most suspect first.
        not_available: the reason, by missing part of the evaluation.
    """

    head: Head
    uncertainty: Uncertainty
    predictions: tuple[SplitPredictions, ...]
    evaluation: Evaluation
    suspects: tuple[Suspect, ...]
    not_available: Mapping[str, str]


def evaluate(
    training: TrainingResult,
    data: TrainingData,
    examples: Examples,
    recipe: Recipe,
    timer: Timer,
    outcome: OutOfFold | None = None,
) -> EvaluationResult:
    """Evaluate a trained network on validation and test, or by the outcome of a cross-validation.

    The temperature and the thresholds are chosen on validation; nothing is chosen on test.

    Args:
        training: the trained network, and the head fitted on frozen features.
        data: the pictures, in splits or folds.
        examples: the same pictures, with leaks and confirmed labels.
        recipe: completely resolved.
        timer: reports progress.
        outcome: of the cross-validation, if there was one.
    """
    network, labels = training.network, {split: data.labels[split] for split in HELD_OUT}
    if outcome is None:
        judged, uncertainty = _judge_splits(network, data, examples, recipe, timer)
    else:
        judged = dict.fromkeys(HELD_OUT, outcome.judged)
        uncertainty = _uncertainty(network, data, examples, recipe, timer, outcome)
        labels = dict.fromkeys(HELD_OUT, data.labels["train"])
    missing = cross_fitting.why_unavailable(recipe) or _why_no_time(data, timer)
    suspect_rows, curve = (
        ((), None) if missing else _cross_fit(training.head, data, examples, recipe, timer)
    )
    probabilities = {split: each.probabilities for split, each in judged.items()}
    clean, known = _without_leaks(judged, labels, data, examples)
    fair = _judgeable(clean, known, data) if outcome else (clean, known)
    evaluation = replace(
        _scores(probabilities, labels, examples, curve),
        calibration=_calibration(*fair, uncertainty),
        unsure=_unsure(clean, known, uncertainty, recipe),
        unlike=_unlike(clean, uncertainty),
        learning_curve=curve,
        cross_validation=outcome.summary if outcome else None,
    )
    factor = np.float32(1 / uncertainty.temperature)
    return EvaluationResult(
        Head(factor * network.kernel, factor * network.bias),
        uncertainty,
        _predictions(judged, data, examples),
        evaluation,
        suspect_rows,
        dict.fromkeys(("suspects", "learning_curve"), missing) if missing else {},
    )


def _why_no_time(data: TrainingData, timer: Timer) -> str:
    """The reason why cross-fitting is left out for lack of time, if it is; decided once."""
    seconds = timer.budget.head_seconds(len(data.paths["train"]))
    has_time = timer.journal.decided("cross-fitting", lambda: timer.budget.allows(seconds))
    return "" if has_time else "there was no time for it within the budget"


def _judge_splits(
    network: NetworkState, data: TrainingData, examples: Examples, recipe: Recipe, timer: Timer
) -> tuple[dict[Split, Judged], Uncertainty]:
    """What the network says of the validation and test pictures; and its thresholds."""
    features = trained_features.compute(network, data, examples.depth, recipe, timer)
    clean, labels = _clean(data, examples), data.labels["val"]
    logits = network.head.logits(features["val"])
    temperature = uncertainties.fit_temperature(logits[clean], labels[clean])
    plain, calibrated = (
        Head(np.float32(factor) * network.kernel, np.float32(factor) * network.bias)
        for factor in (1.0, 1 / temperature)
    )
    probabilities = {split: calibrated.probabilities(features[split]) for split in HELD_OUT}
    correct = probabilities["val"].argmax(axis=1) == labels
    unsure_below = uncertainties.confidence_threshold(
        probabilities["val"].max(axis=1)[clean], correct[clean], recipe.evaluation.max_error
    )
    detector = _detector(features["train"], network, data, recipe)
    distances = {split: detector.distances(features[split]) for split in HELD_OUT}
    unlike_above = out_of_fold.unlike_above(distances["val"][clean])
    judged = {
        split: Judged(
            plain.probabilities(features[split]),
            probabilities[split],
            probabilities[split].max(axis=1) < unsure_below,
            distances[split] > unlike_above,
        )
        for split in HELD_OUT
    }
    return judged, Uncertainty(temperature, unsure_below, unlike_above, detector)


def _clean(data: TrainingData, examples: Examples) -> NDArray[np.bool_]:
    """Which validation pictures have no copy in training; all, if those are too few.

    The network knows copies: it is surer of them than of new pictures, and more often right.
    """
    clean = np.array([path not in examples.leaked for path in data.paths["val"]], bool)
    return clean if clean.sum() >= _FEWEST_CLEAN else np.ones_like(clean)


def _uncertainty(
    network: NetworkState,
    data: TrainingData,
    examples: Examples,
    recipe: Recipe,
    timer: Timer,
    outcome: OutOfFold,
) -> Uncertainty:
    """The thresholds of a network trained on all pictures, from the outcome for its folds."""
    features = trained_features.compute(network, data, examples.depth, recipe, timer, splits=())
    detector = _detector(features["train"], network, data, recipe)
    return Uncertainty(outcome.temperature, outcome.unsure_below, outcome.unlike_above, detector)


def _detector(
    features: Matrix, network: NetworkState, data: TrainingData, recipe: Recipe
) -> uncertainties.OutOfDistributionDetector:
    labels, last = data.labels["train"], network.backbone.entry.features
    references = trained_features.references(len(labels), recipe.seed)
    return uncertainties.fit_detector(features[:, -last:], labels[references])


def _predictions(
    judged: Mapping[Split, Judged], data: TrainingData, examples: Examples
) -> tuple[SplitPredictions, ...]:
    """The predictions on validation and test, or out of fold, with their flags."""
    parts: list[tuple[JudgedSplit, Split]] = [(split, split) for split in HELD_OUT]
    if examples.fold_of:
        parts = [(OUT_OF_FOLD, "train")]
    found = []
    for name, split in parts:
        each = judged["test" if name == OUT_OF_FOLD else split]
        flags = each.unsure, each.unlike, _chosen_on(name, data, examples)
        found.append(SplitPredictions(name, examples.of(split), each.probabilities, *flags))
    return tuple(found)


def _chosen_on(split: JudgedSplit, data: TrainingData, examples: Examples) -> NDArray[np.bool_]:
    """Which pictures the threshold for the confidence was chosen on."""
    if split == "val":
        return _clean(data, examples)
    if data.folds is None or split != OUT_OF_FOLD:
        return np.zeros(len(examples.of("test")), bool)
    return out_of_fold.judgeable(data.labels["train"], data.folds)


def _cross_fit(
    head: Head, data: TrainingData, examples: Examples, recipe: Recipe, timer: Timer
) -> tuple[tuple[Suspect, ...], LearningCurve]:
    """Suspect labels and the learning curve, from heads on the frozen network's features."""
    labels, names = data.labels, examples.class_names
    features = data.features["train"].pooled()
    fitting = CrossFitting(features, labels["train"], data.groups, head, recipe)
    probabilities = fitting.out_of_fold(timer.count)
    ranked = suspects(
        examples.of("train"), probabilities, labels["train"], names, examples.confirmed
    )
    held_out, known = data.features["val"].pooled(), labels["val"]
    if data.folds is None:  # copies are right as soon as what they copy is trained on
        clean = _clean(data, examples)
        held_out, known = held_out[clean], known[clean]
    correct = fitting.correct_by_size(held_out, known, data.folds, timer.count)
    curve = learning_curve.learning_curve(correct, known, names, len(labels["train"]))
    return ranked, curve


def _scores(
    probabilities: Mapping[Split, Matrix],
    labels: Mapping[Split, Labels],
    examples: Examples,
    curve: LearningCurve | None,
) -> Evaluation:
    if examples.fold_of:
        score = metrics.evaluate(
            probabilities["test"], labels["test"], examples.class_names, out_of_fold=True
        )
        gain = learning_curve.gain_to_all(curve) if curve else 0.0
        score = replace(score, high=min(1.0, score.high + gain))
        return Evaluation(score, score)
    inputs = {
        split: (
            probabilities[split],
            labels[split],
            [row.path not in examples.leaked for row in examples.of(split)],
        )
        for split in HELD_OUT
    }
    return metrics.evaluate_all(inputs, examples.class_names)


def _without_leaks(
    judged: Mapping[Split, Judged],
    labels: Mapping[Split, Labels],
    data: TrainingData,
    examples: Examples,
) -> tuple[dict[Split, Judged], dict[Split, Labels]]:
    """What is said of the pictures without leaks, with labels; of all if there are no others.

    Of validation, the pictures that the thresholds were chosen on.
    """
    found, known = dict(judged), dict(labels)
    for split in HELD_OUT if examples.leaked else ():
        clean = np.array([row.path not in examples.leaked for row in examples.of(split)], bool)
        clean = _clean(data, examples) if split == "val" else clean
        if clean.any():
            each = judged[split]
            found[split] = Judged(
                each.raw[clean],
                each.probabilities[clean],
                each.unsure[clean],
                each.unlike[clean],
            )
            known[split] = labels[split][clean]
    return found, known


def _judgeable(
    judged: Mapping[Split, Judged], labels: Mapping[Split, Labels], data: TrainingData
) -> tuple[dict[Split, Judged], dict[Split, Labels]]:
    """What is said of the pictures whose class their judges could know, with labels.

    Temperatures are fitted to these; of the others, every confidence is wrong.
    """
    assert data.folds is not None  # noqa: S101  (only called in cross-validation)
    known = out_of_fold.judgeable(data.labels["train"], data.folds)
    parts = {
        split: Judged(*(getattr(each, field.name)[known] for field in fields(Judged)))
        for split, each in judged.items()
    }
    return parts, {split: each[known] for split, each in labels.items()}


def _calibration(
    judged: Mapping[Split, Judged], labels: Mapping[Split, Labels], uncertainty: Uncertainty
) -> Calibration:
    raw = {split: each.raw for split, each in judged.items()}
    calibrated = {split: each.probabilities for split, each in judged.items()}
    return calibration.calibration(uncertainty.temperature, raw, calibrated, labels)


def _unsure(
    judged: Mapping[Split, Judged],
    labels: Mapping[Split, Labels],
    uncertainty: Uncertainty,
    recipe: Recipe,
) -> SelectivePrediction:
    val, test = (
        calibration.answered(judged[split].probabilities, labels[split], judged[split].unsure)
        for split in HELD_OUT
    )
    return SelectivePrediction(recipe.evaluation.max_error, uncertainty.unsure_below, val, test)


def _unlike(judged: Mapping[Split, Judged], uncertainty: Uncertainty) -> OutOfDistribution:
    val, test = (
        FlaggedCount(len(judged[split].unlike), int(judged[split].unlike.sum()))
        for split in HELD_OUT
    )
    return OutOfDistribution(uncertainty.unlike_above, val, test)
