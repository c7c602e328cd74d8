"""Ensembles: the upper blocks trained several times on the same activations.

Source: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles" (2017), https://arxiv.org/abs/1612.01474; here with the lower blocks in common.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from efftune.errors import DataError, DiskFull
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.tensors import set_weights
from efftune.recipe.recipe import Recipe, Stage
from efftune.system.budget import MARGIN, Budget
from efftune.system.progress import Timer
from efftune.training import stages
from efftune.training.batches import LabelledInputs
from efftune.training.planning import Plan
from efftune.training.stage_result import LeftOut, NetworkState, StageResult, TrainingDiverged
from efftune.training.training_data import TrainingData
from efftune.training.validation import ALL, Epoch, validation_metrics

_SEEDS = 1000  # between the seeds of two members
_CONVERTING = 0.35  # tracings that it takes to convert and compile several networks
LEAST_SHARE = 0.5  # of the epochs of the others, that one more is worth training for

Inputs = Callable[[Recipe], tuple[LabelledInputs, LabelledInputs | None]]


@dataclass(frozen=True)
class _Member:
    """A network that was trained.

    Attributes:
        name: such as `network 1`.
        network: with its own head.
        result: of its training.
        weights: of the whole backbone.
    """

    name: str
    network: NetworkState
    result: StageResult
    weights: list[NDArray[np.float32]]


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
    trained, notes = _train_each(start, stage, inputs, plan, timer)
    if len(trained) == 1 and not notes:
        return _alone(trained[0], trained[0].result)
    taken, result = _outcome(trained, stage, notes)
    if not taken:
        return start, result
    if len(taken) == 1:
        passed = itertools.takewhile(lambda each: each is not taken[0], trained)
        best = taken[0].result.best + sum(len(each.result.epochs) for each in passed)
        return _alone(taken[0], replace(result, best=best))
    with timer.phase(stage.name):
        return _together(taken, result, data, plan)


def each(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """The part of the run that each network is, empty if there is one only; and its recipe."""
    count = recipe.members
    return [
        (f"network {number + 1} of {count}" if count > 1 else "", _with_seed(recipe, number))
        for number in range(count)
    ]


def _with_seed(recipe: Recipe, number: int) -> Recipe:
    """The recipe of a network, counted from 0."""
    return recipe.changed(seed=(recipe.seed + _SEEDS * number) % 2**32)


def _train_each(
    start: NetworkState, stage: Stage, inputs: Inputs, plan: Plan, timer: Timer
) -> tuple[list[_Member], list[str]]:
    """The networks that were trained, and notes on those that were not.

    The backbone has the weights of the start afterwards.
    """
    backbone, trained, notes = start.backbone, list[_Member](), list[str]()
    weights, diverged = backbone.keras_model.get_weights(), None
    for number, (part, own, of_own) in enumerate(_networks(stage, trained, plan, timer)):
        name = f"network {number + 1}"
        try:
            with timer.part(part), timer.phase(stage.name):
                network, result = stages.fit(start, of_own, *inputs(own), own, timer)
            now = backbone.keras_model.get_weights()
            trained.append(_Member(name, network, result, now))
        except LeftOut as reason:
            if not trained:
                raise
            count = plan.recipe.members
            be = "is" if count - number == 1 else "are"
            left = f"{count - number} of {count} networks {be}" if number < count else f"{name} is"
            notes.append(f"{left} left out: {reason}")
            break
        except TrainingDiverged as error:
            diverged = error
            notes.append(f"{name} is left out: {error}")
        except (DataError, DiskFull) as error:
            if number < plan.recipe.members:
                raise
            notes.append(f"{name} is left out: {error}")
            break
        finally:
            set_weights(backbone.keras_model, weights)
    if not trained and diverged is not None:
        raise diverged
    return trained, notes


def _networks(
    stage: Stage, trained: Sequence[_Member], plan: Plan, timer: Timer
) -> Iterator[tuple[str, Recipe, Stage]]:
    """The part of the run, the recipe and the stage of each network, as long as there is time.

    Args:
        stage: of each.
        trained: those that were, so far.
        plan: of the run.
        timer: of the run.
    """
    recipe, budget, journal = plan.recipe, timer.budget, timer.journal
    for part, own in each(recipe):
        yield part, own, stage
    for number in range(recipe.members, plan.most_members):
        if not (trained and trained[-1].result.best):  # fine-tuning does not gain
            return
        judging = budget.judging_network
        if number == 1:  # what one network does without
            judging += _CONVERTING * budget.tracing + plan.pictures["val"] * budget.picture_seconds
        part = f"network {number + 1}"
        decision = f"epochs of {timer.place_of(part)}"
        if journal.leaves_out_the_rest and journal.recalled(decision) is None:
            return
        epochs = partial(_epochs_in_time, trained[-1].result, stage.epochs, judging, budget)
        if not (count := journal.decided(decision, epochs)):
            return
        budget.reserved += judging
        yield part, _with_seed(recipe, number), replace(stage, epochs=count)


def _epochs_in_time(before: StageResult, epochs: int, judging: float, budget: Budget) -> int:
    """How many epochs of one more network there is time for.

    Args:
        before: the result of the network before.
        epochs: of each network that was planned.
        judging: seconds that one more adds to judging.
        budget: of the run.

    Returns:
        As many as of those that were planned, at most; 0 if there is no time for half of them.
    """
    epoch = statistics.median(each.seconds for each in before.epochs)
    seconds = MARGIN * (budget.usable - judging) - budget.tracing
    found = min(epochs, int(seconds / max(epoch, 1e-9)))
    return found if found >= LEAST_SHARE * epochs else 0


def _outcome(
    trained: Sequence[_Member], stage: Stage, notes: Sequence[str]
) -> tuple[list[_Member], StageResult]:
    """The networks that are taken of several, and the result of a stage that takes none."""
    taken, epochs, found = list[_Member](), list[Epoch](), list(notes)
    for member in trained:
        result, number = member.result, member.name.removeprefix("network ")
        if result.stage.epochs < stage.epochs:
            found.append(
                f"{member.name}: {result.stage.epochs} of {stage.epochs} epochs, so that the run "
                "ends in time"
            )
        found += [f"{member.name}: {failure}" for failure in result.failures]
        if result.best:
            taken.append(member)
        else:
            found.append(f"{member.name} is left out: it is no better than the head")
        for epoch in result.epochs:
            epochs.append(replace(epoch, number=len(epochs) + 1, network=number))
    size = min(member.result.batch_size for member in trained)
    start = trained[0].result.start
    return taken, StageResult(stage, start, tuple(epochs), 0, size, tuple(found))


def _alone(member: _Member, result: StageResult) -> tuple[NetworkState, StageResult]:
    """The only network that is taken, or that was trained."""
    set_weights(member.network.backbone.keras_model, member.weights)
    return member.network, result


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
