"""What a trained network is worth: its answers to the pictures held out, and when to doubt them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Examples, Split
from efftune.evaluation import calibration, cross_fitting, learning_curve, metrics
from efftune.evaluation.calibration import Flagged, Unlike, Unsure
from efftune.evaluation.cross_fitting import Trials
from efftune.evaluation.learning_curve import LearningCurve
from efftune.evaluation.metrics import Evaluation
from efftune.evaluation.predictions import SplitAnswers
from efftune.evaluation.suspects import Suspect, suspects
from efftune.model import classifier as classifiers
from efftune.model import uncertainty as doubting
from efftune.model.backbone import FEATURES
from efftune.model.uncertainty import Doubts
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Watch
from efftune.training.fine_tuning import Seen
from efftune.training.regression_head import Head, Labels, Matrix
from efftune.training.stages import Tuned

HELD_OUT: tuple[Split, ...] = ("val", "test")
_LIKE = 0.99  # of the validation pictures are like the training pictures: that is where one ends


@dataclass(frozen=True)
class Judged:
    """A network, judged.

    Attributes:
        head: with the temperature in it: its probabilities are calibrated.
        doubts: when its answers are not to be relied on.
        answers: to validation and test.
        evaluation: what they come to.
        suspects: training pictures whose label looks wrong, the most suspect first.
        not_available: by part of the evaluation that could not be made, why.
    """

    head: Head
    doubts: Doubts
    answers: tuple[SplitAnswers, ...]
    evaluation: Evaluation
    suspects: tuple[Suspect, ...]
    not_available: Mapping[str, str]


def judge(
    tuned: Tuned, head: Head, pictures: Seen, examples: Examples, recipe: Recipe, watch: Watch
) -> Judged:
    """Judge a trained network on validation and test.

    Validation chooses the temperature and the thresholds; test chooses nothing.

    Args:
        tuned: the network.
        head: fitted on the frozen network's features, if that was by regression.
        pictures: what to judge by, and what it was trained on.
        examples: the same, with what is known of their labels.
        recipe: with nothing left open.
        watch: counts the pictures.
    """
    features = _features(tuned, pictures, recipe, watch)
    labels = {split: pictures.labels[split] for split in HELD_OUT}
    logits = features["val"] @ tuned.kernel + tuned.bias
    temperature = doubting.temperature(logits, labels["val"])
    plain, cooled = (
        Head(np.float32(factor) * tuned.kernel, np.float32(factor) * tuned.bias)
        for factor in (1.0, 1 / temperature)
    )
    raw, said = (
        {split: each.probabilities(features[split]) for split in HELD_OUT}
        for each in (plain, cooled)
    )
    doubts, distances = _doubts(temperature, said["val"], features, pictures, recipe)
    answers = [
        SplitAnswers(
            split,
            examples.of(split),
            said[split],
            said[split].max(axis=1) < doubts.unsure_below,
            distances[split] > doubts.unlike_above,
        )
        for split in HELD_OUT
    ]
    missing = cross_fitting.nothing_to_try(recipe)
    found, curve = ((), None) if missing else _tried(head, pictures, examples, recipe, watch)
    evaluation = replace(
        _scores(answers, labels, examples),
        calibration=calibration.calibration(temperature, raw, said, labels),
        unsure=_unsure(answers, labels, doubts, recipe),
        unlike=_unlike(answers, doubts),
        learning_curve=curve,
    )
    why = dict.fromkeys(("suspects", "learning_curve"), missing) if missing else {}
    return Judged(cooled, doubts, tuple(answers), evaluation, found, why)


def _features(tuned: Tuned, pictures: Seen, recipe: Recipe, watch: Watch) -> dict[Split, Matrix]:
    """Of the network as trained: of all pictures held out, and of those to compare others with."""
    mirrored = recipe.mirrors_answers
    chosen = _references(pictures, recipe)
    paths = {split: pictures.paths[split] for split in HELD_OUT}
    paths["train"] = [pictures.paths["train"][i] for i in chosen]
    found: dict[Split, Matrix] = {}
    if not tuned.backbone.tuned and not mirrored:  # what is kept is what it would find
        found = {split: pictures.features[split].pooled() for split in HELD_OUT}
        if (FEATURES, 0) in pictures.features["train"].rows:
            found["train"] = pictures.features["train"].pooled()[chosen]
    missing = [split for split in paths if split not in found]
    total = sum(len(paths[split]) for split in missing)
    done = itertools.count(1)
    for split in missing:
        found[split] = classifiers.features_of(
            tuned.backbone,
            paths[split],
            recipe.fit,
            lambda: watch.count(next(done), total),
            mirrored=mirrored,
        )
    return found


def _references(pictures: Seen, recipe: Recipe) -> NDArray[np.int64]:
    """The training pictures that others are compared with."""
    order = np.random.default_rng(recipe.seed).permutation(len(pictures.paths["train"]))
    return np.sort(order[: doubting.REFERENCES])


def _doubts(
    temperature: float,
    said: NDArray[np.float32],
    features: Mapping[Split, Matrix],
    pictures: Seen,
    recipe: Recipe,
) -> tuple[Doubts, dict[Split, Matrix]]:
    """The doubts, and the distances of the pictures held out."""
    right = said.argmax(axis=1) == pictures.labels["val"]
    unsure = doubting.least_confidence(said.max(axis=1), right, recipe.max_error)
    labels = pictures.labels["train"][_references(pictures, recipe)]
    known = doubting.likeness(features["train"], labels)
    distances = {split: known.distances(features[split]) for split in HELD_OUT}
    furthest = float(np.quantile(distances["val"], _LIKE, method="higher"))
    return Doubts(temperature, unsure, furthest, known), distances


def _tried(
    head: Head, pictures: Seen, examples: Examples, recipe: Recipe, watch: Watch
) -> tuple[tuple[Suspect, ...], LearningCurve]:
    """Suspect labels and the learning curve, from heads on the frozen network's features."""
    assert head.strength is not None  # noqa: S101  (there are trials only of fitted heads)
    labels, names = pictures.labels, examples.class_names
    features = pictures.features["train"].pooled()
    tried = Trials(features, labels["train"], pictures.groups, head.strength, recipe)
    said = tried.out_of_fold(watch.count)
    found = suspects(examples.of("train"), said, labels["train"], names, examples.confirmed)
    right = tried.by_count(pictures.features["val"].pooled(), labels["val"], watch.count)
    return found, learning_curve.learning_curve(right, labels["val"], names)


def _scores(
    answers: Sequence[SplitAnswers], labels: Mapping[Split, Labels], examples: Examples
) -> Evaluation:
    judged = {
        each.split: (
            each.probabilities,
            labels[each.split],
            [row.path not in examples.leaked for row in each.rows],
        )
        for each in answers
    }
    return metrics.evaluate_all(judged, examples.class_names)


def _unsure(
    answers: Sequence[SplitAnswers], labels: Mapping[Split, Labels], doubts: Doubts, recipe: Recipe
) -> Unsure:
    val, test = (
        calibration.answered(each.probabilities, labels[each.split], doubts.unsure_below)
        for each in answers
    )
    return Unsure(recipe.max_error, doubts.unsure_below, val, test)


def _unlike(answers: Sequence[SplitAnswers], doubts: Doubts) -> Unlike:
    val, test = (Flagged(len(each.unlike), int(each.unlike.sum())) for each in answers)
    return Unlike(doubts.unlike_above, val, test)
