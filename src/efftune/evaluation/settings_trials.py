"""Settings of fine-tuning that a search tries, and how they did."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe

_PAIRS = 8  # trials with two changed settings
# How `planning.plan` begins its notes on a block, which are not true of another one.
_OF_A_BLOCK = ("pictures are decoded again ", "training from ")

Outcome = Literal["chosen", "as good", "worse", "beaten", "no time", "failed"]


@dataclass(frozen=True)
class SettingsTrial:
    """How a network did that was fine-tuned with other settings.

    Attributes:
        settings: those that differ from the recipe's, by name.
        epochs: that it was last trained for.
        accuracy: on validation, 0 to 1.
        loss: cross-entropy on validation at the best temperature, in nats.
        excess: the loss minus that of the best trial of the same number of epochs.
        error: standard error of `excess`.
        seconds: of all its training.
        outcome: `as good` as the best, within noise; `worse`; `beaten`, and not trained for all
            epochs; `no time` for it, or for all epochs; or `failed`.
        reason: why it failed.
    """

    settings: dict[str, Any]
    epochs: int = 0
    accuracy: float = 0.0
    loss: float = 0.0
    excess: float = 0.0
    error: float = 0.0
    seconds: float = 0.0
    outcome: Outcome = "beaten"
    reason: str = ""


def candidates(recipe: Recipe, backbone: Backbone) -> list[dict[str, Any]]:
    """Settings to try, as changes of a recipe: none, single ones, then pairs."""
    rate, block = recipe.tuning.learning_rate, backbone.block(recipe.tuning.unfreeze)
    stages = [name for name in backbone.blocks if name.endswith("a")]
    place = stages.index(block) if block in stages else len(stages) - 1
    changes: dict[str, list[Any]] = {
        "learning_rate": [3 * rate, rate / 3],
        "unfreeze": [*stages[max(1, place - 1) : place], *stages[place + 1 : place + 2]],
        "mix": [mix for mix in ("mixup", "cutmix", "none") if mix != recipe.augmentation.mix],
        "label_smoothing": [0.0 if recipe.optimization.label_smoothing else 0.1],
    }
    singles = [{key: value} for key, values in changes.items() for value in values]
    pairs = [
        one | other
        for one, other in itertools.combinations(singles, 2)
        if one.keys() != other.keys()
    ]
    order = np.random.default_rng(recipe.seed).permutation(len(pairs))[:_PAIRS]
    return [{}, *singles, *(pairs[i] for i in order)]


def kept_notes(before: Iterable[str], now: Iterable[str]) -> tuple[str, ...]:
    """The notes of a plan that trains from another block than before.

    Args:
        before: of the plan of the run, some of which planning for another block does not repeat:
            on the pictures, the budget or the goal.
        now: of the plan for the other block.
    """
    still = (each for each in before if not each.startswith(_OF_A_BLOCK))
    return tuple(dict.fromkeys((*still, *now)))
