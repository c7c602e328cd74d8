"""Evaluation of a trained network: calibration, thresholds, scores, suspects, learning curve."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efftune.data.bit_depth import BitDepth
from efftune.data.examples import Examples, Split
from efftune.evaluation import calibration, cross_fitting, learning_curve, metrics
from efftune.evaluation.calibration import FlaggedCount, OutOfDistribution, SelectivePrediction
from efftune.evaluation.cross_fitting import CrossFitting
from efftune.evaluation.learning_curve import LearningCurve
from efftune.evaluation.metrics import Evaluation
from efftune.evaluation.predictions import SplitPredictions
from efftune.evaluation.suspects import Suspect, suspects
from efftune.features import extraction
from efftune.model import uncertainty as uncertainties
from efftune.model.backbone import FEATURES
from efftune.model.uncertainty import Uncertainty
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training.fine_tuning import TrainingResult
from efftune.training.regression_head import Head, Labels, Matrix
from efftune.training.stages import NetworkState
from efftune.training.training_data import TrainingData

HELD_OUT: tuple[Split, ...] = ("val", "test")
_IN_DISTRIBUTION = 0.99  # quantile of validation distances that counts as in-distribution


@dataclass(frozen=True)
class EvaluationResult:
    """The evaluation of a trained network.

    Attributes:
        head: divided by the temperature, so that its probabilities are calibrated.
        uncertainty: thresholds for flagging predictions.
        predictions: for validation and test.
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
) -> EvaluationResult:
    """Evaluate a trained network on validation and test.

    The temperature and the thresholds are chosen on validation; nothing is chosen on test.

    Args:
        training: the trained network, and the head fitted on frozen features.
        data: the three splits.
        examples: the same pictures, with leaks and confirmed labels.
        recipe: completely resolved.
        timer: reports progress.
    """
    network = training.network
    features = _features(network, data, examples.depth, recipe, timer)
    labels = {split: data.labels[split] for split in HELD_OUT}
    logits = features["val"] @ network.kernel + network.bias
    temperature = uncertainties.fit_temperature(logits, labels["val"])
    plain, calibrated = (
        Head(np.float32(factor) * network.kernel, np.float32(factor) * network.bias)
        for factor in (1.0, 1 / temperature)
    )
    raw, probabilities = (
        {split: head.probabilities(features[split]) for split in HELD_OUT}
        for head in (plain, calibrated)
    )
    uncertainty, distances = _uncertainty(temperature, probabilities["val"], features, data, recipe)
    predictions = _predictions(probabilities, distances, uncertainty, examples)
    missing = cross_fitting.why_unavailable(recipe)
    suspect_rows, curve = (
        ((), None) if missing else _cross_fit(training.head, data, examples, recipe, timer)
    )
    evaluation = replace(
        _scores(predictions, labels, examples),
        calibration=calibration.calibration(temperature, raw, probabilities, labels),
        unsure=_unsure(predictions, labels, uncertainty, recipe),
        unlike=_unlike(predictions, uncertainty),
        learning_curve=curve,
    )
    why = dict.fromkeys(("suspects", "learning_curve"), missing) if missing else {}
    return EvaluationResult(calibrated, uncertainty, predictions, evaluation, suspect_rows, why)


def _features(
    network: NetworkState, data: TrainingData, depth: BitDepth, recipe: Recipe, timer: Timer
) -> dict[Split, Matrix]:
    """Features from the trained network for validation, test and the reference pictures."""
    mirrored = recipe.averages_mirror_images
    references = _references(data, recipe)
    paths = {split: data.paths[split] for split in HELD_OUT}
    paths["train"] = [data.paths["train"][i] for i in references]
    features: dict[Split, Matrix] = {}
    if not network.backbone.weights_changed and not mirrored:  # the cached features are the same
        features = {split: data.features[split].pooled() for split in HELD_OUT}
        if (FEATURES, 0) in data.features["train"].rows:
            features["train"] = data.features["train"].pooled()[references]
    missing = [split for split in paths if split not in features]
    if not missing:
        return features
    together = [path for split in missing for path in paths[split]]  # one network for all
    done = itertools.count(1)
    found = extraction.extract_pooled(
        network.backbone,
        together,
        recipe.backbone.fit,
        depth,
        lambda: timer.count(next(done), len(together)),
        mirrored=mirrored,
    )
    start = 0
    for split in missing:
        features[split] = found[start : start + len(paths[split])]
        start += len(paths[split])
    return features


def _references(data: TrainingData, recipe: Recipe) -> NDArray[np.int64]:
    """Indices of the training pictures that distances are measured to, int64, sorted."""
    order = np.random.default_rng(recipe.seed).permutation(len(data.paths["train"]))
    return np.sort(order[: uncertainties.REFERENCES])


def _uncertainty(
    temperature: float,
    probabilities: NDArray[np.float32],
    features: Mapping[Split, Matrix],
    data: TrainingData,
    recipe: Recipe,
) -> tuple[Uncertainty, dict[Split, Matrix]]:
    """The thresholds, and the distances of the validation and test pictures."""
    correct = probabilities.argmax(axis=1) == data.labels["val"]
    unsure = uncertainties.confidence_threshold(
        probabilities.max(axis=1), correct, recipe.evaluation.max_error
    )
    labels = data.labels["train"][_references(data, recipe)]
    detector = uncertainties.fit_detector(features["train"], labels)
    distances = {split: detector.distances(features[split]) for split in HELD_OUT}
    threshold = float(np.quantile(distances["val"], _IN_DISTRIBUTION, method="higher"))
    return Uncertainty(temperature, unsure, threshold, detector), distances


def _predictions(
    probabilities: Mapping[Split, Matrix],
    distances: Mapping[Split, Matrix],
    uncertainty: Uncertainty,
    examples: Examples,
) -> tuple[SplitPredictions, ...]:
    """The predictions on validation and test, with their flags."""
    return tuple(
        SplitPredictions(
            split,
            examples.of(split),
            probabilities[split],
            probabilities[split].max(axis=1) < uncertainty.unsure_below,
            distances[split] > uncertainty.unlike_above,
        )
        for split in HELD_OUT
    )


def _cross_fit(
    head: Head, data: TrainingData, examples: Examples, recipe: Recipe, timer: Timer
) -> tuple[tuple[Suspect, ...], LearningCurve]:
    """Suspect labels and the learning curve, from heads on the frozen network's features."""
    assert head.strength is not None  # noqa: S101  (cross-fitting needs a fitted head)
    labels, names = data.labels, examples.class_names
    features = data.features["train"].pooled()
    fitting = CrossFitting(features, labels["train"], data.groups, head.strength, recipe)
    probabilities = fitting.out_of_fold(timer.count)
    ranked = suspects(
        examples.of("train"), probabilities, labels["train"], names, examples.confirmed
    )
    correct = fitting.correct_by_size(data.features["val"].pooled(), labels["val"], timer.count)
    return ranked, learning_curve.learning_curve(correct, labels["val"], names)


def _scores(
    predictions: Sequence[SplitPredictions], labels: Mapping[Split, Labels], examples: Examples
) -> Evaluation:
    inputs = {
        each.split: (
            each.probabilities,
            labels[each.split],
            [row.path not in examples.leaked for row in each.rows],
        )
        for each in predictions
    }
    return metrics.evaluate_all(inputs, examples.class_names)


def _unsure(
    predictions: Sequence[SplitPredictions],
    labels: Mapping[Split, Labels],
    uncertainty: Uncertainty,
    recipe: Recipe,
) -> SelectivePrediction:
    val, test = (
        calibration.answered(each.probabilities, labels[each.split], uncertainty.unsure_below)
        for each in predictions
    )
    return SelectivePrediction(recipe.evaluation.max_error, uncertainty.unsure_below, val, test)


def _unlike(predictions: Sequence[SplitPredictions], uncertainty: Uncertainty) -> OutOfDistribution:
    val, test = (FlaggedCount(len(each.unlike), int(each.unlike.sum())) for each in predictions)
    return OutOfDistribution(uncertainty.unlike_above, val, test)
