"""What a run decides because its classifier has to be fast or small: how many networks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from efftune.data.examples import Examples
from efftune.errors import UsageError
from efftune.model.backbone import Backbone
from efftune.system.progress import Timer
from efftune.training import goal
from efftune.training.planning import Plan


def planned(plan: Plan, backbone: Backbone, examples: Examples, timer: Timer) -> Plan:
    """The plan whose classifier keeps the goal on this machine; decided once.

    Mirror images are not averaged, and fewer networks are trained, if that takes too long.

    Raises:
        UsageError: even one network misses the goal.
    """
    recipe = plan.recipe
    if not recipe.goal:
        return plan

    def decide() -> dict[str, Any]:
        paths = [row.path for row in examples.of("train")]
        single = goal.cost(backbone, recipe, paths)
        if missed := single.beyond(recipe):
            raise UsageError(
                f"{backbone.entry.name} at {backbone.image_size} pixels takes {missed} on this "
                f"machine, more than --goal {recipe.goal!r}. Choose a smaller model or "
                "--image-size, or let --model auto choose."
            )
        asked = recipe.members, recipe.evaluation.test_flip
        if asked == (1, False):
            return {"members": 1, "test_flip": False}
        cost_of = goal.with_members(single, backbone, recipe, paths)
        kept = next(each for each in _fewer(*asked) if not cost_of(*each).beyond(recipe))
        return {"members": kept[0], "test_flip": kept[1]}

    with timer.phase("measure"):
        decision = timer.journal.decided("within the goal", decide)
    notes = []
    if decision["test_flip"] != recipe.evaluation.test_flip:
        notes.append("--goal leaves no time to average over mirror images")
    if decision["members"] != recipe.members:
        notes.append(f"--goal leaves room for {decision['members']} of {recipe.members} networks")
    elif decision["members"] == 1:
        decision = {"test_flip": decision["test_flip"]}  # the number may stay open
    return replace(plan, recipe=recipe.changed(**decision), notes=(*plan.notes, *notes))


def _fewer(members: int, mirrored: bool) -> Iterator[tuple[int, bool]]:
    """Numbers of networks, and whether mirror images are averaged, from the slowest on."""
    if mirrored:
        yield members, True
    yield from ((number, False) for number in range(members, 0, -1))
