"""The training history of a run, and advice based on it."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from efftune.data.examples import Split
from efftune.recipe.recipe import Recipe
from efftune.training.fold_heads import FoldHeads
from efftune.training.regression_head import Head
from efftune.training.stage_result import StageResult
from efftune.training.training_data import TrainingData
from efftune.training.validation import ALL, Epoch

_LARGE_GAIN = 0.05  # in accuracy; if fine-tuning gains more, the pictures differ from ImageNet's


def history(
    head: Head,
    data: TrainingData,
    head_seconds: float,
    stages: Sequence[StageResult],
    fold_heads: FoldHeads | None = None,
) -> list[Epoch]:
    """The epochs of all stages; a head fitted by regression counts as one epoch.

    Args:
        head: fitted on the training pictures.
        data: training and validation data.
        head_seconds: time to fit the head.
        stages: results of the stages that were trained by gradient descent.
        fold_heads: what judges the validation pictures in cross-validation, instead of `head`.
    """
    later = list(itertools.chain.from_iterable(stage.epochs for stage in stages))
    if head.strength is None:
        return later
    metrics = []
    judges: dict[Split, Head | FoldHeads] = {"train": head, "val": fold_heads or head}
    for split, judge in judges.items():
        features, labels = data.features[split].pooled(), data.labels[split]
        probabilities = judge.probabilities(features)
        likelihoods = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        metrics.append(float(-np.log(likelihoods.clip(1e-30)).mean()))
        metrics.append(float((probabilities.argmax(axis=1) == labels).mean()))
    loss, accuracy, val_loss, val_accuracy = metrics
    first = Epoch("head", 1, head_seconds, loss, accuracy, val_loss, val_accuracy, math.nan)
    return [first, *later]


def advice(recipe: Recipe, epochs: Sequence[Epoch], stages: Sequence[StageResult]) -> list[str]:
    """Sentences that help the user to interpret the history and to choose the next settings.

    Args:
        recipe: the recipe of the run.
        epochs: the epochs of all stages, from `history`; the last of a stage without validation
            pictures has what cross-validation found.
        stages: results of the stages that were trained by gradient descent.
    """
    sentences = []
    last = next(each for each in reversed(epochs) if each.network != ALL)
    if last.stage != "head" and epochs[-1].val_accuracy > last.accuracy:
        sentences.append(
            "accuracy on held-out pictures is above that in training because augmentation and "
            "dropout make training harder; this is not an error"
        )
    # A head trained by gradient descent may not have settled, so that any further training gains.
    frozen = max((each.val_accuracy for each in epochs if each.stage == "head"), default=math.nan)
    is_fitted = not recipe.head.epochs
    fine_tuned = _fine_tuned(epochs, stages)
    more = "a lower --unfreeze"
    if recipe.members == 1:
        more = f"--recipe thorough or {more}"
    if last.stage == "upper" and is_fitted and fine_tuned - frozen > _LARGE_GAIN:
        sentences.append(
            f"fine-tuning gained {100 * (fine_tuned - frozen):.0f} points over the frozen network, "
            f"so these pictures differ a lot from ImageNet's: {more} may gain more"
        )
    is_asked = recipe.name not in ("balanced", "thorough")  # else there was no time for more
    is_frozen = last.stage == "head" and not recipe.trains_by_gradient_descent
    if is_asked and is_frozen and frozen < 1 - _LARGE_GAIN:
        sentences.append(
            "only the head was trained; --recipe balanced also trains blocks of the network"
        )
    return sentences


def _fine_tuned(epochs: Sequence[Epoch], stages: Sequence[StageResult]) -> float:
    """The validation accuracy after stage `upper`; NaN if it was not taken, or judged by none."""
    taken = [each.selected for each in stages if each.stage.name == "upper" and each.best]
    last = [each for each in reversed(epochs) if each.stage == "upper"][: len(taken)]
    found = [each.val_accuracy for each in (*taken, *last)]
    return next((each for each in found if not math.isnan(each)), math.nan)
