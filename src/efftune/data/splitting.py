"""Inspect the pictures of a source and split them without leaks between splits."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.data import images, inspection, near_duplicates, relabelling
from efftune.data.examples import LEFTOVERS, NO_TIME, SPLITS, Example, Examples
from efftune.data.inspection import Finding
from efftune.data.near_duplicates import DuplicatePair
from efftune.data.relabelling import Decision
from efftune.errors import DataError, UsageError
from efftune.recipe.recipe import Recipe
from efftune.system import files

_MOST_DAMAGED = 0.05  # of the files of a class
_LEAKED = "an earlier split contains a copy"
_JUDGED = "a copy of a picture for validation or testing"
_FOLDS = 5
_FEW_PICTURES = 1000  # up to here, cross-validation judges; beyond, it takes too long
_FEW_OF_CLASS = 50  # up to here in the mean, what is held out is missed, so twice as many are few


def split(
    examples: Examples,
    recipe: Recipe,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    is_enough: Callable[[int], bool] | None = None,
) -> tuple[Examples, list[Finding]]:
    """Decode every picture, set aside unusable files, and split the rest.

    Copies of a picture, and pictures of one group in the source, are put into the same split.
    Splits defined by the source are not changed; a validation or test picture with a copy in an
    earlier split is a leak, and is dropped if the recipe says so. Label decisions are applied
    after splitting, so that they do not move pictures between splits. Pictures beside the labels
    file are for training; those that are copies of what judges are set aside.

    Args:
        examples: from `sources.find`.
        recipe: with the data settings and the seed.
        on_progress: called from several threads with the number of decoded pictures and the total.
        is_enough: when to use no more pictures; see `inspection.inspect`.

    Returns:
        The examples, each with its split or fold, and the findings.

    Raises:
        UsageError: the source has splits, but the recipe asks for folds.
        DataError: the source is not suitable for training, or many files of a class are damaged.
    """
    allow_missing = recipe.data.missing_classes == "allow"
    decisions, further = _decided(examples, recipe)
    if recipe.data.val_from == "test":
        examples = examples.with_test_as_val()
    folds = _folds(examples, recipe)
    examples.require_splittable(allow_missing=allow_missing, in_folds=folds > 0)
    examples = replace(examples, rows=(*examples.rows, *further))
    examples, measurements, thumbnails = inspection.inspect(examples, on_progress, is_enough)
    others = {row.path for row in further}
    _without(examples, others).require_splittable(allow_missing=allow_missing, in_folds=folds > 0)
    if recipe.data.damaged_files == "refuse":
        _require_intact(examples)
    rows = [row for row in examples.rows if row.usable]
    pairs = near_duplicates.pairs(rows, measurements, thumbnails, examples.depth)
    group_ids = near_duplicates.groups(len(rows), pairs, [row.group for row in rows])
    together = {row.path: group_id for row, group_id in zip(rows, group_ids.tolist(), strict=True)}
    if folds:
        examples = examples.in_folds(folds, recipe.seed, together)
    else:
        examples = _in_splits(examples, recipe, together, others)
    examples = relabelling.relabelled(examples, decisions)
    all_findings = findings(examples, measurements, pairs)
    rows = [row for row in examples.rows if row.usable]  # now with splits and decided labels
    leaked = {rows[i].path: _LEAKED for i in near_duplicates.leaks(rows, group_ids)}
    if recipe.data.leaks == "drop":
        examples = examples.as_read({}, leaked)
    elif recipe.data.leaks == "report":
        examples = replace(examples, leaked=frozenset(leaked))
    judged = {row.path: _JUDGED for row in rows if row.path in others and row.split != "train"}
    examples = relabelling.dropped(examples.as_read({}, judged), decisions)
    examples.require_trainable(allow_missing=allow_missing)
    return examples, all_findings


def _decided(
    examples: Examples, recipe: Recipe
) -> tuple[Mapping[str, Decision], Sequence[Example]]:
    """The label decisions, and the pictures beside their file."""
    if not recipe.data.labels:
        return {}, []
    labels = files.user_path(recipe.data.labels)
    decisions = relabelling.of_source(examples, relabelling.read(labels), labels.parent)
    return decisions, relabelling.further(examples, decisions, labels.parent)


def _without(examples: Examples, others: Set[Path]) -> Examples:
    """The examples of the source itself."""
    return replace(examples, rows=tuple(row for row in examples.rows if row.path not in others))


def _in_splits(
    examples: Examples, recipe: Recipe, together: Mapping[Path, int], others: Set[Path]
) -> Examples:
    """The examples with splits, which are those that they would have without the others.

    The others are for training, or in the split of the pictures that they are copies of.
    """
    found = _without(examples, others).split(*recipe.data.shares, recipe.seed, together)
    if not others:
        return found
    split_of = {
        together[row.path]: row.split
        for split in reversed(SPLITS)  # so that the earliest counts
        for row in found.rows
        if row.usable and row.split == split
    }
    further = (
        replace(row, split=split_of.get(together[row.path], "train")) if row.usable else row
        for row in examples.rows
        if row.path in others
    )
    return replace(found, rows=(*found.rows, *further))


def _folds(examples: Examples, recipe: Recipe) -> int:
    """The number of folds to judge by; 0 for separate validation and test pictures.

    Raises:
        UsageError: the source has splits, but the recipe asks for folds.
    """
    if recipe.data.folds != "auto":
        if recipe.data.folds and examples.has_splits:
            raise UsageError(
                f"{examples.source} has validation or test pictures of its own, so --folds has no "
                "use there: leave it out, or pass a source without splits."
            )
        return recipe.data.folds
    count = sum(row.usable for row in examples.rows)
    is_few_a_class = count <= _FEW_OF_CLASS * len(examples.class_names)
    is_few = count <= _FEW_PICTURES * (2 if is_few_a_class else 1)
    suitable = recipe.can_cross_validate and not recipe.data.chooses_held_out
    return _FOLDS if is_few and suitable and not examples.has_splits else 0


def _require_intact(examples: Examples) -> None:
    """Check that few files of each class are damaged: the rest may not represent the class."""
    unseen = LEFTOVERS | {NO_TIME}
    rows = [row for row in examples.rows if row.label and row.reason not in unseen]
    files = Counter(row.label for row in rows)
    damaged = [row for row in rows if row.reason.startswith((images.DAMAGED, images.TRUNCATED))]
    for label, count in Counter(row.label for row in damaged).items():
        if count > max(1, _MOST_DAMAGED * files[label]):
            first = next(row.name for row in damaged if row.label == label)
            raise DataError(
                f"{count:,} of the {files[label]:,} files of class {label!r} are damaged, for "
                f"example {first}. `efftune check` lists them: replace or remove them, or pass "
                "--set damaged_files=allow to continue without them."
            )


def findings(
    examples: Examples, measurements: NDArray[np.void], pairs: Sequence[DuplicatePair]
) -> list[Finding]:
    """All findings about a source.

    Args:
        examples: with unusable files set aside.
        measurements: records of the usable pictures, from `inspection.inspect`.
        pairs: copies among the usable pictures.
    """
    rows = [row for row in examples.rows if row.usable]
    return [
        *inspection.unusable(examples),
        *near_duplicates.findings(rows, pairs),
        *inspection.class_findings(examples),
        *inspection.quality_findings(rows, measurements, examples.depth),
    ]
