"""How long a run is going to take, from a short measurement on this machine."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from efftune.data import images
from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import FEATURES, Backbone
from efftune.model.uncertainty import REFERENCES
from efftune.recipe.recipe import Recipe, Stage
from efftune.training import planning
from efftune.training.batches import ArrayViews, LabelledInputs, StageData
from efftune.training.planning import Plan
from efftune.training.trainer import trainer_for

_MEASURED_PICTURES = 24
# Pictures for warming up and in all; a GPU computes 256 of them at a time.
_MEASURED_FROZEN = {"cpu": (1, 24), "gpu": (64, 600)}
_MEASURED_SPEED = 96  # pictures that the frozen network's speed is measured with
_VIEW_SHARE = 0.65  # of a pass that a view needs: up to the first trained block
_MEASURED_STEPS = 2
MOST_MEMBERS = 3  # as many as `thorough` trains; more make predictions slow for little
_PLANNED_SHARE = 0.9  # of the time that is left; the rest is for saving, the report and errors
_HEAD_SECONDS = 1e-3  # per picture and epoch; too short to be worth measuring


def estimate(plan: Plan, backbone: Backbone, paths: Sequence[Path]) -> dict[str, float]:
    """Estimate how long each phase of a run takes, from a short measurement on this machine.

    A few pictures pass through the feature cache, so cached pictures cost little, and the measured
    ones are cached afterwards. The times include tracing and compiling.

    Args:
        plan: the plan of the run.
        backbone: the network to train; its weights are not changed.
        paths: the training pictures.

    Returns:
        Seconds by phase, without the startup time.
    """
    recipe, train, folds = plan.recipe, plan.pictures["train"], plan.folds
    held_out = train if folds else plan.pictures["val"] + plan.pictures["test"]
    upper = [backbone.block(stage.block) for stage in recipe.stages if stage.name == "upper"]
    outputs = [*upper, plan.pooled_output] if "head" in recipe.phases else []
    exact = _frozen_seconds(paths, backbone, planning.settings(plan, exact=True), outputs, [0])
    plain = _frozen_seconds(paths, backbone, planning.settings(plan), outputs, [0])
    seconds = {"features": train * plain + held_out * exact}
    if outputs:
        seconds["head"] = train * _HEAD_SECONDS * max(1, recipe.head.epochs)
    steps = fine_tuning_seconds(plan, backbone)
    for stage in recipe.stages:
        views = range(1, _view_count(stage, recipe) + 1)
        if views:
            output = [FEATURES] if stage.name == "head" else upper
            elapsed = train * _frozen_seconds(
                paths, backbone, planning.settings(plan), output, views
            )
            seconds["views"] = seconds.get("views", 0.0) + elapsed
        if stage.name in ("whole", "scratch"):
            decoded = max(1, folds) * train + plan.pictures["val"]
            seconds["decode"] = decoded * _decode_seconds(paths, backbone)
        if stage.name in steps:
            seconds[stage.name] = steps[stage.name]
    if recipe.trains_by_gradient_descent:
        passes = 2 if recipe.averages_mirror_images else 1
        cost = passes * (1 + (recipe.members - 1) * (1 - _VIEW_SHARE)) * exact
        seconds["evaluate"] = (held_out + _references(plan)) * cost
    return {phase: round(elapsed, 1) for phase, elapsed in seconds.items()}


def fine_tuning_seconds(plan: Plan, backbone: Backbone) -> dict[str, float]:
    """Estimate how long the steps of each stage take that trains the network, by its name."""
    seconds: dict[str, float] = {}
    for stage in plan.recipe.stages:
        if stage.name != "head":
            tracing, steps = _stage_seconds(stage, backbone, plan)
            if stage.name == "upper":
                count = plan.recipe.members
                tracing, steps = count * tracing, count * steps
            # As many networks as folds and one more, but each fold's without its pictures.
            seconds[stage.name] = (1 + plan.folds) * tracing + max(1, plan.folds) * steps
    return seconds


def members(plan: Plan, backbone: Backbone, paths: Sequence[Path], seconds: float) -> int:
    """How many networks that share their frozen blocks there is time to train.

    Args:
        plan: of a run that trains one.
        backbone: the network to train; its weights are not changed.
        paths: the training pictures.
        seconds: time for all that is left of the run.

    Returns:
        1 to `MOST_MEMBERS`; 1 if the plan does not end with training upper blocks.
    """
    last = plan.recipe.stages[-1]
    if last.name != "upper" or last.block == "pixels":
        return 1
    steps = sum(fine_tuning_seconds(plan, backbone).values())
    each = milliseconds(plan, backbone, paths)
    judged = plan.pictures["train"] if plan.folds else 2 * plan.pictures["val"]  # alone, together
    judged += plan.pictures["test"] + _references(plan)
    another = steps + (1 - _VIEW_SHARE) * judged * each / 1000
    left = _PLANNED_SHARE * seconds - steps - pass_seconds(plan, each)
    return min(MOST_MEMBERS, 1 + max(0, int(left // another)))


def _references(plan: Plan) -> int:
    """How many training pictures the detectors of unusual pictures see."""
    return min(plan.pictures["train"], REFERENCES) * (1 + plan.folds)


def milliseconds(plan: Plan, backbone: Backbone, paths: Sequence[Path]) -> float:
    """How long a prediction takes, per picture of many, without what is done once.

    The feature cache is not used.

    Args:
        plan: of a run with the network.
        backbone: the network.
        paths: pictures to measure it with; a few are enough.
    """
    network = backbone.pretrained([plan.pooled_output], precision="f32", dtypes=["float32"])

    def load(path: Path) -> Pixels | None:
        try:
            content, fit = images.read(path), plan.recipe.backbone.fit
            return images.decode(content, backbone.image_size, fit, plan.depth)[None]
        except BadImage:
            return None

    sample = paths[:_MEASURED_SPEED]
    for _ in range(2):  # the first time, it is compiled
        start = time.perf_counter()
        network.run(sample, load, lambda *_: None)
        elapsed = time.perf_counter() - start
    return 1000 * elapsed / max(1, len(sample))


def pass_seconds(plan: Plan, milliseconds: float) -> float:
    """How long the frozen network takes for all that a run has it compute, about.

    Args:
        plan: of the run.
        milliseconds: per picture.
    """
    train, others = plan.pictures["train"], plan.pictures["val"] + plan.pictures["test"]
    judged, views, times = train if plan.folds else others, 0.0, 1
    if plan.recipe.trains_by_gradient_descent:  # judges are computed again with trained weights
        views, times = _VIEW_SHARE * int(plan.recipe.augmentation.views), 2
    return ((1 + views) * train + times * judged) * milliseconds / 1000


def _view_count(stage: Stage, recipe: Recipe) -> int:
    """Number of augmented views to compute per training picture for a stage."""
    if stage.name == "head":
        return recipe.head.epochs
    # Only recipes that fine-tune have a number here; otherwise `views` may still be "auto".
    return int(recipe.augmentation.views) if stage.name == "upper" else 0


def _frozen_seconds(
    paths: Sequence[Path],
    backbone: Backbone,
    settings: ExtractionSettings,
    outputs: Sequence[str],
    views: Sequence[int],
) -> float:
    """Seconds per picture in the frozen part, without the constant cost of a call."""
    first, count = _MEASURED_FROZEN[backbone.device]
    sample = [paths[i] for i in np.linspace(0, len(paths) - 1, count).astype(int)]
    elapsed = []
    # The first call includes the conversion or the compilation.
    for part in (sample[:first], sample[first : 2 * first], sample[2 * first :]):
        start = time.perf_counter()
        extraction.extract(part, backbone, settings, outputs=outputs, views=views)
        elapsed.append(time.perf_counter() - start)
    return max(0.0, elapsed[2] - elapsed[1]) / (len(sample) - 3 * first)


def _decode_seconds(paths: Sequence[Path], backbone: Backbone) -> float:
    """Seconds to decode one picture."""
    start = time.perf_counter()
    images.decode_all(paths[:_MEASURED_PICTURES], backbone.image_size, "crop")
    return (time.perf_counter() - start) / len(paths[:_MEASURED_PICTURES])


def _stage_seconds(stage: Stage, backbone: Backbone, plan: Plan) -> tuple[float, float]:
    """Seconds to trace a stage, and to run all its steps, from a few steps on blank inputs."""
    from efftune.training.network import Network

    size = min(int(plan.recipe.optimization.batch_size), plan.pictures["train"])
    start = time.perf_counter()
    head = (np.zeros((backbone.entry.features, 2), np.float32), np.zeros(2, np.float32))
    recipe = plan.recipe.changed(mix="none")
    network = Network(backbone, head, stage, recipe, (_MEASURED_STEPS + 1, 1))
    initial_weights = network.inference_model.get_weights()
    order = np.arange(size * _MEASURED_STEPS).reshape(_MEASURED_STEPS, size)
    shape = (order.size, *network.inference_model.input.shape[1:])
    zeros = np.broadcast_to(np.zeros((), np.float32), shape)
    blank = LabelledInputs(ArrayViews(lambda _epoch: zeros, shape), np.arange(order.size) % 2)
    data = StageData(blank, np.ones(order.size, np.float32), blank, _MEASURED_STEPS, size, size)
    trainer = trainer_for(network.training_model, network.inference_model, data)
    list(trainer.train(1, order[:1]))
    traced = time.perf_counter()
    list(trainer.train(1, order))
    step = (time.perf_counter() - traced) / _MEASURED_STEPS
    network.inference_model.set_weights(initial_weights)
    steps = max(1, plan.pictures["train"] // size) * stage.epochs
    return traced - start, step * steps
