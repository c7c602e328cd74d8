"""What a finished run can do: a run folder, read back."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from efftune.data import relabelling
from efftune.data.examples import SPLITS, Example, Examples, labels
from efftune.data.relabelling import LABELS_FILE, Decision
from efftune.data.sources import discovery, tables
from efftune.errors import DataError, UsageError, unknown_name
from efftune.evaluation import comparison, metrics, predictions, suspects
from efftune.evaluation.comparison import ComparedRun, Comparison
from efftune.evaluation.metrics import Evaluation, SplitEvaluation
from efftune.model import classifier as classifiers
from efftune.model import uncertainty as uncertainties
from efftune.model.classifier import Classifier
from efftune.model.uncertainty import Uncertainty
from efftune.recipe.recipe import Recipe
from efftune.recipe.settings import choices_in
from efftune.report import comparison_plot, explanation_images, report, review
from efftune.report.explanation_images import ExplanationFile
from efftune.system import files
from efftune.system.progress import Progress, silent

RECORD = "run.json"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it lies.
        recipe: every choice, as used.
        evaluation: how the classifier fared on validation and test.
        record: what `run.json` holds: versions, machine, seconds per phase, checksums and more.
    """

    folder: Path
    recipe: Recipe
    evaluation: Evaluation
    record: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read a run folder.

        Raises:
            UsageError: there is no such folder.
            DataError: it is not a finished run, or a file of it is missing or damaged.
        """
        folder = files.user_path(folder)
        record = _record(folder)
        try:
            recipe = Recipe().changed(**choices_in(folder / "recipe.toml"))
            judged = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
            evaluation = Evaluation.from_dict(judged)
        except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
            raise DataError(f"The run {folder} is damaged: {error}. Train again.") from None
        return cls(folder, recipe, evaluation, record)

    @property
    def summary(self) -> dict[str, Any]:
        """The run in one line of JSON, as `efftune train --json` prints it."""
        val, test = self.evaluation.val, self.evaluation.test
        return {
            "run": str(self.folder),
            "model": self.record["model"]["name"],
            "recipe": self.recipe.name,
            "seconds": round(sum(self.record["seconds"].values()), 2),
            "val": {"accuracy": val.accuracy},
            "test": {"accuracy": test.accuracy, "low": test.low, "high": test.high},
        }

    def report(self) -> Path:
        """Write `report.html` again, from what the run folder holds.

        Returns:
            The page.

        Raises:
            DataError: a file that it is made from is missing or damaged.
        """
        return report.write(self.folder)

    def review(self) -> Path:
        """Write `review.html`, on which suspect labels are kept, changed or dropped.

        Returns:
            The page.

        Raises:
            DataError: the run has no suspect labels, or a file is missing or damaged.
        """
        return review.write(self.folder)

    def accept(self, count: int) -> Path:
        """Relabel the most suspect training pictures as suggested, without a look.

        Args:
            count: how many, 1 or more; decisions made before come on top.

        Returns:
            `labels.csv` in the run folder, for `train(…, labels=…)`.

        Raises:
            UsageError: `count` is below 1.
            DataError: the run has no suspect labels.
        """
        if count < 1:
            raise UsageError(f"Accept 1 suggestion or more. Received: {count}.")
        path = self.folder / LABELS_FILE
        decided = relabelling.read(path) if path.exists() else {}
        for each in suspects.read(self.folder)[:count]:
            decided[each.name] = Decision(each.label, "relabel", each.suggested)
        relabelling.write(path, decided)
        return path

    def explain(
        self,
        pictures: Sequence[str | Path],
        out: str | Path = "explained",
        label: str | None = None,
        *,
        on_unreadable: Callable[[Path, str], None] | None = None,
        on_progress: Progress = silent,
    ) -> list[ExplanationFile]:
        """Show what in pictures speaks for a class, by Grad-CAM.

        Args:
            pictures: paths.
            out: a folder for a PNG of each, made if need be.
            label: the class; by default the one that is answered.
            on_unreadable: as for `Classifier.predict`.
            on_progress: as for `train`.

        Raises:
            UsageError: there is no such class, or `out` cannot be written to.
            DataError: a picture cannot be decoded and `on_unreadable` is not given.
        """
        return explanation_images.explain(
            self.classifier,
            [files.user_path(path) for path in pictures],
            files.user_path(out),
            label,
            on_unreadable=on_unreadable,
            on_progress=lambda done, total: on_progress("explain", done, total),
        )

    @cached_property
    def classifier(self) -> Classifier:
        """The trained classifier.

        Raises:
            DataError: its files were altered since the run finished.
        """
        return load(self.folder)

    def evaluate(
        self,
        source: str | Path,
        split: str | None = None,
        *,
        columns: tables.Columns | None = None,
        on_progress: Progress = silent,
    ) -> tuple[SplitEvaluation, Examples]:
        """Score this run's classifier on other pictures.

        Args:
            source: as for `train`; its classes must be among the classifier's.
            split: which to use; by default the source's test split or, without one, everything.
            columns: of a table; by default those that the run was trained with.
            on_progress: as for `train`.

        Returns:
            The score, and the examples with what was set aside.

        Raises:
            UsageError: there is no such source, or it has no such split.
            DataError: no picture of a known class could be read, or there are unknown classes.
        """
        columns = columns or tables.Columns.of(self.recipe)
        examples = discovery.find(source, on_progress, columns)
        rows = _chosen(examples, split)
        names = self.classifier.class_names
        unknown = sorted({row.label for row in rows} - set(names))
        if unknown:
            raise DataError(
                f"{examples.source} holds pictures of {unknown[0]!r}, a class that {self.folder} "
                f"does not know. It knows: {', '.join(names)}."
            )
        probabilities, failures = self.classifier.probabilities(
            [row.path for row in rows], lambda done, total: on_progress("evaluate", done, total)
        )
        readable = np.array([row.path not in failures for row in rows], dtype=bool)
        if not readable.any():
            raise DataError(f"None of the pictures in {examples.source} can be decoded.")
        truth = labels(rows, names)
        score = metrics.evaluate(probabilities[readable], truth[readable], names)
        return score, examples.as_read({}, failures)


def load(folder: str | Path, max_error: float | str | None = None) -> Classifier:
    """The classifier of a finished run, checked against the run's checksums.

    Args:
        folder: of the run.
        max_error: share of the answers given that may be wrong, such as 0.01 or `1%`; what makes it
            more is unsure. By default as the run was trained.

    Raises:
        UsageError: there is no such folder, or no such share.
        DataError: it is not a finished run, or its model was altered since.
    """
    folder = files.user_path(folder)
    record = _record(folder)
    for name, expected in record["files"].items():
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing. Restore it, or train again.")
        if files.sha256(folder / name) != expected:
            raise DataError(
                f"{folder / name} was altered after the run finished (its checksum differs). "
                "Restore it, or train again."
            )
    names = json.loads((folder / classifiers.CLASSES_FILE).read_text(encoding="utf-8"))
    stored = folder / classifiers.UNCERTAINTY_FILE
    if not stored.exists():
        stored = folder / classifiers.UNCERTAINTY_FILE_BEFORE
    uncertainty = Uncertainty.read(stored)
    if max_error is not None:
        share = Recipe().changed(max_error=max_error).evaluation.max_error
        confidences, right = predictions.confidences(folder, "val")
        least = uncertainties.confidence_threshold(confidences, right, share)
        uncertainty = replace(uncertainty, unsure_below=least)
    model = record["model"]
    return Classifier(folder, names, model["image_size"], model["fit"], uncertainty)


def compare(
    runs: Sequence[str | Path | Run], split: str = "test", *, out: str | Path | None = None
) -> Comparison:
    """Compare runs on the pictures that all of them were judged on.

    Args:
        runs: two or more run folders, or runs; the first is what the others are compared with.
        split: `test` or `val`.
        out: a PNG of accuracy against seconds to write.

    Raises:
        UsageError: fewer than two runs, or there is no such folder or split.
        DataError: a folder is not a finished run, or they have no picture in common.
    """
    loaded = [each if isinstance(each, Run) else Run.load(each) for each in runs]
    summaries = [(each.folder, each.summary) for each in loaded]
    found = comparison.compare(
        [ComparedRun(at, each["model"], each["recipe"], each["seconds"]) for at, each in summaries],
        split,
    )
    if out is not None:
        comparison_plot.draw(found, files.user_path(out))
    return found


def _record(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise UsageError(f"There is no run folder {folder}.")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["state"] == "finished" and record["files"] and record["model"]:
            return dict(record)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f"{folder} is not a finished run: it has no usable {RECORD}. Name a folder that "
        "`efftune train` has made."
    )


def _chosen(examples: Examples, split: str | None) -> tuple[Example, ...]:
    """The usable pictures of a split, or of the test split, or all."""
    if split not in (None, *SPLITS):
        raise unknown_name("split", str(split), SPLITS)
    brought = {row.split for row in examples.rows if row.usable} - {""}
    if split is None:
        split = "test" if "test" in brought else None
    rows = [row for row in examples.rows if row.usable and split in (None, row.split)]
    if split is not None and not rows:
        raise UsageError(f"{examples.source} has no {split} split with pictures in it.")
    if not rows:
        raise DataError(f"{examples.source} holds no picture that can be read.")
    return tuple(rows)
