"""Copies of pictures: the same pixels, or nearly the same, and what follows from them.

Two pictures are copies if one comes from the other by resizing, encoding again, a change of
brightness, a small crop, or mirroring. Candidates have perceptual hashes that differ in few bits;
each is confirmed by laying one picture over the other.
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
from efftune.data.inspection import Finding
from efftune.errors import BadImage
from efftune.provenance import usable_processors

_ORDER: dict[str, int] = {name: i for i, name in enumerate(SPLITS)}
_BITS = 10  # of 64 that the hashes of copies may differ in
_SMALLEST = 64  # pixels: smaller pictures are too alike to tell copies from lookalikes
_SIDE = 96  # of the squares that are laid over each other
_LIKENESS = 0.97  # correlation, of -1 to 1, of pictures laid over each other
_AT_FIRST = 0.94  # correlation of their thumbnails, at least
_LARGEST_CROP = 0.2  # share of a side
_ROUNDS = 40  # of moving one over the other, at most
_BLOCK = 2**23  # products of hashes at once
_SQUARES = 4096  # kept in memory


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures that are copies of each other.

    Attributes:
        first: its position.
        second: likewise; larger.
        exact: whether all pixels are the same.
        mirrored: whether one is the other's mirror image.
        likeness: correlation of their brightness, 1 if exact.
    """

    first: int
    second: int
    exact: bool
    mirrored: bool = False
    likeness: float = 1.0


def pairs(
    rows: Sequence[Example],
    looks: NDArray[np.void],
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Pair]:
    """All pairs of copies.

    Of several pictures with the same pixels only the first is compared with others.

    Args:
        rows: usable pictures.
        looks: their records, from `inspection.look`.
        on_progress: called with the candidates confirmed or not, and their total.
    """
    found: list[Pair] = []
    first: dict[object, int] = {}
    for i, key in enumerate(zip(looks["pixels"].tolist(), strict=True)):
        if key in first:
            found.append(Pair(first[key], i, exact=True))
        else:
            first[key] = i
    large = np.minimum(looks["width"], looks["height"]) >= _SMALLEST
    alone = np.array([i for i in first.values() if large[i]], dtype=np.int64)
    candidates = _candidates(looks, alone)
    square = lru_cache(_SQUARES)(lambda i: _square(rows[i].path))

    def confirmed(candidate: tuple[tuple[int, int], bool]) -> Pair:
        (i, j), mirrored = candidate
        likeness = _likeness(square(i), square(j), mirrored=mirrored)
        return Pair(i, j, exact=False, mirrored=mirrored, likeness=likeness)

    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="compare") as pool:
        for done, pair in enumerate(pool.map(confirmed, candidates.items()), start=1):
            if pair.likeness >= _LIKENESS:
                found.append(pair)
            on_progress(done, len(candidates))
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def groups(count: int, found: Sequence[Pair], brought: Sequence[str] = ()) -> NDArray[np.int64]:
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


def findings(rows: Sequence[Example], found: Sequence[Pair]) -> Iterator[Finding]:
    """What copies there are: within a class, of another label, across splits."""
    for pair in found:
        first, second = sorted(
            (rows[pair.first], rows[pair.second]), key=lambda row: _ORDER.get(row.split, 0)
        )
        detail = "the same pixels" if pair.exact else f"likeness {pair.likeness:.3f}"
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


def _candidates(looks: NDArray[np.void], chosen: NDArray[np.int64]) -> dict[tuple[int, int], bool]:
    """Pairs of pictures that may be copies, and whether one would have to be mirrored.

    The hash of one is near that of the other, or of an inner part of it, or of its mirror image;
    and so are their thumbnails.
    """
    hashes = looks["hashes"][chosen]
    signs = _signs(hashes[:, 0])
    block = max(1, _BLOCK // max(1, 4 * len(chosen)))
    found: dict[tuple[int, int], bool] = {}
    for start in range(0, len(chosen), block):
        # Of vectors of signs, the product is the number of equal bits less that of others.
        asked = _signs(hashes[start : start + block].ravel())
        near, others = np.nonzero(asked @ signs.T >= 64 - 2 * _BITS)
        kinds, ones = near % 4, chosen[start + near // 4]
        for one, other, kind in zip(ones.tolist(), chosen[others].tolist(), kinds, strict=True):
            mirrored = bool(kind == 3)
            pair = (min(one, other), max(one, other))
            if one == other or found.get(pair) is False:
                continue
            if _alike(looks["thumbs"][one], looks["thumbs"][other], mirrored=mirrored):
                found[pair] = mirrored
    return found


def _signs(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8), axis=1)
    return np.where(bits, np.float32(1), np.float32(-1))


def _alike(one: Pixels, other: Pixels, *, mirrored: bool) -> bool:
    if mirrored:
        return _correlation(one[0][:, ::-1], other[0]) >= _AT_FIRST
    laid = [(one[0], part) for part in other] + [(part, other[0]) for part in one[1:]]
    return any(_correlation(*each) >= _AT_FIRST for each in laid)


def _square(path: Path) -> Pixels | None:
    try:
        return images.decode(images.read(path), _SIDE, "stretch")
    except BadImage:  # gone since it was looked at
        return None


def _likeness(first: Pixels | None, second: Pixels | None, *, mirrored: bool) -> float:
    """The correlation of two pictures, laid over each other as well as can be."""
    if first is None or second is None:
        return 0.0
    if mirrored:
        second = np.ascontiguousarray(second[:, ::-1])
    alike = _agreement(first, second)
    if alike >= _LIKENESS:
        return alike
    # Either may be a part of the other: what is moved is the picture that shows more.
    return max(_laid_over(first, second), _laid_over(second, first))


def _laid_over(part: Pixels, whole: Pixels) -> float:
    move = np.eye(2, 3, dtype=np.float32)
    end = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ROUNDS, 1e-4)
    greys = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (part, whole)]
    try:
        _, move = cv2.findTransformECC(greys[0], greys[1], move, cv2.MOTION_AFFINE, end)
    except cv2.error:  # it does not converge
        return 0.0
    turn, offset = move[:, :2], move[:, 2]
    skewed = abs(turn[0, 1]) + abs(turn[1, 0])
    if skewed > 0.02 or min(turn[0, 0], turn[1, 1]) < 1 - _LARGEST_CROP:
        return 0.0
    if min(offset) < -2 or max(offset) > _LARGEST_CROP * _SIDE:
        return 0.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(whole, move, (_SIDE, _SIDE), flags=flags)
    inside = slice(2, -2)  # the edge may lie outside the other picture
    return _agreement(part[inside, inside], np.asarray(moved, np.uint8)[inside, inside])


def _agreement(first: Pixels, second: Pixels) -> float:
    """The correlation of two pictures at half their size: JPEG halves the colours' anyway."""
    small = (_SIDE // 2, _SIDE // 2)
    one, other = (cv2.resize(each, small, interpolation=cv2.INTER_AREA) for each in (first, second))
    return _correlation(np.asarray(one, np.uint8), np.asarray(other, np.uint8))


def _correlation(first: Pixels, second: Pixels) -> float:
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
