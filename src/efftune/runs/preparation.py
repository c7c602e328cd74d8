"""What training starts from: the pictures in splits or folds, the model and the plan."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from efftune.data.examples import Examples, Split
from efftune.data.inspection import Finding
from efftune.data.sources import discovery
from efftune.data.sources.table_columns import Columns
from efftune.evaluation import model_choice
from efftune.evaluation.model_choice import ModelTrial
from efftune.features import cache, shared_cache
from efftune.model.backbone import Backbone
from efftune.model.engines import devices
from efftune.model.engines.devices import Device
from efftune.recipe.inputs import AUTO_MODEL
from efftune.recipe.recipe import Recipe
from efftune.runs import unfinished, within_budget, within_goal
from efftune.system import files
from efftune.system.progress import Timer
from efftune.training import planning, training_data
from efftune.training.planning import Plan

_FINISHED = "finished early, as asked: what was not trained by then is left out"
_TOO_FEW = "the settings were not searched: so few pictures cannot tell them apart"
_NO_TIME = "the settings were not searched: --budget leaves no time for that"
_VALIDATES_ON_TEST = (
    "the test split is also used for validation, as in the public example: the best epoch is "
    "selected on it, so the test score is optimistic; --set val_from=train holds out a separate "
    "validation split"
)


@dataclass(frozen=True)
class Setup:
    """The inputs of training: loaded backbone, split examples, findings, plan, models tried."""

    backbone: Backbone
    examples: Examples
    findings: list[Finding]
    plan: Plan
    models: tuple[ModelTrial, ...] = ()


def set_up(source: str | Path, recipe: Recipe, timer: Timer, *, search_seconds: float = 0) -> Setup:
    """Find, inspect and split the pictures, and decide on the model and the plan.

    Args:
        source: as for `train`.
        recipe: the settings asked for.
        timer: measures the phases; has the decisions of a run that was stopped.
        search_seconds: budget of a search for settings; 0 if it is none. Where cross-validation
            judges, or this is too short for one, there is none, and the run itself has this time.
    """
    backbone, trials = None, tuple[ModelTrial, ...]()
    recipe, notes = within_budget.affordable(recipe, None, timer)
    if recipe.backbone.model == AUTO_MODEL:
        model_choice.entries(recipe)  # refuses what cannot be chosen, before any picture is read
    with timer.phase("find"):
        device = _begun(recipe)
        if recipe.backbone.model != AUTO_MODEL:
            backbone = Backbone.of(recipe, device, timer.on_progress)
            recipe = recipe.changed(model=backbone.entry.name)  # it may have been given in short
        columns, held_out = Columns.of(recipe), recipe.data.held_out
        examples = discovery.find(source, timer.on_progress, columns, held_out)
    if backbone is not None:
        training_data.prepare(recipe, backbone)
        within_budget.measure_pictures(backbone, recipe, examples, timer)
    with timer.phase("inspect"):
        examples, findings, left_out = within_budget.inspected(examples, recipe, timer)
        unfinished.require_same_pictures(timer.journal, examples)
    if search_seconds and examples.folds is not None:
        recipe, notes = _unsearched(recipe, backbone, examples, timer, search_seconds, _TOO_FEW)
    if backbone is None:
        with timer.phase("choose"):
            backbone, trials = _chosen(recipe, examples, device, timer)
        recipe = recipe.changed(model=backbone.entry.name, fetch=False)
        chosen = next(each for each in trials if each.outcome == "chosen")
        timer.budget.picture_seconds = chosen.milliseconds / 1000
        if not chosen.milliseconds:  # there was nothing to choose from
            within_budget.measure_pictures(backbone, recipe, examples, timer)
    if search_seconds and not timer.budget.is_limited:
        asked = recipe, backbone, examples, timer, search_seconds
        if not within_budget.has_time_to_search(*asked):
            recipe, notes = _unsearched(*asked, _NO_TIME)
    recipe, shorter = within_budget.affordable(recipe.changed(budget=0), examples, timer)
    notes += [*left_out, *shorter]
    unfinished.require_same_network(timer.journal, backbone)
    plan = _first_plan(recipe, backbone, examples, notes, timer)
    is_within = len(trials) > 1  # the goal, as was measured for the choice
    plan = _limited(plan, backbone, examples, timer, is_within=is_within)
    return Setup(backbone, examples, findings, plan, trials)


def _unsearched(
    recipe: Recipe,
    backbone: Backbone | None,
    examples: Examples,
    timer: Timer,
    seconds: float,
    reason: str,
) -> tuple[Recipe, list[str]]:
    """The recipe of a run that has the time of a search, with notes; its timer knows that, too."""
    timer.budget.seconds = seconds
    recipe, notes = within_budget.affordable(recipe.changed(budget=seconds), None, timer)
    if backbone is not None:
        within_budget.measure_pictures(backbone, recipe, examples, timer)
    return recipe, [reason, *notes]


def _begun(recipe: Recipe) -> Device:
    """The device of a run, chosen before anything imports Keras; and other checks at its start."""
    shared_cache.begin_run()
    return devices.chosen(recipe.device)


def _first_plan(
    recipe: Recipe, backbone: Backbone, examples: Examples, notes: Iterable[str], timer: Timer
) -> Plan:
    """The plan, as it would be without a limit."""
    # In the phase "start", the command line imports Keras; it avoids that in the phase "plan".
    only_plans = timer.budget.is_limited and not recipe.trains_by_gradient_descent
    with timer.phase("plan" if only_plans else "start"):
        cache.prune(files.cache_folder() / "features")
        planned = timer.journal.decided(
            "plan", lambda: _planned(recipe, backbone, examples, notes).to_state()
        )
        return Plan.from_state(planned)


def _limited(
    plan: Plan, backbone: Backbone, examples: Examples, timer: Timer, *, is_within: bool
) -> Plan:
    """The plan within the goal, of which one network may be known to be, and the budget."""
    plan, members = within_goal.planned(plan, backbone, examples, timer, is_within=is_within)
    plan = within_budget.planned(plan, backbone, examples, timer, members)
    if timer.journal.leaves_out_the_rest:
        plan = replace(plan, notes=(*plan.notes, _FINISHED))
    return plan


def _chosen(
    recipe: Recipe, examples: Examples, device: Device, timer: Timer
) -> tuple[Backbone, tuple[ModelTrial, ...]]:
    """The model that suits the pictures, and those that were tried; both are decided once."""
    found: list[Backbone] = []

    def decide() -> dict[str, Any]:
        backbone, trials = model_choice.choose(recipe, examples, device, timer)
        found.append(backbone)
        return {"model": backbone.entry.name, "trials": [asdict(each) for each in trials]}

    decision = timer.journal.decided("model", decide)
    if not found:
        named = recipe.changed(model=decision["model"])
        found.append(Backbone.of(named, device, timer.on_progress))
    return found[0], tuple(ModelTrial(**each) for each in decision["trials"])


def _planned(recipe: Recipe, backbone: Backbone, examples: Examples, notes: Iterable[str]) -> Plan:
    """The plan, with more notes."""
    plan = planning.plan_for(recipe, backbone, examples)
    if examples.val_is_test:
        plan = replace(plan, notes=(_VALIDATES_ON_TEST, *plan.notes))
    return replace(plan, notes=(*plan.notes, *_without_effect(recipe, examples), *notes))


def _without_effect(recipe: Recipe, examples: Examples) -> Iterator[str]:
    """Notes on settings without effect, and folds and shares that the source does not allow."""
    yield from recipe.without_effect
    if examples.folds is not None and recipe.data.folds != "auto":
        folds = int(examples.folds.max()) + 1
        if folds < recipe.data.folds:
            yield (
                f"--folds {recipe.data.folds} becomes {folds}, as no class has more pictures (or "
                "groups of copies)"
            )
    if examples.val_is_test:
        return
    shares: dict[Split, Any] = {"val": recipe.data.val, "test": recipe.data.test}
    for split, share in shares.items():
        if isinstance(share, float) and share and examples.of(split) and split not in examples.cut:
            yield f"--{split} {share:g} has no effect: {examples.source} has its own {split} split"
