"""What a run is going to do: stages, views, what is kept and where, and how long it takes."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from efftune.data import images
from efftune.data.examples import Split
from efftune.errors import UsageError
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import FEATURES, Backbone
from efftune.model.engines.openvino_engine import fastest_precision
from efftune.model.uncertainty import REFERENCES
from efftune.recipe.recipe import Recipe, Stage
from efftune.recipe.training import Augment, Flip
from efftune.system import files

_MEMORY_SHARE = 1 / 4  # of the free memory, for kept activations
_DISK_SHARE = 1 / 2  # of the free disk
_BYTES = 2  # of a kept value
_FEATURE_BYTES = 4  # of a kept feature
_FEW_STEPS = 4  # an epoch: then smaller batches are better
_MEASURED_PICTURES = 24
_MEASURED_STEPS = 2
_HALVED = 32  # how often smaller the last activations are than the picture
_HEAD_SECONDS = 1e-3  # a picture; little enough not to be measured


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    Attributes:
        recipe: every choice, with nothing left open that can be decided beforehand.
        pictures: by split.
        kept_bytes: what the kept activations take.
        mapped_bytes: how much of them may be in memory at a time.
        place: `memory` where all of them fit in there, else `disk`; empty if none are kept.
        decoded_bytes: what the decoded pictures take on disk while all blocks are trained.
        notes: what was given up for want of room, and what is wasted.
        seconds: by phase, where that was measured.
    """

    recipe: Recipe
    pictures: Mapping[Split, int]
    kept_bytes: int = 0
    mapped_bytes: int = 0
    place: str = ""
    decoded_bytes: int = 0
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What `run.json` and `--dry-run --json` say of it."""
        recipe = self.recipe
        return {
            "stages": [asdict(stage) for stage in recipe.stages],
            "pictures": dict(self.pictures),
            "views": recipe.augmentation.views,
            "activations": {
                "type": recipe.tuning.activations,
                "bytes": self.kept_bytes,
                "place": self.place,
                "in_memory_at_most": self.mapped_bytes,
            },
            "decoded_bytes": self.decoded_bytes,
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }


def plan(recipe: Recipe, backbone: Backbone, pictures: Mapping[Split, int]) -> Plan:
    """Decide what the recipe leaves open.

    Activations lie on disk, for later runs too; what does not fit into the memory allowed for them
    is read from there as it is needed. If the disk has no room, there are fewer views, and if not
    even the pictures themselves fit, a higher block is the first to be trained.

    Args:
        recipe: how to train.
        backbone: what to train.
        pictures: how many there are, by split.

    Raises:
        UsageError: the recipe names a block that the backbone does not have, or there is no room
            for the activations of any block, or for the decoded pictures.
    """
    recipe = recipe.decided(pictures["train"])
    decoded = 0
    if any(stage.block == "pixels" for stage in recipe.stages):
        decoded = (pictures["train"] + pictures["val"]) * backbone.image_size**2 * 3
    training_data_of = (
        recipe.head.epochs * pictures["train"] * backbone.entry.features * _FEATURE_BYTES
    )
    room = int(shutil.disk_usage(files.cache_folder()).free * _DISK_SHARE) - decoded
    if decoded and room < 0:
        raise _no_room(decoded, "decoded pictures", "take a recipe that does not train all blocks")
    room -= training_data_of
    if training_data_of and room < 0:
        raise _no_room(training_data_of, "features", "train the head with fewer --head-epochs")
    notes = [*_wasted(recipe), *_unwise(recipe, pictures["train"])]
    if not any(stage.name == "upper" for stage in recipe.stages):
        return Plan(recipe, pictures, decoded_bytes=decoded, notes=tuple(notes))
    memory = psutil.virtual_memory().available
    allowed = int(recipe.tuning.memory * 2**30) or int(memory * _MEMORY_SHARE)
    block, views = _fitting(recipe, backbone, pictures, room)
    if block != backbone.block(recipe.tuning.unfreeze):
        notes.append(f"{block} instead of {recipe.tuning.unfreeze}, for want of disk space")
    if views != recipe.augmentation.views:
        notes.append(
            f"{views} views instead of {recipe.augmentation.views}, for want of disk space"
        )
    kept = _bytes(backbone, block, pictures, views)
    return Plan(
        recipe.changed(unfreeze=block, views=views),
        pictures,
        kept,
        min(kept, allowed),
        "memory" if kept <= allowed else "disk",
        decoded,
        tuple(notes),
    )


def with_views(plan: Plan, backbone: Backbone, augment: Augment, flip: Flip) -> Plan:
    """The same plan with views of that kind, or without any."""
    recipe = plan.recipe.changed(augment=augment, flip=flip)
    if augment != "none" or not plan.kept_bytes:
        return replace(plan, recipe=recipe)
    block = backbone.block(recipe.tuning.unfreeze)
    kept = _bytes(backbone, block, plan.pictures, 0)
    return replace(plan, recipe=recipe.changed(views=0), kept_bytes=kept)


def estimate(plan: Plan, backbone: Backbone, paths: Sequence[Path]) -> dict[str, float]:
    """How long the phases of a run will take, from a short measurement on this machine.

    A few pictures are run for real, so what is kept from earlier runs counts as kept, and so do
    these from now on. Tracing and compiling are in it.

    Args:
        plan: what the run is going to do.
        backbone: as for `plan`; its weights stay as they are.
        paths: the training pictures.

    Returns:
        Seconds by phase, without the start.
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
        count = _views_of(stage, recipe)
        if count:
            output = [FEATURES] if stage.name == "head" else upper
            views = range(1, count + 1)
            spent = train * _frozen_seconds(paths, backbone, settings(plan), output, views)
            seconds["views"] = seconds.get("views", 0.0) + spent
        if stage.name in ("whole", "scratch"):
            seconds["decode"] = (train + plan.pictures["val"]) * _decode_seconds(paths, backbone)
        if stage.name != "head":
            seconds[stage.name] = _stage_seconds(stage, backbone, plan)
    if recipe.tunes:
        seconds["evaluate"] = (held_out + min(train, REFERENCES)) * exact
    return {phase: round(spent, 1) for phase, spent in seconds.items()}


def _views_of(stage: Stage, recipe: Recipe) -> int:
    """How many views a stage caches; `views` is a number only where something is fine-tuned."""
    if stage.name == "head":
        return recipe.head.epochs
    return int(recipe.augmentation.views) if stage.name == "upper" else 0


def settings(plan: Plan, *, exact: bool = False) -> ExtractionSettings:
    """How a plan's features are computed: `exact` ones in float32, others as fast as can be."""
    recipe = plan.recipe
    strength, flip = recipe.views_shown
    return ExtractionSettings(
        fit=recipe.backbone.fit,
        precision="f32" if exact else fastest_precision(),
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
    """Of the frozen part for one picture: what more pictures take more than one does."""
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, _MEASURED_PICTURES).astype(int)]
    spent = []
    for part in (chosen[:1], chosen[1:2], chosen[2:]):  # the first pays for the conversion
        start = time.perf_counter()
        extraction.extract(part, backbone, settings, outputs=outputs, views=views)
        spent.append(time.perf_counter() - start)
    return max(0.0, spent[2] - spent[1]) / (len(chosen) - 3)


def _decode_seconds(paths: Sequence[Path], backbone: Backbone) -> float:
    start = time.perf_counter()
    images.decode_all(paths[:_MEASURED_PICTURES], backbone.image_size, "crop")
    return (time.perf_counter() - start) / len(paths[:_MEASURED_PICTURES])


def _stage_seconds(stage: Stage, backbone: Backbone, plan: Plan) -> float:
    """Tracing, and a step of random inputs times the number of steps."""
    from efftune.training.network import Network

    size = min(plan.recipe.optimization.batch_size, plan.pictures["train"])
    start = time.perf_counter()
    head = (np.zeros((backbone.entry.features, 2), np.float32), np.zeros(2, np.float32))
    recipe = plan.recipe.changed(mix="none")
    network = Network(backbone, head, stage, recipe, (_MEASURED_STEPS + 1, 1))
    before = network.judged.get_weights()
    inputs = np.zeros((size, *network.judged.input.shape[1:]), np.float32)
    targets = np.eye(2, dtype=np.float32)[np.arange(size) % 2]
    network.trained.train_on_batch(inputs, targets)
    traced = time.perf_counter()
    for _ in range(_MEASURED_STEPS):
        network.trained.train_on_batch(inputs, targets)
    step = (time.perf_counter() - traced) / _MEASURED_STEPS
    network.judged.set_weights(before)
    steps = max(1, plan.pictures["train"] // size) * stage.epochs
    return traced - start + step * steps


def _wasted(recipe: Recipe) -> list[str]:
    """What the asked for size computes in vain: every halving of a side is rounded up."""
    size = recipe.backbone.image_size
    full = -(-size // _HALVED) * _HALVED
    if size == full:
        return []
    return [
        f"{size} px are no multiple of {_HALVED}, so that a part of what is computed is padding; "
        f"{full} px would hardly take longer"
    ]


def _unwise(recipe: Recipe, pictures: int) -> list[str]:
    notes = []
    if recipe.optimization.optimizer == "rmsprop" and recipe.phases != ("scratch",):
        notes.append(
            "rmsprop takes its largest steps while its averages are still empty, which damages "
            "pretrained weights; adamw or adam are safer"
        )
    steps = pictures // recipe.optimization.batch_size
    if recipe.tunes and steps < _FEW_STEPS < pictures:
        notes.append(
            f"batches of {recipe.optimization.batch_size} leave {max(1, steps)} step(s) an epoch; "
            "smaller ones, such as --batch-size 16, learn more from few pictures"
        )
    return notes


def _fitting(
    recipe: Recipe, backbone: Backbone, pictures: Mapping[Split, int], room: int
) -> tuple[str, int]:
    """The first block to train and the number of views for which there is room (bytes)."""
    wanted, views = backbone.block(recipe.tuning.unfreeze), int(recipe.augmentation.views)
    for block in backbone.blocks[backbone.blocks.index(wanted) :]:
        plain = _bytes(backbone, block, pictures, 0)
        if plain <= room:
            view = _bytes(backbone, block, pictures, 1) - plain
            return block, min(views, (room - plain) // max(1, view))
    raise _no_room(plain, "activations", "train with --unfreeze none")


def _no_room(size: int, of: str, way_out: str) -> UsageError:
    return UsageError(
        f"There is no room for {size / 2**30:.1f} GiB of {of} in {files.cache_folder()}: at most "
        f"half of what is free there is used. Make room, set EFFTUNE_CACHE to a folder on a larger "
        f"disk, or {way_out}."
    )


def _bytes(backbone: Backbone, block: str, pictures: Mapping[Split, int], views: int) -> int:
    """What the activations at a block take, of all views to train on and of none to judge by."""
    rows = (1 + views) * pictures["train"] + pictures["val"]
    return rows * int(np.prod(backbone.shape(block))) * _BYTES
