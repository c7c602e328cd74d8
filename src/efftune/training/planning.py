"""The plan of a run: stages, views, what is cached and where."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from efftune.data import bit_depth
from efftune.data.bit_depth import BitDepth
from efftune.data.examples import Examples, Split
from efftune.errors import UsageError
from efftune.features import cache
from efftune.features.cache import SHARD_ROWS
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import FEATURES, STAGE_FEATURES, Backbone
from efftune.model.engines import devices
from efftune.model.engines.engine import Precision, chosen_precision
from efftune.recipe.recipe import Recipe
from efftune.recipe.training import Augment, Flip
from efftune.system import files, machine
from efftune.system.budget import Budget

_MEMORY_SHARE = 1 / 4  # of the free memory, for cached activations
_DISK_SHARE = 1 / 2  # of the disk space that is free or holds the cache
_MOST_OF_FREE = 9 / 10  # of the disk space
_NO_ROOM = "not enough disk space"
_ACTIVATION_BYTES = 2  # per cached value
_FEATURE_BYTES = 4  # per cached value
MOST_CHECKED = 1000  # pictures that show whether augmented views are recognised
_PART_SECONDS, _SMALLEST_PART = 4, 128  # of the frozen passes between two looks at the clock
_FEW_STEPS = 4  # per epoch; below this, smaller batches train better
_USUAL_BATCH, _SMALL_BATCH = 64, 16
_STEP_SHARE = 0.5  # of all memory that the activations of a step may take
_TOTAL_STRIDE = 32  # of the backbone: the side of its input over that of its last activations


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
        decoded_bytes: disk space for the decoded pictures while all blocks are trained; 0 if they
            are decoded again in each epoch.
        notes: what was reduced for lack of disk space, and settings that are inefficient or risky.
        seconds: estimated duration by phase; empty if it was not measured.
        depth: which values of pictures of more than 8 bits become black and white.
        folds: of the cross-validation that judges; 0 if there are validation and test pictures.
        most_members: how many networks may be trained in all, if time is left after the recipe's.
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
    most_members: int = 1

    @property
    def pooled_output(self) -> str:
        """The output of the backbone that the head is fitted on."""
        return pooled_output(self.recipe)

    def to_state(self) -> dict[str, Any]:
        """All of it as JSON values, for `from_state`."""
        return asdict(self) | {"recipe": self.recipe.settings}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Plan":
        """The plan that `to_state` describes."""
        parts = {
            "recipe": Recipe(**state["recipe"]),
            "notes": tuple(state["notes"]),
            "depth": BitDepth.from_dict(state["depth"]),
        }
        return cls(**(state | parts))

    def to_dict(self) -> dict[str, Any]:
        """The plan as written to `run.json` and printed by `--dry-run --json`."""
        recipe = self.recipe
        return {
            "model": recipe.backbone.model,
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
    are read from disk as needed. If the disk is too small, they are kept in memory; if that is too
    small, too, fewer views are cached; if even the unaugmented pictures do not fit, training starts
    at a higher block, and if those of no block fit, only the head is trained.

    Args:
        recipe: the settings of the run.
        backbone: the network to train.
        pictures: number of pictures by split.
        folds: of the cross-validation that judges, if any.

    Raises:
        UsageError: the backbone has no such block, the processor has no such precision, or there is
            no space for the features of the head's views.
    """
    precision = chosen_precision(backbone.engine, recipe.backbone.precision)
    recipe, notes = _resolved(recipe, backbone, pictures["train"])
    kept = _kept(pictures, folds)
    decoded_bytes, room = _room(recipe, backbone, kept)
    if any(stage.block == "pixels" for stage in recipe.stages) and not decoded_bytes:
        notes.append(f"pictures are decoded again in each epoch: {_NO_ROOM}")
    notes += [*_padding_notes(recipe), *_optimization_notes(recipe, pictures["train"])]
    if not any(stage.name == "upper" for stage in recipe.stages):
        made = Plan(recipe, pictures, precision, decoded_bytes=decoded_bytes, folds=folds)
        return replace(made, notes=tuple(notes))
    fitting = _fitting_block(recipe, backbone, kept, room)
    if fitting is None:
        can_fit = recipe.can_cross_validate  # a head that needs no settings of training
        head = recipe.head_only() if can_fit else recipe.without_tuning()
        made = plan(head, backbone, pictures, folds)
        return replace(made, notes=(*made.notes, f"only the head is trained: {_NO_ROOM}"))
    block, views = fitting
    if block != backbone.block(recipe.tuning.unfreeze):
        notes.append(f"training from {block} instead of {recipe.tuning.unfreeze}: {_NO_ROOM}")
    if views != recipe.augmentation.views:
        notes.append(f"{views} views instead of {recipe.augmentation.views}: {_NO_ROOM}")
    cached_bytes, limit = _activation_bytes(backbone, block, kept, views), _memory_limit(recipe)
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


def plan_for(recipe: Recipe, backbone: Backbone, examples: Examples) -> Plan:
    """The plan for a source, in splits or folds; see `plan`."""
    folds = 0 if examples.folds is None else int(examples.folds.max()) + 1
    made = plan(recipe, backbone, examples.counts, folds)
    return replace(made, depth=examples.depth, notes=(*examples.depth.notes, *made.notes))


def with_views(plan: Plan, backbone: Backbone, augment: Augment, flip: Flip) -> Plan:
    """The same plan with these augmentation settings; without cached views if `augment` is none."""
    recipe = plan.recipe.changed(augment=augment, flip=flip)
    if augment != "none" or not plan.activation_bytes:
        return replace(plan, recipe=recipe)
    block = backbone.block(recipe.tuning.unfreeze)
    cached_bytes = _activation_bytes(backbone, block, _kept(plan.pictures, plan.folds), 0)
    return replace(plan, recipe=recipe.changed(views=0), activation_bytes=cached_bytes)


def settings(
    plan: Plan, budget: Budget | None = None, *, exact: bool = False
) -> ExtractionSettings:
    """Extraction settings of a plan: float32 if `exact`, else in the plan's precision.

    If the time is limited, it is asked every few seconds whether that is enough.
    """
    recipe = plan.recipe
    strength, flip = recipe.view_settings
    part = SHARD_ROWS
    if budget is not None and budget.is_limited and budget.picture_seconds:
        part = min(part, max(_SMALLEST_PART, int(_PART_SECONDS / budget.picture_seconds)))
    return ExtractionSettings(
        fit=recipe.backbone.fit,
        depth=plan.depth,
        precision="f32" if exact else plan.precision,
        dtype=recipe.tuning.activations,
        augment=strength,
        flip=flip,
        seed=recipe.seed,
        mapped_bytes=plan.mapped_bytes,
        part=part,
    )


def pooled_output(recipe: Recipe) -> str:
    """The output of the backbone that the head is fitted on.

    The features of all stages, if it is fitted by regression: the head on the frozen network
    competes with the fine-tuned network then.
    """
    has_all = recipe.can_cross_validate and recipe.head.features == "auto"
    return STAGE_FEATURES if has_all else FEATURES


def _resolved(recipe: Recipe, backbone: Backbone, pictures: int) -> tuple[Recipe, list[str]]:
    """The recipe with numbers for `auto`, and notes.

    The batch size is the usual one, halved until it suits.
    """
    if recipe.optimization.batch_size != "auto" or not recipe.trains_by_gradient_descent:
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
    notes: list[str] = []
    if not recipe.trains_by_gradient_descent:
        return notes
    if recipe.optimization.optimizer == "rmsprop" and recipe.phases != ("scratch",):
        notes.append(
            "rmsprop takes its largest steps at the start, before its moving averages have warmed "
            "up, which damages pretrained weights; adamw or adam is safer"
        )
    batch_size = int(recipe.optimization.batch_size)
    steps = pictures // batch_size
    if steps < _FEW_STEPS < pictures and batch_size > _SMALL_BATCH:
        notes.append(
            f"a batch size of {batch_size} leaves {max(1, steps)} step(s) per epoch; with so few "
            "pictures a smaller one, such as --batch-size auto, trains better"
        )
    return notes


def _kept(pictures: Mapping[Split, int], folds: int) -> Mapping[Split, int]:
    """Pictures whose activations are kept; all of them for validation, too, if folds judge."""
    return {**pictures, "val": pictures["train"]} if folds else pictures


def _room(recipe: Recipe, backbone: Backbone, pictures: Mapping[Split, int]) -> tuple[int, int]:
    """Bytes of the decoded pictures, and those that cached activations may take besides.

    No pictures are kept decoded if the disk has no room for them.

    Raises:
        UsageError: there is no space for the features of the head's views.
    """
    free = _disk_limit()
    decoded = 0
    if any(stage.block == "pixels" for stage in recipe.stages):
        decoded = (pictures["train"] + pictures["val"]) * backbone.image_size**2 * 3
        decoded = decoded if decoded <= free else 0
    room = max(free - decoded, _memory_limit(recipe))
    features = recipe.head.epochs * pictures["train"] * backbone.entry.features * _FEATURE_BYTES
    if features > room:
        raise UsageError(
            f"Not enough space for {features / 2**30:.1f} GiB of features in "
            f"{files.cache_folder()}: efftune uses at most half of the disk space that is free or "
            "holds its cache, or a quarter of the free memory. Make room, set EFFTUNE_CACHE to a "
            "folder on a larger disk, or train the head with fewer --head-epochs."
        )
    return decoded, room - features


def _disk_limit() -> int:
    """Bytes of the disk that a run may take.

    What earlier runs have cached counts as free, as when it is pruned: they may have been the same.
    But some of what is really free is left to others.
    """
    free = shutil.disk_usage(files.cache_folder()).free
    cached = cache.bytes_in(files.cache_folder() / "features")
    return int(min(free * _MOST_OF_FREE, (free + cached) * _DISK_SHARE))


def _memory_limit(recipe: Recipe) -> int:
    """Bytes of activations that may be in memory at the same time."""
    free_share = machine.free_memory() * _MEMORY_SHARE
    return int(recipe.tuning.memory * 2**30 or free_share)


def _fitting_block(
    recipe: Recipe, backbone: Backbone, pictures: Mapping[Split, int], free: int
) -> tuple[str, int] | None:
    """The first block to train and the number of views whose activations fit, if any do."""
    first, views = backbone.block(recipe.tuning.unfreeze), int(recipe.augmentation.views)
    for block in backbone.blocks[backbone.blocks.index(first) :]:
        plain_bytes = _activation_bytes(backbone, block, pictures, 0)
        if plain_bytes <= free:
            view_bytes = _activation_bytes(backbone, block, pictures, 1) - plain_bytes
            return block, min(views, (free - plain_bytes) // max(1, view_bytes))
    return None


def _activation_bytes(
    backbone: Backbone, block: str, pictures: Mapping[Split, int], views: int
) -> int:
    """Size of the activations at a block: all views for training, none for validation."""
    rows = (1 + views) * pictures["train"] + pictures["val"]
    return rows * int(np.prod(backbone.shape(block))) * _ACTIVATION_BYTES
