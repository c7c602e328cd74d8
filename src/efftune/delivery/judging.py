"""Exported files judged: what they answer on the run's own photos, beside the run's classifier."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.delivery.photos import Photo, as_it_was, read
from efftune.delivery.receipt import TRAINING, Score
from efftune.delivery.runtimes import Loaded
from efftune.errors import BadImage, DataError
from efftune.evaluation import metrics
from efftune.evaluation.comparison import mcnemar
from efftune.evaluation.predictions import OUT_OF_FOLD
from efftune.model.classifier import Classifier
from efftune.system import machine

_PART_PIXELS = 8 * 224**2  # of a call
_CALIBRATED = 0.01  # logarithm of a temperature that is not worth the trouble
_TIMED, _WARMING = 50, 5  # photos that are answered one by one
_ALONE = 0.05  # of a probability: more than rounding changes it when pictures are answered alone


@dataclass(frozen=True)
class Originals:
    """What a run's classifier answers, for files to be compared with.

    Attributes:
        classifier: of the run.
        photos: those that can be read; of the split `training`, if they were judged out of fold.
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
        # Out of fold, others judged them: the classifier itself was trained on them.
        found = [
            replace(photo, split=TRAINING) if photo.split == OUT_OF_FOLD else photo
            for photo in (photos[i] for i in kept)
        ]
        return cls(classifier, found, pixels, answers.probabilities, (*missing, *left_out))

    @property
    def trained_on(self) -> bool:
        """Whether the classifier was trained on the photos."""
        return self.photos[0].split == TRAINING

    def decisive(self) -> tuple[str, NDArray[np.int64]]:
        """The split that chooses between ways to write a file, and its rows.

        Not the test split, if there is another: its figures would flatter.
        """
        splits = [photo.split for photo in self.photos]
        split = min(dict.fromkeys(splits), key=lambda each: each == "test")
        return split, np.flatnonzero(np.array(splits) == split)

    def expected(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the classes that pictures should be given: their own, where that is fair."""
        if self.trained_on:
            return np.asarray(self.probabilities[rows].argmax(axis=1))
        return np.array([self.photos[i].label for i in rows])


def judge(
    load: Callable[[], Loaded], originals: Originals, on_progress: Callable[[int, int], None]
) -> tuple[dict[str, Any], float]:
    """Compare a file's answers with a classifier's, for the same pixels.

    Args:
        load: loads the file.
        originals: what the classifier answers.
        on_progress: called with the number of photos done and their total.

    Returns:
        Those attributes of a `Receipt` that are measured; and the temperature that calibrates the
        file again, 1 if nothing is gained by one.

    Raises:
        DataError: the file gives other than probabilities, or others for a picture by itself.
    """
    blank = np.zeros((1, *originals.pixels.shape[1:]), np.float32)
    began = time.perf_counter()
    loaded = load()
    loaded.answer(blank)
    load_ms = 1000 * (time.perf_counter() - began)
    answers = _answers(loaded, originals, on_progress)
    times = _one_by_one(loaded, originals, answers)
    least = loaded.step / 2
    measured = {
        "runtime": loaded.runtime,
        "machine": machine.machine(),
        "same_pixels": _scores(answers, range(len(originals.photos)), originals, least),
        "load_ms": round(load_ms, 1),
        "ms": round(float(np.median(times)), 2),
        "ms_95": round(float(np.percentile(times, 95)), 2),
        "trained_on": originals.trained_on,
        "left_out": originals.left_out,
    }
    return measured, _recalibration(answers, originals, least)


def _recalibration(answers: NDArray[np.float32], originals: Originals, least: float) -> float:
    """The temperature with which a file's probabilities come nearest to the classifier's.

    Returns:
        A divisor of the logits, 1/20 to 20: that with the lowest cross-entropy on the pictures that
        choose between files. 1 if it gains no more than the standard error of the gain.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    _, rows = originals.decisive()
    wanted = originals.probabilities[rows].astype(np.float64)
    logits = np.log(np.maximum(answers[rows], max(least, float(np.finfo(np.float32).tiny))))

    def losses(log_temperature: float) -> NDArray[np.float64]:
        scaled = logits.astype(np.float64) * np.exp(-log_temperature)
        return np.asarray(-(wanted * log_softmax(scaled, axis=1)).sum(axis=1))

    limit = float(np.log(20))
    found = minimize_scalar(lambda each: losses(each).mean(), bounds=(-limit, limit)).x
    gains = losses(0.0) - losses(found)
    error = gains.std() / np.sqrt(len(gains))
    is_needed = abs(found) > _CALIBRATED and gains.mean() > error
    return float(np.exp(found)) if is_needed else 1.0


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
    least = loaded.step / 2
    scores = _scores(np.concatenate(answers), rows, originals, least) if answers else ()
    return {"application_pixels": scores, "application_left_out": tuple(left_out)}


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


def _one_by_one(loaded: Loaded, originals: Originals, answers: NDArray[np.float32]) -> list[float]:
    """Milliseconds for some photos, each by itself.

    Raises:
        DataError: one is answered otherwise than together with others. Runtimes have such flaws:
            OpenVINO 2026.4 on processors with AVX-512 VNNI, for 8 bits and pictures of 32 pixels.
    """
    times = []
    photos = np.linspace(0, len(answers) - 1, _WARMING + _TIMED).round().astype(int)
    for number in photos:
        pixels = originals.pixels[number][None].astype(np.float32)
        began = time.perf_counter()
        found = loaded.answer(pixels)
        times.append(1000 * (time.perf_counter() - began))
        gap = np.abs(found[0] - answers[number]).max()
        if loaded.takes_any and not gap <= _ALONE:  # nor may it be no number
            raise DataError(
                f"By itself, {originals.photos[number].name} is answered otherwise than together "
                f"with other pictures (a probability differs by {gap:.2g}), a flaw of "
                f"{loaded.runtime} on this processor: the file was not kept. Export another "
                "format, or train with a larger --image-size."
            )
    return times[_WARMING:]


def _scores(
    answers: NDArray[np.float32], rows: Sequence[int], originals: Originals, least: float
) -> tuple[Score, ...]:
    """Answers for some of the photos, split by split; less than `least` is lost in rounding."""
    splits = np.array([originals.photos[i].split for i in rows])
    return tuple(
        _score(answers[splits == split], np.array(rows)[splits == split], originals, least)
        for split in dict.fromkeys(splits.tolist())
    )


def _score(
    after: NDArray[np.float32], rows: NDArray[np.int64], originals: Originals, least: float
) -> Score:
    """See `Score`."""
    classifier, photos = originals.classifier, originals.photos
    split = photos[rows[0]].split
    before = originals.probabilities[rows]
    labels = np.array([photos[i].label for i in rows])
    gaps = np.abs(after - before).max(axis=1)
    right, right_before = (each.argmax(axis=1) == labels for each in (after, before))
    limit = 0.0 if classifier.uncertainty is None else classifier.uncertainty.unsure_below
    unsure, unsure_before = (each.max(axis=1) < limit for each in (after, before))
    accuracy: dict[str, float | None] = dict.fromkeys(
        ("accuracy", "accuracy_before", "loss", "loss_before", "p")
    )
    if not originals.trained_on:
        judged, judged_before = (
            metrics.evaluate(each, labels, classifier.class_names)
            for each in (after.clip(least), before)
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
