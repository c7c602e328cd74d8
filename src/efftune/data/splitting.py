"""From everything that a source holds to splits without leaks, and what was found on the way."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from efftune.data import inspection, near_duplicates, relabelling
from efftune.data.examples import Examples
from efftune.data.inspection import Finding
from efftune.data.near_duplicates import DuplicatePair
from efftune.recipe.recipe import Recipe

_LEAKED = "a copy is in a split before"


def split(
    examples: Examples,
    recipe: Recipe,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Examples, list[Finding]]:
    """Decode every picture, set aside what cannot be used, and split the rest.

    Copies of a picture, and what the source says belongs together, come into one split. Splits that
    the source brings stay as they are; what of validation and test has a copy in a split before it
    has leaked, and is dropped if the recipe says so. Decisions about labels come after that, so
    that they move no picture from one split to another.

    Args:
        examples: from `sources.find`.
        recipe: says how to split.
        on_progress: called with the pictures decoded and their total, from several threads.

    Returns:
        Examples with a split each, and the findings.

    Raises:
        DataError: the source cannot be trained on.
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
    numbers = near_duplicates.groups(len(rows), pairs, [row.group for row in rows])
    together = {row.path: number for row, number in zip(rows, numbers.tolist(), strict=True)}
    examples = examples.split(
        recipe.data.val_fraction, recipe.data.test_fraction, recipe.seed, together
    )
    examples = relabelling.relabelled(examples, decisions)
    found = findings(examples, measurements, pairs)
    rows = [row for row in examples.rows if row.usable]  # the same, with splits and decided labels
    leaked = {rows[i].path: _LEAKED for i in near_duplicates.leaks(rows, numbers)}
    if recipe.data.leaks == "drop":
        examples = examples.as_read({}, leaked)
    elif recipe.data.leaks == "report":
        examples = replace(examples, leaked=frozenset(leaked))
    examples = relabelling.dropped(examples, decisions)
    examples.require_trainable(allow_missing=allow_missing)
    return examples, found


def findings(
    examples: Examples, measurements: NDArray[np.void], pairs: Sequence[DuplicatePair]
) -> list[Finding]:
    """All that was found in a source.

    Args:
        examples: with what cannot be used set aside.
        measurements: records of the usable ones, from `inspection.inspect`.
        pairs: copies among them.
    """
    rows = [row for row in examples.rows if row.usable]
    return [
        *inspection.unusable(examples),
        *near_duplicates.findings(rows, pairs),
        *inspection.class_findings(examples),
        *inspection.quality_findings(rows, measurements),
    ]
