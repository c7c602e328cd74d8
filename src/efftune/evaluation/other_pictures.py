"""Classifiers evaluated on other pictures than those that they were trained and judged with."""

import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from efftune.data import picture_bytes
from efftune.data.examples import SPLITS, Example, Examples, labels
from efftune.data.sources import discovery
from efftune.data.sources.table_columns import Columns
from efftune.errors import BadImage, DataError, UsageError, unknown_name
from efftune.evaluation import metrics
from efftune.evaluation.metrics import SplitEvaluation
from efftune.model.classifier import Classifier
from efftune.system import stored
from efftune.system.machine import usable_processors
from efftune.system.progress import Progress
from efftune.system.stored import reading


def evaluate(
    classifier: Classifier,
    source: str | Path,
    split: str | None,
    *,
    columns: Columns,
    on_progress: Progress,
) -> tuple[SplitEvaluation, Examples]:
    """Evaluate a classifier on labelled pictures.

    Args:
        classifier: of a run, or from an exported file.
        source: of the pictures; its classes must be a subset of the classifier's.
        split: the split to use; if None, the source's test split or, without one, all pictures.
        columns: of a table.
        on_progress: called with `evaluate`, the number of pictures done and their total.

    Returns:
        The metrics, and the examples, including those set aside.

    Raises:
        UsageError: the source does not exist, or has no such split.
        DataError: no picture can be decoded, or a class is unknown.
    """
    examples = discovery.find(source, on_progress, columns, strict=False)
    rows = _rows_of_split(examples, split)
    names = classifier.class_names
    unknown = sorted({row.label for row in rows} - set(names))
    if unknown:
        raise DataError(
            f"{examples.source} has pictures of {unknown[0]!r}, a class that {classifier.folder} "
            f"was not trained on. Its classes are: {', '.join(names)}."
        )
    probabilities, failures = classifier.probabilities(
        [row.path for row in rows],
        lambda done, total: on_progress("evaluate", done, total),
    )
    readable = np.array([row.path not in failures for row in rows], dtype=bool)
    if not readable.any():
        raise DataError(f"None of the pictures in {examples.source} can be decoded.")
    score = metrics.evaluate(probabilities[readable], labels(rows, names)[readable], names)
    return score, examples.as_read({}, failures)


def trained_on(
    run: Path, examples: Examples, split: str | None, on_progress: Progress
) -> int | None:
    """How many of the pictures evaluated a run was trained on, by the content of their files.

    Args:
        run: its folder.
        examples: from `evaluate`.
        split: as for `evaluate`.
        on_progress: called with `compare`, the number of pictures done and their total.

    Returns:
        Their number; None if the run does not list its pictures, as on the Hub.

    Raises:
        DataError: the list is damaged.
    """
    path, done = run / "examples.csv", itertools.count(1)
    if not path.exists():
        return None
    with reading(path):
        listed = stored.rows(path, ("sha256", "split", "status"))
        known = {r["sha256"] for r in listed if (r["split"], r["status"]) == ("train", "used")}
    rows = _rows_of_split(examples, split)

    def is_known(row: Example) -> bool:
        on_progress("compare", next(done), len(rows))
        return _sha256(row) in known

    with ThreadPoolExecutor(usable_processors()) as pool:
        return sum(pool.map(is_known, rows))


def _sha256(row: Example) -> str:
    """That of the file's content; empty if it cannot be read."""
    assert row.path is not None  # noqa: S101  (it is usable)
    try:
        return hashlib.sha256(picture_bytes.read(row.path)).hexdigest()
    except BadImage:
        return ""


def _rows_of_split(examples: Examples, split: str | None) -> tuple[Example, ...]:
    """The usable examples of a split; by default those of the test split, or else all."""
    if split not in (None, *SPLITS):
        raise unknown_name("split", str(split), SPLITS)
    if not any(row.usable for row in examples.rows):
        examples.require_splittable(allow_missing=True)  # which says what is there instead
    available = {row.split for row in examples.rows if row.usable} - {""}
    if split is None:
        split = "test" if "test" in available else None
    rows = [row for row in examples.rows if row.usable and split in (None, row.split)]
    if not rows:
        raise UsageError(f"{examples.source} has no {split} split, or there are no pictures in it.")
    return tuple(rows)
