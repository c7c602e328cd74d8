"""Inspect the pictures of a source and split them without leaks between splits."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from efftune.data import inspection, near_duplicates, relabelling
from efftune.data.examples import Examples
from efftune.data.inspection import Finding
from efftune.data.near_duplicates import DuplicatePair
from efftune.recipe.recipe import Recipe

_LEAKED = "an earlier split contains a copy"


def split(
    examples: Examples,
    recipe: Recipe,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Examples, list[Finding]]:
    """Decode every picture, set aside unusable files, and split the rest.

    Copies of a picture, and pictures of one group in the source, are put into the same split.
    Splits defined by the source are not changed; a validation or test picture with a copy in an
    earlier split is a leak, and is dropped if the recipe says so. Label decisions are applied
    after splitting, so that they do not move pictures between splits.

    Args:
        examples: from `sources.find`.
        recipe: with the data settings and the seed.
        on_progress: called from several threads with the number of decoded pictures and the total.

    Returns:
        The examples, each with its split, and the findings.

    Raises:
        DataError: the source is not suitable for training.
    """
    allow_missing = recipe.data.missing_classes == "allow"
    decisions = relabelling.read(recipe.data.labels) if recipe.data.labels else {}
    if recipe.data.val_from == "test":
        examples = examples.with_test_as_val()
    examples.require_splittable(allow_missing=allow_missing)
    examples, measurements, thumbnails = inspection.inspect(examples, on_progress)
    examples.require_splittable(allow_missing=allow_missing)
    rows = [row for row in examples.rows if row.usable]
    pairs = near_duplicates.pairs(rows, measurements, thumbnails)
    group_ids = near_duplicates.groups(len(rows), pairs, [row.group for row in rows])
    together = {row.path: group_id for row, group_id in zip(rows, group_ids.tolist(), strict=True)}
    examples = examples.split(
        recipe.data.val_fraction, recipe.data.test_fraction, recipe.seed, together
    )
    examples = relabelling.relabelled(examples, decisions)
    all_findings = findings(examples, measurements, pairs)
    rows = [row for row in examples.rows if row.usable]  # now with splits and decided labels
    leaked = {rows[i].path: _LEAKED for i in near_duplicates.leaks(rows, group_ids)}
    if recipe.data.leaks == "drop":
        examples = examples.as_read({}, leaked)
    elif recipe.data.leaks == "report":
        examples = replace(examples, leaked=frozenset(leaked))
    examples = relabelling.dropped(examples, decisions)
    examples.require_trainable(allow_missing=allow_missing)
    return examples, all_findings


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
        *inspection.quality_findings(rows, measurements),
    ]
