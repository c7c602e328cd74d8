"""Pictures answered in threads, and not more at a time than the machine can do."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from efftune.data import pictures
from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.evaluation.explanation import Explainer, Explanation
from efftune.model.classifier import Classifier, Prediction
from efftune.serving.metrics import Metrics

_LATER = 0.1  # seconds until room is asked for again
Item = TypeVar("Item")
Result = TypeVar("Result")


class Busy(Exception):
    """As many pictures as may wait do so."""


@dataclass(frozen=True)
class Unreadable:
    """A picture that has no answer.

    Attributes:
        reason: as `efftune check` gives it.
    """

    reason: str


class Answering:
    """Decodes pictures and runs the network, in threads.

    Attributes:
        waiting: number of pictures that were accepted and are not at work.
        at_work: number of those that are.
    """

    def __init__(self, at_work: int, most_waiting: int, metrics: Metrics):
        """Begin without pictures.

        Args:
            at_work: how many are at work at the same time.
            most_waiting: how many more may wait.
            metrics: count what is done.
        """
        self.waiting = self.at_work = 0
        self._most, self._threads = at_work + most_waiting, at_work
        self._pool = ThreadPoolExecutor(at_work, thread_name_prefix="answer")
        self._metrics = metrics

    def require_room(self, count: int = 1) -> None:
        """Check that some more pictures may wait.

        Raises:
            Busy: they may not.
        """
        if self.waiting + self.at_work + count > self._most:
            raise Busy

    async def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Do something with each picture, in threads.

        Raises:
            Busy: not all of them may wait.
        """
        self.require_room(len(items))
        self.waiting += len(items)
        loop, accepted = asyncio.get_running_loop(), time.perf_counter()

        def begun() -> None:
            self.waiting -= 1
            self.at_work += 1

        def ended() -> None:
            self.at_work -= 1

        def at_work(item: Item) -> Result:
            self._metrics.waited(time.perf_counter() - accepted)
            loop.call_soon_threadsafe(begun)
            try:
                return work(item)
            finally:
                loop.call_soon_threadsafe(ended)

        futures = [loop.run_in_executor(self._pool, at_work, each) for each in items]
        return list(await asyncio.gather(*futures))

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
        self.metrics.answered(prediction, decoded - began, time.perf_counter() - decoded)
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

    def __call__(self, picture: bytes) -> Explanation | Unreadable:
        """Explain the prediction for the picture in a file."""
        pixels = pixels_of(picture, self.explainer.classifier, self.most_pixels, self.metrics)
        if isinstance(pixels, Unreadable):
            return pixels
        return self.explainer.explain_decoded(pixels, self.label)


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
