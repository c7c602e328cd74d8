"""What a server counts, as Prometheus reads it."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as Total
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from efftune.evaluation.metrics import wilson
from efftune.model.classifier import Classifier
from efftune.model.prediction import Prediction

_RECENT = 1000  # answers that the shares of now are computed over
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_MOST_LABELLED = 1000  # classes that are counted by name


@dataclass(frozen=True)
class Expected:
    """What the answers were for the pictures that the classifier was judged by.

    Attributes:
        count: of these pictures.
        unlike: how many of them were unlike the training pictures.
        classes: how many answers each class had, by name.
    """

    count: int = 0
    unlike: int = 0
    classes: tuple[tuple[str, int], ...] = ()


class Metrics(Collector):
    """Counts requests and answers; may be used from several threads."""

    def __init__(self, queue: Callable[[], tuple[int, int]]):
        """Begin at 0.

        Args:
            queue: returns how many pictures wait, and how many are at work.
        """
        self.expected = Expected()
        self._queue = queue
        self._of: Classifier | None = None  # whose answers are compared with what is expected
        self._recent: deque[tuple[str, bool | None]] = deque(maxlen=_RECENT)
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Total(
            "efftune_requests",
            "Requests, by what was asked and status.",
            ["path", "code"],
            registry=registry,
        )
        self._answers = Total("efftune_answers", "Answers, by class.", ["label"], registry=registry)
        self._unsure = Total("efftune_unsure", "Answers that are unsure.", registry=registry)
        self._unlike = Total(
            "efftune_unlike", "Pictures unlike the training pictures.", registry=registry
        )
        self._rejects = Total(
            "efftune_rejected_pictures",
            "Pictures without an answer.",
            ["reason"],
            registry=registry,
        )
        self._wait, self._decode, self._network = (
            Histogram(f"efftune_{name}_seconds", text, buckets=_SECONDS, registry=registry)
            for name, text in (
                ("wait", "Time that a picture has waited for a thread."),
                ("decode", "Time to decode a picture."),
                ("network", "Time that the network takes for a picture."),
            )
        )
        self._registry.register(self)

    def responded(self, path: str, code: int) -> None:
        """Count a request."""
        self._requests.labels(path, code).inc()

    def waited(self, seconds: float) -> None:
        """Count a picture that is at work now."""
        self._wait.observe(seconds)

    def expect(self, expected: Expected, of: Classifier) -> None:
        """Compare the answers of a classifier, from now on, with what is expected of it."""
        with self._lock:
            self.expected, self._of = expected, of
            self._recent.clear()

    def answered(
        self,
        prediction: Prediction,
        decoding: float,
        computing: float,
        by: Classifier | None = None,
    ) -> None:
        """Count an answer, by which classifier, and the seconds that it took."""
        self._decode.observe(decoding)
        self._network.observe(computing)
        is_named = prediction.class_index < _MOST_LABELLED
        self._answers.labels(prediction.label if is_named else "(other)").inc()
        self._unsure.inc(prediction.unsure)
        self._unlike.inc(bool(prediction.unlike))
        with self._lock:
            if by is self._of:  # not one that was served before
                self._recent.append((prediction.label, prediction.unlike))

    def rejected(self, reason: str) -> None:
        """Count a picture without an answer."""
        self._rejects.labels(reason).inc()

    def page(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What is read when Prometheus asks: the queue, and how the answers of now differ."""
        for name, value in zip(("waiting", "at_work"), self._queue(), strict=True):
            yield GaugeMetricFamily(f"efftune_{name}", f"Pictures {name.replace('_', ' ')}.", value)
        with self._lock:
            recent, judged = list(self._recent), self.expected
        unlike = GaugeMetricFamily(
            "efftune_unlike_share",
            f"Share of pictures unlike the training pictures, of the last {_RECENT:,} and of those "
            "that judged the classifier, with 95 % interval.",
            labels=["of", "bound"],
        )
        mix = GaugeMetricFamily(
            "efftune_class_share",
            "Share of answers that a class has, likewise.",
            labels=["of", "label", "bound"],
        )
        told = [bool(each) for _, each in recent if each is not None]  # exported files cannot tell
        labels = Counter(label for label, _ in recent)
        for of, count, total in (
            ("recent", sum(told), len(told)),
            ("judged", judged.unlike, judged.count),
        ):
            for bound, share in _bounds(count, total):
                unlike.add_metric([of, bound], share)
        for of, counts in (("recent", labels), ("judged", Counter(dict(judged.classes)))):
            for label, count in counts.most_common(_MOST_LABELLED):
                for bound, share in _bounds(count, counts.total()):
                    mix.add_metric([of, label, bound], share)
        yield unlike
        yield mix


def _bounds(count: int, total: int) -> list[tuple[str, float]]:
    if not total:
        return []
    low, high = wilson(count, total)
    return [("low", low), ("share", count / total), ("high", high)]
