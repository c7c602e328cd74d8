"""What an exported file answers on the run's own photos, beside the run's classifier."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.delivery.photos import Photo, as_it_was, read
from efftune.delivery.runtimes import Loaded
from efftune.errors import BadImage, DataError
from efftune.evaluation import metrics
from efftune.evaluation.comparison import mcnemar
from efftune.evaluation.predictions import OUT_OF_FOLD
from efftune.model.classifier import Classifier
from efftune.system import machine

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

    @property
    def drop(self) -> float:
        """Of accuracy, 0 to 1; for pictures that the classifier was trained on, of agreement."""
        if self.accuracy is None or self.accuracy_before is None:
            return 1 - self.agreement
        return self.accuracy_before - self.accuracy


@dataclass(frozen=True)
class Attempt:
    """A way in which a file was written, in order to be judged.

    Attributes:
        way: how, such as `int8`.
        bytes: size of the file, with the files that belong to it.
        split: whose pictures judged it.
        drop: of the share of these that are given the right class; of those that are given the
            classifier's, if it was trained on them. None if the file could not be written.
        kept: whether it was good enough.
        failure: why it could not be written; else empty.
    """

    way: str
    bytes: int = 0
    split: str = ""
    drop: float | None = None
    kept: bool = False
    failure: str = ""

    @property
    def outcome(self) -> str:
        """In a few words."""
        if self.drop is None:
            return f"{self.way}: {self.failure}"
        size = f"{self.bytes / 1e6:.1f} MB"
        if self.drop <= 0:
            return f"{self.way} loses nothing ({size})"
        return f"{self.way} loses {100 * self.drop:.1f} points ({size})"


@dataclass(frozen=True)
class Receipt:
    """What an exported file came to.

    Attributes:
        format: of the file.
        file: its path in the folder of the export.
        bytes: its size, with the files that belong to it.
        runtime: what answered, with its version.
        machine: where.
        bound: on the gap between probabilities, for the same pixels; None for 8 bits.
        max_drop: of accuracy, 0 to 1, for 8 bits; else None.
        attempts: in which it was written, the one that was kept last.
        same_pixels: given the pixels that the classifier gets, by split.
        load_ms: milliseconds until the file was loaded and had answered once.
        ms: median milliseconds for the pixels of one picture.
        ms_95: their 95th percentile.
        left_out: names of photos that are gone, have changed or cannot be read any more.
        application: what the program that it is for does with a picture; empty if it is for none.
        its_pixels: given the pixels that this program makes, by split.
        its_left_out: names of photos that this program cannot read.
    """

    format: str
    file: str
    bytes: int
    runtime: str
    machine: dict[str, Any]
    bound: float | None
    max_drop: float | None
    attempts: tuple[Attempt, ...]
    same_pixels: tuple[Score, ...]
    load_ms: float
    ms: float
    ms_95: float
    left_out: tuple[str, ...] = ()
    application: str = ""
    its_pixels: tuple[Score, ...] = ()
    its_left_out: tuple[str, ...] = ()

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
        done, steps = itertools.count(1), 2 * len(photos)  # to read, and to answer
        pixels, kept = read(photos, classifier, lambda: on_progress(next(done), steps))
        if not kept:
            raise DataError(
                f"The {len(photos):,} pictures that the run was judged by have changed or cannot "
                f"be read, such as {photos[0].path}. Restore them, or say where they are: --photos "
                "SOURCE."
            )
        left_out = [photos[i].name for i in range(len(photos)) if i not in set(kept)]
        answers = classifier.outputs(pixels, lambda *_: on_progress(next(done), steps))
        found = [photos[i] for i in kept]
        return cls(classifier, found, pixels, answers.probabilities, (*missing, *left_out))

    def decisive(self) -> tuple[str, NDArray[np.int64]]:
        """The split that chooses between ways to write a file, and its rows.

        Not the test split, if there is another: its figures would flatter.
        """
        splits = [photo.split for photo in self.photos]
        split = min(dict.fromkeys(splits), key=lambda each: each == "test")
        return split, np.flatnonzero(np.array(splits) == split)

    def expected(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the classes that pictures should be given: their own, where that is fair."""
        if self.photos[rows[0]].split == OUT_OF_FOLD:  # it was trained on them
            return np.asarray(self.probabilities[rows].argmax(axis=1))
        return np.array([self.photos[i].label for i in rows])


def judge(
    load: Callable[[], Loaded], originals: Originals, on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Compare a file's answers with a classifier's, for the same pixels.

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
    return {
        "runtime": loaded.runtime,
        "machine": machine.machine(),
        "same_pixels": _scores(answers, range(len(originals.photos)), originals),
        "load_ms": round(load_ms, 1),
        "ms": round(float(np.median(times)), 2),
        "ms_95": round(float(np.percentile(times, 95)), 2),
        "left_out": originals.left_out,
    }


def judge_application(
    loaded: Loaded,
    prepare: Callable[[bytes], Pixels],
    originals: Originals,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Compare a file's answers with a classifier's, for the pixels that an application makes.

    Args:
        loaded: the file.
        prepare: makes the pixels, uint8 (size, size, 3), from the content of a photo. It raises
            `BadImage` if the application cannot read that.
        originals: what the classifier answers.
        on_progress: called with the number of photos done and their total.

    Returns:
        Those attributes of a `Receipt` that are measured.
    """
    answers, rows, left_out = list[NDArray[np.float32]](), list[int](), list[str]()
    for number, photo in enumerate(originals.photos):
        try:
            pixels = prepare(as_it_was(photo))
        except BadImage:
            left_out.append(photo.name)
        else:
            answers.append(loaded.answer(pixels[None].astype(np.float32)))
            rows.append(number)
        on_progress(number + 1, len(originals.photos))
    scores = _scores(np.concatenate(answers), rows, originals) if answers else ()
    return {"its_pixels": scores, "its_left_out": tuple(left_out)}


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


def _milliseconds(loaded: Loaded, pixels: NDArray[np.float32]) -> float:
    began = time.perf_counter()
    loaded.answer(pixels)
    return 1000 * (time.perf_counter() - began)


def _scores(
    answers: NDArray[np.float32], rows: Sequence[int], originals: Originals
) -> tuple[Score, ...]:
    """Answers for some of the photos, split by split."""
    splits = np.array([originals.photos[i].split for i in rows])
    return tuple(
        _score(answers[splits == split], split, np.array(rows)[splits == split], originals)
        for split in dict.fromkeys(splits.tolist())
    )


def _score(
    after: NDArray[np.float32], split: str, rows: NDArray[np.int64], originals: Originals
) -> Score:
    """See `Score`."""
    classifier, photos = originals.classifier, originals.photos
    before = originals.probabilities[rows]
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
