"""The story of a run: from a source of labelled pictures to a judged, saved classifier."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from efftune import files, provenance
from efftune.data import inspection, sources, splitting, tables
from efftune.data.examples import SPLITS, Example, Examples, Split, labels
from efftune.data.inspection import Finding
from efftune.errors import DataError, UsageError, unknown_name
from efftune.evaluation import metrics, plots, predictions
from efftune.evaluation.metrics import Evaluation, SplitEvaluation
from efftune.model import classifier as classifiers
from efftune.model import inference, kept
from efftune.model.backbone import Backbone
from efftune.model.classifier import Classifier
from efftune.model.features import Features
from efftune.progress import Progress, Watch, silent
from efftune.recipe import Recipe, choices_in
from efftune.training import planning, stages, tuning
from efftune.training.head import Head, Matrix
from efftune.training.planning import Plan
from efftune.training.stages import Epoch, Tuned
from efftune.training.tuning import Seen

RECORD = "run.json"
_FLATTERED = (
    "the test split is the validation split, too, as in the public example: which epoch is kept is "
    "chosen on it, which flatters the score; --set val_from=train cuts a split for that"
)
START = "start"  # the phase in which Keras is imported, where anything is to be fine-tuned


def train(
    source: str | Path,
    *,
    recipe: str | Recipe = "balanced",
    run: str | Path | None = None,
    on_progress: Progress = silent,
    **choices: Any,
) -> "Run":
    """Train a classifier on the pictures in a source and leave a finished run folder.

    Args:
        source: a folder of class folders, or of `train`, and perhaps `val` and `test`, folders of
            those; an archive of either; a table of paths and labels; or a set: `sample:digits`,
            `tfds:NAME`, `hf:NAME`. The quickstart tells more of each.
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
    watch = Watch(on_progress)
    recipe, backbone, examples, findings, plan = _prepared(source, recipe, choices, watch)
    with files.reserved_folder(_places(run, examples.source, backbone)) as folder:
        with watch.phase("features"):
            parts = tuning.see(examples, backbone, plan, watch.count)
            examples = _as_read(examples, parts, recipe)
            pictures = tuning.seen(examples, parts)
        with watch.phase("head"):
            head = tuning.fit_head(pictures, backbone, plan.recipe)
            plan, known = tuning.decide_views(plan, backbone, head, pictures)
        tuned, outcomes = tuning.tune(backbone, head, pictures, plan, watch)
        names = examples.class_names
        with watch.phase("save"):
            head_now, mirrored = (tuned.kernel, tuned.bias), plan.recipe.mirrors_answers
            sums = classifiers.save(folder, tuned.backbone, head_now, names, mirrored=mirrored)
            files.write(folder / "recipe.toml", plan.recipe.to_toml())
        with watch.phase("evaluate"):
            classifier = Classifier(folder, names, backbone.image_size, recipe.fit)
            answers = _judged(classifier, tuned, pictures, watch, mirrored=mirrored)
            epochs = tuning.history(head, pictures, watch.seconds["head"], outcomes)
            _write_tables(folder, examples, answers, epochs)
            files.write(folder / "findings.csv", inspection.to_csv(findings))
        if plan.recipe.draws:
            with watch.phase("plots"):
                paths, truth = pictures.paths["train"], pictures.labels["train"]
                plots.draw(
                    folder, paths, [names[i] for i in truth], plan.recipe, backbone.image_size
                )
                files.write(folder / "model.txt", classifiers.summary(folder))
        facts = _facts(examples, findings, backbone, plan.recipe)
        facts |= {
            "head": {"strength": head.strength, "accuracy": known},
            "plan": plan.to_dict(),
            "stages": [outcome.to_dict() for outcome in outcomes],
            "features": _counted(parts),
            "advice": tuning.advice(plan.recipe, epochs),
            "seconds": watch.seconds,
            "files": sums,
        }
        # The record comes last: a folder without one is not a run.
        files.write(folder / RECORD, _json(facts))
    return Run.load(folder)


def plan(
    source: str | Path,
    *,
    recipe: str | Recipe = "balanced",
    on_progress: Progress = silent,
    **choices: Any,
) -> Plan:
    """What `train` would do with the same arguments, and how long it would take; see there.

    A few pictures and training steps are run to measure the time. No run folder is made.
    """
    watch = Watch(on_progress)
    _, backbone, examples, _, plan = _prepared(source, recipe, choices, watch)
    with watch.phase("measure"):
        paths = [row.path for row in examples.of("train")]
        return replace(plan, seconds=planning.estimate(plan, backbone, paths))


def demo(*, run: str | Path | None = None, on_progress: Progress = silent) -> "Run":
    """Train the head on the built-in sample, 1,797 scanned digits, in seconds; see `train`."""
    return train("sample:digits", recipe="quick", run=run, on_progress=on_progress)


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
        examples = sources.find(source, on_progress, columns)
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


def _prepared(
    source: str | Path, recipe: str | Recipe, choices: dict[str, Any], watch: Watch
) -> tuple[Recipe, Backbone, Examples, list[Finding], Plan]:
    recipe = (
        Recipe.named(recipe, **choices) if isinstance(recipe, str) else recipe.changed(**choices)
    )
    recipe.require_effect()
    with watch.phase("find"):
        backbone = Backbone(
            recipe.model,
            recipe.image_size,
            weights="none" if recipe.phases == ("scratch",) else recipe.weights,
            drop_connect_rate=recipe.drop_connect_rate,
            on_progress=watch.on_progress,
        )
        examples = sources.find(source, watch.on_progress, tables.Columns.of(recipe))
    with watch.phase("look"):
        examples, findings = splitting.split(examples, recipe, watch.count)
    with watch.phase(START):
        kept.prune(files.cache_folder() / "features")
        plan = planning.plan(recipe, backbone, examples.counts)
        if examples.val_is_test:
            plan = replace(plan, notes=(_FLATTERED, *plan.notes))
    return recipe, backbone, examples, findings, plan


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
    origin = Path(source.removeprefix("sample:").removeprefix("tfds:")).resolve().name
    name = re.sub(r"[^\w.-]+", "-", origin) or "pictures"
    return (Path("runs") / f"{name}-{backbone.entry.short_name}-{i}" for i in itertools.count(1))


def _judged(
    classifier: Classifier, tuned: Tuned, pictures: Seen, watch: Watch, *, mirrored: bool
) -> dict[Split, Matrix]:
    """The saved classifier's probabilities for the pictures that were held out."""
    splits: tuple[Split, ...] = ("val", "test")
    if not tuned.backbone.tuned and not mirrored:  # what is kept is what it would find
        head = Head(tuned.kernel, tuned.bias)
        return {split: head.probabilities(pictures.features[split].pooled()) for split in splits}
    paths = {split: pictures.paths[split] for split in splits}
    probabilities, _ = classifier.probabilities([*paths["val"], *paths["test"]], watch.count)
    return dict(zip(splits, np.split(probabilities, [len(paths["val"])]), strict=True))


def _write_tables(
    folder: Path, examples: Examples, answers: dict[Split, Matrix], epochs: Sequence[Epoch]
) -> None:
    names = examples.class_names
    held_out = [(split, examples.of(split), answer) for split, answer in answers.items()]
    judged = {
        split: (answer, labels(rows, names), [row.path not in examples.leaked for row in rows])
        for split, rows, answer in held_out
    }
    files.write(folder / "examples.csv", examples.to_csv())
    files.write(folder / "history.csv", stages.to_csv(epochs))
    files.write(folder / "predictions.csv", predictions.to_csv(held_out, names))
    files.write(folder / "evaluation.json", _json(metrics.evaluate_all(judged, names).to_dict()))


def _facts(
    examples: Examples, findings: Sequence[Finding], backbone: Backbone, recipe: Recipe
) -> dict[str, Any]:
    """What `run.json` says beside checksums and seconds."""
    return {
        "state": "finished",
        "command": provenance.command(),
        "source": examples.source,
        "data": {
            "fingerprint": examples.fingerprint,
            "pictures": examples.counts,
            "val_is_test": examples.val_is_test,
            "set_aside": len(examples.set_aside),
            "findings": Counter(each.kind for each in findings if each.is_problem),
            "leaked": {
                split: sum(row.path in examples.leaked for row in examples.of(split))
                for split in ("val", "test")
            },
        },
        "model": {
            "name": backbone.entry.name,
            "image_size": backbone.image_size,
            "fit": recipe.fit,
            "test_flip": recipe.mirrors_answers,
            "weights": backbone.weights,
        },
        "recipe": recipe.name,
        "seed": recipe.seed,
        "versions": provenance.versions(),
        "machine": provenance.machine() | {"precision": inference.fastest_precision()},
    }


def _counted(parts: dict[Split, Features]) -> dict[str, int]:
    """How many pictures' features were computed, and how many were found on disk."""
    had = [part for part in parts.values() if part.rows]
    computed = sum(part.computed for part in had)
    readable = sum(len(part.sha256s.keys() - part.failures.keys()) for part in had)
    return {"computed": computed, "kept": readable - computed}


def _json(values: Any) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
