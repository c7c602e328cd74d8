"""Ensembles: the upper blocks trained several times on the same activations.

Source: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles" (2017), https://arxiv.org/abs/1612.01474; here with the lower blocks in common.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.tensors import set_weights
from efftune.recipe.recipe import Recipe, Stage
from efftune.system.progress import Timer
from efftune.training import stages
from efftune.training.batches import LabelledInputs
from efftune.training.planning import Plan
from efftune.training.stage_result import LeftOut, NetworkState, StageResult, TrainingDiverged
from efftune.training.training_data import TrainingData
from efftune.training.validation import ALL, Epoch, validation_metrics

_SEEDS = 1000  # between the seeds of two members

Inputs = Callable[[Recipe], tuple[LabelledInputs, LabelledInputs | None]]


@dataclass(frozen=True)
class _Member:
    """A network that is taken.

    Attributes:
        network: with its own head.
        result: of its training.
        weights: of the whole backbone.
        passed: number of epochs that were trained before, with other networks.
    """

    network: NetworkState
    result: StageResult
    weights: list[NDArray[np.float32]]
    passed: int


def fit(
    start: NetworkState, stage: Stage, inputs: Inputs, data: TrainingData, plan: Plan, timer: Timer
) -> tuple[NetworkState, StageResult]:
    """Train the blocks from a stage's block up, as often as the recipe says.

    Args:
        start: the network that all start from.
        stage: stage `upper`.
        inputs: the training and validation inputs by recipe, whose seed draws the views.
        data: training and validation data.
        plan: the plan of the run.
        timer: reports progress.

    Returns:
        The network, or the ensemble of those that improved on the start, with a head for the
        features of all of them; and the result of the stage. Of an ensemble, it has the epochs of
        all networks, one after another, and a last one with the validation metrics of all together.

    Raises:
        LeftOut: as `stages.fit` raises it, of the first network.
        TrainingDiverged: all networks diverge.
    """
    recipe = plan.recipe
    if recipe.members == 1:
        with timer.phase(stage.name):
            return stages.fit(start, stage, *inputs(recipe), recipe, timer)
    taken, result = _train_each(start, stage, inputs, plan, timer)
    if not taken:
        return start, result
    if len(taken) == 1:
        return _alone(taken[0], result)
    with timer.phase(stage.name):
        return _together(taken, result, data, plan)


def each(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """The part of the run that each network is, empty if there is one only; and its recipe."""
    count = recipe.members
    return [
        (
            f"network {number + 1} of {count}" if count > 1 else "",
            recipe.changed(seed=(recipe.seed + _SEEDS * number) % 2**32),
        )
        for number in range(count)
    ]


def _train_each(
    start: NetworkState, stage: Stage, inputs: Inputs, plan: Plan, timer: Timer
) -> tuple[list[_Member], StageResult]:
    """The networks that are taken, and the result of a stage that takes none.

    The backbone has the weights of the start afterwards.
    """
    backbone, recipe = start.backbone, plan.recipe
    weights, taken, results = backbone.keras_model.get_weights(), [], list[StageResult]()
    epochs, notes = list[Epoch](), list[str]()
    for number, (part, own) in enumerate(each(recipe)):
        name = f"network {number + 1}"
        try:
            with timer.part(part), timer.phase(stage.name):
                network, result = stages.fit(start, stage, *inputs(own), own, timer)
            trained = backbone.keras_model.get_weights()
        except LeftOut as reason:
            if not results:
                raise
            left = recipe.members - number
            notes.append(f"{left} of {recipe.members} networks are left out: {reason}")
            break
        except TrainingDiverged as error:
            if number == recipe.members - 1 and not results:
                raise
            notes.append(f"{name} is left out: {error}")
            continue
        finally:
            set_weights(backbone.keras_model, weights)
        results.append(result)
        notes += [f"{name}: {failure}" for failure in result.failures]
        if result.best:
            taken.append(_Member(network, result, trained, len(epochs)))
        else:
            notes.append(f"{name} is left out: it is no better than the head")
        for epoch in result.epochs:
            epochs.append(replace(epoch, number=len(epochs) + 1, network=f"{number + 1}"))
    batch_size = min(result.batch_size for result in results)
    found = StageResult(stage, results[0].start, tuple(epochs), 0, batch_size, tuple(notes))
    return taken, found


def _alone(member: _Member, result: StageResult) -> tuple[NetworkState, StageResult]:
    """The only network that is taken."""
    set_weights(member.network.backbone.keras_model, member.weights)
    return member.network, replace(result, best=member.passed + member.result.best)


def _together(
    members: Sequence[_Member], result: StageResult, data: TrainingData, plan: Plan
) -> tuple[NetworkState, StageResult]:
    """The ensemble, and the result of its stage."""
    started, backbone = time.perf_counter(), members[0].network.backbone
    before = backbone.keras_model.get_weights()
    for member in members:
        set_weights(backbone.keras_model, member.weights)
        backbone.add_member(backbone.block(result.stage.block))
    set_weights(backbone.keras_model, before)
    kernels = [each.network.kernel / np.float32(len(members)) for each in members]
    bias = np.asarray(np.mean([each.network.bias for each in members], axis=0), np.float32)
    network = NetworkState(backbone, np.concatenate(kernels), bias)
    metrics = (math.nan, math.nan, math.nan)
    if data.paths["val"]:
        features = extraction.extract_pooled(
            backbone,
            data.paths["val"],
            ExtractionSettings(plan.recipe.backbone.fit, "f32", depth=plan.depth),
            lambda: None,
            output=backbone.features_of(network.kernel),
        )
        metrics = validation_metrics(network.head.logits(features), data.labels["val"])
    loss, accuracy, calibrated = metrics
    together = Epoch(
        stage=result.stage.name,
        number=len(result.epochs) + 1,
        seconds=time.perf_counter() - started,
        loss=math.nan,
        accuracy=math.nan,
        val_loss=loss,
        val_accuracy=accuracy,
        learning_rate=math.nan,
        val_calibrated_loss=calibrated,
        network=ALL,
    )
    epochs = (*result.epochs, together)
    return network, replace(result, epochs=epochs, best=len(epochs), members=len(members))
