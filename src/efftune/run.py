"""The training pipeline: from a source of labelled pictures to a saved, evaluated classifier."""

import itertools
import math
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from efftune.data.sources import addresses
from efftune.errors import UsageError
from efftune.evaluation import cross_validation, evaluator, settings_search
from efftune.evaluation.settings_trials import SettingsTrial
from efftune.recipe.inputs import AUTO_MODEL
from efftune.recipe.recipe import Recipe
from efftune.report.report import FILE as REPORT_FILE
from efftune.runs import preparation, unfinished, within_budget
from efftune.runs.contents import RunContents
from efftune.runs.preparation import Setup
from efftune.runs.run import Run
from efftune.system import cluster, files
from efftune.system.journal import RECORD, Journal
from efftune.system.progress import OnProgress, Timer, showing
from efftune.training import (
    estimation,
    fine_tuning,
    fold_heads,
    training_data,
    view_selection,
)
from efftune.training.fold_heads import FoldHeads
from efftune.training.planning import Plan
from efftune.training.regression_head import Head
from efftune.training.training_data import TrainingData

_MODEL_SHARE = 0.3  # of the budget of a search, for a run with the model chosen
_SEARCH_SHARE = 0.85  # the rest is for judging and saving


def train(
    source: str | Path,
    *,
    recipe: str | Recipe = "balanced",
    run: str | Path | None = None,
    resume: bool = False,
    on_progress: OnProgress = "auto",
    **choices: Any,
) -> Run:
    """Train a classifier on the pictures in a source and write a run folder.

    Args:
        source: a folder with one folder per class, or with `train` and optionally `val` and `test`
            folders that contain class folders; an archive of either; a table of paths and labels;
            or a dataset: `sample:digits`, `tfds:NAME`, `hf:NAME`. See the quickstart for details.
        recipe: the name of a recipe, or a `Recipe`.
        run: the run folder to create; by default the next free `runs/SOURCE-MODEL-N`.
        resume: go on with the run that the same call has begun, if it was stopped; begin one if
            there is none.
        on_progress: `auto` draws progress bars in a notebook or a terminal, and nothing elsewhere;
            None, nothing anywhere. A function is called with the name of the phase, the number of
            items done and their total (0 if the phase has no item count), perhaps from several
            threads.
        **choices: settings of the `Recipe` to override, by name, such as `head_epochs=5`.

    Returns:
        The finished run.

    Raises:
        UsageError: a name is unknown, a setting is out of range, or the run folder cannot be
            created; or the run to resume began in another way.
        DataError: the source is not usable for training.
    """
    chosen = _recipe(recipe, choices)
    chosen.require_effect()
    return _train(source, chosen, run, on_progress, resume=resume)


def search(
    source: str | Path,
    *,
    budget: str | float = "20m",
    recipe: str | Recipe = "balanced",
    run: str | Path | None = None,
    resume: bool = False,
    on_progress: OnProgress = "auto",
    **choices: Any,
) -> Run:
    """Search for the model and the settings of fine-tuning that suit the pictures best.

    The model is chosen as by `train` with `model="auto"`, unless it is named; the settings by
    successive halving on the validation pictures, of which few cannot tell settings apart: then,
    where cross-validation judges, or if there is hardly time to train more than once, they stay as
    they are. For the other arguments, see `train`.

    Args:
        source: as for `train`.
        budget: time for all of it, such as `20m`, or in seconds.
        recipe: what to start from; it trains blocks of the network on cached activations.
        run: as for `train`.
        resume: as for `train`.
        on_progress: as for `train`.
        **choices: as for `train`.

    Returns:
        The finished run, trained with what was chosen.

    Raises:
        UsageError: as by `train`, or the recipe does not fine-tune one network in one stage.
        DataError: as by `train`.
    """
    chosen = _recipe(recipe, {"model": AUTO_MODEL} | choices | {"budget": budget})
    seconds = chosen.budget
    one_stage = [stage.name for stage in chosen.stages] == ["head", "upper"]
    one_stage &= chosen.members == 1
    if not (seconds and one_stage and chosen.can_cross_validate):
        raise UsageError(
            "A search needs a budget, and a recipe that fine-tunes one network on cached "
            "activations, such as balanced, without --head-epochs."
        )
    if chosen.data.val_from == "test":
        raise UsageError("A search chooses on validation, so val_from = test is not for it.")
    is_named = chosen.backbone.model != AUTO_MODEL
    chosen = chosen.changed(budget=0 if is_named else _MODEL_SHARE * seconds)
    chosen.require_effect()
    return _train(source, chosen, run, on_progress, _SEARCH_SHARE * seconds, resume=resume)


def resume(run: str | Path, *, on_progress: OnProgress = "auto") -> Run:
    """Go on with a run that was stopped; its result is that of a run that never was.

    Args:
        run: the folder of an unfinished run.
        on_progress: as for `train`.

    Returns:
        The finished run.

    Raises:
        UsageError: it is no unfinished run, another process is at work on it, or it began with
            other versions or on another machine.
        DataError: its pictures have changed, or what it has kept is damaged.
    """
    return _go_on(run, on_progress)


def finish(run: str | Path, *, on_progress: OnProgress = "auto") -> Run:
    """Judge and save what a stopped run has trained so far, and train no more.

    Of a stage under way, the best epoch counts; what has not begun is left out. Where
    cross-validation judges, fine-tuning is taken only if it was complete. Of a search, the best of
    the settings that were trained longest are taken.

    Args:
        run: the folder of an unfinished run.
        on_progress: as for `train`.

    Returns:
        The finished run.

    Raises:
        UsageError: as by `resume`; or the run trains from scratch and has not completed an epoch.
        DataError: as by `resume`.
    """
    return _go_on(run, on_progress, finish=True)


def _go_on(run: str | Path, on_progress: OnProgress, *, finish: bool = False) -> Run:
    folder = files.output_path(run)
    has_record, has_report = ((folder / each).exists() for each in (RECORD, REPORT_FILE))
    if has_record and not has_report and not unfinished.is_unfinished(folder):
        ended = Run.load(folder)
        if not ended.record.get("without_pictures"):  # as on the Hub
            ended.report()
            return ended
    start, recipe = unfinished.asked_for(folder)
    if start["folder"] != str(Path.cwd()):
        folder = folder.resolve()
    with unfinished.working_folder(start):
        journal = Journal.reopened(folder)
        journal.leaves_out_the_rest = finish
        return _through(start, recipe, journal, folder, on_progress)


def _reported(folder: Path) -> Run:
    """A finished run; its report is made if it was stopped when all else was done."""
    finished = Run.load(folder)
    if not (folder / REPORT_FILE).exists():
        finished.report()
    return finished


def _train(
    source: str | Path,
    recipe: Recipe,
    run: str | Path | None,
    on_progress: OnProgress,
    search_seconds: float = 0,
    *,
    resume: bool,
) -> Run:
    """Begin a run, or go on with it; perhaps with a search for settings within some seconds."""
    named = None if run is None else files.output_path(run)
    start = unfinished.start_of(str(source), recipe, search_seconds)
    if resume and named is not None and unfinished.is_finished(named, start):
        return _reported(named)
    journal = unfinished.reopened(start, named) if resume else None
    if journal is None:
        unfinished.require_new(named)
        journal = Journal()
    return _through(start, recipe, journal, named, on_progress)


def _through(
    start: dict[str, Any],
    recipe: Recipe,
    journal: Journal,
    run: Path | None,
    on_progress: OnProgress,
) -> Run:
    """Do what is left of a run, from its pictures to its report."""
    try:
        with showing(on_progress) as report:
            cluster.begin_run()
            search = start["search"]
            timer = Timer(report, journal, math.inf if search else recipe.budget or math.inf)
            deadline = time.perf_counter() + search - sum(timer.seconds.values())
            whole = search / _SEARCH_SHARE
            setup = preparation.set_up(start["asked"], recipe, timer, search_seconds=whole)
            folders = [run] if run is not None else _run_folders(setup)
            with unfinished.at_work(journal, folders, start) as folder:
                _worked(setup, timer, deadline if search else 0).write(folder, timer)
            report("report", 0, 0)
            finished = Run.load(folder)
            finished.report()
            return finished
    finally:
        journal.close()


def _worked(setup: Setup, timer: Timer, deadline: float) -> RunContents:
    """Train and judge, perhaps with a search until a deadline of `time.perf_counter`."""
    backbone, plan = setup.backbone, setup.plan
    with timer.phase("features"):
        examples, data = training_data.compute(setup.examples, backbone, plan, timer)
        plan = within_budget.with_pictures(plan, setup.examples, examples)
        setup = replace(setup, plan=plan)
    with timer.phase("head"):
        head = fine_tuning.fit_head(data, backbone, plan.recipe)
        judges = fold_heads.fit(head, data, backbone, plan.recipe) if plan.folds else None
        starting = judges.starting if judges else head
        plan, view_accuracy = _with_views(setup, starting, data, timer)
    outcome, searched = None, tuple[SettingsTrial, ...]()
    if judges is not None:
        training, outcome = cross_validation.train(head, judges, data, backbone, plan, timer)
    elif deadline and plan.recipe.trains_by_gradient_descent and not timer.budget.is_limited:
        plan, training, searched = settings_search.search(
            head, data, backbone, plan, timer, deadline
        )
    else:
        training = fine_tuning.fine_tune(backbone, head, data, plan, timer)
        plan = within_budget.with_networks(plan, training.stages)
        if timer.left_out and not timer.journal.leaves_out_the_rest:
            what = "the rest of fine-tuning" if training.stages else "fine-tuning"
            plan = replace(plan, notes=(*plan.notes, f"{what} was left out: {timer.left_out}"))
    with timer.phase("evaluate"):
        result = evaluator.evaluate(training, data, examples, plan.recipe, timer, outcome)
    found = (data, training, view_accuracy, result, setup.models, searched)
    return RunContents(plan, examples, setup.findings, *found)


def plan(
    source: str | Path,
    *,
    recipe: str | Recipe = "balanced",
    on_progress: OnProgress = "auto",
    **choices: Any,
) -> Plan:
    """Describe what `train` would do with the same arguments, with time estimates.

    The estimates come from running a few pictures and training steps. No run folder is created. If
    the recipe leaves the model to efftune, it is chosen, and what is computed for that is cached.
    For the arguments and exceptions, see `train`.
    """
    with showing(on_progress) as report:
        chosen = _recipe(recipe, choices)
        chosen.require_effect()
        timer = Timer(report, seconds=chosen.budget or math.inf)
        setup = preparation.set_up(source, chosen, timer)
        seconds = dict(setup.plan.seconds)
        if not seconds:
            with timer.phase("measure"):
                paths = [row.path for row in setup.examples.of("train")]
                seconds = estimation.estimate(setup.plan, setup.backbone, paths)
        spent = {name: round(timer.seconds.get(name, 0), 1) for name in ("inspect", "choose")}
        spent = {name: value for name, value in spent.items() if value or name == "inspect"}
        return replace(setup.plan, seconds=spent | seconds)


def demo(*, run: str | Path | None = None, on_progress: OnProgress = "auto") -> Run:
    """Train the head on the built-in sample, 1,797 scanned digits, in seconds; see `train`."""
    return train("sample:digits", recipe="quick", run=run, on_progress=on_progress)


def _recipe(recipe: str | Recipe, choices: dict[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe.changed(**choices)
    return Recipe.named(recipe, **choices)


def _with_views(
    setup: Setup, head: Head | FoldHeads, data: TrainingData, timer: Timer
) -> tuple[Plan, dict[str, float]]:
    """The plan with its views chosen, and the accuracy on each kind of view; decided once."""

    def decide() -> tuple[dict[str, Any], dict[str, float]]:
        plan, accuracy = view_selection.choose_views(setup.plan, setup.backbone, head, data)
        return plan.to_state(), accuracy

    state, accuracy = timer.journal.decided("views", decide)
    return replace(Plan.from_state(state), notes=setup.plan.notes), accuracy


def _run_folders(setup: Setup) -> Iterable[Path]:
    """Candidate run folders: numbered ones in ascending order."""
    source = addresses.plain(setup.examples.source)
    source = source.removeprefix("sample:").removeprefix("tfds:")
    name = re.sub(r"[^\w.-]+", "-", Path(source).resolve().name) or "pictures"
    model = setup.backbone.entry.short_name
    return (Path("runs") / f"{name}-{model}-{i}" for i in itertools.count(1))
