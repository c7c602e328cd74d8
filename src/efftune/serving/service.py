"""The classifier that is served, ready to answer, and what is known of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from efftune.delivery import exported
from efftune.evaluation import predictions
from efftune.evaluation.explanation import Explainer
from efftune.model.classifier import Classifier
from efftune.model.engines.engine import KERAS_FILE
from efftune.runs import loading
from efftune.runs.run import Run
from efftune.serving.metrics import Expected
from efftune.system import files, machine, stored


@dataclass(frozen=True)
class Service:
    """A classifier that has answered once.

    Its names are as they are in a run's tables, so that they can be sent: those of folders may be
    any bytes.

    Attributes:
        classifier: loaded, and compiled.
        name: by which clients know it.
        run: name of the folder or file that it came from.
        checksum: SHA-256 of its file.
        judged: how accurate it is: `val`, `test`, `test_without_leaks` and `judged_by` as `efftune
            train --json` has them; None for an exported file.
        expected: what the answers were for the pictures that it was judged by.
    """

    classifier: Classifier
    name: str
    run: str
    checksum: str
    judged: dict[str, Any] | None
    expected: Expected

    @classmethod
    def load(
        cls,
        path: Path,
        load: Callable[[Path], Classifier] = loading.load,
        name: str = "",
    ) -> "Service":
        """Load a run or an exported file, and let it answer once.

        Args:
            path: of it.
            load: loads its classifier.
            name: by which clients know it; by default, its own.

        Raises:
            UsageError: there is none.
            DataError: it is damaged.
        """
        classifier = load(path)
        size = classifier.image_size
        classifier.predict_decoded(np.zeros((size, size, 3), np.uint8))
        classifier.class_names = tuple(map(_as_written, classifier.class_names))
        own = _as_written(path.resolve().name)
        named = (_as_written(name) or own, own)
        if isinstance(classifier, exported.ExportedClassifier):
            return cls(classifier, *named, files.sha256(classifier.path), None, Expected())
        run = Run.load(path)
        checksum = run.record["files"][KERAS_FILE]
        return cls(classifier, *named, checksum, _judged(run), _expected(path))

    @cached_property
    def explainer(self) -> Explainer | None:
        """Explains its answers; None for an exported file, which cannot."""
        if isinstance(self.classifier, exported.ExportedClassifier):
            return None
        return Explainer(self.classifier)

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the server says of it, as values for JSON."""
        known = self.classifier.uncertainty
        return {
            "name": self.name,
            "run": self.run,
            "checksum": self.checksum,
            "classes": list(self.classifier.class_names),
            "image_size": self.classifier.image_size,
            "fit": str(self.classifier.fit),
            "judged": self.judged,
            "unsure_below": None if known is None else round(float(known.unsure_below), 6),
            "knows_unlike": known is not None and known.detector is not None,
            "explains": self.explainer is not None,
            "versions": machine.versions(),
        }


def _as_written(name: str) -> str:
    """A name as it is in a run's tables."""
    return name.encode(errors="backslashreplace").decode()


def _judged(run: Run) -> dict[str, Any]:
    """How accurate a run is."""
    summary = run.summary
    keys = ("val", "test", "test_without_leaks", "judged_by")
    return {key: summary[key] for key in keys if key in summary}


def _expected(run: Path) -> Expected:
    """From the predictions of a run: on validation, or out of fold.

    A run from the Hub may have none.

    Raises:
        DataError: their table is damaged.
    """
    path = run / predictions.FILE
    if not path.exists():
        return Expected()
    with stored.reading(path):
        rows = [
            (row["predicted"], row["unlike"] == "yes")
            for row in predictions.rows(run, ("predicted", "unlike", "chosen_on"))
            if row["split"] != "test" and row.get("chosen_on") != "no"  # no copies
        ]
    classes = Counter(label for label, _ in rows)
    return Expected(len(rows), sum(unlike for _, unlike in rows), tuple(classes.items()))
