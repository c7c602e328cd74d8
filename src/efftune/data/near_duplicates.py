"""Copies of pictures: the same pixels, or nearly the same, and what follows from them.

Two pictures are copies if one comes from the other by resizing, encoding again, a change of
brightness, a small crop, or mirroring. Candidates are alike in their coarsest waves, as perceptual
hashes compare them, but by size and not by sign alone. Each is confirmed by laying one picture over
the other: the details of copies fall on each other, those of mere lookalikes do not.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from efftune.data import images
from efftune.data.examples import SPLITS, Example
from efftune.data.images import Pixels
from efftune.data.inspection import SMALL, Finding, Thumbnails
from efftune.errors import BadImage
from efftune.system.machine import usable_processors

_ORDER: dict[str, int] = {name: i for i, name in enumerate(SPLITS)}
_SMALLEST = 64  # pixels: smaller pictures are too alike to tell copies from lookalikes
_WAVES = 10  # in each direction, that candidates are found by
_INNER = 1  # pixels of the small squares: their edge, less which a crop is more alike
_HARDLY = 0.5  # likeness of whole pictures below which their inner parts are not compared
_ALIKE = 0.82  # likeness, of -1 to 1, of the waves of candidates
_MOST = 16  # candidates of a picture among those after it, the likeliest ones
_SIDE = 2 * SMALL  # of the squares on which candidates are confirmed
_AT_FIRST = (0.9, 0.65)  # likeness of the small squares and of their details to go on with
_LIKENESS = 0.9  # of the details of copies
_FINEST, _COARSEST = 128, 24  # a side is this many times as long as details
_LARGEST_CROP = 0.2  # share of a side
_ROUNDS = 15  # of moving one over the other, at most
_SMOOTHED = 3  # pixels over which pictures are smoothed meanwhile
_BLOCK = 512  # pictures compared with as many at once: what comes of it fits a CPU's cache
_AT_ONCE = 2**16  # pairs looked at more closely: bounds memory
_KEPT = 4096  # squares kept in memory

_Floats = NDArray[np.float32]
_Thumbnails = Thumbnails | Sequence[Pixels]
_Numbers = NDArray[np.int64]
_Waves = tuple[_Floats, _Floats]  # even from left to right, and odd


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two pictures that are copies of each other.

    Attributes:
        first: its position.
        second: likewise; larger.
        exact: whether all pixels are the same.
        mirrored: whether one is the other's mirror image.
        similarity: correlation of their details, laid over each other; 1 if exact.
    """

    first: int
    second: int
    exact: bool
    mirrored: bool = False
    similarity: float = 1.0


def pairs(
    rows: Sequence[Example],
    measurements: NDArray[np.void],
    thumbnails: _Thumbnails,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[DuplicatePair]:
    """All pairs of copies.

    Of several pictures with the same pixels only the first is compared with others.

    Args:
        rows: usable pictures.
        measurements: their records, from `inspection.inspect`.
        thumbnails: their thumbnails, from there, too.
        on_progress: called with the pictures compared with all after them, and their total.
    """
    found: list[DuplicatePair] = []
    first: dict[object, int] = {}
    for i, key in enumerate(zip(measurements["pixels"].tolist(), strict=True)):
        if key in first:
            found.append(DuplicatePair(first[key], i, exact=True))
        else:
            first[key] = i
    large = np.minimum(measurements["width"], measurements["height"]) >= _SMALLEST
    alone = np.array([i for i in first.values() if large[i]], dtype=np.int64)
    square = lru_cache(_KEPT)(_square)

    def confirmed(candidate: tuple[int, int, bool]) -> DuplicatePair | None:
        i, j, mirrored = candidate
        similarity = _likeness(
            (thumbnails[i], _turned(thumbnails[j], mirrored)),
            lambda: (square(rows[i].path), _turned(square(rows[j].path), mirrored)),
        )
        if similarity < _LIKENESS:
            return None
        return DuplicatePair(i, j, exact=False, mirrored=mirrored, similarity=similarity)

    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="compare") as pool:
        for done, candidates in _candidates(thumbnails, alone):
            found += [pair for pair in pool.map(confirmed, candidates) if pair]
            on_progress(done, len(alone))
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def groups(
    count: int, found: Sequence[DuplicatePair], brought: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Numbers of what belongs together.

    Args:
        count: of the pictures.
        found: copies.
        brought: what the source says belongs together, a word a picture; empty words say nothing.

    Returns:
        A number for each picture, the same for all of a group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = [(pair.first, pair.second) for pair in found]
    named: dict[str, int] = {}
    for i, word in enumerate(brought):
        if word:
            edges.append((named.setdefault(word, i), i))
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, numbers = connected_components(graph, directed=False)
    return np.asarray(numbers, np.int64)


def findings(rows: Sequence[Example], found: Sequence[DuplicatePair]) -> Iterator[Finding]:
    """What copies there are: within a class, of another label, across splits."""
    for pair in found:
        first, second = sorted(
            (rows[pair.first], rows[pair.second]), key=lambda row: _ORDER.get(row.split, 0)
        )
        detail = "the same pixels" if pair.exact else f"similarity {pair.similarity:.3f}"
        if pair.mirrored:
            detail += ", mirrored"
        kind = "exact-copy" if pair.exact else "near-copy"
        kinds = [kind]
        if first.label != second.label:
            kinds.append("contradiction")
            detail += f"; {first.label} and {second.label}"
        if first.split and second.split and first.split != second.split:
            kinds.append("leak")
            detail += f"; in {first.split} and {second.split}"
        for each in kinds:
            yield Finding(each, second.name, detail, first.name, second.label, second.split)


def _candidates(
    thumbnails: _Thumbnails, chosen: NDArray[np.int64]
) -> Iterator[tuple[int, list[tuple[int, int, bool]]]]:
    """Pairs of pictures that are alike in their waves, each once; and whether if mirrored.

    Args:
        thumbnails: of the pictures.
        chosen: positions of those that are compared.

    Yields:
        How many of the chosen were compared with all after them, and the pairs since the last time.
    """
    whole, inner = _waves(thumbnails, chosen, 0), _waves(thumbnails, chosen, _INNER)
    for start in range(0, len(chosen), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(chosen)))
        found = [
            _alike(rows, np.arange(other, min(other + _BLOCK, len(chosen))), whole, inner)
            for other in range(start, len(chosen), _BLOCK)
        ]
        ones, others, similarity = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((-similarity, ones))
        ones, others = ones[order], others[order]
        rank = np.arange(len(ones)) - np.searchsorted(ones, ones)  # among those of the same one
        likeliest = rank < _MOST
        yield (
            int(rows[-1]) + 1,
            [
                (int(chosen[one]), int(chosen[other]), bool(whole[1][one] @ whole[1][other] < 0))
                for one, other in zip(ones[likeliest], others[likeliest], strict=True)
            ],
        )


def _alike(
    rows: _Numbers, columns: _Numbers, whole: _Waves, inner: _Waves
) -> tuple[_Numbers, _Numbers, _Floats]:
    """Pairs of a row and a later column that are alike, and how much."""
    similarity = whole[1][rows] @ whole[1][columns].T
    np.abs(similarity, out=similarity)  # mirroring turns the odd waves around
    similarity += whole[0][rows] @ whole[0][columns].T
    near, far = np.nonzero(similarity >= _HARDLY)
    value = similarity[near, far]
    ones, others = rows[near], columns[far]
    open_ = np.flatnonzero((value < _ALIKE) & (ones < others))
    for part in np.array_split(open_, len(open_) // _AT_ONCE + 1):
        one, other = ones[part], others[part]
        for first, second in ((whole, inner), (inner, whole)):  # one may be a part of the other
            even = np.einsum("ij,ij->i", first[0][one], second[0][other])
            odd = np.einsum("ij,ij->i", first[1][one], second[1][other])
            value[part] = np.maximum(value[part], even + np.abs(odd))
    chosen = (value >= _ALIKE) & (ones < others)
    return ones[chosen], others[chosen], value[chosen]


def _waves(thumbnails: _Thumbnails, chosen: _Numbers, edge: int) -> _Waves:
    """The coarsest waves of pictures: those even from left to right, and those odd.

    Finer waves are weaker in all pictures and count for more; and the roots of all are taken, so
    that not a few decide. A picture's waves have length 1, both kinds together.
    """
    side = SMALL - 2 * edge
    order = np.arange(_WAVES)
    basis = np.cos(np.pi * order[:, None] * (np.arange(side) + 0.5) / side).astype(np.float32)
    weight = np.hypot(order[:, None], order).astype(np.float32) ** 0.7  # none for the mean
    half = _WAVES * _WAVES // 2
    even, odd = np.empty((2, len(chosen), half), np.float32)
    inside = slice(edge, SMALL - edge)
    for start in range(0, len(chosen), _BLOCK):
        part = np.stack([thumbnails[i] for i in chosen[start : start + _BLOCK].tolist()])
        waves = weight * (basis @ part[:, inside, inside].astype(np.float32) @ basis.T)
        waves = np.sign(waves) * np.sqrt(np.abs(waves))
        waves /= np.maximum(np.linalg.norm(waves, axis=(1, 2), keepdims=True), 1e-6)
        even[start : start + _BLOCK] = waves[:, :, 0::2].reshape(-1, half)
        odd[start : start + _BLOCK] = waves[:, :, 1::2].reshape(-1, half)
    return even, odd


def _square(path: Path) -> Pixels:
    try:
        pixels = images.decode(images.read(path), _SIDE, "stretch")
    except BadImage:  # gone since it was looked at
        return np.zeros((_SIDE, _SIDE), np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def _turned(square: Pixels, mirrored: bool) -> Pixels:
    return np.ascontiguousarray(square[:, ::-1]) if mirrored else square


def _likeness(small: tuple[Pixels, Pixels], large: Callable[[], tuple[Pixels, Pixels]]) -> float:
    """The correlation of two pictures' details, laid over each other as well as can be.

    Args:
        small: their small squares.
        large: gives their larger ones; called only if the small ones are alike.
    """
    still = np.eye(2, 3, dtype=np.float32)
    ways = (_laid_over(*small, still), _laid_over(*small[::-1], still))
    swapped = ways[1].similarity > ways[0].similarity
    first = ways[swapped]
    if first.similarity < _AT_FIRST[0] or first.details < _AT_FIRST[1]:
        return 0.0
    turn, offset = first.move[:, :2], first.move[:, 2:]
    # The middle of the first of two small pixels is a quarter of the first large one away from it.
    move = np.hstack([turn, 2 * offset + 0.5 - 0.5 * turn.sum(axis=1, keepdims=True)])
    if np.linalg.det(turn) > 1:  # what is moved must be the picture that shows more
        swapped, move = not swapped, cv2.invertAffineTransform(move)
    part, whole = large()[::-1] if swapped else large()
    found = _laid_over(part, whole, move)
    return found.details if _is_crop(found.move) else 0.0


@dataclass(frozen=True, slots=True)
class _Overlay:
    """One picture laid over another.

    Attributes:
        move: from places in one to places in the other, (2, 3).
        similarity: correlation of their brightness.
        details: likewise, of what differs from its surroundings.
    """

    move: _Floats
    similarity: float = 0.0
    details: float = 0.0


def _laid_over(part: Pixels, whole: Pixels, move: _Floats) -> _Overlay:
    """Lay `whole` over `part`, starting with `move`."""
    end = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ROUNDS, 1e-4)
    try:
        _, move = cv2.findTransformECC(
            part, whole, move.copy(), cv2.MOTION_AFFINE, end, None, _SMOOTHED
        )
    except cv2.error:  # it does not converge
        return _Overlay(move)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(
        whole, move, part.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    edge = len(part) // 48
    inside = (slice(edge, -edge), slice(edge, -edge))
    similarity = _correlation(part[inside], moved[inside])
    details = _correlation(_details(part)[inside], _details(moved)[inside])
    return _Overlay(np.asarray(move, np.float32), similarity, details)


def _is_crop(move: _Floats) -> bool:
    """Whether a move shows a part of a picture, neither turned nor skewed."""
    turn, offset = move[:, :2], move[:, 2]
    skewed = abs(turn[0, 1]) + abs(turn[1, 0])
    if skewed > 0.02 or min(turn[0, 0], turn[1, 1]) < 1 - _LARGEST_CROP:
        return False
    return bool(min(offset) >= -2 and max(offset) <= _LARGEST_CROP * _SIDE)


def _details(square: Pixels) -> _Floats:
    side = len(square)
    fine, coarse = (
        cv2.GaussianBlur(square.astype(np.float32), (0, 0), side / share)
        for share in (_FINEST, _COARSEST)
    )
    return np.asarray(fine - coarse, np.float32)


def _correlation(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    one, other = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / max(np.sqrt((one @ one) * (other @ other)), 1e-9))


def leaks(rows: Sequence[Example], numbers: NDArray[np.int64]) -> list[int]:
    """The positions of judged pictures that have a copy in a split that comes before theirs.

    Args:
        rows: pictures with their splits.
        numbers: from `groups`.
    """
    lowest: dict[int, int] = defaultdict(lambda: len(_ORDER))
    for row, number in zip(rows, numbers.tolist(), strict=True):
        lowest[number] = min(lowest[number], _ORDER.get(row.split, len(_ORDER)))
    return [
        i
        for i, (row, number) in enumerate(zip(rows, numbers.tolist(), strict=True))
        if _ORDER.get(row.split, 0) > lowest[number]
    ]
