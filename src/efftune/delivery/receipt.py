"""What an exported file answers on the run's own photos, beside the run's classifier."""

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data import images
from efftune.data.images import Pixels
from efftune.delivery.photos import Photo
from efftune.delivery.runtimes import Loaded
from efftune.errors import BadImage, DataError
from efftune.evaluation import metrics
from efftune.evaluation.comparison import mcnemar
from efftune.evaluation.predictions import OUT_OF_FOLD
from efftune.model.classifier import Classifier
from efftune.system import files, machine

FILE = "receipt.json"
_PART_PIXELS = 8 * 224**2  # of a call
_TIMED, _WARMING = 50, 5  # photos that are answered one by one


@dataclass(frozen=True)
class Score:
    """How the answers for the photos of a split compare with the classifier's.

    Attributes:
        split: `val`, `test` or `out-of-fold`.
        pictures: their number.
        agreement: share with the same first answer, 0 to 1.
        largest_gap: between two probabilities of the same class.
        mean_gap: the mean over pictures of the largest gap of each.
        worst: name of the picture with the largest gap.
        accuracy: share of right answers; None for pictures that the classifier was trained on.
        accuracy_before: the same, of the classifier.
        loss: cross-entropy, in nats; None where there is no accuracy.
        loss_before: the same, of the classifier.
        p: p-value of McNemar's exact test between the two.
        unsure_flips: share of pictures that are unsure for one of them only.
    """

    split: str
    pictures: int
    agreement: float
    largest_gap: float
    mean_gap: float
    worst: str
    accuracy: float | None
    accuracy_before: float | None
    loss: float | None
    loss_before: float | None
    p: float | None
    unsure_flips: float


@dataclass(frozen=True)
class Receipt:
    """What an exported file came to.

    Attributes:
        format: of the file.
        file: its name.
        bytes: its size, with the files that belong to it.
        runtime: what answered, with its version.
        machine: where.
        bound: on the gap between probabilities, for the same pixels.
        same_pixels: given the pixels that the classifier gets, by split.
        load_ms: milliseconds until the file was loaded and had answered once.
        ms: median milliseconds for the pixels of one picture.
        ms_95: their 95th percentile.
        left_out: names of photos that are gone, have changed or cannot be read any more.
    """

    format: str
    file: str
    bytes: int
    runtime: str
    machine: dict[str, Any]
    bound: float
    same_pixels: tuple[Score, ...]
    load_ms: float
    ms: float
    ms_95: float
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Originals:
    """What a run's classifier answers, for files to be compared with.

    Attributes:
        classifier: of the run.
        photos: those that can be read.
        pixels: that the classifier gets, uint8 (photos, size, size, 3).
        probabilities: that it answers, float32 (photos, classes).
        left_out: names of photos that are gone, have changed or cannot be read.
    """

    classifier: Classifier
    photos: list[Photo]
    pixels: Pixels
    probabilities: NDArray[np.float32]
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        photos: Sequence[Photo],
        missing: Sequence[str],
        on_progress: Callable[[int, int], None],
    ) -> "Originals":
        """Read photos and answer them.

        Args:
            classifier: of a run.
            photos: to read.
            missing: names of others, which are gone.
            on_progress: called with the number of photos done and their total.

        Raises:
            DataError: none of them can be read any more.
            DiskFull: there is no room for their pixels.
        """
        side = classifier.image_size
        pixels = files.temporary_array((len(photos), side, side, 3), np.uint8)
        done, steps = itertools.count(1), 2 * len(photos)  # to read, and to answer

        def read(number: int) -> bool:
            try:
                pixels[number] = _decoded(photos[number], classifier)
            except BadImage:
                return False
            finally:
                on_progress(next(done), steps)
            return True

        with ThreadPoolExecutor(machine.usable_processors(), thread_name_prefix="photos") as pool:
            is_read = list(pool.map(read, range(len(photos))))
        kept = [i for i, each in enumerate(is_read) if each]
        if not kept:
            raise DataError(
                f"The {len(photos):,} pictures that the run was judged by have changed or cannot "
                f"be read, such as {photos[0].path}. Restore them, or say where they are: --photos "
                "SOURCE."
            )
        left_out = tuple(
            photo.name for photo, each in zip(photos, is_read, strict=True) if not each
        )
        pixels = pixels if len(kept) == len(photos) else pixels[kept]
        answers = classifier.outputs(pixels, lambda *_: on_progress(next(done), steps))
        found = [photos[i] for i in kept]
        return cls(classifier, found, pixels, answers.probabilities, (*missing, *left_out))


def judge(
    load: Callable[[], Loaded], originals: Originals, on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Compare a file's answers with a classifier's.

    Args:
        load: loads the file.
        originals: what the classifier answers.
        on_progress: called with the number of photos done and their total.

    Returns:
        Those attributes of a `Receipt` that are measured.

    Raises:
        DataError: the file gives other than probabilities.
    """
    blank = np.zeros((1, *originals.pixels.shape[1:]), np.float32)
    began = time.perf_counter()
    loaded = load()
    loaded.answer(blank)
    load_ms = 1000 * (time.perf_counter() - began)
    answers = _answers(loaded, originals, on_progress)
    times = [_milliseconds(loaded, blank) for _ in range(_WARMING + _TIMED)][_WARMING:]
    splits = dict.fromkeys(photo.split for photo in originals.photos)
    return {
        "runtime": loaded.runtime,
        "machine": machine.machine(),
        "same_pixels": tuple(_score(answers, split, originals) for split in splits),
        "load_ms": round(load_ms, 1),
        "ms": round(float(np.median(times)), 2),
        "ms_95": round(float(np.percentile(times, 95)), 2),
        "left_out": originals.left_out,
    }


def _answers(
    loaded: Loaded, originals: Originals, on_progress: Callable[[int, int], None]
) -> NDArray[np.float32]:
    """What a file answers, in as large parts as it takes and memory easily holds."""
    pixels, expected = originals.pixels, originals.probabilities
    part = max(1, _PART_PIXELS // pixels.shape[1] ** 2) if loaded.takes_any else 1
    found = []
    for start in range(0, len(pixels), part):
        found.append(loaded.answer(pixels[start : start + part].astype(np.float32)))
        on_progress(min(start + part, len(pixels)), len(pixels))
    answers = np.concatenate(found)
    if answers.shape != expected.shape or not np.isfinite(answers).all():
        raise DataError(
            f"The file gives values of shape {answers.shape} for {len(pixels):,} pictures, not "
            f"finite probabilities of {expected.shape[-1]} classes for each. It was not kept."
        )
    return answers


def _decoded(photo: Photo, classifier: Classifier) -> Pixels:
    """The pixels that the classifier gets.

    Raises:
        BadImage: the photo cannot be read, or is another than the run was judged by.
    """
    content = images.read(photo.path)
    if photo.sha256 and hashlib.sha256(content).hexdigest() != photo.sha256:
        raise BadImage("it has changed")
    return images.decode(content, classifier.image_size, classifier.fit, classifier.depth)


def _milliseconds(loaded: Loaded, pixels: NDArray[np.float32]) -> float:
    began = time.perf_counter()
    loaded.answer(pixels)
    return 1000 * (time.perf_counter() - began)


def _score(answers: NDArray[np.float32], split: str, originals: Originals) -> Score:
    """See `Score`."""
    classifier, photos = originals.classifier, originals.photos
    rows = [i for i, photo in enumerate(photos) if photo.split == split]
    before, after = originals.probabilities[rows], answers[rows]
    labels = np.array([photos[i].label for i in rows])
    gaps = np.abs(after - before).max(axis=1)
    right, right_before = (each.argmax(axis=1) == labels for each in (after, before))
    limit = 0.0 if classifier.uncertainty is None else classifier.uncertainty.unsure_below
    unsure, unsure_before = (each.max(axis=1) < limit for each in (after, before))
    accuracy: dict[str, float | None] = dict.fromkeys(
        ("accuracy", "accuracy_before", "loss", "loss_before", "p")
    )
    if split != OUT_OF_FOLD:
        judged, judged_before = (
            metrics.evaluate(each, labels, classifier.class_names) for each in (after, before)
        )
        accuracy = {
            "accuracy": judged.accuracy,
            "accuracy_before": judged_before.accuracy,
            "loss": judged.loss,
            "loss_before": judged_before.loss,
            "p": mcnemar(int((right & ~right_before).sum()), int((right_before & ~right).sum())),
        }
    return Score(
        split=split,
        pictures=len(rows),
        agreement=float((after.argmax(axis=1) == before.argmax(axis=1)).mean()),
        largest_gap=float(gaps.max()),
        mean_gap=float(gaps.mean()),
        worst=photos[rows[int(gaps.argmax())]].name,
        unsure_flips=float((unsure != unsure_before).mean()),
        **accuracy,
    )
