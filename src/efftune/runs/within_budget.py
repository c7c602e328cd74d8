"""What a run decides because its time is limited: how many pictures, and which plan."""

import logging
from dataclasses import replace
from typing import Any

from efftune.data import splitting
from efftune.data.examples import Examples
from efftune.data.inspection import Finding
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training import budgeting, estimation, planning
from efftune.training.planning import Plan

_LOGGER = logging.getLogger(__name__)
_INSPECTION_SHARE = 0.5  # of the time, at most
_ALL = -1  # pictures


def measure_pictures(backbone: Backbone, recipe: Recipe, examples: Examples, timer: Timer) -> None:
    """Measure how long the frozen network takes for a picture, if the time is limited."""
    paths = [row.path for row in examples.rows if row.usable]
    if not (timer.budget.is_limited and paths):
        return
    with timer.phase("measure"):
        timer.budget.picture_seconds = timer.journal.decided(
            "seconds of a picture", lambda: estimation.picture_seconds(backbone, recipe, paths)
        )


def inspected(
    examples: Examples, recipe: Recipe, timer: Timer
) -> tuple[Examples, list[Finding], list[str]]:
    """The pictures, as `splitting.split` divides them: as many as there is time for.

    Returns:
        The examples, the findings, and a note if some are left out.
    """
    if not timer.budget.is_limited:
        return *splitting.split(examples, recipe, timer.count), []
    budget, journal = timer.budget, timer.journal
    known: int | None = journal.recalled("inspected")
    began, used = budget.left, list[int]()

    def is_enough(done: int) -> bool:
        if known is not None:
            return 0 <= known <= done
        late = budget.usable <= done * budget.picture_seconds + budget.head_seconds(done)
        late |= budget.left < (1 - _INSPECTION_SHARE) * budget.seconds
        if late:
            used.append(done)
        return late

    split = splitting.split(examples, recipe, timer.count, is_enough)
    decided = journal.decided("inspected", lambda: used[0] if used else _ALL)
    if decided == _ALL:
        return *split, []
    total = sum(row.usable for row in examples.rows)
    floor = total * (budget.picture_seconds + (began - budget.left) / decided)
    floor += budget.reserved + budget.head_seconds(total)
    note = (
        f"--budget leaves time for {decided:,} of the {total:,} pictures; all of them take "
        f"{floor:.0f} s or more"
    )
    return *split, [journal.decided("too many pictures", lambda: note)]


def affordable(recipe: Recipe, examples: Examples | None, timer: Timer) -> tuple[Recipe, list[str]]:
    """The recipe that there is time for, and a note if it is a shorter one."""
    counts = None if examples is None else examples.counts
    shorter = budgeting.affordable(recipe, counts, timer.budget)
    return shorter, [] if shorter == recipe else [budgeting.TOO_SHORT]


def planned(plan: Plan, backbone: Backbone, examples: Examples, timer: Timer) -> Plan:
    """The plan that fits into the time; decided once.

    The timer knows afterwards how long its parts take.
    """
    budget = timer.budget
    if not (budget.is_limited and plan.recipe.trains_by_gradient_descent):
        return plan

    def decide() -> dict[str, Any]:
        paths = [row.path for row in examples.of("train")]
        prices = estimation.prices(plan, backbone, paths)
        fitting, fits = budgeting.within(plan, prices, budget.usable)
        notes = budgeting.changes(fitting, plan)
        if not fits and plan.recipe.can_cross_validate:
            fitting = planning.plan_for(plan.recipe.head_only(), backbone, examples)
            notes = [budgeting.TOO_SHORT]
        elif not fits:
            needed = sum(prices.phases(fitting).values()) + budget.reserved
            notes.append(f"this takes {needed:.0f} s or more, so it is broken off in time")
        phases = prices.phases(fitting)
        stages = prices.stages(fitting.recipe)
        folds = {"evaluate": prices.judging / (1 + plan.folds)} if plan.folds else {}
        seconds = {phase: round(each, 1) for phase, each in phases.items()}
        fitting = replace(fitting, notes=(*fitting.notes, *notes), seconds=seconds)
        return {"plan": fitting.to_state(), "stages": stages | folds}

    with timer.phase("measure"):
        decision = timer.journal.decided("plan within the budget", decide)
    made = Plan.from_state(decision["plan"])
    budget.reserved += made.seconds.get("evaluate", 0.0) * (not made.folds)
    budget.reserved += budget.head_seconds(made.pictures["train"])  # for cross-fitting
    budget.plan(decision["stages"], made.recipe.members * (1 + made.folds))
    parts = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in made.seconds.items())
    _LOGGER.info("plan for the next %.0f s: %s", budget.left, parts)
    return made
