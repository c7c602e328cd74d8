"""The story of a run: from a source of labelled pictures to a judged, saved classifier."""

import csv
import io
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from efftune import files, provenance
from efftune.data import sources
from efftune.data.examples import SPLITS, Example, Examples, Split, labels
from efftune.errors import DataError, UsageError, unknown_name
from efftune.evaluation import metrics, predictions
from efftune.evaluation.metrics import Evaluation, SplitEvaluation
from efftune.model import classifier as classifiers
from efftune.model import features, inference
from efftune.model.backbone import Backbone
from efftune.model.classifier import Classifier
from efftune.model.features import Features
from efftune.recipe import Recipe, choices_in
from efftune.training import head as heads
from efftune.training.head import Head, Matrix

Progress = Callable[[str, int, int], None]

RECORD = "run.json"
_HISTORY = (
    *("stage", "epoch", "seconds"),
    *("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"),
)


def _silent(_phase: str, _done: int, _total: int) -> None:
    pass


def train(
    source: str | Path,
    *,
    recipe: str | Recipe = "quick",
    run: str | Path | None = None,
    on_progress: Progress = _silent,
    **choices: Any,
) -> "Run":
    """Train a classifier on the pictures in a source and leave a finished run folder.

    Args:
        source: a folder with one folder per class; a folder with `train`, and perhaps `val` and
            `test`, folders of class folders; or `sample:digits`.
        recipe: a named recipe, or a `Recipe`.
        run: the run folder to make; by default the next free `runs/SOURCE-MODEL-N`.
        on_progress: called with a phase's name, what is done of it and its total (0 where the
            phase is not counted), from several threads.
        **choices: attributes of `Recipe` to change.

    Returns:
        The finished run.

    Raises:
        UsageError: an unknown name, a choice out of range, or a run folder that cannot be made.
        DataError: the source cannot be trained on.
    """
    recipe = (
        Recipe.named(recipe, **choices) if isinstance(recipe, str) else recipe.changed(**choices)
    )
    watch = _Watch(on_progress)
    with watch.phase("find"):
        backbone = Backbone(recipe.model, recipe.image_size)
        examples = _split(sources.find(source), recipe)
    with files.reserved_folder(_places(run, examples.source, backbone)) as folder:
        with watch.phase("features"):
            parts = features.extract_splits(examples, backbone, recipe, watch.count)
            examples = _as_read(examples, parts, recipe)
        names = examples.class_names
        truth = {split: labels(examples.of(split), names) for split in SPLITS}
        with watch.phase("head"):
            head = heads.fit(parts["train"].values, truth["train"], recipe)
        with watch.phase("evaluate"):
            answers = {split: head.probabilities(parts[split].values[:, 0]) for split in SPLITS}
            scores = {s: metrics.evaluate(answers[s], truth[s], names) for s in SPLITS}
        with watch.phase("save"):
            sums = classifiers.save(folder, backbone, (head.kernel, head.bias), names)
            _write_tables(folder, examples, answers, scores, watch.seconds["head"])
            files.write(folder / "recipe.toml", recipe.to_toml())
        facts = _facts(examples, backbone, recipe, head)
        facts |= {"features": _counted(parts), "seconds": watch.seconds, "files": sums}
        # The record comes last: a folder without one is not a run.
        files.write(folder / RECORD, _json(facts))
    return Run.load(folder)


def demo(*, run: str | Path | None = None, on_progress: Progress = _silent) -> "Run":
    """Train on the built-in sample, 1,797 scanned digits; see `train`."""
    return train("sample:digits", run=run, on_progress=on_progress)


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
        on_progress: Progress = _silent,
    ) -> tuple[SplitEvaluation, Examples]:
        """Score this run's classifier on other pictures.

        Args:
            source: as for `train`; its classes must be among the classifier's.
            split: which split of the source to use. By default its test split, or, if it has
                none, everything.
            on_progress: as for `train`.

        Returns:
            The score, and the examples with what was set aside.

        Raises:
            UsageError: there is no such source, or it has no such split.
            DataError: no picture of a known class could be read, or there are unknown classes.
        """
        examples = sources.find(source)
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


def load(folder: str | Path) -> Classifier:
    """The classifier of a finished run, checked against the run's checksums.

    Raises:
        UsageError: there is no such folder.
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
    return Classifier(folder, names, record["model"]["image_size"], record["model"]["fit"])


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


def _split(examples: Examples, recipe: Recipe) -> Examples:
    allow_missing = recipe.missing_classes == "allow"
    examples.require_splittable(allow_missing=allow_missing)
    examples = examples.split(recipe.val_fraction, recipe.test_fraction, recipe.seed)
    examples.require_trainable(allow_missing=allow_missing)
    return examples


def _as_read(examples: Examples, parts: dict[Split, Features], recipe: Recipe) -> Examples:
    for part in parts.values():
        examples = examples.as_read(part.sha256s, part.failures)
    examples.require_trainable(allow_missing=recipe.missing_classes == "allow")
    return examples


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


def _places(run: str | Path | None, source: str, backbone: Backbone) -> Iterable[Path]:
    """The run folder asked for, or the numbered ones, lowest first."""
    if run is not None:
        return [files.user_path(run)]
    origin = Path(source.removeprefix("sample:")).resolve().name
    name = re.sub(r"[^\w.-]+", "-", origin) or "pictures"
    return (Path("runs") / f"{name}-{backbone.entry.short_name}-{i}" for i in itertools.count(1))


def _write_tables(
    folder: Path,
    examples: Examples,
    answers: dict[Split, Matrix],
    scores: dict[Split, SplitEvaluation],
    head_seconds: float,
) -> None:
    held_out = [(examples.of(split), answers[split]) for split in ("val", "test")]
    table = predictions.to_csv(held_out, examples.class_names)
    evaluation = Evaluation(scores["val"], scores["test"])
    files.write(folder / "examples.csv", examples.to_csv())
    files.write(folder / "history.csv", _history(scores, head_seconds))
    files.write(folder / "predictions.csv", table)
    files.write(folder / "evaluation.json", _json(evaluation.to_dict()))


def _history(scores: dict[Split, SplitEvaluation], seconds: float) -> str:
    """The table `history.csv`, with one row: the head is fitted once, to convergence."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_HISTORY)
    train, val = scores["train"], scores["val"]
    row = ("head", 1, f"{seconds:.2f}")
    judged = (train.loss, train.accuracy, val.loss, val.accuracy)
    writer.writerow((*row, *(f"{value:.6f}" for value in judged), ""))
    return table.getvalue()


def _facts(examples: Examples, backbone: Backbone, recipe: Recipe, head: Head) -> dict[str, Any]:
    """What `run.json` says beside checksums and seconds."""
    return {
        "state": "finished",
        "command": provenance.command(),
        "source": examples.source,
        "data": {
            "fingerprint": examples.fingerprint,
            "pictures": {split: len(examples.of(split)) for split in SPLITS},
            "set_aside": len(examples.set_aside),
            "judged_but_trained_on": examples.judged_but_trained_on,
        },
        "model": {
            "name": backbone.entry.name,
            "image_size": backbone.image_size,
            "fit": recipe.fit,
            "weights_sha256": backbone.entry.weights.sha256,
        },
        "recipe": recipe.name,
        "seed": recipe.seed,
        "head": {"strength": head.strength},
        "versions": provenance.versions(),
        "machine": provenance.machine() | {"precision": inference.fastest_precision()},
    }


def _counted(parts: dict[Split, Features]) -> dict[str, int]:
    """How many pictures' features were computed, and how many were found on disk."""
    computed = sum(part.computed for part in parts.values())
    return {
        "computed": computed,
        "kept": sum(len(part.values) for part in parts.values()) - computed,
    }


def _json(values: Any) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


class _Watch:
    """Times the phases of a run and tells how far they are."""

    def __init__(self, on_progress: Progress):
        self.seconds: dict[str, float] = {}
        self._on_progress = on_progress
        self._phase = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._phase = name
        start = time.perf_counter()
        self._on_progress(name, 0, 0)
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def count(self, done: int, total: int) -> None:
        self._on_progress(self._phase, done, total)
