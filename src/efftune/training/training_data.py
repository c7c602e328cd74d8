"""What a run trains on and is judged by: pictures, labels, and their frozen features."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import SPLITS, Examples, Split, labels
from efftune.errors import DataError
from efftune.features import extraction
from efftune.features.extraction import Features
from efftune.model.backbone import FEATURES, Backbone
from efftune.training import planning
from efftune.training.planning import Plan


@dataclass(frozen=True)
class TrainingData:
    """Paths, labels and frozen features of all splits.

    Attributes:
        paths: of the readable pictures, by split.
        labels: class numbers by split, int64 (pictures,).
        groups: group numbers of the training pictures, int64 (pictures,); pictures of one group
            are copies of each other or belong together otherwise.
        features: outputs of the frozen backbone for the unaugmented pictures, by split.
    """

    paths: dict[Split, list[Path]]
    labels: dict[Split, NDArray[np.int64]]
    groups: NDArray[np.int64]
    features: dict[Split, Features]

    @property
    def cache_counts(self) -> dict[str, int]:
        """How many pictures' features were computed, and how many were found in the cache."""
        parts = [part for part in self.features.values() if part.rows]
        computed = sum(part.computed for part in parts)
        readable = sum(len(part.sha256s.keys() - part.failures.keys()) for part in parts)
        return {"computed": computed, "cached": readable - computed}


def compute(
    examples: Examples,
    backbone: Backbone,
    plan: Plan,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Examples, TrainingData]:
    """Run the frozen backbone over the pictures of all splits.

    Training pictures are computed in the CPU's fastest precision; validation and test pictures in
    float32, so that the scores are those of the saved model on any machine. Only what a later stage
    trains on or is evaluated with is computed.

    Args:
        examples: with a split each.
        backbone: the pretrained network.
        plan: of the run; says which outputs are needed.
        on_progress: called with the pictures done and their total, from several threads.

    Returns:
        The examples, with those that could not be decoded set aside, and the data of the others.

    Raises:
        DataError: too little is left to train on.
    """
    recipe = plan.recipe
    upper = [backbone.block(stage.block) for stage in recipe.stages if stage.name == "upper"]
    pooled = [FEATURES] if "head" in recipe.phases else []
    # Whether an epoch may see the pictures themselves; whether views are of use is not known yet.
    plain = (
        recipe.augmentation.plain_view
        or recipe.augmentation.augment == "auto"
        or not recipe.augmentation.views
    )
    outputs = {
        "train": [*(upper if plain else []), *([] if recipe.head.epochs else pooled)],
        "val": [*upper, *pooled],
        "test": pooled,
    }
    total = sum(examples.counts.values())
    done = itertools.count(1)
    features = {}
    for split in SPLITS:
        features[split] = extraction.extract(
            [row.path for row in examples.of(split)],
            backbone,
            planning.settings(plan, exact=split != "train"),
            lambda: on_progress(next(done), total),
            outputs=outputs[split],
        )
    for part in features.values():
        examples = examples.as_read(part.sha256s, part.failures)
    examples.require_trainable(allow_missing=recipe.data.missing_classes == "allow")
    rows = {split: examples.of(split) for split in SPLITS}
    data = TrainingData(
        {split: [row.path for row in rows[split]] for split in SPLITS},
        {split: labels(rows[split], examples.class_names) for split in SPLITS},
        examples.groups("train"),
        features,
    )
    return examples, data


def require_unchanged(found: Features) -> None:
    """Stop if a picture that was readable before is not any more.

    Raises:
        DataError: one is not.
    """
    for path, reason in found.failures.items():
        raise DataError(f"{path} was changed while the run went on: {reason}. Start again.")
