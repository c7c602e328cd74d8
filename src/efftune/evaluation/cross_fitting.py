"""Cross-fitting: heads fitted on parts of the training split, applied to held-out pictures."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from efftune.recipe.recipe import Recipe
from efftune.system import cluster
from efftune.training import regression_head as heads
from efftune.training.principal_components import PrincipalComponents
from efftune.training.regression_head import Head, Labels, Matrix

FOLDS = 5
Part = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # pictures to fit a head on, and to judge it by
SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)  # of the training pictures
REPEATS = 3  # heads per share; only one for the whole split


class CrossFitting:
    """Fits heads on parts of the training split, with the penalty chosen on all of it."""

    def __init__(
        self, features: Matrix, labels: Labels, groups: Labels, head: Head, recipe: Recipe
    ):
        """Rotate the features onto their principal components.

        Args:
            features: of the training pictures, float32 (pictures, features).
            labels: their class numbers; each class occurs at least once.
            groups: group numbers; pictures of a group stay in the same fold.
            head: fitted on them by regression.
            recipe: provides class weights and the seed.
        """
        if head.components is None or head.strength is None:
            raise ValueError("Cross-fitting needs a head that was fitted by regression.")
        self._components: PrincipalComponents = head.components
        self._rotated = self._components.rotated(features)
        self._labels, self._groups = labels, groups
        self._strength = head.strength
        self._weights = heads.class_weights(labels, recipe)[labels]
        self._seed = recipe.seed

    def out_of_fold(
        self, on_progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> Matrix:
        """Out-of-fold probabilities: of each training picture, by a head fitted without its group.

        Returns:
            Float32 (pictures, classes). A row is NaN if no picture outside the fold has the
            picture's class.
        """
        order = np.random.default_rng(self._seed).permutation(len(self._labels))
        fold_of = np.empty_like(self._labels)
        fold_of[order] = heads.assign_folds(self._labels[order], self._groups[order], FOLDS)
        probabilities = np.zeros((len(self._labels), int(self._labels.max()) + 1), np.float32)
        folds = np.unique(fold_of)
        parts = ((fold_of != fold, fold_of == fold) for fold in folds)
        with closing(cluster.each(_predicted, (self, self._rotated), parts)) as found:
            for number, ((inside, outside), values) in enumerate(found, start=1):
                probabilities[outside] = values
                probabilities[outside & ~np.isin(self._labels, self._labels[inside])] = np.nan
                on_progress(number, len(folds))
        return probabilities

    def correct_by_size(
        self,
        features: Matrix,
        labels: Labels,
        folds: Labels | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> dict[int, NDArray[np.bool_]]:
        """Which pictures are predicted correctly by heads fitted on growing training subsets.

        Args:
            features: of held-out pictures, float32 (pictures, features).
            labels: their class numbers.
            folds: their fold numbers, if they are the training pictures themselves; a head then
                predicts the pictures of a fold that it was fitted without.
            on_progress: called with the number of heads fitted and their total.

        Returns:
            By number of training pictures, the mean over the folds: bool (heads, pictures).
        """
        rotated = self._components.rotated(features)
        correct: dict[int, NDArray[np.bool_]] = {}
        repeats = [(s, i) for s in self._shares() for i in range(REPEATS if s < 1 else 1)]
        parts = (part for each in repeats for part in self._parts(*each, labels, folds))
        several = 1 if folds is None else len(np.unique(folds))
        with closing(cluster.each(_predicted, (self, rotated), parts)) as found:
            for number in range(1, len(repeats) + 1):
                hits, counts = np.empty(len(labels), bool), list[int]()
                for (known, judged), values in itertools.islice(found, several):
                    hits[judged] = values.argmax(axis=1) == labels[judged]
                    hits[judged] &= np.isin(labels[judged], self._labels[known])
                    counts.append(int(known.sum()))
                count = round(float(np.mean(counts)))
                correct[count] = np.vstack([*correct.get(count, ()), hits])
                on_progress(number, len(repeats))
        return correct

    def _parts(
        self, share: float, repeat: int, labels: Labels, folds: Labels | None
    ) -> Iterator[Part]:
        """For one measurement, which pictures heads are fitted on, and which they are judged by."""
        if folds is None:
            everything = np.ones(len(self._labels), bool)
            yield self._subset(share, repeat, everything), np.ones(len(labels), bool)
            return
        for fold in np.unique(folds):
            yield self._subset(share, repeat, folds != fold), folds == fold

    def _subset(self, share: float, repeat: int, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A random share of each class among known pictures, at least one; bool (pictures,)."""
        inside = np.zeros(len(self._labels), bool)
        random = np.random.default_rng([self._seed, repeat])
        for number in np.unique(self._labels[known]):
            members = random.permutation(np.flatnonzero(known & (self._labels == number)))
            inside[members[: _part_of(len(members), share)]] = True
        return inside

    def _shares(self) -> list[float]:
        """Those that differ: of a class of two pictures, most of them are one picture."""
        counts = np.unique(self._labels, return_counts=True)[1].tolist()
        return list({tuple(_part_of(n, share) for n in counts): share for share in SHARES}.values())

    def _probabilities(self, inside: NDArray[np.bool_], rows: Matrix) -> Matrix:
        """Probabilities for `rows` by a head fitted on a subset of the training pictures."""
        present, numbers = np.unique(self._labels[inside], return_inverse=True)
        probabilities = np.zeros((len(rows), int(self._labels.max()) + 1), np.float32)
        if len(present) < 2:  # none, if every class has a single picture
            probabilities[:, present] = 1
            return probabilities
        rows_inside, weights = self._rotated[inside], self._weights[inside]
        with heads.solving():
            coefficients, intercepts = heads.regression(
                rows_inside, numbers, weights, self._strength, None, heads.SEARCH_TOLERANCE
            )
        probabilities[:, present] = Head(coefficients.T, intercepts).probabilities(rows)
        return probabilities


def _part_of(pictures: int, share: float) -> int:
    """A share of the pictures of a class, at least one."""
    return max(1, round(share * pictures))


def _predicted(given: tuple[CrossFitting, Matrix], part: Part) -> Matrix:
    """Probabilities of held-out pictures, by a head fitted without them."""
    fitting, rows = given
    inside, judged = part
    return fitting._probabilities(inside, rows[judged])


def why_unavailable(recipe: Recipe) -> str:
    """The reason why cross-fitting is impossible with a recipe; empty if it is possible."""
    if "head" not in recipe.phases:
        return "the network is trained from random weights, so there are no pretrained features"
    if recipe.head.epochs:
        return "the head is trained by gradient descent, so the features are not cached"
    return ""
