"""Which augmented views the head still recognises."""

from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from efftune.features import extraction
from efftune.features.extraction import MIRRORED
from efftune.model.backbone import Backbone
from efftune.recipe.training import Augment, Strength
from efftune.training import planning
from efftune.training.planning import Plan
from efftune.training.regression_head import Head
from efftune.training.training_data import TrainingData, require_unchanged

_JUDGED_PICTURES = 1000  # enough to see which views are known


_MIRROR_LOSS = 0.05  # of accuracy: above that a mirrored picture is another thing


_VIEW_LOSS = 0.1  # the same for the other views


def choose_views(
    plan: Plan, backbone: Backbone, head: Head, data: TrainingData
) -> tuple[Plan, dict[str, float]]:
    """Find out which views still show what the picture shows, where the recipe leaves it open.

    The head decides. If its accuracy on `standard` views of validation pictures is clearly lower
    than on the pictures themselves, views are `light`, and if it is on those, there are none. If
    it is on mirrored pictures, the classes are not symmetric, as with letters, and nothing is
    mirrored.

    Returns:
        The plan with nothing left open, and the head's accuracy on validation pictures as they are
        (`plain`) and in each way that had to be tried (`standard`, `light`, `mirrored`).
    """
    recipe = plan.recipe
    if not recipe.tunes:
        return plan, {}
    accuracy = {}
    strength, flip = recipe.views_shown
    augment: Augment = "none" if recipe.augmentation.augment == "none" else strength
    if head.strength is not None:
        recognition = _Recognition(plan, backbone, head, data)
        if recipe.augmentation.augment == "auto" and not recognition.knows(
            "standard", 1, _VIEW_LOSS
        ):
            augment = "light" if recognition.knows("light", 1, _VIEW_LOSS) else "none"
        if recipe.augmentation.flip == "auto":
            of_use = augment != "none" or recipe.evaluation.test_flip
            known = of_use and recognition.knows("mirrored", MIRRORED, _MIRROR_LOSS)
            flip = "yes" if known else "no"
        accuracy = recognition.accuracy
    return planning.with_views(plan, backbone, augment, flip), accuracy


class _Recognition:
    """The head, asked whether it knows validation pictures again."""

    def __init__(self, plan: Plan, backbone: Backbone, head: Head, data: TrainingData):
        self.plan, self.backbone, self.head = plan, backbone, head
        truth = data.labels["val"]
        random = np.random.default_rng(plan.recipe.seed)
        chosen = random.permutation(len(truth))[:_JUDGED_PICTURES]
        self.paths = [data.paths["val"][i] for i in chosen]
        self.truth = truth[chosen]
        self.plain = data.features["val"].pooled()[chosen]
        self.accuracy: dict[str, float] = {}

    def knows(self, name: str, view: int, loss: float) -> bool:
        """Whether its accuracy on a view is hardly lower, by `loss` at most, than without."""
        self.accuracy.setdefault("plain", self._accuracy(self.plain))
        settings = planning.settings(self.plan)
        if view != MIRRORED:
            settings = replace(settings, augment=cast(Strength, name), flip="no")
        found = extraction.extract(self.paths, self.backbone, settings, views=[view])
        require_unchanged(found)
        self.accuracy[name] = self._accuracy(found.pooled(view))
        return self.accuracy[name] >= self.accuracy["plain"] - loss

    def _accuracy(self, rows: NDArray[np.float32]) -> float:
        return float((self.head.probabilities(rows).argmax(axis=1) == self.truth).mean())
