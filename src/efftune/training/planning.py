"""The plan of a run: stages, views, what is cached and where, and how long it takes."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from efftune.data import bit_depth, images
from efftune.data.bit_depth import BitDepth
from efftune.data.examples import Split
from efftune.errors import UsageError
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import FEATURES, Backbone
from efftune.model.engines import devices
from efftune.model.engines.engine import Precision, chosen_precision
from efftune.model.uncertainty import REFERENCES
from efftune.recipe.recipe import Recipe, Stage
from efftune.recipe.training import Augment, Flip
from efftune.system import files
from efftune.training.batches import ArrayViews, LabelledInputs, StageData
from efftune.training.trainer import trainer_for

_MEMORY_SHARE = 1 / 4  # of the free memory, for cached activations
_DISK_SHARE = 1 / 2  # of the free disk space
_ACTIVATION_BYTES = 2  # per cached value
_FEATURE_BYTES = 4  # per cached value
_FEW_STEPS = 4  # per epoch; below this, smaller batches train better
_USUAL_BATCH, _SMALL_BATCH = 64, 16
_STEP_SHARE = 0.5  # of all memory that the activations of a step may take
_MEASURED_PICTURES = 24
# Pictures for warming up and in all; a GPU computes 256 of them at a time.
_MEASURED_FROZEN = {"cpu": (1, 24), "gpu": (64, 600)}
_MEASURED_STEPS = 2
_TOTAL_STRIDE = 32  # of the backbone: the side of its input over that of its last activations
_HEAD_SECONDS = 1e-3  # per picture and epoch; too short to be worth measuring


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    Attributes:
        recipe: all settings; every `auto` that can be resolved before training is a number.
        pictures: number of pictures by split.
        precision: of training and of the frozen network over training pictures.
        activation_bytes: size of the cached activations.
        mapped_bytes: how many of these bytes may be in memory at the same time.
        place: `memory` if all cached activations fit there, else `disk`; empty if none are cached.
        decoded_bytes: disk space for the decoded pictures while all blocks are trained.
        notes: what was reduced for lack of disk space, and settings that are inefficient or risky.
        seconds: estimated duration by phase; empty if it was not measured.
        depth: which values of pictures of more than 8 bits become black and white.
        folds: of the cross-validation that judges; 0 if there are validation and test pictures.
    """

    recipe: Recipe
    pictures: Mapping[Split, int]
    precision: Precision
    activation_bytes: int = 0
    mapped_bytes: int = 0
    place: str = ""
    decoded_bytes: int = 0
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    depth: BitDepth = bit_depth.UNKNOWN
    folds: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The plan as written to `run.json` and printed by `--dry-run --json`."""
        recipe = self.recipe
        return {
            "stages": [asdict(stage) for stage in recipe.stages],
            "pictures": dict(self.pictures),
            "folds": self.folds,
            "views": recipe.augmentation.views,
            "activations": {
                "type": recipe.tuning.activations,
                "bytes": self.activation_bytes,
                "place": self.place,
                "in_memory_at_most": self.mapped_bytes,
            },
            "decoded_bytes": self.decoded_bytes,
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }


def plan(recipe: Recipe, backbone: Backbone, pictures: Mapping[Split, int], folds: int = 0) -> Plan:
    """Resolve the settings that the recipe leaves to efftune, within the free memory and disk.

    Activations are cached on disk, where later runs find them; those that exceed the memory limit
    are read from disk as needed. If the disk is too small, fewer views are cached; if even the
    unaugmented pictures do not fit, training starts at a higher block.

    Args:
        recipe: the settings of the run.
        backbone: the network to train.
        pictures: number of pictures by split.
        folds: of the cross-validation that judges, if any.

    Raises:
        UsageError: the backbone has no such block, the processor has no such precision, or the
            disk has no space for the decoded pictures, the features or the activations of any
            block.
    """
    precision = chosen_precision(backbone.engine, recipe.backbone.precision)
    recipe, notes = _resolved(recipe, backbone, pictures["train"])
    kept = pictures if not folds else {**pictures, "val": pictures["train"]}  # for validation, too
    decoded_bytes = 0
    if any(stage.block == "pixels" for stage in recipe.stages):
        decoded_bytes = (kept["train"] + kept["val"]) * backbone.image_size**2 * 3
    feature_bytes = (
        recipe.head.epochs * pictures["train"] * backbone.entry.features * _FEATURE_BYTES
    )
    free = int(shutil.disk_usage(files.cache_folder()).free * _DISK_SHARE) - decoded_bytes
    if decoded_bytes and free < 0:
        raise _disk_full(
            decoded_bytes, "decoded pictures", "choose a recipe that does not train all blocks"
        )
    free -= feature_bytes
    if feature_bytes and free < 0:
        raise _disk_full(feature_bytes, "features", "train the head with fewer --head-epochs")
    notes += [*_padding_notes(recipe), *_optimization_notes(recipe, pictures["train"])]
    if not any(stage.name == "upper" for stage in recipe.stages):
        return Plan(
            recipe,
            pictures,
            precision,
            decoded_bytes=decoded_bytes,
            notes=tuple(notes),
            folds=folds,
        )
    free_share = psutil.virtual_memory().available * _MEMORY_SHARE
    limit = int(recipe.tuning.memory * 2**30 or free_share)
    block, views = _fitting_block(recipe, backbone, kept, free)
    if block != backbone.block(recipe.tuning.unfreeze):
        notes.append(
            f"training from {block} instead of {recipe.tuning.unfreeze}: not enough disk space"
        )
    if views != recipe.augmentation.views:
        notes.append(f"{views} views instead of {recipe.augmentation.views}: not enough disk space")
    cached_bytes = _activation_bytes(backbone, block, kept, views)
    return Plan(
        recipe.changed(unfreeze=block, views=views),
        pictures,
        precision,
        cached_bytes,
        min(cached_bytes, limit),
        "memory" if cached_bytes <= limit else "disk",
        decoded_bytes,
        tuple(notes),
        folds=folds,
    )


def with_views(plan: Plan, backbone: Backbone, augment: Augment, flip: Flip) -> Plan:
    """The same plan with these augmentation settings; without cached views if `augment` is none."""
    recipe = plan.recipe.changed(augment=augment, flip=flip)
    if augment != "none" or not plan.activation_bytes:
        return replace(plan, recipe=recipe)
    block = backbone.block(recipe.tuning.unfreeze)
    cached_bytes = _activation_bytes(backbone, block, plan.pictures, 0)
    return replace(plan, recipe=recipe.changed(views=0), activation_bytes=cached_bytes)


def estimate(plan: Plan, backbone: Backbone, paths: Sequence[Path]) -> dict[str, float]:
    """Estimate how long each phase of a run takes, from a short measurement on this machine.

    A few pictures pass through the feature cache, so cached pictures cost little, and the measured
    ones are cached afterwards. The times include tracing and compiling.

    Args:
        plan: the plan of the run.
        backbone: as for `plan`; its weights are not changed.
        paths: the training pictures.

    Returns:
        Seconds by phase, without the startup time.
    """
    recipe, train = plan.recipe, plan.pictures["train"]
    held_out = plan.pictures["val"] + plan.pictures["test"]
    upper = [backbone.block(stage.block) for stage in recipe.stages if stage.name == "upper"]
    outputs = [*upper, FEATURES] if "head" in recipe.phases else []
    exact = _frozen_seconds(paths, backbone, settings(plan, exact=True), outputs, [0])
    plain = _frozen_seconds(paths, backbone, settings(plan), outputs, [0])
    seconds = {"features": train * plain + held_out * exact}
    if outputs:
        seconds["head"] = train * _HEAD_SECONDS * max(1, recipe.head.epochs)
    for stage in recipe.stages:
        views = range(1, _view_count(stage, recipe) + 1)
        if views:
            output = [FEATURES] if stage.name == "head" else upper
            elapsed = train * _frozen_seconds(paths, backbone, settings(plan), output, views)
            seconds["views"] = seconds.get("views", 0.0) + elapsed
        if stage.name in ("whole", "scratch"):
            seconds["decode"] = (train + plan.pictures["val"]) * _decode_seconds(paths, backbone)
        if stage.name != "head":
            seconds[stage.name] = _stage_seconds(stage, backbone, plan)
    if recipe.trains_by_gradient_descent:
        seconds["evaluate"] = (held_out + min(train, REFERENCES)) * exact
    return {phase: round(elapsed, 1) for phase, elapsed in seconds.items()}


def _view_count(stage: Stage, recipe: Recipe) -> int:
    """Number of augmented views to compute per training picture for a stage."""
    if stage.name == "head":
        return recipe.head.epochs
    # Only recipes that fine-tune have a number here; otherwise `views` may still be "auto".
    return int(recipe.augmentation.views) if stage.name == "upper" else 0


def settings(plan: Plan, *, exact: bool = False) -> ExtractionSettings:
    """Extraction settings of a plan: float32 if `exact`, else in the plan's precision."""
    recipe = plan.recipe
    strength, flip = recipe.view_settings
    return ExtractionSettings(
        fit=recipe.backbone.fit,
        depth=plan.depth,
        precision="f32" if exact else plan.precision,
        dtype=recipe.tuning.activations,
        augment=strength,
        flip=flip,
        seed=recipe.seed,
        mapped_bytes=plan.mapped_bytes,
    )


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


def _stage_seconds(stage: Stage, backbone: Backbone, plan: Plan) -> float:
    """Seconds to trace a stage and to run all its steps, from a few steps on blank inputs."""
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
    return traced - start + step * steps


def _resolved(recipe: Recipe, backbone: Backbone, pictures: int) -> tuple[Recipe, list[str]]:
    """The recipe with numbers for `auto`, and notes.

    The batch size is the usual one, halved until it suits.
    """
    if recipe.optimization.batch_size != "auto":
        return recipe.resolved(pictures), []
    size = _USUAL_BATCH
    while size > _SMALL_BATCH and pictures < _FEW_STEPS * size:
        size //= 2
    limit = devices.memory_bytes(backbone.device) * _STEP_SHARE  # not the free one: it changes
    blocks = [stage.block for stage in recipe.stages if stage.name != "head"]
    needed = max(map(backbone.step_bytes, blocks), default=0)
    while size > 1 and size * needed > limit:
        size //= 2
    note = f"{size} pictures per step, because of their number or of the memory"
    recipe = recipe.changed(batch_size=size).resolved(pictures)
    return recipe, [note] if size < _USUAL_BATCH else []


def _padding_notes(recipe: Recipe) -> list[str]:
    """A note if the image size leads to padding: each stride of 2 rounds the side up."""
    size = recipe.backbone.image_size
    next_multiple = -(-size // _TOTAL_STRIDE) * _TOTAL_STRIDE
    if size == next_multiple:
        return []
    return [
        f"{size} px is not a multiple of {_TOTAL_STRIDE}, so part of the computation is spent on "
        f"padding; {next_multiple} px takes hardly any longer"
    ]


def _optimization_notes(recipe: Recipe, pictures: int) -> list[str]:
    """Notes on optimization settings that train badly."""
    notes = []
    if recipe.optimization.optimizer == "rmsprop" and recipe.phases != ("scratch",):
        notes.append(
            "rmsprop takes its largest steps at the start, before its moving averages have warmed "
            "up, which damages pretrained weights; adamw or adam is safer"
        )
    batch_size = int(recipe.optimization.batch_size)
    steps = pictures // batch_size
    if recipe.trains_by_gradient_descent and steps < _FEW_STEPS < pictures:
        notes.append(
            f"a batch size of {batch_size} leaves {max(1, steps)} step(s) per epoch; with so few "
            "pictures a smaller one, such as --batch-size auto, trains better"
        )
    return notes


def _fitting_block(
    recipe: Recipe, backbone: Backbone, pictures: Mapping[Split, int], free: int
) -> tuple[str, int]:
    """The first block to train and the number of views whose activations fit `free` bytes."""
    first, views = backbone.block(recipe.tuning.unfreeze), int(recipe.augmentation.views)
    for block in backbone.blocks[backbone.blocks.index(first) :]:
        plain_bytes = _activation_bytes(backbone, block, pictures, 0)
        if plain_bytes <= free:
            view_bytes = _activation_bytes(backbone, block, pictures, 1) - plain_bytes
            return block, min(views, (free - plain_bytes) // max(1, view_bytes))
    raise _disk_full(plain_bytes, "activations", "train with --unfreeze none")


def _disk_full(size: int, content: str, remedy: str) -> UsageError:
    return UsageError(
        f"Not enough disk space for {size / 2**30:.1f} GiB of {content} in "
        f"{files.cache_folder()}: efftune uses at most half of the free space. Free some space, "
        f"set EFFTUNE_CACHE to a folder on a larger disk, or {remedy}."
    )


def _activation_bytes(
    backbone: Backbone, block: str, pictures: Mapping[Split, int], views: int
) -> int:
    """Size of the activations at a block: all views for training, none for validation."""
    rows = (1 + views) * pictures["train"] + pictures["val"]
    return rows * int(np.prod(backbone.shape(block))) * _ACTIVATION_BYTES
