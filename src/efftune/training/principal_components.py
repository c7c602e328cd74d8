"""Principal components of features, and work in threads on their rows."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from efftune.system.linear_algebra import single_threaded
from efftune.system.machine import usable_processors

COMPONENTS = 512  # more did not improve accuracy
_FEW_PICTURES = 1000  # beyond, components of standardised features are approximated
_SMALLEST_VARIANCE = 0.01  # times the mean one, added so that values that hardly vary count less
_EXTRA_COMPONENTS, _POWER_ITERATIONS = 32, 4  # of the approximation for many pictures
_BLOCK_ROWS = 4096

Matrix = NDArray[np.float32]
Result = TypeVar("Result")


@dataclass(frozen=True)
class PrincipalComponents:
    """A projection of features onto their principal components, scaled to unit mean variance.

    Attributes:
        centre: the mean of the features, float32 (features,).
        rotation: from centred features to components, float32 (features, components).
    """

    centre: Matrix
    rotation: Matrix

    def behind(self, others: int) -> "PrincipalComponents":
        """The same for features behind others, which do not matter."""
        return PrincipalComponents(
            np.pad(self.centre, (others, 0)), np.pad(self.rotation, ((others, 0), (0, 0)))
        )

    def rotated(self, features: Matrix) -> Matrix:
        """Project features block by block, since `features` may be larger than memory."""
        result = np.empty((len(features), self.rotation.shape[1]), np.float32)

        def rotate(block: slice) -> None:
            result[block] = (features[block] - self.centre) @ self.rotation

        for _ in in_threads(rotate, _blocks(features)):
            pass
        return result


def fit_components(features: Matrix, *, standardised: bool) -> PrincipalComponents:
    """Fit at most `COMPONENTS` principal components to features, float32 (pictures, features).

    Args:
        features: of the pictures.
        standardised: give all features the same variance first.
    """
    from sklearn.decomposition import PCA

    if standardised and len(features) > _FEW_PICTURES:
        return _approximated(features)
    centre, scales, rows = np.float32(0), np.ones(features.shape[1], np.float32), features
    if standardised:
        centre = features.mean(axis=0)
        scales = _scales(features.var(axis=0))
        rows = (features - centre) * scales
    # The cost of the second depends on the number of features alone.
    few = standardised or len(features) <= features.shape[1] // 4
    solver = "full" if few else "covariance_eigh"
    pca = PCA(min(COMPONENTS, *features.shape), svd_solver=solver).fit(rows)
    scale = 1 / np.sqrt(max(pca.explained_variance_.sum() / features.shape[1], 1e-12))
    return PrincipalComponents(
        (centre + pca.mean_ / scales).astype(np.float32),
        (scales[:, None] * pca.components_.T * scale).astype(np.float32),
    )


def _approximated(features: Matrix) -> PrincipalComponents:
    """Components of many standardised features of many pictures, read block by block.

    Source: Halko et al., "Finding Structure with Randomness" (2011),
    https://arxiv.org/abs/0909.4061. The time depends little on the number of features.
    """
    from sklearn.utils.extmath import randomized_range_finder

    centre = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = np.zeros((len(centre), len(centre)), np.float32)

    def part(block: slice) -> Matrix:
        centred = features[block] - centre
        return np.asarray(centred.T @ centred / np.float32(len(features)))

    for each in in_threads(part, _blocks(features)):
        covariance += each
    scales = _scales(np.diagonal(covariance))
    covariance *= np.outer(scales, scales)
    count = min(COMPONENTS, len(centre))
    size = min(count + _EXTRA_COMPONENTS, len(centre))
    basis = randomized_range_finder(covariance, size=size, n_iter=_POWER_ITERATIONS, random_state=0)
    variances, axes = np.linalg.eigh(basis.T @ covariance @ basis)
    scale = 1 / np.sqrt(max(float(variances[-count:].sum()) / len(centre), 1e-12))
    rotation = scales[:, None] * (basis @ axes)[:, : -count - 1 : -1] * np.float32(scale)
    return PrincipalComponents(centre, rotation)


def _blocks(features: Matrix) -> list[slice]:
    return [slice(i, i + _BLOCK_ROWS) for i in range(0, len(features), _BLOCK_ROWS)]


def in_threads(function: Callable[[Any], Result], items: Sequence[Any]) -> Iterator[Result]:
    """Results in order; those of as many items as there are processors are kept at once."""
    count = usable_processors()
    with single_threaded(), ThreadPoolExecutor(count) as pool:
        for i in range(0, len(items), count):
            yield from pool.map(function, items[i : i + count])


def _scales(variances: Matrix) -> Matrix:
    """Factors that standardise values of these variances, shape (features,)."""
    floor = max(_SMALLEST_VARIANCE * float(variances.mean()), 1e-12)
    return np.asarray(1 / np.sqrt(variances + floor), np.float32)
