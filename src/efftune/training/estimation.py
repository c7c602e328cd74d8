"""How long a run is going to take, from a short measurement on this machine."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from efftune.data import images, picture_bytes
from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import FEATURES, Backbone
from efftune.model.tensors import set_weights
from efftune.model.uncertainty import REFERENCES
from efftune.recipe.recipe import Recipe, Stage
from efftune.training import planning
from efftune.training.batches import ArrayViews, LabelledInputs, StageData
from efftune.training.planning import MOST_CHECKED, Plan
from efftune.training.trainer import trainer_for

_MEASURED_PICTURES = 24
# Pictures for warming up and in all; a GPU computes 256 of them at a time.
_MEASURED_FROZEN = {"cpu": (1, 24), "gpu": (64, 600)}
_MEASURED_SPEED = 96  # pictures that the frozen network's speed is measured with
_VIEW_SHARE = 0.65  # of a pass that a view needs: up to the first trained block
_MEASURED_STEPS = 2
_MEASURED_VIEWS = 2
_HEAD_SECONDS = 1e-3  # per picture and epoch; too short to be worth measuring


@dataclass(frozen=True)
class Prices:
    """How long each part of a run takes on this machine, in seconds.

    Attributes:
        features: the frozen passes over all pictures.
        checking: whether the head recognises augmented pictures, if that is to be found out.
        view: the frozen pass over an augmented view of each training picture, up to the first
            trained block.
        head_view: the same through all blocks.
        decode: decoding the pictures that a stage augments anew in each epoch.
        tracing: what is done once in each stage, by its name.
        epoch: an epoch of each stage, by its name.
        judging: passes of a trained network over the pictures that it is judged by.
        another: those that each further network of an ensemble adds.
    """

    features: float = 0.0
    checking: float = 0.0
    view: float = 0.0
    head_view: float = 0.0
    decode: float = 0.0
    tracing: Mapping[str, float] = field(default_factory=dict)
    epoch: Mapping[str, float] = field(default_factory=dict)
    judging: float = 0.0
    another: float = 0.0

    def stages(self, recipe: Recipe) -> dict[str, float]:
        """Seconds of each stage that trains the network, done once, by its name."""
        return {
            stage.name: self.tracing[stage.name] + stage.epochs * self.epoch[stage.name]
            for stage in recipe.stages
            if stage.name != "head"
        }

    def phases(self, plan: Plan) -> dict[str, float]:
        """Seconds of each phase of a run, without those for starting and saving."""
        recipe, folds = plan.recipe, plan.folds
        seconds = {"features": self.features}
        if "head" in recipe.phases:
            head = plan.pictures["train"] * _HEAD_SECONDS * max(1, recipe.head.epochs)
            seconds["head"] = head + self.checking
        views = {stage.name: _view_count(stage, recipe) for stage in recipe.stages}
        if any(views.values()):
            seconds["views"] = views.get("head", 0) * self.head_view
            seconds["views"] += views.get("upper", 0) * self.view
        epochs: dict[str, int] = {stage.name: stage.epochs for stage in recipe.stages}
        for name, each in self.stages(recipe).items():
            if name in ("scratch", "whole"):
                seconds["decode"] = self.decode * (1 if plan.decoded_bytes else epochs[name])
            count = recipe.members if name == "upper" else 1
            # As many networks as folds and one more, but each fold's without its pictures.
            steps = each - self.tracing[name]
            seconds[name] = count * ((1 + folds) * self.tracing[name] + max(1, folds) * steps)
        if recipe.trains_by_gradient_descent:
            passes = 2 if recipe.averages_mirror_images else 1
            seconds["evaluate"] = passes * (self.judging + (recipe.members - 1) * self.another)
        return seconds


def estimate(plan: Plan, backbone: Backbone, paths: Sequence[Path]) -> dict[str, float]:
    """Estimate how long each phase of a run takes, from a short measurement; see `prices`.

    Returns:
        Seconds by phase, without the startup time.
    """
    found = prices(plan, backbone, paths).phases(plan)
    return {phase: round(seconds, 1) for phase, seconds in found.items()}


def prices(plan: Plan, backbone: Backbone, paths: Sequence[Path]) -> Prices:
    """Measure, in a short time, how long the parts of a run take on this machine.

    A few pictures pass through the feature cache, so cached pictures cost little, and the measured
    ones are cached afterwards. The times include tracing and compiling.

    Args:
        plan: the plan of the run.
        backbone: the network to train; its weights are not changed.
        paths: the training pictures.
    """
    recipe, train, folds = plan.recipe, plan.pictures["train"], plan.folds
    held_out = train if folds else plan.pictures["val"] + plan.pictures["test"]
    upper = [backbone.block(stage.block) for stage in recipe.stages if stage.name == "upper"]
    outputs = [*upper, plan.pooled_output] if "head" in recipe.phases else []
    settings = planning.settings(plan)
    exact = _frozen_seconds(paths, backbone, replace(settings, precision="f32"), outputs, [0])
    plain = exact  # what was measured is cached, and would cost nothing now
    if settings.precision != "f32":
        plain = _frozen_seconds(paths, backbone, settings, outputs, [0])
    view, head_view, decode = 0.0, 0.0, 0.0
    for stage in recipe.stages:
        if count := min(_MEASURED_VIEWS, _view_count(stage, recipe)):
            output, views = [FEATURES] if stage.name == "head" else upper, range(1, count + 1)
            seconds = train * _frozen_seconds(paths, backbone, settings, output, views) / count
            view, head_view = (view, seconds) if stage.name == "head" else (seconds, head_view)
        if stage.name in ("whole", "scratch"):
            decoded = max(1, folds) * train + plan.pictures["val"]
            decode = decoded * _decode_seconds(paths, backbone)
    judged = held_out + _references(plan)
    return replace(
        _training_prices(plan, backbone),
        features=train * plain + held_out * exact,
        checking=_checked(plan) * plain,
        view=view,
        head_view=head_view,
        decode=decode,
        judging=judged * exact,
        another=(1 - _VIEW_SHARE) * judged * exact,
    )


def _checked(plan: Plan) -> int:
    """How many augmented pictures the choice of views looks at, at least."""
    augmentation = plan.recipe.augmentation
    checks = (augmentation.augment == "auto") + (augmentation.flip == "auto")
    pictures = plan.pictures["train"] if plan.folds else plan.pictures["val"]
    return checks * plan.recipe.trains_by_gradient_descent * min(pictures, MOST_CHECKED)


def _training_prices(plan: Plan, backbone: Backbone) -> Prices:
    """Those of tracing each stage that trains the network, and of an epoch."""
    tracing, epoch = dict[str, float](), dict[str, float]()
    for stage in plan.recipe.stages:
        if stage.name != "head":
            tracing[stage.name], steps = _stage_seconds(stage, backbone, plan)
            epoch[stage.name] = steps / stage.epochs
    return Prices(tracing=tracing, epoch=epoch)


def fine_tuning_seconds(plan: Plan, backbone: Backbone) -> float:
    """Estimate how long tracing and the steps of all stages take that train the network."""
    phases = _training_prices(plan, backbone).phases(plan)
    return sum(phases[stage.name] for stage in plan.recipe.stages if stage.name != "head")


def picture_seconds(backbone: Backbone, recipe: Recipe, paths: Sequence[Path]) -> float:
    """Seconds that the frozen network takes for a picture, decoding included, from a few.

    What has to be made for that once, such as the converted network, is made.

    Args:
        backbone: the network.
        recipe: of the run.
        paths: some pictures of it.
    """
    settings = ExtractionSettings(recipe.backbone.fit, "f32")
    outputs = [planning.pooled_output(recipe)]
    return _frozen_seconds(paths, backbone, settings, outputs, [0])


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
            content, fit = picture_bytes.read(path), plan.recipe.backbone.fit
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
    # Others each time: what was measured once is cached, and others may not be.
    chosen = np.random.default_rng().choice(len(paths), count, replace=len(paths) < count)
    sample = [paths[i] for i in chosen]
    settings = replace(settings, shares=False)  # that would measure the network
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
    network = Network(backbone, head, stage, recipe)
    initial_weights = network.inference_model.get_weights()
    order = np.arange(size * _MEASURED_STEPS).reshape(_MEASURED_STEPS, size)
    shape = (order.size, *network.inference_model.input.shape[1:])
    zeros = np.broadcast_to(np.zeros((), np.float32), shape)
    blank = LabelledInputs(ArrayViews(lambda _epoch: zeros, shape), np.arange(order.size) % 2)
    data = StageData(blank, np.ones(order.size, np.float32), blank, _MEASURED_STEPS, size, size)
    divided = recipe.optimization.divide_steps
    trainer = trainer_for(network.training_model, network.inference_model, data, divided=divided)
    list(trainer.train(1, order[:1]))
    traced = time.perf_counter()
    list(trainer.train(1, order))
    step = (time.perf_counter() - traced) / _MEASURED_STEPS
    set_weights(network.inference_model, initial_weights)
    steps = max(1, plan.pictures["train"] // size) * stage.epochs
    return traced - start, step * steps
