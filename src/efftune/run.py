"""The story of a run: from a source of labelled pictures to an evaluated, saved classifier."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efftune.data import splitting
from efftune.data.examples import Examples
from efftune.data.inspection import Finding
from efftune.data.sources import discovery, tables
from efftune.evaluation import evaluator
from efftune.features import cache
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.runs.contents import RunContents
from efftune.runs.run import Run
from efftune.system import files
from efftune.system.progress import Progress, Timer, silent
from efftune.training import fine_tuning, planning, training_data, view_selection
from efftune.training.planning import Plan

_TEST_CHOOSES = (
    "the test split is the validation split, too, as in the public example: which epoch is kept is "
    "chosen on it, which flatters the score; --set val_from=train cuts a split for that"
)


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
            those; an archive of either; a table of paths and labels; or a data set:
            `sample:digits`, `tfds:NAME`, `hf:NAME`. The quickstart tells more of each.
        recipe: a named recipe, or a `Recipe`.
        run: the run folder to make; by default the next free `runs/SOURCE-MODEL-N`.
        on_progress: called with a phase's name, the number of items done and their total (0 where
            the phase is not counted), from several threads.
        **choices: settings of the `Recipe` to change, by name.

    Returns:
        The finished run.

    Raises:
        UsageError: an unknown name, a choice out of range, or a run folder that cannot be made.
        DataError: the source cannot be trained on.
    """
    timer = Timer(on_progress)
    setup = _set_up(source, recipe, choices, timer)
    backbone, plan = setup.backbone, setup.plan
    with files.reserved_folder(_run_folders(run, setup)) as folder:
        with timer.phase("features"):
            examples, data = training_data.compute(setup.examples, backbone, plan, timer.count)
        with timer.phase("head"):
            head = fine_tuning.fit_head(data, backbone, plan.recipe)
            plan, view_accuracy = view_selection.choose_views(plan, backbone, head, data)
        training = fine_tuning.fine_tune(backbone, head, data, plan, timer)
        with timer.phase("evaluate"):
            result = evaluator.evaluate(training, data, examples, plan.recipe, timer)
        contents = RunContents(
            plan, examples, setup.findings, data, training, view_accuracy, result
        )
        contents.write(folder, timer)
    finished = Run.load(folder)
    with timer.phase("report"):
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
    timer = Timer(on_progress)
    setup = _set_up(source, recipe, choices, timer)
    with timer.phase("measure"):
        paths = [row.path for row in setup.examples.of("train")]
        seconds = planning.estimate(setup.plan, setup.backbone, paths)
        inspected = round(timer.seconds["inspect"], 1)
        return replace(setup.plan, seconds={"inspect": inspected, **seconds})


def demo(*, run: str | Path | None = None, on_progress: Progress = silent) -> Run:
    """Train the head on the built-in sample, 1,797 scanned digits, in seconds; see `train`."""
    return train("sample:digits", recipe="quick", run=run, on_progress=on_progress)


@dataclass(frozen=True)
class _Setup:
    """What is known before anything is trained."""

    backbone: Backbone
    examples: Examples
    findings: list[Finding]
    plan: Plan


def _set_up(
    source: str | Path, recipe: str | Recipe, choices: dict[str, Any], timer: Timer
) -> _Setup:
    recipe = (
        Recipe.named(recipe, **choices) if isinstance(recipe, str) else recipe.changed(**choices)
    )
    recipe.require_effect()
    with timer.phase("find"):
        backbone = Backbone(
            recipe.backbone.model,
            recipe.backbone.image_size,
            weights="none" if recipe.phases == ("scratch",) else recipe.backbone.weights,
            drop_connect_rate=recipe.optimization.drop_connect_rate,
            on_progress=timer.on_progress,
        )
        examples = discovery.find(source, timer.on_progress, tables.Columns.of(recipe))
    with timer.phase("inspect"):
        examples, findings = splitting.split(examples, recipe, timer.count)
    with timer.phase("start"):  # in which Keras is imported, if anything is to be fine-tuned
        cache.prune(files.cache_folder() / "features")
        plan = planning.plan(recipe, backbone, examples.counts)
        if examples.val_is_test:
            plan = replace(plan, notes=(_TEST_CHOOSES, *plan.notes))
    return _Setup(backbone, examples, findings, plan)


def _run_folders(run: str | Path | None, setup: _Setup) -> Iterable[Path]:
    """The run folder that was asked for, or the numbered ones, lowest first."""
    if run is not None:
        return [files.user_path(run)]
    source = setup.examples.source.removeprefix("sample:").removeprefix("tfds:")
    name = re.sub(r"[^\w.-]+", "-", Path(source).resolve().name) or "pictures"
    model = setup.backbone.entry.short_name
    return (Path("runs") / f"{name}-{model}-{i}" for i in itertools.count(1))
