"""Heads for cross-validation: one for each fold, fitted on the pictures of the other folds."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe
from efftune.system import cluster
from efftune.training import regression_head
from efftune.training.regression_head import Head, Labels, Matrix
from efftune.training.training_data import TrainingData

_UNKNOWN = -20.0  # logit of a class without training pictures: its probability is about 1e-9


@dataclass(frozen=True)
class FoldHeads:
    """Heads that judge the pictures of their own fold, which they were fitted without.

    Attributes:
        heads: by fold.
        starts: likewise, those that fine-tuning starts from.
        folds: fold numbers of the pictures that are judged, int64 (pictures,).
    """

    heads: tuple[Head, ...]
    starts: tuple[Head, ...]
    folds: NDArray[np.int64]

    @property
    def strength(self) -> float | None:
        """That of the first head; None for heads that were not fitted by regression."""
        return self.heads[0].strength

    @property
    def starting(self) -> "FoldHeads":
        """Those that fine-tuning starts from."""
        return replace(self, heads=self.starts)

    def of(self, pictures: NDArray[np.int64]) -> "FoldHeads":
        """The same heads for some of the pictures."""
        return replace(self, folds=self.folds[pictures])

    def logits(self, features: Matrix) -> Matrix:
        """Out-of-fold logits, float32 (pictures, classes).

        Args:
            features: of the pictures, float32 (pictures, features).
        """
        logits = np.empty((len(features), len(self.heads[0].bias)), np.float32)
        for fold, head in enumerate(self.heads):
            inside = self.folds == fold
            logits[inside] = head.logits(features[inside])
        return logits

    def probabilities(self, features: Matrix) -> Matrix:
        """Out-of-fold probabilities, float32 (pictures, classes); see `logits`."""
        from scipy.special import softmax

        return np.asarray(softmax(self.logits(features), axis=1))


def fit(usual: Head, data: TrainingData, backbone: Backbone, recipe: Recipe) -> FoldHeads:
    """Fit a head for each fold, each with its own penalty.

    Args:
        usual: fitted on all pictures. Where those of the other folds are too few to choose by, its
            features and penalty are taken.
        data: with folds.
        backbone: the pretrained network.
        recipe: completely resolved.
    """
    assert data.folds is not None  # noqa: S101  (only called in cross-validation)
    features, last = data.features["train"].pooled(), backbone.entry.features
    found = starts = _fit(usual, features, data, recipe, last)
    if recipe.trains_by_gradient_descent and features.shape[1] > last:
        alone = features[:, -last:]
        start = regression_head.fit(alone, data.labels["train"], data.groups, recipe, last)
        starts = _fit(start, alone, data, recipe, last)
    return FoldHeads(found, starts, data.folds)


def _fit(
    usual: Head, features: Matrix, data: TrainingData, recipe: Recipe, last: int
) -> tuple[Head, ...]:
    """A head for each fold, for all classes.

    Args:
        usual: see `fit`.
        features: of the pictures, float32 (pictures, features).
        data: with folds.
        recipe: as for `regression_head.fit`.
        last: number of features of the last stage.
    """
    labels, folds = data.labels["train"], data.folds
    assert folds is not None  # noqa: S101  (see `fit`)
    given = usual, features, labels, data.groups, folds, recipe, last
    jobs = range(int(folds.max()) + 1)
    return tuple(head for _, head in cluster.each(_head_without, given, jobs))


def _head_without(
    given: tuple[Head, Matrix, Labels, Labels, Labels, Recipe, int], fold: int
) -> Head:
    """A head for all classes, fitted without a fold; see `_fit`."""
    usual, features, labels, groups, folds, recipe, last = given
    classes, inside = int(labels.max()) + 1, folds != fold
    known, numbers = np.unique(labels[inside], return_inverse=True)
    head = regression_head.fit(features[inside], numbers, groups[inside], recipe, last, usual)
    kernel = np.zeros((len(head.kernel), classes), np.float32)
    bias = np.full(classes, _UNKNOWN, np.float32)
    kernel[:, known], bias[known] = head.kernel, head.bias
    return Head(kernel, bias, head.strength)
