"""Pairs of pictures that may be copies of each other: those that look alike when small.

They have similar low-frequency DCT coefficients, as in perceptual hashing, but compared by value
and not only by sign. Of few pictures, all pairs are compared. Of many, each is compared with those
in its neighbourhood: some pictures, drawn at random, are landmarks; a picture belongs to the one
that it is most similar to, and is compared with all that have this one among their nearest.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.data.measurements import SMALL, Thumbnails

_FREQUENCIES = 10  # DCT frequencies per direction
_BORDER = 1  # pixels removed from thumbnail edges, which makes crops more similar
_MIN_WHOLE_SIMILARITY = 0.5  # of whole thumbnails, for comparing their inner parts
_MIN_SIMILARITY = 0.82  # -1 to 1, of the coefficients
_MOST = 16  # most similar later pictures for each picture
_BLOCK = 512  # pictures per block of the similarity matrix, which then fits a CPU cache
_CHUNK = 2**16  # pairs whose inner parts are compared at once: bounds memory
_FEW = 30_000  # pictures whose pairs are all compared
_LANDMARKS = 2048
_NEAREST = 48  # landmarks of a picture whose neighbourhoods it is in
_GROUP = 64  # landmarks whose neighbourhoods are in memory at once

SomeThumbnails = Thumbnails | Sequence[Pixels]
_Floats = NDArray[np.floating[Any]]
_Numbers = NDArray[np.int64]
_Coefficients = tuple[_Floats, _Floats]  # of even and of odd horizontal frequencies


def candidates(
    thumbnails: SomeThumbnails, chosen: NDArray[np.int64]
) -> Iterator[tuple[int, list[tuple[int, int, bool]]]]:
    """Pairs of pictures that look alike, and whether one is mirrored.

    Args:
        thumbnails: of all pictures.
        chosen: positions of the pictures to compare, in ascending order.

    Yields:
        The number of chosen pictures compared so far with all later ones, and the new pairs, the
        earlier picture first.
    """
    whole, inner = _dct(thumbnails, chosen, 0), _dct(thumbnails, chosen, _BORDER)
    done = 0
    for rows, columns in _neighbourhoods(whole):
        later = columns[columns > rows[0]]
        blocks = [
            _similar_pairs(rows, later[left : left + _BLOCK], whole, inner)
            for left in range(0, len(later), _BLOCK)
        ]
        done += len(rows)
        yield (
            done,
            [
                (int(chosen[i]), int(chosen[j]), bool(whole[1][i] @ whole[1][j] < 0))
                for i, j in zip(*_most_similar(blocks), strict=True)
            ],
        )


def _most_similar(
    blocks: Sequence[tuple[_Numbers, _Numbers, _Floats]],
) -> tuple[_Numbers, _Numbers]:
    """Of some pairs and their similarities, the best ones of each first picture."""
    if not blocks:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second, similarity = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    order = np.lexsort((-similarity, first))
    first, second = first[order], second[order]
    rank = np.arange(len(first)) - np.searchsorted(first, first)  # among pairs of one `first`
    best = rank < _MOST
    return first[best], second[best]


def _neighbourhoods(whole: _Coefficients) -> Iterator[tuple[_Numbers, _Numbers]]:
    """Blocks of pictures, each once, and those that they are compared with, in ascending order."""
    count = len(whole[0])
    if count <= _FEW:
        for start in range(0, count, _BLOCK):
            yield np.arange(start, min(start + _BLOCK, count)), np.arange(start, count)
        return
    nearest = _nearest_landmarks(whole)
    for first in range(0, _LANDMARKS, _GROUP):
        ends = np.arange(first, first + _GROUP + 1)
        rows = _by_landmark(nearest[:, :1], ends)
        for members, neighbours in zip(rows, _by_landmark(nearest, ends), strict=True):
            for start in range(0, len(members), _BLOCK):
                yield members[start : start + _BLOCK], neighbours


def _nearest_landmarks(whole: _Coefficients) -> NDArray[np.int16]:
    """The nearest landmarks of each picture, int16 (pictures, _NEAREST); the nearest one first."""
    count = len(whole[0])
    landmarks = np.random.default_rng(0).choice(count, _LANDMARKS, replace=False)
    nearest = np.empty((count, _NEAREST), np.int16)
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        distance = -_similarity(whole, rows, landmarks)
        some = np.argpartition(distance, _NEAREST, axis=1)[:, :_NEAREST]
        order = np.take_along_axis(distance, some, axis=1).argsort(axis=1)
        nearest[rows] = np.take_along_axis(some, order, axis=1)
    return nearest


def _by_landmark(nearest: NDArray[np.int16], ends: _Numbers) -> list[_Numbers]:
    """For each of some landmarks, the pictures that have it in their row, in ascending order."""
    flat = nearest.ravel()
    found = np.flatnonzero((flat >= ends[0]) & (flat < ends[-1]))
    found = found[np.argsort(flat[found], kind="stable")]
    places = np.searchsorted(flat[found], ends)
    return [part // nearest.shape[1] for part in np.split(found, places)[1:-1]]


def _similarity(whole: _Coefficients, rows: _Numbers, columns: _Numbers) -> _Floats:
    """Similarities, -1 to 1, float32 (rows, columns)."""
    even, odd = (_taken(each, rows) @ _taken(each, columns).T for each in whole)
    np.abs(odd, out=odd)  # mirroring changes the sign of odd frequencies
    return np.asarray(np.add(even, odd, out=even))


def _taken(coefficients: _Floats, numbers: _Numbers) -> _Floats:
    return coefficients[numbers].astype(np.float32, copy=False)


def _similar_pairs(
    rows: _Numbers, columns: _Numbers, whole: _Coefficients, inner: _Coefficients
) -> tuple[_Numbers, _Numbers, _Floats]:
    """Pairs of a row and a later column that are similar, and their similarities."""
    similarity = _similarity(whole, rows, columns)
    row, column = np.nonzero(similarity >= _MIN_WHOLE_SIMILARITY)
    value = similarity[row, column]
    first, second = rows[row], columns[column]
    uncertain = np.flatnonzero((value < _MIN_SIMILARITY) & (first < second))
    for part in np.array_split(uncertain, len(uncertain) // _CHUNK + 1):
        i, j = first[part], second[part]
        for a, b in ((whole, inner), (inner, whole)):  # either picture may be a crop of the other
            even, odd = (
                np.einsum("ij,ij->i", _taken(x, i), _taken(y, j)) for x, y in zip(a, b, strict=True)
            )
            value[part] = np.maximum(value[part], even + np.abs(odd))
    similar = (value >= _MIN_SIMILARITY) & (first < second)
    return first[similar], second[similar], value[similar]


def _dct(thumbnails: SomeThumbnails, chosen: _Numbers, border: int) -> _Coefficients:
    """Low-frequency DCT coefficients of thumbnails, for even and odd horizontal frequencies.

    Higher frequencies, which are weaker in all pictures, get larger weights, and square roots are
    taken so that no few coefficients dominate. All coefficients of a picture have norm 1 together.
    """
    side = SMALL - 2 * border
    order = np.arange(_FREQUENCIES)
    basis = np.cos(np.pi * order[:, None] * (np.arange(side) + 0.5) / side).astype(np.float32)
    weight = np.hypot(order[:, None], order).astype(np.float32) ** 0.7  # zero for the mean
    half = _FREQUENCIES * _FREQUENCIES // 2
    dtype = np.float32 if len(chosen) <= _FEW else np.float16
    even, odd = np.empty((2, len(chosen), half), dtype)
    inside = slice(border, SMALL - border)
    for start in range(0, len(chosen), _BLOCK):
        part = np.stack([thumbnails[i] for i in chosen[start : start + _BLOCK].tolist()])
        values = weight * (basis @ part[:, inside, inside].astype(np.float32) @ basis.T)
        values = np.sign(values) * np.sqrt(np.abs(values))
        values /= np.maximum(np.linalg.norm(values, axis=(1, 2), keepdims=True), 1e-6)
        even[start : start + _BLOCK] = values[:, :, 0::2].reshape(-1, half)
        odd[start : start + _BLOCK] = values[:, :, 1::2].reshape(-1, half)
    return even, odd
