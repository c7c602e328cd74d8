"""The photos of a run, found again to judge its exports by."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efftune.data.sources import discovery, hf, tfds
from efftune.data.sources.table_columns import Columns
from efftune.errors import DataError, UsageError
from efftune.evaluation.predictions import FILE as PREDICTIONS_FILE
from efftune.evaluation.predictions import OUT_OF_FOLD
from efftune.recipe.recipe import Recipe
from efftune.system import files

MOST = 1000  # of each split; more would tell little and take long
_JUDGED = ("val", "test", OUT_OF_FOLD)
_SAY_WHERE = "An export is judged by them: say where they are with --photos SOURCE."


@dataclass(frozen=True)
class Photo:
    """A photo that a run was judged by.

    Attributes:
        path: of the file.
        name: relative to the source.
        split: `val`, `test`, or `out-of-fold`.
        label: its class number.
        sha256: of its file, when the run began.
    """

    path: Path
    name: str
    split: str
    label: int
    sha256: str


def of_run(
    folder: Path,
    recipe: Recipe,
    source: str,
    class_names: Sequence[str],
    on_progress: Callable[[str, int, int], None],
) -> tuple[list[Photo], list[str]]:
    """The photos that a run was judged by, at most `MOST` of each split, drawn by its seed.

    Args:
        folder: the run folder.
        recipe: of the run.
        source: where its photos are: as it was trained from, or where they have moved to.
        class_names: in the order of the class numbers.
        on_progress: as for `train`.

    Returns:
        The photos that are there, and the names of those that are not.

    Raises:
        UsageError: there is no such source.
        DataError: there are none of them any more, or a table of the run is damaged.
    """
    judged, sha256s = _judged(folder), _checksums(folder)
    if not _exists(source):
        raise UsageError(f"There is no {source} with the run's pictures. {_SAY_WHERE}")
    held_out = {split: path for split, path in recipe.data.held_out.items() if _exists(path)}
    examples = discovery.find(source, on_progress, Columns.of(recipe), held_out)
    paths = {_as_written(row.name): row.path for row in examples.rows}
    numbers = {_as_written(label): number for number, label in enumerate(class_names)}
    found, missing = list[Photo](), list[str]()
    for name, split, label in _drawn(judged, recipe.seed):
        if name in paths and label in numbers:
            found.append(Photo(paths[name], name, split, numbers[label], sha256s.get(name, "")))
        else:
            missing.append(name)
    if not found:
        raise DataError(
            f"None of the run's {len(judged):,} judged pictures is in {source}. {_SAY_WHERE}"
        )
    return found, missing


def _as_written(name: str) -> str:
    """A name as it is in a run's tables, which `files.write` writes; it may have any bytes."""
    return name.encode(errors="backslashreplace").decode()


def _exists(source: str) -> bool:
    """Whether a source is there, as far as a path can tell."""
    is_path = not source.startswith(("sample:", tfds.PREFIX, hf.PREFIX))
    return not is_path or files.user_path(source).exists()


def _drawn(judged: Sequence[tuple[str, ...]], seed: int) -> Iterator[tuple[str, ...]]:
    """At most `MOST` pictures of each split, in their order."""
    random = np.random.default_rng(seed)
    for wanted in dict.fromkeys(split for _, split, _ in judged):
        of_split = [row for row in judged if row[1] == wanted]
        order = random.permutation(len(of_split))[:MOST]
        yield from (of_split[i] for i in sorted(order))


def _judged(folder: Path) -> list[tuple[str, ...]]:
    """Name, split and label of the pictures that a run was judged by."""
    rows = _table(folder / PREDICTIONS_FILE, ("path", "split", "label"))
    return [row for row in rows if row[1] in _JUDGED]


def _checksums(folder: Path) -> dict[str, str]:
    """The checksums of a run's pictures, by name."""
    return {row[0]: row[1] for row in _table(folder / "examples.csv", ("path", "sha256"))}


def _table(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return [tuple(row[each] for each in columns) for row in csv.DictReader(stream)]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(f"{path} is damaged: {error}. Train again.") from None
