"""Learning rates of the steps of a stage."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efftune.recipe.training import OptimizationSettings


@dataclass(frozen=True)
class Tail:
    """The rest of a schedule, compressed into fewer steps.

    Attributes:
        first: number of steps before it.
        steps: of the rest.
    """

    first: int
    steps: int


@dataclass(frozen=True)
class Schedule:
    """The learning rate by step: linear warm-up and cosine decay, or constant.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017),
    https://arxiv.org/abs/1608.03983; here without restarts.

    Attributes:
        peak: the highest rate.
        steps: of the stage, as planned.
        settings: which of the two, and the share of the warm-up.
        accumulated: number of steps before each update of the weights.
        tails: how the rest was compressed, each time that it was.
    """

    peak: float
    steps: int
    settings: OptimizationSettings
    accumulated: int = 1
    tails: tuple[Tail, ...] = ()

    @property
    def end(self) -> int:
        """Number of steps that are done in the end."""
        return self.tails[-1].first + self.tails[-1].steps if self.tails else self.steps

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.settings.schedule == "constant":
            return self.peak
        updates = max(1, self.steps // self.accumulated)
        warmup = round(self.settings.warmup * updates)
        done = self._planned(step) / self.accumulated if self.tails else step // self.accumulated
        if done < warmup:
            return self.peak * done / warmup
        share = min(1.0, (done - warmup) / max(1, updates - warmup))
        return self.peak * (1 + math.cos(math.pi * share)) / 2

    def rates(self, first: int, count: int) -> NDArray[np.float32]:
        """The learning rates of some steps from `first` on, float32 (count,)."""
        return np.array([self.rate(first + i) for i in range(count)], np.float32)

    def _planned(self, step: int) -> float:
        """Which step of the plan has the rate of a step."""
        first, place, end = 0, 0.0, self.steps

        def at(step: int) -> float:
            share = min(1.0, (step - first) / (end - first)) if end > first else 1.0
            return place + share * (self.steps - place)

        for tail in self.tails:
            if step >= tail.first:
                place = at(tail.first)
                first, end = tail.first, tail.first + tail.steps
        return at(step)
