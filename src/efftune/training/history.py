"""The epochs of a run, and advice drawn from them."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from efftune.recipe.recipe import Recipe
from efftune.training.regression_head import Head
from efftune.training.stages import StageResult
from efftune.training.training_data import TrainingData
from efftune.training.validation import Epoch

_UNLIKE = 0.05  # of accuracy that fine-tuning gains: then the pictures are unlike ImageNet's


def history(
    head: Head, data: TrainingData, head_seconds: float, stages: Sequence[StageResult]
) -> list[Epoch]:
    """The epochs of all stages; the head is fitted once, to convergence."""
    later = list(itertools.chain.from_iterable(stage.epochs for stage in stages))
    if head.strength is None:
        return later
    metrics = []
    for split in ("train", "val"):
        rows, truth = data.features[split].pooled(), data.labels[split]
        probabilities = head.probabilities(rows)
        likelihoods = probabilities[np.arange(len(truth)), truth].astype(np.float64)
        metrics.append(float(-np.log(likelihoods.clip(1e-30)).mean()))
        metrics.append(float((probabilities.argmax(axis=1) == truth).mean()))
    loss, accuracy, val_loss, val_accuracy = metrics
    first = Epoch("head", 1, head_seconds, loss, accuracy, val_loss, val_accuracy, math.nan)
    return [first, *later]


def advice(recipe: Recipe, epochs: Sequence[Epoch]) -> list[str]:
    """What the owner of the pictures should know of how training went.

    Args:
        recipe: with nothing left open.
        epochs: of all stages, from `history`.
    """
    told = []
    last = epochs[-1]
    if last.stage != "head" and last.val_accuracy > last.accuracy:
        told.append(
            "validation accuracy is above training accuracy because training is made harder: its "
            "pictures are varied and a part of the network is left out in each step"
        )
    frozen = max((each.val_accuracy for each in epochs if each.stage == "head"), default=math.nan)
    tuned = max((each.val_accuracy for each in epochs if each.stage == "upper"), default=math.nan)
    if last.stage == "upper" and tuned - frozen > _UNLIKE:
        told.append(
            f"fine-tuning gained {100 * (tuned - frozen):.0f} points over the frozen network, so "
            "these pictures are unlike ImageNet's: more may be won with --recipe thorough, or with "
            "a lower --unfreeze"
        )
    if last.stage == "head" and not recipe.tunes and frozen < 1 - _UNLIKE:
        told.append("the network was left as it was; --recipe balanced trains it, too")
    return told
