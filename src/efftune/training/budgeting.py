"""What a run does in the time that it is given."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from efftune.data.examples import Split
from efftune.recipe.recipe import Recipe
from efftune.system.budget import MARGIN, Budget
from efftune.training.estimation import Prices
from efftune.training.planning import Plan

MOST_MEMBERS = 3  # as many as `thorough` trains; more make predictions slow for little
_SHORT = 20.0  # seconds; not worth importing what fine-tuning needs
_SHORT_STARTS = 24  # the same, as often as the process takes to start, on slow machines
_LEAST_EPOCHS = 2
# Frozen passes that fine-tuning takes as long as, at least: for tracing, and per training picture.
_TRACING, _TRAINING = 1000, 2.5
_HIGHEST_TRAINING = 1.5  # the same, if the highest blocks alone are trained
_MEASURING = 2  # tracings that it takes to measure prices
_SHARE_OF_BLOCK = 0.5  # of the time of a step from a block up, that one from the next stage's takes
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
        training = _HIGHEST_TRAINING if _may_start_higher(recipe) else _TRAINING
        passes = sum(pictures.values()) + training * pictures["train"] + _TRACING
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
        if sum(prices.phases(shorter).values()) <= MARGIN * seconds:
            break
    else:
        return shorter, False
    if recipe != plan.recipe:
        return shorter, True
    if not has_open_members(recipe):
        return plan, True
    for members in range(most_members, 1, -1):
        larger = replace(plan, recipe=recipe.changed(members=members))
        if sum(prices.phases(larger).values()) <= MARGIN * seconds:
            return larger, True
    return plan, True


def has_open_members(recipe: Recipe) -> bool:
    """Whether the recipe leaves the number of networks open, which share cached activations."""
    last = recipe.stages[-1]
    return recipe.tuning.members == "auto" and last.name == "upper" and last.block != "pixels"


def higher_block(plan: Plan, prices: Prices, seconds: float, blocks: Sequence[str]) -> str | None:
    """The block to train from instead, where not even the shortest plan fits into a time.

    Args:
        plan: the shortest one that trains from the block asked for.
        prices: on this machine.
        seconds: for all that is left of the run but saving.
        blocks: those of the network, lowest first.

    Returns:
        The lowest one that may fit, which has to be measured; None if none is likely to.
    """
    if not _may_start_higher(plan.recipe):
        return None
    phases = prices.phases(plan)
    others, training = sum(phases.values()) - phases["upper"], phases["upper"]
    measuring = _MEASURING * prices.tracing["upper"]
    above = blocks[blocks.index(plan.recipe.tuning.unfreeze) + 1 :]
    for block in above:
        if not block.endswith("a"):  # within a stage
            continue
        training *= _SHARE_OF_BLOCK
        if others + training + measuring <= MARGIN * seconds:
            return block
    return None


def _may_start_higher(recipe: Recipe) -> bool:
    """Whether upper blocks are all that is trained, so that it may be fewer of them."""
    trained = [stage for stage in recipe.stages if stage.name != "head"]
    return [stage.name for stage in trained] == ["upper"] and trained[0].block != "pixels"


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
    block, asked_block = plan.recipe.tuning.unfreeze, asked.recipe.tuning.unfreeze
    if block != asked_block:
        found.append(f"--budget leaves time for training from {block}, not from {asked_block}")
    for stage, before in zip(plan.recipe.stages, asked.recipe.stages, strict=True):
        if stage.epochs != before.epochs:
            found.append(
                f"--budget leaves time for {stage.epochs} of {before.epochs} epochs of stage "
                f"{stage.name}"
            )
    if plan.recipe.members > asked.recipe.members:
        found.append(networks_note(plan.recipe.members))
    return found


def networks_note(members: int) -> str:
    """That there is time for more than one network, as text."""
    return f"--budget leaves time for {members} networks, whose logits are averaged"
