"""How long runs with different models would take, and which of them a budget has time for."""

import time

from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.system.budget import MARGIN
from efftune.system.progress import Timer
from efftune.training import budgeting, estimation
from efftune.training.members import LEAST_SHARE
from efftune.training.planning import Plan


class RunTimes:
    """Estimates by what the smallest model takes.

    Several networks of a small model tend to gain more than one of a larger model in the same time.
    So a larger one has to leave time for as many, where the recipe leaves their number open.
    """

    def __init__(self, recipe: Recipe, timer: Timer):
        """The time is that of the recipe's budget, from the beginning of the run.

        Args:
            recipe: without a budget, nothing takes too long.
            timer: of the run so far.
        """
        self._is_limited = recipe.budget > 0
        self._deadline = time.perf_counter() + recipe.budget - sum(timer.seconds.values())
        self._budget = timer.budget
        self._steps_per_cost = 0.0  # seconds of steps per million multiplications
        self._smallest = (0.0, 0.0)  # seconds of its passes and steps
        self._members = recipe.members
        self._is_open = False
        self._last = 1.0  # share of the steps of a network that the last one of several takes

    def measure(self, plan: Plan, backbone: Backbone, cost: float, milliseconds: float) -> None:
        """Measure training steps of the smallest model, if the time is limited.

        Args:
            plan: of a run with it, with one network if the recipe leaves their number open.
            backbone: the network.
            cost: millions of multiplications for a picture.
            milliseconds: of a frozen pass over a picture.
        """
        if not self._is_limited:
            return
        steps = estimation.fine_tuning_seconds(plan, backbone)
        self._steps_per_cost = steps / cost
        self._smallest = estimation.pass_seconds(plan, milliseconds), steps
        self._is_open = self._budget.is_limited and not plan.recipe.goal
        self._is_open &= budgeting.has_open_members(plan.recipe)
        self._last = 1.0 if plan.folds else LEAST_SHARE

    @property
    def networks(self) -> int:
        """How many networks a run trains: as many as the smallest model leaves time for now.

        Of the last one perhaps fewer epochs.
        """
        passes, steps = self._smallest
        if not (self._is_open and steps):
            return self._members
        more = int((self._left - passes - steps) / steps + 1 - self._last)
        return min(1 + max(0, more), budgeting.MOST_MEMBERS)

    def steps(self, cost: float) -> float:
        """Seconds of the training steps of all networks of a model.

        Args:
            cost: millions of multiplications for a picture.
        """
        networks = self.networks if self._is_open else 1  # else they are counted in the steps
        count = networks - 1 + self._last if networks > 1 else 1
        return count * self._steps_per_cost * cost

    def seconds(self, plan: Plan, cost: float, milliseconds: float) -> float:
        """Seconds of a run with a model; 0 if the time is not limited.

        Args:
            plan: see `measure`, as for what follows.
            cost: millions of multiplications for a picture.
            milliseconds: of a frozen pass over a picture.
        """
        if not self._is_limited:
            return 0.0
        return round(self.steps(cost) + estimation.pass_seconds(plan, milliseconds), 2)

    def is_late(self, seconds: float) -> bool:
        """Whether there is no time for what takes so long."""
        return self._is_limited and seconds > self._left

    @property
    def _left(self) -> float:
        """Seconds that can be planned with."""
        if self._budget.is_limited:
            return MARGIN * self._budget.usable
        return self._deadline - time.perf_counter()
