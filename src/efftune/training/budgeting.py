"""What a run does in the time that it is given."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from efftune.data.examples import Split
from efftune.recipe.recipe import Recipe
from efftune.system.budget import Budget
from efftune.training.estimation import Prices
from efftune.training.planning import Plan

MOST_MEMBERS = 3  # as many as `thorough` trains; more make predictions slow for little
_SHORT = 20.0  # seconds; not worth importing what fine-tuning needs
_SHORT_STARTS = 24  # the same, as often as the process takes to start, on slow machines
_LEAST_EPOCHS = 2
_MARGIN = 0.92  # share of the time that is planned
# Frozen passes that fine-tuning takes as long as, at least: for tracing, and per training picture.
_TRACING, _TRAINING = 1000, 2.5
TOO_SHORT = "--budget leaves no time for fine-tuning: only the head is trained"


def affordable(recipe: Recipe, pictures: Mapping[Split, int] | None, budget: Budget) -> Recipe:
    """The recipe, or one that trains the head only if there is clearly no time for more.

    Args:
        recipe: asked for.
        pictures: number of pictures by split; None if it is not known yet.
        budget: of the run, with the speed of the frozen network if `pictures` are given.
    """
    if not (budget.is_limited and recipe.trains_by_gradient_descent and recipe.can_cross_validate):
        return recipe
    if pictures is None:
        is_short = budget.seconds <= max(_SHORT, _SHORT_STARTS * budget.starting)
    else:
        passes = sum(pictures.values()) + _TRAINING * pictures["train"] + _TRACING
        needed = passes * budget.picture_seconds + budget.head_seconds(pictures["train"])
        is_short = budget.usable < needed
    return recipe.head_only() if is_short else recipe


def within(
    plan: Plan, prices: Prices, seconds: float, most_members: int = MOST_MEMBERS
) -> tuple[Plan, bool]:
    """A plan that fits into a time.

    Fewer epochs, and with them fewer views, are trained if there is no time for all; more networks
    if there is time left and the recipe leaves their number open.

    Args:
        plan: what was asked for.
        prices: on this machine.
        seconds: for all that is left of the run but saving.
        most_members: the most networks to train where the recipe leaves their number open.

    Returns:
        The plan, and whether it fits. If nothing does, it is the shortest.
    """
    for recipe in _shorter(plan.recipe):
        shorter = replace(plan, recipe=recipe)
        if sum(prices.phases(shorter).values()) <= _MARGIN * seconds:
            break
    else:
        return shorter, False
    if recipe != plan.recipe:
        return shorter, True
    last = recipe.stages[-1]
    if recipe.tuning.members != "auto" or last.name != "upper" or last.block == "pixels":
        return plan, True
    for members in range(most_members, 1, -1):
        larger = replace(plan, recipe=recipe.changed(members=members))
        if sum(prices.phases(larger).values()) <= _MARGIN * seconds:
            return larger, True
    return plan, True


def _shorter(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe, then shorter ones, down to the shortest."""
    counts = {"whole_epochs": recipe.tuning.whole_epochs, "head_epochs": recipe.head.epochs}
    if recipe.tuning.epochs != "auto":
        counts["epochs"] = recipe.tuning.epochs
    if "scratch" in recipe.phases:
        counts["scratch_epochs"] = recipe.scratch.epochs
    used = [stage.epochs for stage in recipe.stages if stage.name != "head" or recipe.head.epochs]
    longest = max(used)
    yield recipe
    views = int(recipe.augmentation.views)
    for epochs in range(longest - 1, min(_LEAST_EPOCHS, longest - 1) - 1, -1):
        changes = {
            name: max(min(count, _LEAST_EPOCHS), round(count * epochs / longest))
            for name, count in counts.items()
        }
        enough = max(1, changes.get("epochs", 1) - recipe.augmentation.plain_view)
        yield recipe.changed(**changes, views=min(views, enough))


def changes(plan: Plan, asked: Plan) -> list[str]:
    """What the budget has changed in a plan, one text each."""
    found = []
    for stage, before in zip(plan.recipe.stages, asked.recipe.stages, strict=True):
        if stage.epochs != before.epochs:
            found.append(
                f"--budget leaves time for {stage.epochs} of {before.epochs} epochs of stage "
                f"{stage.name}"
            )
    if plan.recipe.members > asked.recipe.members:
        found.append(
            f"--budget leaves time for {plan.recipe.members} networks, whose logits are averaged"
        )
    return found
