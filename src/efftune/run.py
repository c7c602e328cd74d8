"""The story of a run: from a source of labelled pictures to a judged, saved classifier."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from efftune.data import inspection, splitting
from efftune.data.examples import Examples, Split
from efftune.data.inspection import Finding
from efftune.data.relabelling import LABELS_FILE
from efftune.data.sources import folders, tables
from efftune.evaluation import evaluator, predictions, suspects
from efftune.evaluation.evaluator import Judged
from efftune.features import cache
from efftune.features.extraction import Features
from efftune.model import classifier as classifiers
from efftune.model.backbone import Backbone
from efftune.model.classifier import Classifier
from efftune.model.engines import openvino_engine
from efftune.recipe.recipe import Recipe
from efftune.report import plots, thumbnails
from efftune.runs.run import RECORD, Run
from efftune.system import files, machine
from efftune.system.progress import Progress, Watch, silent
from efftune.training import fine_tuning, planning, stages
from efftune.training.fine_tuning import Seen
from efftune.training.planning import Plan
from efftune.training.stages import Epoch

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
) -> Run:
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
            parts = fine_tuning.see(examples, backbone, plan, watch.count)
            examples = _as_read(examples, parts, recipe)
            pictures = fine_tuning.seen(examples, parts)
        with watch.phase("head"):
            head = fine_tuning.fit_head(pictures, backbone, plan.recipe)
            plan, known = fine_tuning.decide_views(plan, backbone, head, pictures)
        tuned, outcomes = fine_tuning.tune(backbone, head, pictures, plan, watch)
        epochs = fine_tuning.history(head, pictures, watch.seconds["head"], outcomes)
        with watch.phase("evaluate"):
            judged = evaluator.judge(tuned, head, pictures, examples, plan.recipe, watch)
        with watch.phase("save"):
            sums = _save(folder, tuned.backbone, judged, examples, plan.recipe)
            _write_tables(folder, examples, findings, judged, epochs, recipe.labels)
        with watch.phase("pictures"):
            _draw(folder, judged, pictures, backbone, plan.recipe, watch)
        facts = _facts(examples, findings, backbone, plan.recipe)
        facts |= {
            "head": {"strength": head.strength, "accuracy": known},
            "plan": plan.to_dict(),
            "stages": [outcome.to_dict() for outcome in outcomes],
            "features": _counted(parts),
            "advice": fine_tuning.advice(plan.recipe, epochs),
            "not_available": judged.not_available,
            "likely_wrong_labels": sum(each.likely for each in judged.suspects),
            "seconds": watch.seconds,
            "files": sums,
        }
        # The record comes last: a folder without one is not a run.
        files.write(folder / RECORD, _json(facts))
    finished = Run.load(folder)
    with watch.phase("report"):
        finished.report()
    return finished


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
        rest = planning.estimate(plan, backbone, paths)
        return replace(plan, seconds={"look": round(watch.seconds["look"], 1), **rest})


def demo(*, run: str | Path | None = None, on_progress: Progress = silent) -> Run:
    """Train the head on the built-in sample, 1,797 scanned digits, in seconds; see `train`."""
    return train("sample:digits", recipe="quick", run=run, on_progress=on_progress)


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
        examples = folders.find(source, watch.on_progress, tables.Columns.of(recipe))
    with watch.phase("look"):
        examples, findings = splitting.split(examples, recipe, watch.count)
    with watch.phase(START):
        cache.prune(files.cache_folder() / "features")
        plan = planning.plan(recipe, backbone, examples.counts)
        if examples.val_is_test:
            plan = replace(plan, notes=(_FLATTERED, *plan.notes))
    return recipe, backbone, examples, findings, plan


def _as_read(examples: Examples, parts: dict[Split, Features], recipe: Recipe) -> Examples:
    for part in parts.values():
        examples = examples.as_read(part.sha256s, part.failures)
    examples.require_trainable(allow_missing=recipe.missing_classes == "allow")
    return examples


def _places(run: str | Path | None, source: str, backbone: Backbone) -> Iterable[Path]:
    """The run folder asked for, or the numbered ones, lowest first."""
    if run is not None:
        return [files.user_path(run)]
    origin = Path(source.removeprefix("sample:").removeprefix("tfds:")).resolve().name
    name = re.sub(r"[^\w.-]+", "-", origin) or "pictures"
    return (Path("runs") / f"{name}-{backbone.entry.short_name}-{i}" for i in itertools.count(1))


def _save(
    folder: Path, backbone: Backbone, judged: Judged, examples: Examples, recipe: Recipe
) -> dict[str, str]:
    """Write classifier and recipe; gives the checksums of the classifier's files."""
    files.write(folder / "recipe.toml", recipe.to_toml())
    return classifiers.save(
        folder,
        backbone,
        (judged.head.kernel, judged.head.bias),
        examples.class_names,
        judged.doubts,
        mirrored=recipe.mirrors_answers,
    )


def _write_tables(
    folder: Path,
    examples: Examples,
    findings: Sequence[Finding],
    judged: Judged,
    epochs: Sequence[Epoch],
    labels_file: str,
) -> None:
    names = examples.class_names
    files.write(folder / "examples.csv", examples.to_csv())
    files.write(folder / "findings.csv", inspection.to_csv(findings))
    files.write(folder / "history.csv", stages.to_csv(epochs))
    files.write(folder / predictions.FILE, predictions.to_csv(judged.answers, names))
    files.write(folder / "evaluation.json", _json(judged.evaluation.to_dict()))
    if "suspects" not in judged.not_available:
        files.write(folder / suspects.FILE, suspects.to_csv(judged.suspects))
    if labels_file:  # so that the next review goes on from there
        files.write(folder / LABELS_FILE, files.user_path(labels_file).read_bytes())


def _draw(
    folder: Path,
    judged: Judged,
    pictures: Seen,
    backbone: Backbone,
    recipe: Recipe,
    watch: Watch,
) -> None:
    """The pictures that the report shows, and those of the public example."""
    names, size = [each.name for each in judged.evaluation.test.per_class], backbone.image_size
    classifier = Classifier(folder, names, size, recipe.fit, judged.doubts)
    test = next(each for each in judged.answers if each.split == "test")
    thumbnails.write(folder, classifier, test, judged.suspects, watch.count)
    plots.draw_evaluation(folder, judged.evaluation)
    if recipe.draws:
        titles = [names[i] for i in pictures.labels["train"]]
        plots.draw(folder, pictures.paths["train"], titles, recipe, size)
        files.write(folder / "model.txt", classifiers.summary(folder))


def _facts(
    examples: Examples, findings: Sequence[Finding], backbone: Backbone, recipe: Recipe
) -> dict[str, Any]:
    """What `run.json` says beside checksums and seconds."""
    return {
        "state": "finished",
        "command": machine.command(),
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
        "versions": machine.versions(),
        "machine": machine.machine() | {"precision": openvino_engine.fastest_precision()},
    }


def _counted(parts: dict[Split, Features]) -> dict[str, int]:
    """How many pictures' features were computed, and how many were found on disk."""
    had = [part for part in parts.values() if part.rows]
    computed = sum(part.computed for part in had)
    readable = sum(len(part.sha256s.keys() - part.failures.keys()) for part in had)
    return {"computed": computed, "kept": readable - computed}


def _json(values: Any) -> str:
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
