"""Data quality checks on the pictures of a source: files, quality, classes and splits.

Every file is decoded with `images.decoded`. The results are findings: problems, for which
`efftune check` exits with 1, and remarks, which are harmless.

The quality measures are those of cleanvision (https://github.com/cleanlab/cleanvision), computed
on the picture decoded to a square of SIDE pixels instead of the original picture.
"""

import hashlib
import io
import itertools
import re
import tempfile
import threading
import unicodedata
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from efftune.data import formats, images
from efftune.data.examples import LEFTOVERS, SPLITS, Example, Examples
from efftune.data.formats import FORMATS, SUFFIXES
from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.system import files
from efftune.system.machine import usable_processors

SIDE = 128  # of the decoded pictures that are measured, in pixels
SMALL = 48  # side of the greyscale thumbnails, used for finding copies, in pixels

_CODES = {  # kinds of findings, by the reason why a file is set aside
    formats.EMPTY: "empty",
    formats.NOT_AN_IMAGE: "not-an-image",
    formats.UNSUPPORTED: "unsupported",
    images.NOT_REGULAR: "not-a-file",
    images.FOLDER.split(",")[0]: "not-a-file",
    images.NO_PERMISSION: "no-permission",
    images.NO_SUCH_FILE: "missing",
    "folder links back to itself": "link-loop",
}
_DETAILS = re.compile("[:,(]")  # after the kind of a reason come its details
_STRAY = {"not-an-image", "not-in-a-class-folder", "not-in-a-split-folder"}
_REMARKS = {"other-file", "empty-folder", "rotated", "animated", "pages"}
_REMARKS |= {"greyscale", "tiny", "long"}
_FORMATS = tuple(FORMATS)

_BATCH = 4096  # pictures queued for the threads at once: each needs a kilobyte of memory
_TINY = 32  # pixels: pictures with a shorter side contain little information
_LONG = 8  # aspect ratio: cropping to a square removes most of the picture
_UNIFORM = 4.0  # standard deviation of the brightness, 0 to 255
_DARK = 70  # 99th percentile of the brightness, 0 to 255
_BLOWN_OUT = 240  # 5th percentile of the brightness, 0 to 255
_BLURRY = 0.002  # fraction of the variance of the brightness that is in the finest details
_FEW = 10  # training pictures: a class with fewer is hard to learn
_IMBALANCE = 10  # ratio of the numbers of pictures in the largest and the smallest class

MEASUREMENTS = np.dtype(
    [
        *(("sha256", "V32"), ("pixels", "V16")),
        *(("width", np.int32), ("height", np.int32), ("format", np.int8)),
        *(("orientation", np.int8), ("several", np.bool_), ("grey", np.bool_)),
        *(("bright", np.float32), ("dark", np.float32)),
        *(("spread", np.float32), ("detail", np.float32)),
    ]
)

_MEASUREMENTS_AND_THUMBNAIL = np.dtype([*MEASUREMENTS.descr, ("small", np.uint8, (SMALL, SMALL))])


class Thumbnails:
    """Greyscale thumbnails of many pictures, stored in an unnamed file to save memory."""

    def __init__(self) -> None:
        """Create an empty store."""
        self._file = tempfile.TemporaryFile(dir=files.cache_folder())  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._indices: Sequence[int] | None = None

    def put(self, index: int, thumbnail: Pixels) -> None:
        """Store a thumbnail, uint8 (SMALL, SMALL), at an index."""
        with self._lock:
            self._file.seek(index * SMALL**2)
            self._file.write(thumbnail.tobytes())

    def choose(self, indices: Sequence[int]) -> None:
        """Keep only the thumbnails at `indices`, numbered in that order."""
        self._indices = indices

    def __getitem__(self, number: int) -> Pixels:
        """A thumbnail, uint8 (SMALL, SMALL)."""
        index = number if self._indices is None else self._indices[number]
        with self._lock:
            self._file.seek(index * SMALL**2)
            content = self._file.read(SMALL**2)
        return np.frombuffer(content, np.uint8).reshape(SMALL, SMALL)


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


def measure(content: bytes) -> NDArray[np.void]:
    """Measure one picture.

    Args:
        content: the bytes of its file.

    Returns:
        A record with the fields of `MEASUREMENTS`, and `small`, the greyscale thumbnail. `sha256`
        is the hash of the file, `pixels` that of the decoded pixels and the picture's size.
        `bright` and `dark` are the 99th and the 5th percentile of the brightness, `spread` is its
        standard deviation, 0 to 255, and `detail` the fraction of its variance in the finest
        details.

    Raises:
        BadImage: the picture cannot be decoded.
    """
    decoded = images.decoded(content, SIDE, "stretch")
    pixels = decoded.pixels
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    record = np.zeros((), _MEASUREMENTS_AND_THUMBNAIL)
    record["sha256"] = np.void(hashlib.sha256(content).digest())
    size = np.array([decoded.width, decoded.height], np.int64).tobytes()
    record["pixels"] = np.void(hashlib.blake2b(pixels.tobytes() + size, digest_size=16).digest())
    record["small"] = cv2.resize(grey, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    record["width"], record["height"] = decoded.width, decoded.height
    record["format"] = _FORMATS.index(decoded.format)
    record["orientation"], record["several"] = decoded.orientation, decoded.several
    red, green, blue = cv2.split(pixels)
    record["grey"] = max(cv2.absdiff(red, green).max(), cv2.absdiff(green, blue).max()) <= 2
    record["dark"], record["bright"] = np.percentile(grey, (5, 99))
    variance = float(grey.var(dtype=np.float64))
    record["spread"] = variance**0.5
    record["detail"] = cv2.Laplacian(grey, cv2.CV_32F).var() / max(20 * variance, 1e-6)
    return record


def inspect(
    examples: Examples, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> tuple[Examples, NDArray[np.void], Thumbnails]:
    """Decode and measure every usable picture.

    Args:
        examples: to inspect; files set aside are skipped.
        on_progress: called from several threads with the number of pictures done and the total.

    Returns:
        The examples, with those that cannot be decoded set aside; and, for the remaining usable
        ones in order, records of type `MEASUREMENTS` and thumbnails.
    """
    rows = [row for row in examples.rows if row.usable]
    measurements, thumbnails = np.zeros(len(rows), MEASUREMENTS), Thumbnails()
    failures: dict[Path, str] = {}
    done = itertools.count(1)  # thread-safe

    def measure_one(i: int) -> None:
        try:
            record = measure(images.read(rows[i].path))
            for name in MEASUREMENTS.names or ():
                measurements[name][i] = record[name]
            thumbnails.put(i, record["small"])
        except BadImage as error:
            failures[rows[i].path] = error.reason
        except Exception as error:  # noqa: BLE001  (one picture must not end a run)
            failures[rows[i].path] = images.damage(error)
        on_progress(next(done), len(rows))

    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="look") as pool:
        for start in range(0, len(rows), _BATCH):
            for _ in pool.map(measure_one, range(start, min(start + _BATCH, len(rows)))):
                pass
    usable = [i for i, row in enumerate(rows) if row.path not in failures]
    hashes = {rows[i].path: measurements["sha256"][i].tobytes().hex() for i in usable}
    thumbnails.choose(usable)
    return (
        examples.as_read(hashes, failures),
        measurements[usable] if failures else measurements,
        thumbnails,
    )


def unusable(examples: Examples) -> Iterator[Finding]:
    """Findings about files that were set aside, except leftovers of operating systems."""
    for row in examples.set_aside:
        if row.reason not in LEFTOVERS:
            kind = _DETAILS.split(row.reason)[0].strip()
            code = _CODES.get(kind, kind.replace(" ", "-"))
            if code in _STRAY and row.path.suffix.lower() not in SUFFIXES:
                code = "other-file"
            where = f" (line {row.line})" if row.line else ""
            yield Finding(code, row.name, row.reason + where, label=row.label, split=row.split)


def quality_findings(rows: Sequence[Example], measurements: NDArray[np.void]) -> Iterator[Finding]:
    """Findings about the quality of individual pictures.

    Args:
        rows: usable pictures.
        measurements: their records, from `inspect`.
    """
    for row, record in zip(rows, measurements, strict=True):
        for kind, detail in _quality_problems(row, record):
            yield Finding(kind, row.name, detail, label=row.label, split=row.split)


def _quality_problems(row: Example, record: NDArray[np.void]) -> Iterator[tuple[str, str]]:
    form = _FORMATS[int(record["format"])]
    suffix = row.path.suffix.lower()
    if suffix not in FORMATS[form].suffixes:
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
    """Findings about classes: too small, imbalanced, missing from a split, similar names."""
    counts = Counter(row.label for row in examples.rows if row.usable)
    train_counts = Counter(
        row.label for row in examples.rows if row.usable and row.split in ("", "train")
    )
    # Includes classes without a usable file.
    labelled = {row.label for row in examples.rows if row.label and row.reason not in LEFTOVERS}
    for name in sorted(labelled | counts.keys()):
        if train_counts[name] < _FEW:
            yield Finding("small-class", name, f"{train_counts[name]} training pictures")
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
