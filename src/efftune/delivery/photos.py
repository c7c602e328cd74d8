"""The photos of a run, found again to judge its exports by and to calibrate them with."""

import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from efftune.data import images, picture_bytes, relabelling
from efftune.data.examples import Example, Examples
from efftune.data.images import Pixels
from efftune.data.sources import addresses, discovery, hf, tfds
from efftune.data.sources.table_columns import Columns
from efftune.errors import BadImage, DataError, EfftuneWarning, UsageError
from efftune.evaluation import predictions
from efftune.evaluation.predictions import OUT_OF_FOLD
from efftune.model.classifier import Classifier
from efftune.recipe.recipe import Recipe
from efftune.system import files, stored
from efftune.system.machine import usable_processors
from efftune.system.progress import Progress, silent

MOST = 1000  # of each split; more would tell little and take long
CALIBRATION = 300  # training photos for the ranges of values in 8 bits
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


@dataclass(frozen=True)
class RunPhotos:
    """The photos of a run that are there.

    Attributes:
        judged: those that it was judged by, at most `MOST` of each split, drawn by its seed.
        missing: names of others, which are not there.
        training: some that it was trained on, `CALIBRATION` or fewer, of each class as many as
            there are, or as of the others.
    """

    judged: list[Photo]
    missing: list[str]
    training: list[Photo]


@dataclass(frozen=True)
class _Used:
    """A row of a run's `examples.csv`."""

    split: str
    label: str
    sha256: str


_UNKNOWN = _Used("", "", "")


def of_run(
    folder: Path,
    recipe: Recipe,
    source: str,
    class_names: Sequence[str],
    on_progress: Progress,
) -> RunPhotos:
    """The photos of a run.

    Args:
        folder: the run folder.
        recipe: of the run.
        source: where its photos are: as it was trained from, or where they have moved to.
        class_names: in the order of the class numbers.
        on_progress: as for `train`.

    Raises:
        UsageError: there is no such source.
        DataError: none of those that it was judged by are there any more, or a table of the run
            is damaged.
    """
    judged, used = _judged(folder), _used(folder)
    if not _exists(source):
        raise UsageError(f"There is no {source} with the run's pictures. {_SAY_WHERE}")
    photo = _photos(used, recipe, source, class_names, on_progress)
    found, missing = list[Photo](), list[str]()
    for row in _drawn(judged, recipe.seed):
        each = photo(*row)
        found += [] if each is None else [each]
        missing += [row[0]] if each is None else []
    gone = " ".join(
        f"There is no {files.user_path(path).absolute()} any more, which has {split} pictures of "
        "the run: put it there again."
        for split, path in recipe.data.held_out.items()
        if not _exists(path)
    )
    if not found:
        told = f"None of the run's {len(judged):,} judged pictures is in {source}."
        raise DataError(" ".join(filter(None, (told, gone, _SAY_WHERE))))
    if gone:
        message = f"{gone} Without its pictures, the export is judged by the others."
        warnings.warn(message, EfftuneWarning, stacklevel=2)
    training = [photo(*row) for row in _trained_on(used, recipe.seed, CALIBRATION)]
    return RunPhotos(found, missing, [each for each in training if each is not None])


def training(
    folder: Path, recipe: Recipe, source: str, class_names: Sequence[str], most: int
) -> list[Photo]:
    """Photos that a run was trained on and that are there, drawn by its seed.

    Args:
        folder: the run folder.
        recipe: of the run.
        source: where its photos are.
        class_names: in the order of the class numbers.
        most: how many; of each class as many as there are, or as of the others.

    Raises:
        UsageError: there is no such source on this machine; nothing is downloaded.
        DataError: a table of the run is damaged.
    """
    is_elsewhere = source.startswith((tfds.PREFIX, hf.PREFIX)) or addresses.is_address(source)
    if is_elsewhere or not _exists(source):
        raise UsageError(f"There is no {source} with the run's pictures on this machine.")
    used = _used(folder)
    photo = _photos(used, recipe, source, class_names, silent)
    found = [photo(*row) for row in _trained_on(used, recipe.seed, most)]
    return [each for each in found if each is not None]


def _photos(
    used: "Mapping[str, _Used]",
    recipe: Recipe,
    source: str,
    class_names: Sequence[str],
    on_progress: Progress,
) -> Callable[[str, str, str], Photo | None]:
    """What finds a run's photo by its name, its split and its label."""
    held_out = {split: path for split, path in recipe.data.held_out.items() if _exists(path)}
    examples = discovery.find(source, on_progress, Columns.of(recipe), held_out, strict=False)
    rows = [*examples.rows, *_beside_labels(examples, recipe)]
    paths = {_as_written(row.name): row.path for row in rows}
    numbers = {_as_written(label): number for number, label in enumerate(class_names)}

    def photo(name: str, split: str, label: str) -> Photo | None:
        if name not in paths or label not in numbers:
            return None
        return Photo(paths[name], name, split, numbers[label], used.get(name, _UNKNOWN).sha256)

    return photo


def _beside_labels(examples: Examples, recipe: Recipe) -> list[Example]:
    """The pictures beside the labels file that the run used, if they are there still."""
    if not recipe.data.labels:
        return []
    labels = files.user_path(recipe.data.labels)
    if not labels.exists():
        return []
    return relabelling.further(examples, relabelling.read(labels), labels.parent)


def read(
    photos: Sequence[Photo], classifier: Classifier, on_done: Callable[[], None] = lambda: None
) -> tuple[Pixels, list[int]]:
    """The pixels of those photos that can be read and are as they were.

    Args:
        photos: to read.
        classifier: which gets the pixels.
        on_done: called after each photo, from several threads.

    Returns:
        uint8 (readable photos, size, size, 3), perhaps mapped from a temporary file; and their
        positions.

    Raises:
        DiskFull: there is no room for their pixels.
    """
    side = classifier.image_size
    pixels = files.temporary_array((len(photos), side, side, 3), np.uint8)

    def read_one(number: int) -> bool:
        try:
            content = as_it_was(photos[number])
            pixels[number] = images.decode(content, side, classifier.fit, classifier.depth)
        except BadImage:
            return False
        finally:
            on_done()
        return True

    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="photos") as pool:
        is_read = list(pool.map(read_one, range(len(photos))))
    kept = [i for i, each in enumerate(is_read) if each]
    return (pixels if len(kept) == len(photos) else pixels[kept]), kept


def as_it_was(photo: Photo) -> bytes:
    """The content of a photo.

    Raises:
        BadImage: it cannot be read, or is another than the run used.
    """
    content = picture_bytes.read(photo.path)
    if photo.sha256 and hashlib.sha256(content).hexdigest() != photo.sha256:
        raise BadImage("it has changed")
    return content


def _as_written(name: str) -> str:
    """A name as it is in a run's tables, which `files.write` writes; it may have any bytes."""
    return name.encode(errors="backslashreplace").decode()


def _exists(source: str) -> bool:
    """Whether a source is there, as far as a path can tell."""
    named = source.startswith(("sample:", tfds.PREFIX, hf.PREFIX)) or addresses.is_address(source)
    return named or files.user_path(source).exists()


def _drawn(judged: Sequence[tuple[str, ...]], seed: int) -> Iterator[tuple[str, ...]]:
    """At most `MOST` pictures of each split, in their order."""
    random = np.random.default_rng(seed)
    for wanted in dict.fromkeys(split for _, split, _ in judged):
        of_split = [row for row in judged if row[1] == wanted]
        order = random.permutation(len(of_split))[:MOST]
        yield from (of_split[i] for i in sorted(order))


def _judged(folder: Path) -> list[tuple[str, ...]]:
    """Name, split and label of the pictures that a run was judged by."""
    with stored.reading(folder / predictions.FILE):
        rows = predictions.rows(folder, ("path", "label"))
        found = [(row["path"], row["split"], row["label"]) for row in rows]
    return [row for row in found if row[1] in _JUDGED]


def _used(folder: Path) -> dict[str, _Used]:
    """The pictures that a run used, by name."""
    path = folder / "examples.csv"
    with stored.reading(path):
        return {
            row["path"]: _Used(row["split"], row["label"], row["sha256"])
            for row in stored.rows(path)
            if row["status"] == "used"
        }


def _trained_on(used: Mapping[str, _Used], seed: int, most: int) -> Iterator[tuple[str, str, str]]:
    """Name, split and label of training pictures, drawn class by class in turn."""
    random = np.random.default_rng(seed)
    by_class = dict[str, list[tuple[str, str, str]]]()
    for name, each in used.items():
        if each.split == "train":
            by_class.setdefault(each.label, []).append((name, each.split, each.label))
    shuffled = ([rows[i] for i in random.permutation(len(rows))] for rows in by_class.values())
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*shuffled))
    yield from itertools.islice((row for row in in_turn if row is not None), most)
