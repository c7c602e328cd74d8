"""The head on frozen features: multinomial logistic regression.

The strength of its L2 penalty is chosen by cross-validation on the training split. To make that
cheap, features are first rotated onto their principal components; the rotation is folded back
into the head, so the result is an ordinary dense layer.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efftune.recipe.recipe import Recipe

COMPONENTS = 512  # keep 93–99 % of the variance; more did not change accuracy
SEARCH_PICTURES = 20_000  # enough to choose a strength by, whatever the size of the split
SEARCH_TOLERANCE = 1e-2  # the order of strengths settles long before their coefficients do
FINAL_TOLERANCE = 1e-3

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Head:
    """A dense layer and softmax on top of the features.

    Attributes:
        kernel: float32, shape (features, classes).
        bias: float32, shape (classes,).
        strength: the chosen `C` of scikit-learn's penalty, on features of unit mean variance;
            None for a head that was not fitted.
    """

    kernel: Matrix
    bias: Matrix
    strength: float | None = None

    def probabilities(self, features: Matrix) -> Matrix:
        """Class probabilities, float32 (rows, classes), of features (rows, features)."""
        logits = features @ self.kernel + self.bias
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def fit(features: Matrix, labels: Labels, groups: Labels, recipe: Recipe) -> Head:
    """Fit a head.

    Args:
        features: float32, shape (pictures, features).
        labels: class numbers, shape (pictures,), each class from 0 to the last at least once.
        groups: numbers, shape (pictures,), the same for pictures that belong together: they come
            into one fold, since a head that knows a copy of a picture asks for too weak a penalty.
        recipe: gives the strengths to choose from, the folds and the seed.

    Returns:
        The head with the lowest cross-validated log-loss, fitted on all pictures.
    """
    axes = fit_components(features)
    rotated = axes.rotated(features)
    strength = _best_strength(rotated, labels, groups, recipe)
    weights = class_weights(labels, recipe)[labels]
    coefficients, intercepts = regression(rotated, labels, weights, strength, None, FINAL_TOLERANCE)
    kernel = axes.rotation @ coefficients.T
    return Head(kernel, intercepts - axes.centre @ kernel, strength)


@dataclass(frozen=True)
class PrincipalComponents:
    """The principal components of features, of unit mean variance.

    Attributes:
        centre: float32, shape (features,).
        rotation: float32, shape (features, components).
    """

    centre: Matrix
    rotation: Matrix

    def rotated(self, rows: Matrix) -> Matrix:
        """Features along the axes, a block at a time: `rows` may be larger than memory."""
        result = np.empty((len(rows), self.rotation.shape[1]), np.float32)
        for start in range(0, len(rows), 4096):
            block = slice(start, start + 4096)
            result[block] = (rows[block] - self.centre) @ self.rotation
        return result


def fit_components(features: Matrix) -> PrincipalComponents:
    """The principal components of features, float32 (pictures, features), at most `COMPONENTS`."""
    from sklearn.decomposition import PCA

    pca = PCA(min(COMPONENTS, *features.shape), svd_solver="covariance_eigh").fit(features)
    scale = 1 / np.sqrt(max(pca.explained_variance_.sum() / features.shape[1], 1e-12))
    return PrincipalComponents(
        pca.mean_.astype(np.float32), (pca.components_.T * scale).astype(np.float32)
    )


def random(width: int, classes: int, seed: int) -> Head:
    """A head that knows nothing yet: small normal weights, no bias."""
    kernel = np.random.default_rng(seed).normal(0, width**-0.5, (width, classes))
    return Head(kernel.astype(np.float32), np.zeros(classes, np.float32))


def class_weights(labels: Labels, recipe: Recipe) -> Matrix:
    """What a picture of each class counts for in the loss, shape (classes,), 1 on average."""
    counts = np.bincount(labels)
    if recipe.optimization.class_weights == "none":
        return np.ones(len(counts), np.float32)
    return np.asarray(counts.sum() / (len(counts) * counts.clip(1)), np.float32)


def _best_strength(features: Matrix, labels: Labels, groups: Labels, recipe: Recipe) -> float:
    """The strength with the lowest cross-validated log-loss."""
    strengths, folds = recipe.head.strengths, recipe.head.folds
    if len(strengths) == 1:
        return strengths[0]
    random = np.random.default_rng(recipe.seed)
    chosen = random.permutation(len(labels))[:SEARCH_PICTURES]
    features, labels = features[chosen], labels[chosen]
    fold_of = assign_folds(labels, groups[chosen], folds)
    weights = class_weights(labels, recipe)[labels]
    losses = np.zeros(len(strengths))
    for fold in range(folds):
        inside = fold_of != fold
        # A class with a single picture cannot be judged while that picture is left out.
        outside = ~inside & np.isin(labels, labels[inside])
        if outside.any() and len(np.unique(labels[inside])) > 1:
            losses += _losses(features, labels, weights, (inside, outside), strengths)
    return strengths[int(losses.argmin())]


def assign_folds(labels: Labels, groups: Labels, folds: int) -> Labels:
    """The fold of each picture: each class's groups are dealt out in turn.

    Args:
        labels: class numbers of shuffled pictures. The first of a group is the class it counts for.
        groups: numbers, the same for pictures of one group.
        folds: how many there are.
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    order = first.argsort()  # groups as they come, whatever their numbers
    fold_of = np.empty_like(first)
    for label in np.unique(labels):
        members = order[labels[first[order]] == label]
        fold_of[members] = np.arange(len(members)) % folds
    return np.asarray(fold_of[group_of], np.int64)


def _losses(
    features: Matrix,
    labels: Labels,
    weights: Matrix,
    sides: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    strengths: Sequence[float],
) -> NDArray[np.float64]:
    """The summed log-loss outside a fold's training part, for each strength."""
    inside, outside = sides
    known, numbers = np.unique(labels[inside], return_inverse=True)
    truth = np.searchsorted(known, labels[outside])
    losses = np.zeros(len(strengths))
    start = None
    for i in np.argsort(strengths):  # from strong to weak penalty: each starts near its end
        start = regression(
            features[inside], numbers, weights[inside], strengths[i], start, SEARCH_TOLERANCE
        )
        head = Head(start[0].T, start[1], strengths[i])
        likelihood = head.probabilities(features[outside])[np.arange(len(truth)), truth]
        losses[i] = -(weights[outside] * np.log(likelihood.clip(1e-7))).sum()
    return losses


def regression(
    features: Matrix,
    labels: Labels,
    weights: Matrix,
    strength: float,
    start: tuple[Matrix, Matrix] | None,
    tolerance: float,
) -> tuple[Matrix, Matrix]:
    """Multinomial logistic regression, by scikit-learn.

    Args:
        features: shape (pictures, features).
        labels: class numbers from 0 on, each at least once.
        weights: of the pictures.
        strength: `C`.
        start: coefficients and intercepts to start from.
        tolerance: at which to stop.

    Returns:
        Coefficients (classes, features) and intercepts (classes,).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, tol=tolerance, max_iter=500, warm_start=True)
    binary = labels.max() == 1
    if start is not None:
        model.coef_, model.intercept_ = (part[1:] if binary else part for part in start)
    with warnings.catch_warnings():
        # Stopping early costs a little fit, and the evaluation shows what the head is worth.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels, weights)
    coefficients = model.coef_.astype(np.float32)
    intercepts = model.intercept_.astype(np.float32)
    if binary:  # one row for the second class; softmax wants one for each
        coefficients = np.vstack([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros(1, np.float32), intercepts])
    return coefficients, intercepts
