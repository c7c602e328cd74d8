"""What heads fitted on parts of the training pictures say of the rest, and of validation."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from efftune.recipe.recipe import Recipe
from efftune.training import regression_head as heads
from efftune.training.regression_head import Head, Labels, Matrix, PrincipalComponents

FOLDS = 5
SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)  # of the training pictures
REPEATS = 3  # heads for a share; all pictures can be chosen in one way only


class CrossFitting:
    """Heads fitted on parts of the training pictures, with a penalty chosen on all of them."""

    def __init__(
        self, features: Matrix, labels: Labels, groups: Labels, strength: float, recipe: Recipe
    ):
        """Prepare features.

        Args:
            features: of the training pictures, float32 (pictures, features).
            labels: their class numbers, each from 0 to the last at least once.
            groups: numbers, the same for pictures that belong together.
            strength: of the head's penalty.
            recipe: gives class weights and the seed.
        """
        self._components: PrincipalComponents = heads.fit_components(features)
        self._rotated = self._components.rotated(features)
        self._labels, self._groups = labels, groups
        self._strength = strength
        self._weights = heads.class_weights(labels, recipe)[labels]
        self._seed = recipe.seed

    def out_of_fold(
        self, on_progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> Matrix:
        """Of each training picture, the probabilities by a head fitted without it and its copies.

        Returns:
            Float32 (pictures, classes). Where no other picture shows a picture's class, no head can
            know that class, and the row is NaN.
        """
        order = np.random.default_rng(self._seed).permutation(len(self._labels))
        fold_of = np.empty_like(self._labels)
        fold_of[order] = heads.assign_folds(self._labels[order], self._groups[order], FOLDS)
        probabilities = np.zeros((len(self._labels), int(self._labels.max()) + 1), np.float32)
        for fold in range(FOLDS):
            outside = fold_of == fold
            if outside.any():
                probabilities[outside] = self._probabilities(~outside, self._rotated[outside])
                probabilities[outside & ~np.isin(self._labels, self._labels[~outside])] = np.nan
            on_progress(fold + 1, FOLDS)
        return probabilities

    def correct_by_size(
        self,
        features: Matrix,
        labels: Labels,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> dict[int, NDArray[np.bool_]]:
        """Whether heads fitted on more and more of the training pictures answer right.

        Args:
            features: of other pictures, float32 (pictures, features).
            labels: their class numbers.
            on_progress: called with the heads fitted and their total.

        Returns:
            By number of training pictures: bool (heads, pictures).
        """
        rotated = self._components.rotated(features)
        found: dict[int, NDArray[np.bool_]] = {}
        jobs = [(share, i) for share in SHARES for i in range(REPEATS if share < 1 else 1)]
        for number, (share, repeat) in enumerate(jobs, start=1):
            inside = self._part(share, repeat)
            right = self._probabilities(inside, rotated).argmax(axis=1) == labels
            count = int(inside.sum())
            found[count] = np.vstack([*found.get(count, ()), right])
            on_progress(number, len(jobs))
        return found

    def _part(self, share: float, repeat: int) -> NDArray[np.bool_]:
        """A share of each class, one picture at least."""
        inside = np.zeros(len(self._labels), bool)
        random = np.random.default_rng([self._seed, repeat])
        for number in np.unique(self._labels):
            members = random.permutation(np.flatnonzero(self._labels == number))
            inside[members[: max(1, round(share * len(members)))]] = True
        return inside

    def _probabilities(self, inside: NDArray[np.bool_], rows: Matrix) -> Matrix:
        """The probabilities of rows by a head fitted on a part of the training pictures."""
        known, numbers = np.unique(self._labels[inside], return_inverse=True)
        probabilities = np.zeros((len(rows), int(self._labels.max()) + 1), np.float32)
        if len(known) == 1:
            probabilities[:, known] = 1
            return probabilities
        coefficients, intercepts = heads.regression(
            self._rotated[inside],
            numbers,
            self._weights[inside],
            self._strength,
            None,
            heads.SEARCH_TOLERANCE,
        )
        probabilities[:, known] = Head(coefficients.T, intercepts).probabilities(rows)
        return probabilities


def why_unavailable(recipe: Recipe) -> str:
    """Why there can be no trials, or nothing where there can."""
    if "head" not in recipe.phases:
        return "the network is trained from random weights, which know no features beforehand"
    if recipe.head.epochs:
        return "the head is trained by gradient descent, and no features of the pictures are kept"
    return ""
