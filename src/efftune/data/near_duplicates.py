"""Detection of exact and near-duplicate pictures, and of the leaks they cause.

Two pictures are copies if one results from the other by resizing, re-encoding, a brightness change,
a small crop, or mirroring. Candidates look alike when small (`copy_candidates`). Each is verified
by aligning the two pictures: fine details match after alignment in copies, but not in merely
similar pictures.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from efftune.data import bit_depth, images, picture_bytes
from efftune.data.copy_candidates import SomeThumbnails, candidates
from efftune.data.examples import SPLITS, Example
from efftune.data.images import Pixels
from efftune.data.inspection import FEW_GROUPS, Finding
from efftune.data.measurements import SMALL
from efftune.errors import BadImage
from efftune.system.machine import usable_processors

_ORDER: dict[str, int] = {name: i for i, name in enumerate(SPLITS)}
_MIN_SIDE = 64  # pixels: below, copies and similar pictures cannot be told apart
_SIDE = 2 * SMALL  # of the pictures on which candidates are verified, in pixels
_THUMBNAIL_SIMILARITY = (0.9, 0.65)  # minimum for verification: brightness, details
_COPY_SIMILARITY = 0.9  # minimum of the details of copies
_FINE, _COARSE = 128, 24  # scales of details: side divided by standard deviation of the blur
_MAX_CROP = 0.2  # fraction of a side
_MAX_ITERATIONS = 15  # of the alignment
_FILTER_SIZE = 3  # pixels: Gaussian filter during alignment
_CACHE_SIZE = 4096  # pictures of _SIDE pixels cached in memory
_OF_A_GROUP = 2  # pictures, on average: from here on, they are far from independent

_Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two pictures that are copies of each other.

    Attributes:
        first: position of the first picture.
        second: position of the second picture; larger than `first`.
        exact: whether all pixels are identical.
        mirrored: whether one is the mirror image of the other.
        similarity: correlation of their details after alignment; 1 if exact.
    """

    first: int
    second: int
    exact: bool
    mirrored: bool = False
    similarity: float = 1.0


def pairs(
    rows: Sequence[Example],
    measurements: NDArray[np.void],
    thumbnails: SomeThumbnails,
    depth: bit_depth.BitDepth = bit_depth.UNKNOWN,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[DuplicatePair]:
    """Find all pairs of copies.

    Of pictures with identical pixels, only the first is compared with the others.

    Args:
        rows: usable pictures.
        measurements: their records, from `inspection.inspect`.
        thumbnails: likewise.
        depth: of the set.
        on_progress: called with the number of pictures compared with all later ones and the total.
    """
    first = _first_with_these_pixels(measurements)
    again = np.flatnonzero(first != np.arange(len(first)))
    duplicates = [
        DuplicatePair(i, j, exact=True)
        for i, j in zip(first[again].tolist(), again.tolist(), strict=True)
    ]
    large = np.minimum(measurements["width"], measurements["height"]) >= _MIN_SIDE
    distinct = np.setdiff1d(np.flatnonzero(large), again, assume_unique=True)
    load = lru_cache(_CACHE_SIZE)(partial(_grey_picture, depth=depth))

    def verified(candidate: tuple[int, int, bool]) -> DuplicatePair | None:
        i, j, mirrored = candidate
        small = thumbnails[i], _flipped(thumbnails[j], mirrored)
        similarity = _detail_similarity(
            small, lambda: (load(rows[i].path), _flipped(load(rows[j].path), mirrored))
        )
        if similarity < _COPY_SIMILARITY:
            return None
        return DuplicatePair(i, j, exact=False, mirrored=mirrored, similarity=similarity)

    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="compare") as pool:
        for done, some in candidates(thumbnails, distinct):
            duplicates += [pair for pair in pool.map(verified, some) if pair]
            on_progress(done, len(distinct))
    return sorted(duplicates, key=lambda pair: (pair.first, pair.second))


def _first_with_these_pixels(measurements: NDArray[np.void]) -> NDArray[np.int64]:
    """For each picture, the position of the first one with the same pixels."""
    digests = np.ascontiguousarray(measurements["pixels"]).view(np.uint64).reshape(-1, 2)
    _, first, number = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[number.ravel()], np.int64)


def groups(
    count: int, duplicates: Sequence[DuplicatePair], group_names: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Group copies and pictures of the same named group: connected components.

    Args:
        count: number of pictures.
        duplicates: pairs of copies.
        group_names: from the source, one per picture; empty if the picture has no group.

    Returns:
        Group numbers, int64 (pictures,).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = [(pair.first, pair.second) for pair in duplicates]
    representative: dict[str, int] = {}
    for i, name in enumerate(group_names):
        if name:
            edges.append((representative.setdefault(name, i), i))
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, numbers = connected_components(graph, directed=False)
    return np.asarray(numbers, np.int64)


def findings(rows: Sequence[Example], duplicates: Sequence[DuplicatePair]) -> Iterator[Finding]:
    """Findings about copies (within a class, with different labels), leaks and groups."""
    for pair in duplicates:
        first, second = sorted(
            (rows[pair.first], rows[pair.second]), key=lambda row: _ORDER.get(row.split, 0)
        )
        detail = "identical pixels" if pair.exact else f"similarity {pair.similarity:.3f}"
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
    group_ids = groups(len(rows), duplicates, [row.group for row in rows])
    yield from _other_leaks(rows, duplicates, group_ids)
    yield from _few_groups(rows, set(leaks(rows, group_ids)))


def _other_leaks(
    rows: Sequence[Example], duplicates: Sequence[DuplicatePair], group_ids: NDArray[np.int64]
) -> Iterator[Finding]:
    """Findings about the leaks that are no pair of copies: of groups, and copies of copies."""
    splits = [_ORDER.get(row.split, 0) for row in rows]
    told = {
        max(pair.first, pair.second, key=splits.__getitem__)
        for pair in duplicates
        if splits[pair.first] != splits[pair.second]
    }
    first: dict[int | str, int] = {}  # of each group, named or not: a picture of the first split
    for i in sorted(range(len(rows)), key=splits.__getitem__):
        first.setdefault(int(group_ids[i]), i)
        first.setdefault(rows[i].group, i)
    for i in leaks(rows, group_ids):
        if i in told:
            continue
        row, other = rows[i], rows[first[int(group_ids[i])]]
        detail = "related through other pictures"
        if row.group and splits[first[row.group]] < splits[i]:
            other, detail = rows[first[row.group]], f"group {row.group}"
        detail += f"; in {other.split} and {row.split}"
        kind = "group-leak" if row.group else "leak"
        yield Finding(kind, row.name, detail, other.name, row.label, row.split)


def _few_groups(rows: Sequence[Example], leaked: Set[int]) -> Iterator[Finding]:
    """A finding about the pictures that judge, if they are of much fewer groups of the source."""
    splits = {row.split for row in rows}
    split = "train" if splits == {"train"} else "test"  # in folds, all judge
    judging = [row for i, row in enumerate(rows) if row.split == split and i not in leaked]
    judging = judging or [row for row in rows if row.split == split]  # which count, then
    named = {row.group for row in judging if row.group}
    count = len(named) + sum(not row.group for row in judging)
    if named and len(judging) >= _OF_A_GROUP * count:
        detail = f"{len(judging):,} pictures of {count:,} group{'s' * (count != 1)}"
        yield Finding(FEW_GROUPS, split, detail, split=split)


def _grey_picture(path: Path, depth: bit_depth.BitDepth) -> Pixels:
    try:
        pixels = images.decode(picture_bytes.read(path), _SIDE, "stretch", depth)
    except BadImage:  # the file was removed or changed after the inspection
        return np.zeros((_SIDE, _SIDE), np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def _flipped(pixels: Pixels, mirrored: bool) -> Pixels:
    return np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels


def _detail_similarity(
    small: tuple[Pixels, Pixels], large: Callable[[], tuple[Pixels, Pixels]]
) -> float:
    """The correlation of the details of two pictures after alignment; 0 if they are no copies.

    Args:
        small: their thumbnails.
        large: loads them at _SIDE pixels; called only if the thumbnails are similar.
    """
    identity = np.eye(2, 3, dtype=np.float32)
    both = (_align(*small, identity), _align(*small[::-1], identity))
    swapped = both[1].similarity > both[0].similarity
    coarse = both[swapped]
    if coarse.similarity < _THUMBNAIL_SIMILARITY[0] or coarse.details < _THUMBNAIL_SIMILARITY[1]:
        return 0.0
    linear, offset = coarse.transform[:, :2], coarse.transform[:, 2:]
    # Pixel centres are at integer coordinates, so doubling the size shifts them by half a pixel.
    transform = np.hstack([linear, 2 * offset + 0.5 - 0.5 * linear.sum(axis=1, keepdims=True)])
    if np.linalg.det(linear) > 1:  # the picture that is warped must be the one that shows more
        swapped, transform = not swapped, cv2.invertAffineTransform(transform)
    part, whole = large()[::-1] if swapped else large()
    fine = _align(part, whole, transform)
    return fine.details if _is_crop(fine.transform) else 0.0


@dataclass(frozen=True, slots=True)
class _Alignment:
    """The result of aligning two pictures.

    Attributes:
        transform: affine matrix (2, 3) from coordinates in the first to those in the second.
        similarity: correlation of their brightness.
        details: correlation of their differences of Gaussians.
    """

    transform: _Floats
    similarity: float = 0.0
    details: float = 0.0


def _align(part: Pixels, whole: Pixels, transform: _Floats) -> _Alignment:
    """Align `whole` to `part` by maximizing the ECC, starting from `transform`."""
    end = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _MAX_ITERATIONS, 1e-4)
    try:
        _, transform = cv2.findTransformECC(
            part, whole, transform.copy(), cv2.MOTION_AFFINE, end, None, _FILTER_SIZE
        )
    except cv2.error:  # no convergence
        return _Alignment(transform)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(
        whole, transform, part.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    edge = len(part) // 48
    inside = (slice(edge, -edge), slice(edge, -edge))
    similarity = _correlation(part[inside], moved[inside])
    details = _correlation(_details(part)[inside], _details(moved)[inside])
    return _Alignment(np.asarray(transform, np.float32), similarity, details)


def _is_crop(transform: _Floats) -> bool:
    """Whether a transform is a crop, without rotation or skew."""
    linear, offset = transform[:, :2], transform[:, 2]
    skewed = abs(linear[0, 1]) + abs(linear[1, 0])
    if skewed > 0.02 or min(linear[0, 0], linear[1, 1]) < 1 - _MAX_CROP:
        return False
    return bool(min(offset) >= -2 and max(offset) <= _MAX_CROP * _SIDE)


def _details(pixels: Pixels) -> _Floats:
    side = len(pixels)
    fine, coarse = (
        cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), side / share)
        for share in (_FINE, _COARSE)
    )
    return np.asarray(fine - coarse, np.float32)


def _correlation(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    x, y = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / max(np.sqrt((x @ x) * (y @ y)), 1e-9))


def leaks(rows: Sequence[Example], group_ids: NDArray[np.int64]) -> list[int]:
    """The positions of validation and test pictures with a copy in an earlier split.

    Args:
        rows: pictures with their splits.
        group_ids: from `groups`.
    """
    first_split: dict[int, int] = defaultdict(lambda: len(_ORDER))
    for row, group_id in zip(rows, group_ids.tolist(), strict=True):
        first_split[group_id] = min(first_split[group_id], _ORDER.get(row.split, len(_ORDER)))
    return [
        i
        for i, (row, group_id) in enumerate(zip(rows, group_ids.tolist(), strict=True))
        if _ORDER.get(row.split, 0) > first_split[group_id]
    ]
