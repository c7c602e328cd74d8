"""Choice of augmentation: the strongest kind of view that the head still recognises."""

from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from efftune.features import extraction
from efftune.features.views import MIRRORED
from efftune.model.backbone import Backbone
from efftune.recipe.training import Augment, Strength
from efftune.training import planning
from efftune.training.fold_heads import FoldHeads
from efftune.training.planning import Plan
from efftune.training.regression_head import Head
from efftune.training.training_data import TrainingData, require_unchanged

_MAX_MIRROR_DROP = 0.05  # in accuracy; above it, mirroring changes what a picture shows
_MAX_VIEW_DROP = 0.1  # the same for the other views


def choose_views(
    plan: Plan, backbone: Backbone, head: Head | FoldHeads, data: TrainingData
) -> tuple[Plan, dict[str, float]]:
    """Resolve `augment` and `flip` where the recipe says `auto`.

    The head's accuracy on validation pictures decides. If it drops on `standard` views by more than
    a tolerance, views are `light`; if it drops on those, too, there are no views. If it drops on
    mirrored pictures, the classes are not symmetric, as with letters, and nothing is mirrored.

    Args:
        plan: the plan of the run.
        backbone: the frozen backbone.
        head: the head fitted on the unaugmented training pictures, or those of all folds.
        data: the data of the run.

    Returns:
        The plan with both settings resolved, and the head's accuracy on the unaugmented validation
        pictures (`plain`) and on each kind of view tried (`standard`, `light`, `mirrored`).
    """
    recipe = plan.recipe
    if not recipe.trains_by_gradient_descent:
        return plan, {}
    accuracy = {}
    strength, flip = recipe.view_settings
    augment: Augment = "none" if recipe.augmentation.augment == "none" else strength
    if head.strength is not None:
        check = _RecognitionCheck(plan, backbone, head, data)
        if recipe.augmentation.augment == "auto" and not check.passes(
            "standard", 1, _MAX_VIEW_DROP
        ):
            augment = "light" if check.passes("light", 1, _MAX_VIEW_DROP) else "none"
        if recipe.augmentation.flip == "auto":
            recognised = augment != "none" and check.passes("mirrored", MIRRORED, _MAX_MIRROR_DROP)
            flip = "yes" if recognised else "no"
        accuracy = check.accuracy
    return planning.with_views(plan, backbone, augment, flip), accuracy


class _RecognitionCheck:
    """Measures the head's accuracy on augmented views of validation pictures."""

    def __init__(self, plan: Plan, backbone: Backbone, head: Head | FoldHeads, data: TrainingData):
        self.plan, self.backbone = plan, backbone
        labels = data.labels["val"]
        random = np.random.default_rng(plan.recipe.seed)
        sample = random.permutation(len(labels))[: planning.MOST_CHECKED]
        self.head = head.of(sample) if isinstance(head, FoldHeads) else head
        self.paths = [data.paths["val"][i] for i in sample]
        self.labels = labels[sample]
        self.plain_features = data.features["val"].pooled()[sample]
        self.accuracy: dict[str, float] = {}

    def passes(self, name: str, view: int, max_drop: float) -> bool:
        """Whether accuracy on a view is at most `max_drop` below that on unaugmented pictures."""
        self.accuracy.setdefault("plain", self._accuracy(self.plain_features))
        settings = planning.settings(self.plan)
        if view != MIRRORED:
            settings = replace(settings, augment=cast(Strength, name), flip="no")
        outputs = [self.plan.pooled_output]
        features = extraction.extract(
            self.paths, self.backbone, settings, outputs=outputs, views=[view]
        )
        require_unchanged(features)
        self.accuracy[name] = self._accuracy(features.pooled(view))
        return self.accuracy[name] >= self.accuracy["plain"] - max_drop

    def _accuracy(self, features: NDArray[np.float32]) -> float:
        return float((self.head.probabilities(features).argmax(axis=1) == self.labels).mean())
