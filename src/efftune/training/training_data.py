"""The data of a run: pictures, labels and frozen features of the training, val and test splits."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import NO_TIME, SPLITS, Example, Examples, Split, labels
from efftune.data.stratified_split import OF_EACH_CLASS, stratified_order
from efftune.errors import DataError
from efftune.features import extraction
from efftune.features.extraction import Features, OnDone
from efftune.model.backbone import POOLED, Backbone
from efftune.model.engines.engine import Precision, chosen_precision
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training import planning
from efftune.training.planning import Plan

_WARM_UP = 32  # pictures after which their speed is measured


@dataclass(frozen=True)
class TrainingData:
    """Paths, labels and frozen features of all splits.

    Attributes:
        paths: of the readable pictures, by split.
        labels: class numbers by split, int64 (pictures,).
        groups: group numbers of the training pictures, int64 (pictures,); pictures of a group are
            copies of each other or related in another way.
        features: outputs of the frozen backbone by split, for the unaugmented pictures and, in
            training, for the views that were added.
        folds: fold numbers of the training pictures, int64 (pictures,), if cross-validation judges;
            `val` then holds the same pictures in the same order, and `test` holds none.
    """

    paths: dict[Split, list[Path]]
    labels: dict[Split, NDArray[np.int64]]
    groups: NDArray[np.int64]
    features: dict[Split, Features]
    folds: NDArray[np.int64] | None = None

    def held_out(self, fold: int) -> "TrainingData":
        """The data for training without a fold, which is the validation split then."""
        assert self.folds is not None  # noqa: S101  (only called in cross-validation)
        inside, outside = np.flatnonzero(self.folds != fold), np.flatnonzero(self.folds == fold)
        parts: dict[Split, NDArray[np.int64]] = {"train": inside, "val": outside}
        return TrainingData(
            {"test": [], **{s: [self.paths[s][i] for i in part] for s, part in parts.items()}},
            self.labels | {split: self.labels[split][part] for split, part in parts.items()},
            self.groups[inside],
            self.features | {s: self.features[s].subset(part) for s, part in parts.items()},
        )

    @property
    def cache_counts(self) -> dict[str, int]:
        """Number of pictures whose features were computed, and of those found in the cache."""
        parts = [
            part
            for split, part in self.features.items()
            if part.rows and (self.folds is None or split == "train")  # else val repeats them
        ]
        computed = sum(part.computed for part in parts)
        readable = sum(len(part.sha256s.keys() - part.failures.keys()) for part in parts)
        return {"computed": computed, "cached": readable - computed}


def compute(
    examples: Examples,
    backbone: Backbone,
    plan: Plan,
    timer: Timer | None = None,
) -> tuple[Examples, TrainingData]:
    """Run the frozen backbone over the pictures of all splits.

    Features of the training split are computed in the plan's precision, those of the validation and
    test splits in float32, so that the scores are those of the saved model on any machine. If
    cross-validation judges, all pictures are in both the training and the validation split. Only
    outputs that training or evaluation needs are computed.

    Args:
        examples: the examples, with their splits.
        backbone: the pretrained network.
        plan: the plan of the run, which determines the outputs.
        timer: reports progress, and has the time of the run.

    Returns:
        The examples, with undecodable pictures set aside, and training pictures that there is no
        time for; and the data of the others.

    Raises:
        DataError: too few readable pictures are left to train on.
    """
    timer = timer or Timer()
    features = _features(examples, backbone, plan, timer)
    if examples.fold_of:
        require_unchanged(features["val"])
    for part in features.values():
        examples = examples.as_read(part.sha256s, part.failures)
    examples.require_trainable(allow_missing=plan.recipe.data.missing_classes == "allow")
    used = {split: examples.of(_source(split, examples)) for split in SPLITS}
    data = TrainingData(
        {split: [row.path for row in used[split]] for split in SPLITS},
        {split: labels(used[split], examples.class_names) for split in SPLITS},
        examples.groups("train"),
        features,
        examples.folds,
    )
    return examples, data


def _features(
    examples: Examples, backbone: Backbone, plan: Plan, timer: Timer
) -> dict[Split, Features]:
    """The features by split. Of the training pictures, those that there is time for."""
    needed = outputs(plan.recipe, backbone, plan.pooled_output)
    total = sum(len(examples.of(_source(split, examples))) for split in SPLITS)
    done = itertools.count(1)

    def on_done() -> None:
        timer.count(next(done), total)

    features: dict[Split, Features] = {}
    # Training pictures come last, because some can be left out, unless they are judged, too.
    order: tuple[Split, ...] = SPLITS if examples.fold_of else ("val", "test", "train")
    for split in order:
        source = _source(split, examples)
        rows = examples.of(source)
        if source != split:  # the same pictures again
            rows = tuple(row for row in rows if row.path not in features["train"].failures)
        extract = partial(
            extraction.extract,
            backbone=backbone,
            settings=planning.settings(plan, timer.budget, exact=split != "train"),
            outputs=needed[split],
        )
        if split == "train" and timer.budget.is_limited and needed[split]:
            features[split] = _in_time(extract, rows, on_done, plan, timer)
        else:
            features[split] = extract([row.path for row in rows], on_done=on_done)
    return features


def _source(split: Split, examples: Examples) -> Split:
    """The split whose pictures are used: those in training for validation, too, if folds judge."""
    return "train" if split == "val" and examples.fold_of else split


def prepare(recipe: Recipe, backbone: Backbone) -> None:
    """Let the programs of a GPU be compiled while pictures are inspected, not when they are needed.

    Args:
        recipe: of the run.
        backbone: the pretrained network.
    """
    if backbone.device != "gpu":
        return
    backbone.keras_model  # noqa: B018  (built here, so that no thread builds another)
    precision = chosen_precision(backbone.engine, recipe.backbone.precision)
    pooled = planning.pooled_output(recipe)
    needed = outputs(recipe, backbone, pooled)
    programs: set[tuple[tuple[str, ...], Precision]] = {(tuple(needed["train"]), precision)}
    programs |= {(tuple(needed[split]), "f32") for split in ("val", "test")}
    for stage in recipe.stages:
        if stage.name == "upper" and recipe.augmentation.augment != "none":
            programs.add(((backbone.block(stage.block),), precision))
    if (
        recipe.head.epochs
        or recipe.augmentation.augment == "auto"
        or recipe.augmentation.flip == "auto"
    ):
        programs.add(((pooled,), precision))  # of views
    for names, precision in programs:
        if names:
            dtypes = ["float32" if name in POOLED else recipe.tuning.activations for name in names]
            backbone.pretrained(names, precision=precision, dtypes=dtypes).prepare()


def outputs(recipe: Recipe, backbone: Backbone, pooled_output: str) -> dict[Split, list[str]]:
    """The outputs for unaugmented pictures that training or evaluation needs, by split."""
    upper = [backbone.block(stage.block) for stage in recipe.stages if stage.name == "upper"]
    pooled = [pooled_output] if "head" in recipe.phases else []
    # Whether an epoch may use the unaugmented pictures; with `auto`, this is not decided yet.
    plain = (
        recipe.augmentation.plain_view
        or recipe.augmentation.augment == "auto"
        or not recipe.augmentation.views
    )
    return {
        "train": [*(upper if plain else []), *([] if recipe.head.epochs else pooled)],
        "val": [*upper, *pooled],
        "test": pooled,
    }


def require_unchanged(features: Features) -> None:
    """Check that pictures that could be read at the start of the run still can.

    Raises:
        DataError: a picture cannot be read any more.
    """
    for path, reason in features.failures.items():
        raise DataError(f"{path} changed during the run: {reason}. Start again.")


def _in_time(
    extract: Callable[..., Features],
    rows: Sequence[Example],
    on_done: OnDone,
    plan: Plan,
    timer: Timer,
) -> Features:
    """Features of as many training pictures as there is time for; how many is decided once.

    The others fail for lack of time. All classes lose the same share.
    """
    order = stratified_order([row.label for row in rows], OF_EACH_CLASS, plan.recipe.seed)
    least, budget = OF_EACH_CLASS * len({row.label for row in rows}), timer.budget
    known: int | None = timer.journal.recalled("features")
    paths = [rows[i].path for i in order[:known]]

    counted, started = itertools.count(1), list[float]()

    def is_enough() -> bool:
        on_done()
        done = next(counted)
        if done == _WARM_UP:
            started.append(time.perf_counter())
        elif done > 2 * _WARM_UP and started:  # others may have begun to compute, too
            took = (time.perf_counter() - started[0]) / (done - _WARM_UP)
            budget.picture_seconds = max(budget.picture_seconds, took)
        later = budget.head_seconds(done) + (plan.folds > 0) * done * budget.picture_seconds
        return known is None and done >= least and budget.usable < later

    found = extract(paths, on_done=is_enough)
    late = [i for i, path in enumerate(paths) if found.failures.get(path) == NO_TIME]
    used = timer.journal.decided("features", lambda: late[0] if late else len(rows))
    failures = found.failures | {rows[i].path: NO_TIME for i in order[used:]}
    readable = [path for path in paths if path not in found.failures]
    place = {path: number for number, path in enumerate(readable)}
    kept = [place[row.path] for row in rows if row.path not in failures]
    return replace(found.subset(np.array(kept, np.int64)), failures=failures)
