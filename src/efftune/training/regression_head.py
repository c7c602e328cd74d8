"""The head on frozen features: multinomial logistic regression.

The strength of the L2 penalty is chosen by cross-validation on the training split. To make this
cheap, the features are projected onto their principal components; the projection is folded into
the head afterwards, so the result is an ordinary dense layer.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efftune.recipe.recipe import Recipe
from efftune.system.linear_algebra import single_threaded
from efftune.training.principal_components import PrincipalComponents, fit_components, in_threads

_FEW_PICTURES = 1000  # up to which the last stage's features alone may be the better choice
SEARCH_PICTURES = 20_000  # enough to choose a strength on a split of any size
SEARCH_TOLERANCE = 1e-2  # the ranking of strengths converges long before the coefficients
FINAL_TOLERANCE = 1e-3

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]
_Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # of pictures that train, and that judge


@dataclass(frozen=True)
class Head:
    """A dense layer and softmax on top of the features.

    A head for the features of the last stage takes the last ones of those of all stages.

    Attributes:
        kernel: float32, shape (features, classes).
        bias: float32, shape (classes,).
        strength: the chosen penalty as scikit-learn's `C`, for features of unit mean variance;
            None for a head that was not fitted by regression.
        components: of the features that it was fitted on; None for such a head, too.
        pictures: number of pictures that it was fitted on; 0 for such a head, too.
    """

    kernel: Matrix
    bias: Matrix
    strength: float | None = None
    components: PrincipalComponents | None = None
    pictures: int = 0

    def logits(self, features: Matrix) -> Matrix:
        """Logits, float32 (pictures, classes), of features (pictures, features)."""
        return np.asarray(features[:, -len(self.kernel) :] @ self.kernel + self.bias)

    def probabilities(self, features: Matrix) -> Matrix:
        """Class probabilities, float32 (pictures, classes), of features (pictures, features)."""
        logits = self.logits(features)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


@contextmanager
def solving() -> Iterator[None]:
    """Around calls of `regression`: each uses one thread, and none complains.

    To be entered by one thread at a time; those that it starts may call `regression`.
    """
    from sklearn.exceptions import ConvergenceWarning

    with single_threaded(), warnings.catch_warnings():
        # Not a problem for the user: a head that has not fully converged is evaluated all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Nor are few pictures: the user is told in other words.
        warnings.filterwarnings("ignore", "The number of unique classes")
        yield


@solving()
def fit(
    features: Matrix,
    labels: Labels,
    groups: Labels,
    recipe: Recipe,
    last_stage: int = 0,
    usual: Head | None = None,
) -> Head:
    """Fit a head.

    Features of several stages, which differ in scale, are standardised. If there are few pictures,
    those of the last stage alone may generalise better, and this is tried, too.

    Args:
        features: float32, shape (pictures, features).
        labels: class numbers, shape (pictures,); every class from 0 to the last occurs.
        groups: group numbers, shape (pictures,). Related pictures share a group and thus a fold:
            with copies of a picture on both sides, too weak a penalty would look best.
        recipe: sets the candidate strengths, the number of folds and the seed.
        last_stage: how many of the features, at the end, are those of the last stage; 0 for all.
        usual: a head fitted on these pictures and more, for which the same is tried. Its features
            and penalty are taken if less than half of the pictures can be held out to choose: none
            other of their class is left.

    Returns:
        The head with the lowest cross-validated log-loss, refitted on all pictures.
    """
    others = features.shape[1] - (last_stage or features.shape[1])
    candidates = [fit_components(features, standardised=others > 0)]
    if others and max(len(labels), usual.pictures if usual else 0) <= _FEW_PICTURES:
        alone = fit_components(features[:, others:], standardised=False)
        candidates.insert(0, alone.behind(others))
    strengths, tried = recipe.head.strengths, []
    if usual and usual.components and not _can_choose(labels, groups, recipe):
        strengths = (usual.strength or strengths[0],)
        sees_all = usual.components.rotation[:others].any()
        candidates = candidates[-1:] if sees_all else candidates[:1]
    for pca in candidates:
        components, losses = pca.rotated(features), np.zeros(1)
        if len(candidates) * len(strengths) > 1:
            losses = _losses(components, labels, groups, recipe)
        tried.append((losses.min(), strengths[int(losses.argmin())], pca, components))
    _, strength, pca, components = min(tried, key=lambda each: each[0])
    weights = class_weights(labels, recipe)[labels]
    coefficients, intercepts = regression(
        components, labels, weights, strength, None, FINAL_TOLERANCE
    )
    kernel = pca.rotation @ coefficients.T
    return Head(kernel, intercepts - pca.centre @ kernel, strength, pca, len(labels))


def random(width: int, classes: int, seed: int) -> Head:
    """An untrained head: small normal weights, zero bias."""
    kernel = np.random.default_rng(seed).normal(0, width**-0.5, (width, classes))
    return Head(kernel.astype(np.float32), np.zeros(classes, np.float32))


def class_weights(labels: Labels, recipe: Recipe) -> Matrix:
    """Loss weight of the pictures of each class, shape (classes,), 1 on average over pictures."""
    counts = np.bincount(labels)
    if recipe.optimization.class_weights == "none":
        return np.ones(len(counts), np.float32)
    return np.asarray(counts.sum() / (len(counts) * counts.clip(1)), np.float32)


def _losses(
    features: Matrix, labels: Labels, groups: Labels, recipe: Recipe
) -> NDArray[np.float64]:
    """The cross-validated log-loss for each strength, summed over the pictures."""
    sample, halves = _halves(labels, groups, recipe)
    features, labels = features[sample], labels[sample]
    weights = class_weights(labels, recipe)[labels]

    def losses_of(masks: _Masks) -> NDArray[np.float64]:
        return _fold_losses(features, labels, weights, masks, recipe.head.strengths)

    found = list(in_threads(losses_of, halves)) or [np.zeros(len(recipe.head.strengths))]
    return np.asarray(np.sum(found, axis=0))


def _halves(labels: Labels, groups: Labels, recipe: Recipe) -> tuple[Labels, list[_Masks]]:
    """A sample of the pictures; and, by fold, those of it that train and those that judge.

    A picture judges only if others of its class train.
    """
    random = np.random.default_rng(recipe.seed)
    sample = random.permutation(len(labels))[:SEARCH_PICTURES]
    labels, halves = labels[sample], list[_Masks]()
    fold_of = assign_folds(labels, groups[sample], recipe.head.folds)
    for fold in range(recipe.head.folds):
        train = fold_of != fold
        held_out = ~train & np.isin(labels, labels[train])
        if held_out.any() and len(np.unique(labels[train])) > 1:
            halves.append((train, held_out))
    return sample, halves


def _can_choose(labels: Labels, groups: Labels, recipe: Recipe) -> bool:
    """Whether half of the pictures or more can be held out to choose features and a penalty."""
    sample, halves = _halves(labels, groups, recipe)
    return 2 * sum(int(held_out.sum()) for _, held_out in halves) >= len(sample)


def assign_folds(labels: Labels, groups: Labels, folds: int) -> Labels:
    """Assign pictures to folds, stratified by class, with all pictures of a group in one fold.

    Args:
        labels: class numbers of shuffled pictures; a group counts for the class of its first one.
        groups: group numbers of the pictures.
        folds: number of folds.

    Returns:
        Fold numbers, shape (pictures,).
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    order = first.argsort()  # by first occurrence, so that group numbers do not matter
    fold_of = np.empty_like(first)
    for label in np.unique(labels):
        members = order[labels[first[order]] == label]
        fold_of[members] = np.arange(len(members)) % folds
    return np.asarray(fold_of[group_of], np.int64)


def _fold_losses(
    features: Matrix,
    labels: Labels,
    weights: Matrix,
    masks: _Masks,
    strengths: Sequence[float],
) -> NDArray[np.float64]:
    """Summed log-loss on a fold's held-out pictures for each strength; masks: train, held out."""
    train, held_out = masks
    classes, train_labels = np.unique(labels[train], return_inverse=True)
    held_out_labels = np.searchsorted(classes, labels[held_out])
    losses = np.zeros(len(strengths))
    start = None
    for i in np.argsort(strengths):  # from strong to weak penalty: warm starts converge quickly
        start = regression(
            features[train], train_labels, weights[train], strengths[i], start, SEARCH_TOLERANCE
        )
        head = Head(start[0].T, start[1], strengths[i])
        probabilities = head.probabilities(features[held_out])
        likelihoods = probabilities[np.arange(len(held_out_labels)), held_out_labels]
        losses[i] = -(weights[held_out] * np.log(likelihoods.clip(1e-7))).sum()
    return losses


def regression(
    features: Matrix,
    labels: Labels,
    weights: Matrix,
    strength: float,
    start: tuple[Matrix, Matrix] | None,
    tolerance: float,
) -> tuple[Matrix, Matrix]:
    """Fit scikit-learn's multinomial logistic regression; see `solving`.

    Args:
        features: shape (pictures, features).
        labels: class numbers, shape (pictures,); every class from 0 to the last occurs.
        weights: sample weights, shape (pictures,).
        strength: scikit-learn's `C`.
        start: coefficients and intercepts of a warm start, if any.
        tolerance: stopping tolerance of the solver.

    Returns:
        Coefficients (classes, features) and intercepts (classes,).
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, tol=tolerance, max_iter=500, warm_start=True)
    binary = labels.max() == 1
    if start is not None:
        model.coef_, model.intercept_ = (part[1:] if binary else part for part in start)
    model.fit(features, labels, weights)
    coefficients = model.coef_.astype(np.float32)
    intercepts = model.intercept_.astype(np.float32)
    if binary:  # scikit-learn returns the second class only; softmax needs a row for each
        coefficients = np.vstack([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros(1, np.float32), intercepts])
    return coefficients, intercepts
