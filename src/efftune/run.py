"""The training pipeline: from a source of labelled pictures to a saved, evaluated classifier."""

import itertools
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efftune.data import splitting
from efftune.data.examples import Examples
from efftune.data.inspection import Finding
from efftune.data.sources import discovery
from efftune.data.sources.table_columns import Columns
from efftune.errors import UsageError
from efftune.evaluation import cross_validation, evaluator, model_choice, settings_search
from efftune.evaluation.model_choice import ModelTrial
from efftune.evaluation.settings_search import SettingsTrial
from efftune.features import cache
from efftune.model.backbone import Backbone
from efftune.model.engines import devices
from efftune.recipe.inputs import AUTO_MODEL
from efftune.recipe.recipe import Recipe
from efftune.runs.contents import RunContents
from efftune.runs.run import Run
from efftune.system import files
from efftune.system.progress import OnProgress, Timer, showing
from efftune.training import (
    estimation,
    fine_tuning,
    fold_heads,
    planning,
    training_data,
    view_selection,
)
from efftune.training.planning import Plan

_MODEL_SHARE = 0.3  # of the budget of a search, for a run with the model chosen
_SEARCH_SHARE = 0.85  # the rest is for judging and saving
_NOT_SEARCHED = "the settings were not searched: so few pictures cannot tell them apart"
_VALIDATES_ON_TEST = (
    "the test split is also used for validation, as in the public example: the best epoch is "
    "selected on it, so the test score is optimistic; --set val_from=train holds out a separate "
    "validation split"
)


def train(
    source: str | Path,
    *,
    recipe: str | Recipe = "balanced",
    run: str | Path | None = None,
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
        on_progress: `auto` draws progress bars in a notebook or a terminal, and nothing elsewhere;
            None, nothing anywhere. A function is called with the name of the phase, the number of
            items done and their total (0 if the phase has no item count), perhaps from several
            threads.
        **choices: settings of the `Recipe` to override, by name, such as `head_epochs=5`.

    Returns:
        The finished run.

    Raises:
        UsageError: a name is unknown, a setting is out of range, or the run folder cannot be
            created.
        DataError: the source is not usable for training.
    """
    chosen = _recipe(recipe, choices)
    chosen.require_effect()
    return _train(source, chosen, run, on_progress)


def search(
    source: str | Path,
    *,
    budget: str | float = "20m",
    recipe: str | Recipe = "balanced",
    run: str | Path | None = None,
    on_progress: OnProgress = "auto",
    **choices: Any,
) -> Run:
    """Search for the model and the settings of fine-tuning that suit the pictures best.

    The model is chosen as by `train` with `model="auto"`, unless it is named; the settings by
    successive halving on the validation pictures, of which few cannot tell settings apart: then, or
    where cross-validation judges, they stay as they are. For the other arguments, see `train`.

    Args:
        source: as for `train`.
        budget: time for all of it, such as `20m`, or in seconds.
        recipe: what to start from; it trains blocks of the network on cached activations.
        run: as for `train`.
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
    deadline = time.perf_counter() + _SEARCH_SHARE * seconds
    return _train(source, chosen, run, on_progress, deadline)


def _train(
    source: str | Path,
    recipe: Recipe,
    run: str | Path | None,
    on_progress: OnProgress,
    deadline: float = 0,
) -> Run:
    """Train, perhaps with a search for settings until a deadline of `time.perf_counter`."""
    with showing(on_progress) as report:
        files.require_free(run)
        timer = Timer(report)
        setup = _set_up(source, recipe, timer, is_search=deadline > 0)
        backbone, plan = setup.backbone, setup.plan
        with files.reserved_folder(_run_folders(run, setup)) as folder:
            with timer.phase("features"):
                examples, data = training_data.compute(setup.examples, backbone, plan, timer.count)
            with timer.phase("head"):
                head = fine_tuning.fit_head(data, backbone, plan.recipe)
                judges = fold_heads.fit(data, backbone, plan.recipe) if plan.folds else None
                plan, view_accuracy = view_selection.choose_views(
                    plan, backbone, judges.starting if judges else head, data
                )
            outcome, searched = None, tuple[SettingsTrial, ...]()
            if judges is not None:
                training, outcome = cross_validation.train(
                    head, judges, data, backbone, plan, timer
                )
            elif deadline:
                plan, training, searched = settings_search.search(
                    head, data, backbone, plan, timer, deadline
                )
            else:
                training = fine_tuning.fine_tune(backbone, head, data, plan, timer)
            with timer.phase("evaluate"):
                result = evaluator.evaluate(training, data, examples, plan.recipe, timer, outcome)
            found = (data, training, view_accuracy, result, setup.models, searched)
            RunContents(plan, examples, setup.findings, *found).write(folder, timer)
        finished = Run.load(folder)
        with timer.phase("report"):
            finished.report()
        return finished


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
        timer = Timer(report)
        chosen = _recipe(recipe, choices)
        chosen.require_effect()
        setup = _set_up(source, chosen, timer)
        with timer.phase("measure"):
            paths = [row.path for row in setup.examples.of("train")]
            seconds = estimation.estimate(setup.plan, setup.backbone, paths)
        spent = {name: round(timer.seconds.get(name, 0), 1) for name in ("inspect", "choose")}
        spent = {name: value for name, value in spent.items() if value or name == "inspect"}
        return replace(setup.plan, seconds=spent | seconds)


def demo(*, run: str | Path | None = None, on_progress: OnProgress = "auto") -> Run:
    """Train the head on the built-in sample, 1,797 scanned digits, in seconds; see `train`."""
    return train("sample:digits", recipe="quick", run=run, on_progress=on_progress)


@dataclass(frozen=True)
class _Setup:
    """The inputs of training: loaded backbone, split examples, findings, plan, models tried."""

    backbone: Backbone
    examples: Examples
    findings: list[Finding]
    plan: Plan
    models: tuple[ModelTrial, ...] = ()


def _recipe(recipe: str | Recipe, choices: dict[str, Any]) -> Recipe:
    if isinstance(recipe, str):
        return Recipe.named(recipe, **choices)
    return recipe.changed(**choices)


def _set_up(source: str | Path, recipe: Recipe, timer: Timer, *, is_search: bool = False) -> _Setup:
    backbone, trials, seconds = None, tuple[ModelTrial, ...](), 0.0
    with timer.phase("find"):
        device = devices.chosen(recipe.device)  # before anything imports Keras
        if recipe.backbone.model != AUTO_MODEL:
            backbone = Backbone.of(recipe, device, timer.on_progress)
        examples = discovery.find(
            source, timer.on_progress, Columns.of(recipe), recipe.data.held_out
        )
    if backbone is not None:
        training_data.prepare(recipe, backbone)
    with timer.phase("inspect"):
        examples, findings = splitting.split(examples, recipe, timer.count)
    if backbone is None:
        with timer.phase("choose"):
            backbone, trials = model_choice.choose(recipe, examples, device, timer)
        seconds = 0 if is_search else recipe.budget
        recipe = recipe.changed(model=backbone.entry.name, budget=0, fetch=False)
    with timer.phase("start"):  # imports Keras if the recipe fine-tunes
        cache.prune(files.cache_folder() / "features")
        plan = planning.plan_for(recipe, backbone, examples)
        if examples.val_is_test:
            plan = replace(plan, notes=(_VALIDATES_ON_TEST, *plan.notes))
        if plan.folds and is_search:
            plan = replace(plan, notes=(*plan.notes, _NOT_SEARCHED))
    if seconds and recipe.tuning.members == "auto":
        with timer.phase("measure"):
            plan = _filled(plan, backbone, examples, seconds - sum(timer.seconds.values()))
    return _Setup(backbone, examples, findings, plan, trials)


def _filled(plan: Plan, backbone: Backbone, examples: Examples, seconds: float) -> Plan:
    """The plan with as many networks as there is time for."""
    paths = [row.path for row in examples.of("train")]
    members = estimation.members(plan, backbone, paths, seconds)
    if members == 1:
        return plan
    note = f"the budget allows for {members} networks, whose logits are averaged"
    recipe = plan.recipe.changed(members=members)
    return replace(plan, recipe=recipe, notes=(*plan.notes, note))


def _run_folders(run: str | Path | None, setup: _Setup) -> Iterable[Path]:
    """Candidate run folders: the requested one, or numbered ones in ascending order."""
    if run is not None:
        return [files.user_path(run)]
    source = setup.examples.source.removeprefix("sample:").removeprefix("tfds:")
    name = re.sub(r"[^\w.-]+", "-", Path(source).resolve().name) or "pictures"
    model = setup.backbone.entry.short_name
    return (Path("runs") / f"{name}-{model}-{i}" for i in itertools.count(1))
