"""Fine-tuning: prepare the training data of each stage and run the stages in order."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from efftune.data.examples import NO_TIME
from efftune.errors import UsageError
from efftune.features import extraction
from efftune.features.extraction import Features
from efftune.model.backbone import FEATURES, Backbone
from efftune.recipe.recipe import Recipe, Stage
from efftune.system.progress import Timer
from efftune.training import decoded, gradient_head, history, members, planning, stages
from efftune.training import regression_head as heads
from efftune.training.batches import CachedViews, LabelledInputs
from efftune.training.planning import Plan
from efftune.training.regression_head import Head
from efftune.training.stage_result import LeftOut, NetworkState, StageResult
from efftune.training.training_data import TrainingData, require_unchanged
from efftune.training.validation import Epoch, is_better, validation_metrics

_NO_GAIN = "the head on the frozen network does better on validation"


@dataclass(frozen=True)
class TrainingResult:
    """A trained network and its training history.

    Attributes:
        network: backbone and head after the last stage.
        head: the head fitted on the frozen features, before any fine-tuning.
        stages: results of the stages that were trained by gradient descent.
        epochs: the epochs of all stages, in order.
    """

    network: NetworkState
    head: Head
    stages: tuple[StageResult, ...]
    epochs: tuple[Epoch, ...]


def fine_tune(
    backbone: Backbone, head: Head, data: TrainingData, plan: Plan, timer: Timer
) -> TrainingResult:
    """Run the stages after the head has been fitted.

    They start from a head for the features of the last stage. The head that was fitted on those of
    all stages is kept if validation shows no gain over it.

    Args:
        backbone: its Keras weights are trained in place.
        head: fitted on the frozen features of the training data.
        data: training and validation data.
        plan: the plan of the run, with its views chosen.
        timer: measures the phases.
    """
    network, results = NetworkState(backbone, head.kernel, head.bias), list[StageResult]()
    try:
        data = with_views(data, backbone, plan, timer)
    except LeftOut as reason:
        timer.left_out = str(reason)
    else:
        network, results = _gained(backbone, head, data, plan, timer)
    epochs = history.history(head, data, timer.seconds.get("head", 0.0), results)
    return TrainingResult(network, head, tuple(results), tuple(epochs))


def _gained(
    backbone: Backbone, head: Head, data: TrainingData, plan: Plan, timer: Timer
) -> tuple[NetworkState, list[StageResult]]:
    """The network after all stages, or the frozen one if it does better; and the results."""
    frozen, results = NetworkState(backbone, head.kernel, head.bias), list[StageResult]()
    if not plan.recipe.trains_by_gradient_descent:  # and no Keras model is needed yet
        return frozen, results
    start = starting(head, data, backbone, plan, timer)
    network, pretrained = frozen, backbone.keras_model.get_weights()
    for after, result in run_stages(backbone, start, data, plan, timer):
        network = after
        results.append(result)
    if not results or gains(results[-1], head, data):
        return network, results
    backbone.restore(pretrained)
    return frozen, [not_taken(each) for each in results]


def starting(head: Head, data: TrainingData, backbone: Backbone, plan: Plan, timer: Timer) -> Head:
    """The head that fine-tuning starts from, for the features of the last stage.

    Args:
        head: fitted on the features of all stages, or initialised.
        data: the training data.
        backbone: the pretrained network.
        plan: the plan of the run.
        timer: measures the phase.
    """
    if len(head.kernel) == backbone.entry.features or not plan.recipe.trains_by_gradient_descent:
        return head
    with timer.phase("head"):
        return fit_head(data, backbone, plan.recipe, fine_tuned=True)


def gains(result: StageResult, head: Head, data: TrainingData) -> bool:
    """Whether validation shows that fine-tuning gains over the head on the frozen network.

    Args:
        result: of the last stage.
        head: fitted by regression, or initialised.
        data: the training and validation data.
    """
    if head.strength is None:
        return True
    logits, labels = head.logits(data.features["val"].pooled()), data.labels["val"]
    loss, accuracy, calibrated = validation_metrics(logits, labels)
    alone = replace(
        result.start, val_loss=loss, val_accuracy=accuracy, val_calibrated_loss=calibrated
    )
    top = max(alone.val_accuracy, result.selected.val_accuracy)
    return is_better(result.selected, alone, top, len(labels))


def not_taken(result: StageResult) -> StageResult:
    """The result of a stage whose network is not better than the frozen one."""
    return replace(result, best=0, failures=(*result.failures, _NO_GAIN))


def run_stages(
    backbone: Backbone, head: Head, data: TrainingData, plan: Plan, timer: Timer
) -> Iterator[tuple[NetworkState, StageResult]]:
    """Run the stages that are trained by gradient descent.

    Args:
        backbone: its Keras weights are trained in place.
        head: fitted on the frozen features of the training data.
        data: training data, with views; and validation data. Without the latter, each stage keeps
            its last epoch.
        plan: the plan of the run, with its views chosen.
        timer: measures the phases.

    Yields:
        After each stage, the network and the result of the stage. If the run is to be finished,
        or there is no time, what is not trained yet is left out; the timer has the reason.

    Raises:
        UsageError: the run is to be finished, and nothing is trained yet.
    """
    has_result = head.strength is not None
    try:
        for network, result in _stages(backbone, head, data, plan, timer):
            has_result = True
            yield network, result
    except LeftOut as reason:
        timer.left_out = str(reason)
        if not has_result:
            raise UsageError(
                "No epoch is complete yet, so there is nothing to judge: resume the run."
            ) from None


def _stages(
    backbone: Backbone, head: Head, data: TrainingData, plan: Plan, timer: Timer
) -> Iterator[tuple[NetworkState, StageResult]]:
    """See `run_stages`."""
    recipe, network = plan.recipe, initial(backbone, head, plan.recipe)
    for stage in recipe.stages:
        if stage.name == "head":
            if recipe.head.epochs:
                network, result = _train_gradient_head(stage, backbone, data, plan, timer)
                yield network, result
            continue
        if stage.name == "upper":
            inputs = partial(cached_views, stage, backbone, data)
            network, result = members.fit(network, stage, inputs, data, plan, timer)
            yield network, result
            continue
        train, val = decoded.inputs(backbone, data, plan, timer)
        if stage.name == "scratch":
            untrained_head = heads.random(len(head.kernel), len(head.bias), recipe.seed)
            start = NetworkState(
                backbone.randomly_initialized(recipe.seed),
                untrained_head.kernel,
                untrained_head.bias,
            )
        else:
            start = network
        with timer.phase(stage.name):
            trained, result = stages.fit(start, stage, train, val, recipe, timer)
        # Followed by other stages, training from scratch is there for comparison only.
        if stage.name != "scratch" or len(recipe.stages) == 1:
            network = trained
        yield network, result


def initial(backbone: Backbone, head: Head, recipe: Recipe) -> NetworkState:
    """What the first stage of fine-tuning starts from: see `run_stages`."""
    new_head = None
    if recipe.head.start == "random":
        new_head = heads.random(len(head.kernel), len(head.bias), recipe.seed)
    return NetworkState(backbone, head.kernel, head.bias, new_head)


def fit_head(
    data: TrainingData, backbone: Backbone, recipe: Recipe, *, fine_tuned: bool = False
) -> Head:
    """Fit the head by logistic regression, or initialise it if a later stage trains it.

    Args:
        data: training data.
        backbone: the pretrained network.
        recipe: completely resolved.
        fine_tuned: fit it on the last stage's features alone, for fine-tuning to start from.
    """
    last = backbone.entry.features
    labels = data.labels["train"]
    if "head" in recipe.phases and not recipe.head.epochs:
        features = data.features["train"].pooled()
        features = features[:, -last:] if fine_tuned else features
        return heads.fit(features, labels, data.groups, recipe, last)
    return heads.random(last, int(labels.max()) + 1, recipe.seed)


def with_views(data: TrainingData, backbone: Backbone, plan: Plan, timer: Timer) -> TrainingData:
    """The same data with the activations of augmented views, if a stage trains on them.

    Raises:
        LeftOut: there is no time for that; decided once.
    """
    for stage in plan.recipe.stages:
        if stage.name == "upper" and (numbers := _view_numbers(plan.recipe)):
            block = backbone.block(stage.block)
            found = _extract_views(block, numbers, data.paths["train"], backbone, plan, timer)
            train = data.features["train"]
            train = replace(train, rows=train.rows | found.rows)
            data = replace(data, features=data.features | {"train": train})
    return data


def _view_numbers(recipe: Recipe) -> range:
    """The views that stage `upper` trains on; those of a gradient-trained head come before."""
    first = recipe.head.epochs + 1
    return range(first, first + int(recipe.augmentation.views))


def cached_views(
    stage: Stage, backbone: Backbone, data: TrainingData, recipe: Recipe
) -> tuple[LabelledInputs, LabelledInputs | None]:
    """Cached activations at the stage's block: all views for training, none for validation.

    Args:
        stage: stage `upper`.
        backbone: the pretrained network.
        data: with the activations.
        recipe: its seed draws the order of the views.
    """
    block, numbers = backbone.block(stage.block), [*_view_numbers(recipe)]
    views = [0, *numbers] if recipe.augmentation.plain_view or not numbers else numbers
    rows = [data.features["train"].rows[block, number] for number in views]
    train = LabelledInputs(CachedViews(rows, recipe.seed), data.labels["train"])
    if not data.paths["val"]:
        return train, None
    val = CachedViews([data.features["val"].rows[block, 0]], recipe.seed)
    return train, LabelledInputs(val, data.labels["val"])


def _train_gradient_head(
    stage: Stage, backbone: Backbone, data: TrainingData, plan: Plan, timer: Timer
) -> tuple[NetworkState, StageResult]:
    """Train the head by gradient descent; each epoch uses a new view of each picture."""
    paths, numbers = data.paths["train"], range(1, plan.recipe.head.epochs + 1)
    features = _extract_views(FEATURES, numbers, paths, backbone, plan, timer)
    val = (data.features["val"].pooled(), data.labels["val"])
    with timer.phase("head"):
        head, result = gradient_head.fit(
            stage, features.pooled, data.labels["train"], val, plan.recipe, timer.count
        )
    return NetworkState(backbone, head.kernel, head.bias), result


def _extract_views(
    output: str,
    numbers: range,
    paths: Sequence[Path],
    backbone: Backbone,
    plan: Plan,
    timer: Timer,
) -> Features:
    """Outputs of the frozen backbone for augmented views of the training pictures.

    Raises:
        LeftOut: there is no time for activations and what follows; decided once.
    """
    done, total = itertools.count(1), len(paths) * len(numbers)
    # A head that is trained on views, not by regression, comes first and must not be left out.
    may_end = timer.budget.is_limited and plan.recipe.can_cross_validate
    known = timer.journal.recalled("views in time")
    if may_end and known is False:
        raise LeftOut(stages.NO_TIME)
    watches = may_end and known is None

    def on_done() -> bool:
        timer.count(next(done), total)
        return watches and timer.budget.is_late

    with timer.phase("views"):
        features = extraction.extract(
            paths,
            backbone,
            planning.settings(plan, timer.budget),
            on_done,
            outputs=[output],
            views=numbers,
        )
    in_time = NO_TIME not in features.failures.values()
    if may_end and not timer.journal.decided("views in time", lambda: in_time):
        raise LeftOut(stages.NO_TIME)
    require_unchanged(features)
    return features
