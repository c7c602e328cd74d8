"""The contents of a run folder, and how they are written."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from efftune.data import inspection, relabelling
from efftune.data.examples import SPLITS, Examples, Split
from efftune.data.inspection import Finding
from efftune.data.relabelling import LABELS_FILE
from efftune.evaluation import predictions, suspects
from efftune.evaluation.evaluator import EvaluationResult
from efftune.evaluation.model_choice import ModelTrial
from efftune.evaluation.settings_trials import SettingsTrial
from efftune.model import saving
from efftune.model.classifier import Classifier
from efftune.model.engines import devices
from efftune.recipe.recipe import Recipe
from efftune.report import plots, thumbnails
from efftune.runs import unfinished
from efftune.system import cluster, files, machine
from efftune.system.journal import RECORD
from efftune.system.progress import Timer
from efftune.training import goal, history, validation
from efftune.training.fine_tuning import TrainingResult
from efftune.training.goal import Cost
from efftune.training.planning import Plan
from efftune.training.training_data import TrainingData


@dataclass(frozen=True)
class RunContents:
    """Everything that is written to the folder of a finished run.

    Attributes:
        plan: the resolved plan of the run.
        examples: every file of the source.
        findings: the results of data inspection.
        data: features and labels used for training and evaluation.
        training: the trained network and its training history.
        view_accuracy: accuracy of the head on augmented validation pictures, 0 to 1, by kind of
            view.
        result: the results of the evaluation.
        models: that were compared, if the recipe left the choice to efftune.
        settings: that were tried, if there was a search.
    """

    plan: Plan
    examples: Examples
    findings: Sequence[Finding]
    data: TrainingData
    training: TrainingResult
    view_accuracy: Mapping[str, float]
    result: EvaluationResult
    models: tuple[ModelTrial, ...] = ()
    settings: tuple[SettingsTrial, ...] = ()

    def write(self, folder: Path, timer: Timer) -> None:
        """Write all files except the report. `run.json` comes last and marks the run complete."""
        examples, recipe, uncertainty = self.examples, self._recipe, self.result.uncertainty
        with timer.phase("save"):
            checksums = self._write_classifier(folder)
            self._write_tables(folder)
        size, fit = self.training.network.backbone.image_size, recipe.backbone.fit
        names, depth = examples.class_names, examples.depth
        classifier = Classifier(folder, names, size, fit, uncertainty, depth)
        with timer.phase("thumbnails"):
            self._write_plots(folder, classifier, timer)
        cost = None
        if recipe.goal:
            with timer.phase("goal"):
                cost = goal.of_classifier(classifier, folder, self.data.paths["train"])
        files.write(folder / RECORD, _json(self._record(checksums, cost, timer)))

    @property
    def _recipe(self) -> Recipe:
        return self.plan.recipe

    def _write_classifier(self, folder: Path) -> dict[str, str]:
        """Write the recipe and the classifier; returns the SHA-256 of the classifier's files."""
        files.write(folder / "recipe.toml", self._recipe.to_toml())
        return saving.save(
            folder,
            self.training.network.backbone,
            (self.result.head.kernel, self.result.head.bias),
            self.examples.class_names,
            self.result.uncertainty,
            mirrored=self._recipe.averages_mirror_images,
        )

    def _write_tables(self, folder: Path) -> None:
        result, names = self.result, self.examples.class_names
        files.write(folder / "examples.csv", self.examples.to_csv())
        files.write(folder / "findings.csv", inspection.to_csv(self.findings))
        files.write(folder / "history.csv", validation.to_csv(self.training.epochs))
        files.write(folder / predictions.FILE, predictions.to_csv(result.predictions, names))
        files.write(folder / "evaluation.json", _evaluation_json(result.evaluation.to_dict()))
        if "suspects" not in result.not_available:
            files.write(folder / suspects.FILE, suspects.to_csv(result.suspects))
        if self._recipe.data.labels:  # so that the next review starts from these decisions
            # As they were when the run began: a server may have added others since.
            relabelling.write(folder / LABELS_FILE, relabelling.made(self.examples))

    def _write_plots(self, folder: Path, classifier: Classifier, timer: Timer) -> None:
        """Write the report's thumbnails and all plots, including those of the public example."""
        recipe = self._recipe
        test = self.result.predictions[-1]  # or all pictures, out of fold
        thumbnails.write(
            folder,
            classifier,
            test,
            self.result.suspects,
            timer.count,
            lambda: timer.budget.is_short,
        )
        plots.draw_evaluation(folder, self.result.evaluation)
        if recipe.draws_example_plots:
            names, depth = self.examples.class_names, self.examples.depth
            titles = [names[i] for i in self.data.labels["train"]]
            size = self.training.network.backbone.image_size
            plots.draw(folder, self.data.paths["train"], titles, recipe, size, depth)
            files.write(folder / "model.txt", saving.summary(folder))

    def _record(self, checksums: dict[str, str], cost: Cost | None, timer: Timer) -> dict[str, Any]:
        """The contents of `run.json`."""
        start = timer.journal.start
        training, result, recipe = self.training, self.result, self._recipe
        backbone = training.network.backbone
        return {
            "state": "finished",
            "command": start.get("command", machine.command()),
            "asked": unfinished.digest(start) if start else "",
            "source": self.examples.source,
            "data": self._data_record(),
            "model": {
                "name": backbone.entry.name,
                "image_size": backbone.image_size,
                "fit": recipe.backbone.fit,
                "depth": asdict(self.examples.depth),
                "test_flip": recipe.averages_mirror_images,
                "weights": backbone.weights,
            },
            "models": [asdict(each) for each in self.models],
            "settings": [asdict(each) for each in self.settings],
            "recipe": recipe.name,
            "seed": recipe.seed,
            "budget": timer.budget.seconds if timer.budget.is_limited else 0,
            "versions": machine.versions(),
            "machine": machine.machine() | self._computed_on(),
            "cluster": {} if (costs := cluster.costs()) is None else costs.to_dict(),
            "head": {"strength": training.head.strength, "accuracy": self.view_accuracy},
            "plan": self.plan.to_dict(),
            "stages": [stage.to_dict() for stage in training.stages],
            "features": self.data.cache_counts,
            "goal": {} if cost is None else {"asked": recipe.goal, **asdict(cost)},
            "advice": [
                *history.advice(recipe, training.epochs, training.stages),
                *([] if cost is None else [goal.compared(cost, recipe)]),
            ],
            "not_available": result.not_available,
            "likely_wrong_labels": sum(each.likely for each in result.suspects),
            "seconds": timer.seconds,
            "files": checksums,
        }

    def _computed_on(self) -> dict[str, str]:
        """What computed the run, for `run.json`."""
        backbone = self.training.network.backbone
        gpu = devices.name(backbone.device)
        return {
            "device": backbone.device,
            **({"gpu": gpu} if gpu else {}),
            "engine": backbone.engine.NAME,
            "precision": self.plan.precision,
        }

    def _class_counts(self, split: Split) -> list[int]:
        """The number of usable pictures of each class in a split."""
        counts = Counter(row.label for row in self.examples.of(split))
        return [counts[name] for name in self.examples.class_names]

    def _data_record(self) -> dict[str, Any]:
        examples = self.examples
        return {
            "fingerprint": examples.fingerprint,
            "pictures": examples.counts,
            "classes": {split: self._class_counts(split) for split in SPLITS},
            "val_is_test": examples.val_is_test,
            "set_aside": len(examples.set_aside),
            "findings": Counter(each.kind for each in self.findings if each.is_problem),
            "leaked": {
                split: sum(row.path in examples.leaked for row in examples.of(split))
                for split in ("val", "test")
            },
        }


def _json(values: Any) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _evaluation_json(values: Mapping[str, Any]) -> str:
    """The contents of `evaluation.json`, with a line for each row of a confusion matrix.

    With one for each cell, 10,000 classes would take more than a run may have; see `soundness`.
    """
    matrices = [each["confusion"] for each in values.values() if "confusion" in each]
    parts = {
        name: part | ({"confusion": []} if "confusion" in part else {})
        for name, part in values.items()
    }
    key = '"confusion": ['  # in a text, the quotes would be escaped
    between = _json(parts).split(f"{key}]")
    text = [between[0]]
    for matrix, following in zip(matrices, between[1:], strict=True):
        rows = ",\n".join("   " + json.dumps(row, separators=(",", ":")) for row in matrix)
        text += [f"{key}\n{rows}\n  ]", following]
    return "".join(text)
