"""Data quality checks on the pictures of a source: files, quality, classes and splits.

Every file is decoded with `images.decoded`. The results are findings: problems, for which
`efftune check` exits with 1, and remarks, which are harmless.
"""

import io
import itertools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data import bit_depth, formats, images, picture_bytes
from efftune.data.bit_depth import BitDepth, Kind, Range
from efftune.data.examples import LEFTOVERS, NO_TIME, SPLITS, Example, Examples
from efftune.data.formats import FORMATS, SUFFIXES
from efftune.data.measurements import MEASUREMENTS, SIDE, Thumbnails, measure
from efftune.data.stratified_split import OF_EACH_CLASS, stratified_order
from efftune.errors import BadImage
from efftune.system import cluster, files, helpers
from efftune.system.machine import usable_processors
from efftune.system.workers import Workers

_CODES = {  # kinds of findings, by the reason why a file is set aside
    formats.EMPTY: "empty",
    formats.NOT_AN_IMAGE: "not-an-image",
    formats.UNSUPPORTED: "unsupported",
    picture_bytes.NOT_REGULAR: "not-a-file",
    picture_bytes.FOLDER.split(",")[0]: "not-a-file",
    picture_bytes.NO_PERMISSION: "no-permission",
    picture_bytes.NO_SUCH_FILE: "missing",
    "folder links back to itself": "link-loop",
}
_DETAILS = re.compile("[:,(]")  # after the kind of a reason come its details
_STRAY = {"not-an-image", "not-in-a-class-folder", "not-in-a-split-folder"}
_REMARKS = {"other-file", "empty-folder", "rotated", "animated", "pages"}
_DEEP = "more-than-8-bits"
FEW_GROUPS = "few-groups"
_REMARKS |= {"greyscale", "tiny", "long", _DEEP, FEW_GROUPS}
_FORMATS = tuple(FORMATS)

_DEPTH_FIELDS = ("kind", "low", "high")
_BATCH = 4096  # pictures queued for the threads at once: each needs a kilobyte of memory
_TOGETHER = 8  # pictures measured by one call of a helper
_SENT_TOGETHER = 32  # the same, of a worker elsewhere
_SMALL_BATCH = 64  # between two looks at the clock
_TINY = 32  # pixels: pictures with a shorter side contain little information
_LONG = 8  # aspect ratio: cropping to a square removes most of the picture
_UNIFORM = 4.0  # standard deviation of the brightness, 0 to 255
_DARK = 70  # 99th percentile of the brightness, 0 to 255
_BLOWN_OUT = 240  # 5th percentile of the brightness, 0 to 255
_BLURRY = 0.002  # fraction of the variance of the brightness that is in the finest details
_FEW = 10  # training pictures: a class with fewer is hard to learn
_IMBALANCE = 10  # ratio of the numbers of pictures in the largest and the smallest class


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem or remark about a file, a class or a split.

    Attributes:
        kind: of finding, such as `truncated`, `near-copy` or `small-class`.
        name: of the file, class or split.
        detail: a description for the user.
        other: the second file or class, for findings about two.
        label: of the file.
        split: of the file.
    """

    kind: str
    name: str
    detail: str = ""
    other: str = ""
    label: str = ""
    split: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether this needs attention; otherwise it is only a remark."""
        return self.kind not in _REMARKS


def inspect(
    examples: Examples,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    is_enough: Callable[[int], bool] | None = None,
) -> tuple[Examples, NDArray[np.void], Thumbnails]:
    """Decode and measure every usable picture.

    Args:
        examples: to inspect; files set aside are skipped.
        on_progress: called from several threads with the number of pictures done and the total.
        is_enough: called with the number of pictures done, now and then; if it says so, the others
            are set aside. The pictures are looked at in a random order, stratified by class.

    Returns:
        The examples, with their bit depth, and with those that cannot be decoded set aside; and,
        for the remaining usable ones in order, records of type `MEASUREMENTS` and thumbnails.
    """
    rows = [row for row in examples.rows if row.usable]
    measurements, thumbnails = np.zeros(len(rows), MEASUREMENTS), Thumbnails(len(rows))
    failures: dict[Path, str] = {}
    done, total = itertools.count(1), len(rows)  # counting is thread-safe
    depth, helped = bit_depth.UNKNOWN, helpers.caller(len(rows))

    def measure_some(numbers: Sequence[int], workers: Workers | None) -> None:
        paths = [str(rows[i].path) for i in numbers]
        pictures = list(map(_read, paths)) if workers else paths  # which workers may not have
        found = (workers.call if workers else helped)(_measured, pictures, depth)
        for i, (content, reason) in zip(numbers, found, strict=True):
            if reason:
                failures[rows[i].path] = reason
            else:
                measurements[i] = _record(content, measurements[i], depth)
                thumbnails.put(i, content[MEASUREMENTS.itemsize :])
            on_progress(next(done), total)

    looked_at = set[int]()
    for batch in _batches(rows, is_enough):
        looked_at.update(batch)
        _in_threads(measure_some, batch)
    failures |= {row.path: NO_TIME for i, row in enumerate(rows) if i not in looked_at}
    deep = np.flatnonzero(measurements["kind"])
    depth = _depth(measurements[deep])
    total += len(deep)
    _in_threads(measure_some, deep.tolist())  # again, as bright as the set tells
    usable = [i for i, row in enumerate(rows) if row.path not in failures]
    hashes = {rows[i].path: measurements["sha256"][i].tobytes().hex() for i in usable}
    thumbnails.choose(usable)
    found = replace(examples.as_read(hashes, failures), depth=depth)
    return found, measurements[usable] if failures else measurements, thumbnails


def _in_threads(
    measure: Callable[[Sequence[int], Workers | None], None], numbers: Sequence[int]
) -> None:
    """Call a function with some pictures at a time: the answer of another process costs a wait."""
    workers = cluster.current()
    threads = workers.width if workers else usable_processors()
    most = _SENT_TOGETHER if workers else _TOGETHER
    size = max(1, min(most, len(numbers) // (4 * threads)))
    shares = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    with ThreadPoolExecutor(threads, thread_name_prefix="look") as pool:
        list(pool.map(measure, shares, itertools.repeat(workers)))


def _read(path: str) -> bytes | BadImage:
    """The content of a file, or why it cannot be read."""
    try:
        return picture_bytes.read(Path(path))
    except BadImage as error:
        return error


def _measured(
    pictures: Sequence[str | bytes | BadImage], depth: BitDepth
) -> list[tuple[bytes, str]]:
    """What is measured on pictures, as bytes: few to send. Or the reason why nothing is.

    Args:
        pictures: paths, or what `_read` returns.
        depth: of the set, if it is known.
    """
    found = []
    for picture in pictures:
        content, reason = b"", ""
        try:
            read = _read(picture) if isinstance(picture, str) else picture
            if isinstance(read, BadImage):
                raise read
            content = measure(read, depth).tobytes()
        except BadImage as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001  (one picture must not end a run)
            reason = images.damage(error)
        found.append((content, reason))
    return found


def _record(content: bytes, before: NDArray[np.void], depth: BitDepth) -> NDArray[np.void]:
    """What was measured; the range of a picture's values is known only without that of the set."""
    found: NDArray[np.void] = np.frombuffer(content, MEASUREMENTS, 1).copy()[0]
    for name in () if depth == bit_depth.UNKNOWN else _DEPTH_FIELDS:
        found[name] = before[name]
    return found


def _batches(
    rows: Sequence[Example], is_enough: Callable[[int], bool] | None
) -> Iterator[Sequence[int]]:
    """Numbers of the pictures to look at together: all of them, or until that is enough."""
    if is_enough is None:
        for start in range(0, len(rows), _BATCH):
            yield range(start, min(start + _BATCH, len(rows)))
        return
    strata = [f"{row.split}/{row.label}" for row in rows]
    order, least = stratified_order(strata, OF_EACH_CLASS, seed=0).tolist(), len(set(strata))
    for start in range(0, len(rows), _SMALL_BATCH):
        if start >= OF_EACH_CLASS * least and is_enough(start):
            return
        yield order[start : start + _SMALL_BATCH]


def _depth(measurements: NDArray[np.void]) -> BitDepth:
    """Which values of the set's pictures of more than 8 bits become black and white."""
    ranges: dict[Kind, list[Range]] = {
        kind: measurements[["low", "high"]][measurements["kind"] == number].tolist()
        for number, kind in enumerate(bit_depth.KINDS, start=1)
    }
    return BitDepth.of_set(ranges)


def unusable(examples: Examples) -> Iterator[Finding]:
    """Findings about files that were set aside, except leftovers of operating systems."""
    for row in examples.set_aside:
        if row.reason not in LEFTOVERS and row.reason != NO_TIME:
            kind = _DETAILS.split(row.reason)[0].strip()
            code = _CODES.get(kind, kind.replace(" ", "-"))
            if code in _STRAY and row.path.suffix.lower() not in SUFFIXES:
                code = "other-file"
            where = f" (line {row.line})" if row.line else ""
            yield Finding(code, row.name, row.reason + where, label=row.label, split=row.split)


def quality_findings(
    rows: Sequence[Example], measurements: NDArray[np.void], depth: BitDepth = bit_depth.UNKNOWN
) -> Iterator[Finding]:
    """Findings about the quality of individual pictures.

    Args:
        rows: usable pictures.
        measurements: their records, from `inspect`.
        depth: of the set.
    """
    for row, record in zip(rows, measurements, strict=True):
        if record["kind"]:
            black, white = getattr(depth, bit_depth.KINDS[record["kind"] - 1])
            detail = f"in the whole set, {black:g} is black and {white:g} is white"
            yield Finding(_DEEP, row.name, detail, label=row.label, split=row.split)
        for kind, detail in _quality_problems(row, record):
            yield Finding(kind, row.name, detail, label=row.label, split=row.split)


def _quality_problems(row: Example, record: NDArray[np.void]) -> Iterator[tuple[str, str]]:
    form = _FORMATS[int(record["format"])]
    suffix = row.path.suffix.lower()
    if suffix not in FORMATS[form].suffixes and form != "DICOM":  # scanners name them by number
        ending = f"with the suffix {suffix}" if suffix else "without a suffix"
        yield "wrong-suffix", f"a {form} file {ending}"
    width, height = int(record["width"]), int(record["height"])
    if min(width, height) < _TINY:
        yield "tiny", f"{width} × {height} pixels"
    if max(width, height) > _LONG * min(width, height):
        yield "long", f"{width} × {height} pixels"
    if record["orientation"] != 1:
        yield "rotated", f"EXIF orientation {record['orientation']}, which is applied"
    if record["several"]:
        part = FORMATS[form].several
        yield "animated" if part == "frame" else "pages", f"only the first {part} is used"
    if record["grey"]:
        yield "greyscale", "no colour"
    if record["bright"] < _DARK:
        yield (
            "dark",
            f"99 % of its pixels have a brightness of at most {record['bright']:.0f} of 255",
        )
    if record["dark"] > _BLOWN_OUT:
        yield (
            "blown-out",
            f"95 % of its pixels have a brightness of at least {record['dark']:.0f} of 255",
        )
    if record["spread"] < _UNIFORM:
        yield "uniform", "almost a single colour"
    elif min(width, height) >= SIDE and record["detail"] < _BLURRY:
        yield "blurry", "almost no fine details"


def class_findings(examples: Examples) -> Iterator[Finding]:
    """Findings about classes: too few, too small, imbalanced, missing from a split, similar."""
    counts = Counter(row.label for row in examples.rows if row.usable)
    train_counts = Counter(
        row.label for row in examples.rows if row.usable and row.split in ("", "train")
    )
    # Includes classes without a usable file.
    labelled = {row.label for row in examples.rows if row.label and row.reason not in LEFTOVERS}
    for name in sorted(labelled | counts.keys()):
        count = train_counts[name]
        if count < _FEW:
            yield Finding("small-class", name, f"{count} training picture{'s' * (count != 1)}")
    if len(counts) == 1:
        yield Finding("only-class", next(iter(counts)), "a classifier needs at least two")
    if counts and max(counts.values()) > _IMBALANCE * min(counts.values()):
        (large, most), (small, least) = counts.most_common()[0], counts.most_common()[-1]
        detail = f"{most:,} pictures of {large}, {least:,} of {small}"
        yield Finding("imbalance", large, detail, other=small)
    yield from _missing_classes(examples, labelled | counts.keys())
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted({row.label for row in examples.rows if row.label}):
        alike["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    for first, *others in alike.values():
        for other in others:
            yield Finding("similar-names", first, "possibly the same class", other=other)


def _missing_classes(examples: Examples, names: Set[str]) -> Iterator[Finding]:
    for split in SPLITS:
        present = {row.label for row in examples.of(split)}
        for name in sorted(names - present) if present else ():
            yield Finding("missing-in-split", name, f"no picture in the {split} split", split=split)


def described(examples: Examples, measurements: NDArray[np.void]) -> dict[str, Any]:
    """Statistics of a source: pictures by class and split, sizes and formats."""
    rows = [row for row in examples.rows if row.usable]
    classes: dict[str, dict[str, int]] = {name: {} for name in examples.class_names}
    for row in rows:
        split = row.split or "undecided"
        classes[row.label][split] = classes[row.label].get(split, 0) + 1
    formats = Counter(_FORMATS[i] for i in measurements["format"].tolist())
    sides = {
        side: [int(value) for value in np.percentile(measurements[side], (0, 50, 100))]
        for side in ("width", "height")
        if len(measurements)
    }
    return {"pictures": len(rows), "classes": classes, "formats": dict(formats), "sizes": sides}


def to_csv(findings: Iterable[Finding]) -> str:
    """The table `findings.csv`: problem, kind, name, other, label, split, detail."""
    table = io.StringIO()
    columns = ("kind", "name", "other", "label", "split", "detail")
    writer = files.csv_writer(table)
    writer.writerow(["problem", *columns])
    for each in findings:
        values = (getattr(each, column) for column in columns)
        writer.writerow(["yes" if each.is_problem else "no", *values])
    return table.getvalue()
