"""Pictures answered in threads, and not more at a time than the machine can do."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import cv2

from efftune.data import pictures
from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.evaluation.explanation import Explainer
from efftune.model.classifier import Classifier
from efftune.model.prediction import Prediction
from efftune.report import explanation_images
from efftune.serving.metrics import Metrics

_LATER = 0.1  # seconds until room is asked for again
_SIDE = 448  # pixels of an explanation
BUSY = "As many pictures are waiting as may. Try again."
Item = TypeVar("Item")
Result = TypeVar("Result")


class Busy(Exception):
    """As many pictures as may wait do so, or as many bytes."""


class Gone(Exception):
    """The client has left before its pictures were at work."""


@dataclass(frozen=True)
class Unreadable:
    """A picture that has no answer.

    Attributes:
        reason: as `efftune check` gives it.
    """

    reason: str


@dataclass(frozen=True)
class Explained:
    """An answer that is shown.

    Attributes:
        label: the class.
        confidence: its probability, 0 to 1.
        png: the picture with the heat map over it.
    """

    label: str
    confidence: float
    png: bytes


class Answering:
    """Decodes pictures and runs the network, in threads."""

    def __init__(self, at_work: int, most_waiting: int, metrics: Metrics):
        """Begin without pictures.

        Args:
            at_work: how many are at work at the same time.
            most_waiting: how many more may wait.
            metrics: count what is done.
        """
        self._most, self._accepted, self._at_work = at_work + most_waiting, 0, 0
        self._pool = ThreadPoolExecutor(at_work, thread_name_prefix="answer")
        self._metrics, self._lock = metrics, threading.Lock()

    @property
    def waiting(self) -> int:
        """Number of pictures that were accepted and are not at work."""
        return max(0, self._accepted - self._at_work)

    @property
    def at_work(self) -> int:
        """Number of those that are."""
        return self._at_work

    @property
    def is_full(self) -> bool:
        """Whether not one more picture may wait."""
        return self._accepted >= self._most

    def require_room(self, count: int = 1) -> None:
        """Check that some more pictures may wait.

        Raises:
            Busy: they may not.
        """
        if self._accepted + count > self._most:
            raise Busy

    async def each(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        is_gone: Callable[[], bool] = lambda: False,
    ) -> list[Result]:
        """Do something with each picture, in threads.

        Args:
            work: to do.
            items: the pictures.
            is_gone: whether nobody waits for the answer any more; called from the threads.

        Raises:
            Busy: not all of them may wait.
            Gone: the client has left, so the rest was not done.
        """
        self.require_room(len(items))
        accepted = time.perf_counter()

        def at_work(item: Item) -> Result:
            self._metrics.waited(time.perf_counter() - accepted)
            if is_gone():
                raise Gone
            self._count(at_work=1)
            try:
                return work(item)
            finally:
                self._count(at_work=-1)

        self._count(accepted=len(items))
        futures = [self._pool.submit(at_work, each) for each in items]
        for future in futures:  # also if it is cancelled before it has begun
            future.add_done_callback(lambda _: self._count(accepted=-1))
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    def _count(self, accepted: int = 0, at_work: int = 0) -> None:
        with self._lock:
            self._accepted += accepted
            self._at_work += at_work

    async def patiently(self, work: Callable[[Item], Result], item: Item) -> Result:
        """Do something with a picture that no request waits for, when there is room."""
        while True:
            try:
                (found,) = await self.each(work, [item])
                return found
            except Busy:
                await asyncio.sleep(_LATER)

    def close(self) -> None:
        """End the threads when they are done."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Predicting:
    """What is done with a picture to predict its class.

    Attributes:
        classifier: that predicts.
        top: number of the most probable classes that are returned.
        most_pixels: of a picture.
        metrics: count what is done.
    """

    classifier: Classifier
    top: int
    most_pixels: int
    metrics: Metrics

    def __call__(self, picture: bytes | Pixels) -> Prediction | Unreadable:
        """Predict the class of a picture: a file, or pixels of any size."""
        began = time.perf_counter()
        pixels = pixels_of(picture, self.classifier, self.most_pixels, self.metrics)
        if isinstance(pixels, Unreadable):
            return pixels
        decoded = time.perf_counter()
        prediction = self.classifier.predict_decoded(pixels, self.top)
        seconds = (decoded - began, time.perf_counter() - decoded)
        self.metrics.answered(prediction, *seconds, self.classifier)
        return prediction


@dataclass(frozen=True)
class Explaining:
    """What is done with a picture to explain its prediction.

    Attributes:
        explainer: that explains.
        label: the class to explain; None for the predicted one.
        most_pixels: of a picture.
        metrics: count what is done.
    """

    explainer: Explainer
    label: str | None
    most_pixels: int
    metrics: Metrics

    def __call__(self, picture: bytes) -> Explained | Unreadable:
        """Explain the prediction for the picture in a file."""
        pixels = pixels_of(picture, self.explainer.classifier, self.most_pixels, self.metrics)
        if isinstance(pixels, Unreadable):
            return pixels
        found = self.explainer.explain_decoded(pixels, self.label)
        drawn = explanation_images.overlay(found, _SIDE)
        _, png = cv2.imencode(".png", drawn[..., ::-1])
        return Explained(found.label, found.confidence, png.tobytes())


def pixels_of(
    picture: bytes | Pixels, classifier: Classifier, most_pixels: int, metrics: Metrics
) -> Pixels | Unreadable:
    """The pixels that a classifier takes, if a picture can be decoded; else that is counted."""
    try:
        pictures.require_pixels(picture, most_pixels)
        return classifier.decode(picture)
    except BadImage as error:
        metrics.rejected(error.reason)
        return Unreadable(error.reason)
