"""What a run decides because its time is limited: how many pictures, and which plan."""

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from efftune.data import splitting
from efftune.data.examples import NO_TIME, Examples
from efftune.data.inspection import Finding
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.system.budget import MARGIN, Budget
from efftune.system.progress import Timer
from efftune.training import budgeting, estimation, planning
from efftune.training.estimation import Prices
from efftune.training.planning import Plan
from efftune.training.stage_result import StageResult

_LOGGER = logging.getLogger(__name__)
_INSPECTION_SHARE = 0.5  # of the time that is left, at most
_WITHOUT_PRICE = 0.2  # the same, if it is not known how long the network takes
_ALL = -1  # pictures
_MEASURABLE = 60.0  # seconds; in less, a network without pretrained weights is not tried before
_JUDGING_SHARE = 0.25  # of such a time
_TRAININGS = 3  # with the recipe's own settings, that a search of settings has to have time for
_CONVERTING = 0.35  # tracings of a step that it takes to convert a trained network and compile it
_BROKEN_OFF = "--budget leaves no time to measure what fits: training is broken off in time"


def measure_pictures(backbone: Backbone, recipe: Recipe, examples: Examples, timer: Timer) -> None:
    """Measure how long the frozen network takes for a picture, if the time is limited."""
    paths = [row.path for row in examples.rows if row.usable]
    # What is trained by gradient descent alone depends little on the frozen network.
    if not (timer.budget.is_limited and recipe.can_cross_validate and paths):
        return
    with timer.phase("measure"):
        began = time.perf_counter()
        timer.budget.picture_seconds = timer.journal.decided(
            "seconds of a picture", lambda: estimation.picture_seconds(backbone, recipe, paths)
        )
        took = time.perf_counter() - began
        timer.budget.note_first_pictures(timer.journal.decided("first pictures", lambda: took))


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
    most = _INSPECTION_SHARE if budget.picture_seconds else _WITHOUT_PRICE

    def is_enough(done: int) -> bool:
        if known is not None:
            return 0 <= known <= done
        late = budget.usable <= done * budget.picture_seconds + budget.head_seconds(done)
        late |= budget.left < (1 - most) * began
        if late:
            used.append(done)
        return late

    split = splitting.split(examples, recipe, timer.count, is_enough)
    decided = journal.decided("inspected", lambda: used[0] if used else _ALL)
    if decided == _ALL:
        return *split, []
    total = sum(row.usable for row in examples.rows)
    floor = total * (budget.picture_seconds + (began - budget.left) / decided)
    floor += budget.seconds - began + budget.reserved + budget.head_seconds(total)
    note = (
        f"--budget leaves time for {decided:,} of the {total:,} pictures; all of them take "
        f"{floor:.0f} s or more"
    )
    return *split, [journal.decided("too many pictures", lambda: note)]


def affordable(recipe: Recipe, examples: Examples | None, timer: Timer) -> tuple[Recipe, list[str]]:
    """The recipe that there is time for, and a note if it is a shorter one.

    If it depends on the pictures, it is decided once.
    """
    counts = None if examples is None else examples.counts
    shorter = budgeting.affordable(recipe, counts, timer.budget)
    if examples is not None and timer.budget.is_limited:
        stays = timer.journal.decided("time for fine-tuning", lambda: shorter == recipe)
        shorter = recipe if stays else recipe.head_only()
    return shorter, [] if shorter == recipe else [budgeting.TOO_SHORT]


def has_time_to_search(
    recipe: Recipe, backbone: Backbone, examples: Examples, timer: Timer, seconds: float
) -> bool:
    """Whether there is time to train with several settings; decided once.

    Args:
        recipe: with the settings asked for.
        backbone: the network to train.
        examples: the pictures in splits.
        timer: of the run.
        seconds: budget of the whole run.
    """
    budget = copy.copy(timer.budget)
    budget.seconds = seconds

    if budgeting.affordable(recipe, None, budget) != recipe:
        return False

    def decide() -> bool:
        plan = planning.plan_for(recipe, backbone, examples)
        if not plan.recipe.trains_by_gradient_descent:
            return True  # there is nothing to search for
        paths = [row.path for row in examples.of("train")]
        phases = estimation.prices(plan, backbone, paths).phases(plan)
        needed = sum(phases.values()) + (_TRAININGS - 1) * phases["upper"]
        return needed <= MARGIN * budget.usable

    with timer.phase("measure"):
        return bool(timer.journal.decided("time to search", decide))


def planned(
    plan: Plan, backbone: Backbone, examples: Examples, timer: Timer, most_members: int
) -> Plan:
    """The plan that fits into the time, perhaps with more networks; decided once.

    The timer knows afterwards how long its parts take.
    """
    budget = timer.budget
    if not (budget.is_limited and plan.recipe.trains_by_gradient_descent):
        return plan
    if budget.seconds < _MEASURABLE and plan.recipe.phases == ("scratch",):
        budget.reserved += _JUDGING_SHARE * budget.seconds
        return replace(plan, notes=(*plan.notes, _BROKEN_OFF))

    with timer.phase("measure"):
        decision = timer.journal.decided(
            "plan within the budget",
            lambda: _decision(plan, backbone, examples, budget, most_members),
        )
    made = Plan.from_state(decision["plan"])
    if not budget.picture_seconds:  # the network was not timed before; tracing shows what is slow
        budget.note_first_pictures(decision["tracing"])
        budget.reserved += _CONVERTING * decision["tracing"]
    budget.reserved += made.seconds.get("evaluate", 0.0) * (not made.folds)
    budget.reserved += budget.head_seconds(made.pictures["train"])  # for cross-fitting
    budget.plan(decision["stages"], decision["repeats"])
    budget.judging_network = decision.get("judging_network", 0.0)  # older runs train no more
    budget.tracing = decision["tracing"]
    parts = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in made.seconds.items())
    _LOGGER.info("plan for the next %.0f s: %s", budget.left, parts)
    return made


def _decision(
    plan: Plan, backbone: Backbone, examples: Examples, budget: Budget, most_members: int
) -> dict[str, Any]:
    """What is written down: the plan that fits, and how long its stages take."""
    fitting, prices, fits = _fitting(plan, backbone, examples, budget, most_members)
    notes, recipe = budgeting.changes(fitting, plan), fitting.recipe
    if not fits and recipe.can_cross_validate:
        notes, recipe = [budgeting.TOO_SHORT], recipe.head_only()
    elif not fits:
        needed = sum(prices.phases(fitting).values()) + budget.reserved
        notes.append(f"this takes {needed:.0f} s or more; training is broken off in time")
    made = planning.plan_for(recipe, backbone, examples)  # fewer views take less memory
    seconds = {name: round(each, 1) for name, each in prices.phases(made).items()}
    made = replace(made, notes=(*plan.notes, *notes), seconds=seconds)
    if fits and budgeting.has_open_members(plan.recipe) and not made.folds:
        made = replace(made, most_members=most_members)
    stages, judging = prices.stages(made.recipe), prices.judging / (1 + made.folds)
    repeats = {name: _repeats(name, made) for name in stages}
    if made.folds:
        stages["evaluate"], repeats["evaluate"] = judging, made.folds * len(stages)
    tracing = max(prices.tracing.values())
    return {
        "plan": made.to_state(),
        "stages": stages,
        "repeats": repeats,
        "tracing": tracing,
        "judging_network": prices.another * (2 if recipe.averages_mirror_images else 1),
    }


def _fitting(
    plan: Plan, backbone: Backbone, examples: Examples, budget: Budget, most_members: int
) -> tuple[Plan, Prices, bool]:
    """The plan that fits, with as many blocks as there is time for; its prices; if it does fit."""
    paths = [row.path for row in examples.of("train")]
    while True:
        prices = estimation.prices(plan, backbone, paths)
        fitting, fits = budgeting.within(plan, prices, budget.usable, most_members)
        higher = None
        if not fits:
            higher = budgeting.higher_block(fitting, prices, budget.usable, backbone.blocks)
        if higher is None:
            return fitting, prices, fits
        plan = planning.plan_for(plan.recipe.changed(unfreeze=higher), backbone, examples)


def _repeats(stage: str, plan: Plan) -> int:
    """How often a stage is trained."""
    return (plan.recipe.members if stage == "upper" else 1) * (1 + plan.folds)


def with_pictures(plan: Plan, before: Examples, after: Examples) -> Plan:
    """The plan with a note, if there was no time to compute all training pictures."""
    late = [sum(row.reason == NO_TIME for row in each.rows) for each in (before, after)]
    if late[0] == late[1]:
        return plan
    used, all_of_them = after.counts["train"], before.counts["train"]
    note = f"--budget leaves time for {used:,} of the {all_of_them:,} training pictures"
    return replace(plan, notes=(*plan.notes, note))


def with_networks(plan: Plan, trained: Sequence[StageResult]) -> Plan:
    """The plan with as many networks as there was time for after all, and a note on that.

    Args:
        plan: of the run.
        trained: the results of its stages.
    """
    members = trained[-1].members if trained and trained[-1].best else 1
    if members <= plan.recipe.members:
        return plan
    planned = budgeting.networks_note(plan.recipe.members)
    notes = [note for note in plan.notes if note != planned]
    recipe = plan.recipe.changed(members=members)
    return replace(plan, recipe=recipe, notes=(*notes, budgeting.networks_note(members)))
