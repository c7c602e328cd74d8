"""What is wrong with the pictures of a source: files, quality, classes, splits.

Every file is decoded, by the same decoder as everywhere. What is found are findings: problems,
which make `efftune check` exit with 1, and remarks, which do no harm.

The measures of quality are those of cleanvision (https://github.com/cleanlab/cleanvision), on the
decoded square instead of the whole picture.
"""

import csv
import hashlib
import io
import itertools
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

from efftune.data import images
from efftune.data.examples import LEFTOVERS, SPLITS, Example, Examples
from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.system import files
from efftune.system.machine import usable_processors

SIDE = 128  # of the squares that are looked at, in pixels
SMALL = 48  # of their small grey versions, by which copies are found

_CODES = {  # of the reasons why a file cannot be used
    images.EMPTY: "empty",
    images.TRUNCATED: "truncated",
    images.DAMAGED: "damaged",
    images.NOT_AN_IMAGE: "not-an-image",
    images.UNSUPPORTED: "unsupported",
    images.TOO_LARGE: "too-large",
    images.NO_PERMISSION: "no-permission",
    images.BROKEN_LINK: "broken-link",
    images.NOT_REGULAR: "not-a-file",
    images.FOLDER: "not-a-file",
    images.NO_SUCH_FILE: "missing",
    "folder links back to itself": "link-loop",
    "empty folder": "empty-folder",
}
_STRAY = {"not-an-image", "not-in-a-class-folder", "not-in-a-split-folder"}
_REMARKS = {"other-file", "empty-folder", "rotated", "animated", "greyscale", "tiny", "long"}
_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
}
_FORMATS = tuple(_SUFFIXES)

_AT_ONCE = 4096  # pictures waiting for a thread: each takes a kilobyte meanwhile
_TINY = 32  # pixels: a shorter side tells little
_LONG = 8  # times as long as wide: cropping to a square leaves little
_UNIFORM = 4.0  # standard deviation of the brightness, of 255
_DARK = 70  # of 255: the brightest hundredth of a picture is darker
_BLOWN_OUT = 240  # of 255: the darkest twentieth is brighter
_BLURRY = 0.002  # share of the brightness' variance that is in the finest details
_FEW = 10  # pictures: a class with less in training is hardly learnt
_IMBALANCE = 10  # times as many pictures in the largest class as in the smallest

MEASUREMENTS = np.dtype(
    [
        *(("sha256", "V32"), ("pixels", "V16")),
        *(("width", np.int32), ("height", np.int32), ("format", np.int8)),
        *(("orientation", np.int8), ("animated", np.bool_), ("grey", np.bool_)),
        *(("bright", np.float32), ("dark", np.float32)),
        *(("spread", np.float32), ("detail", np.float32)),
    ]
)

_MEASUREMENTS_AND_THUMBNAIL = np.dtype([*MEASUREMENTS.descr, ("small", np.uint8, (SMALL, SMALL))])


class Thumbnails:
    """The small squares of many pictures, in a file without a name: memory is not the limit."""

    def __init__(self) -> None:
        """Without any yet."""
        self._file = tempfile.TemporaryFile(dir=files.cache_folder())  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._places: Sequence[int] | None = None

    def put(self, place: int, square: Pixels) -> None:
        """Keep the square (SMALL, SMALL) of a picture."""
        with self._lock:
            self._file.seek(place * SMALL**2)
            self._file.write(square.tobytes())

    def choose(self, places: Sequence[int]) -> None:
        """From now on, number the squares as they stand in `places`."""
        self._places = places

    def __getitem__(self, number: int) -> Pixels:
        """The square of a picture, uint8 (SMALL, SMALL)."""
        place = number if self._places is None else self._places[number]
        with self._lock:
            self._file.seek(place * SMALL**2)
            content = self._file.read(SMALL**2)
        return np.frombuffer(content, np.uint8).reshape(SMALL, SMALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a file, a class or a split.

    Attributes:
        kind: what, such as `truncated`, `near-copy` or `small-class`.
        name: the file, class or split.
        detail: more about it, in words.
        other: the other file, where two are meant.
        label: of the file.
        split: likewise.
    """

    kind: str
    name: str
    detail: str = ""
    other: str = ""
    label: str = ""
    split: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether something should be done about it; otherwise it is only worth knowing."""
        return self.kind not in _REMARKS


def look(content: bytes) -> NDArray[np.void]:
    """Look at one picture.

    Args:
        content: of its file.

    Returns:
        A record of type `LOOK`, and `small`. `sha256` is of the file, `pixels` of the decoded
        pixels and the picture's size; `small` is its brightness on a small square. `bright` and
        `dark` are the 99th and the 5th percentile of brightness, `spread` its standard deviation, 0
        to 255; `detail` the share of its variance that is in the finest details.

    Raises:
        BadImage: it cannot be decoded.
    """
    found = images.decoded(content, SIDE, "stretch")
    pixels = found.pixels
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    record = np.zeros((), _MEASUREMENTS_AND_THUMBNAIL)
    record["sha256"] = np.void(hashlib.sha256(content).digest())
    size = np.array([found.width, found.height], np.int64).tobytes()
    record["pixels"] = np.void(hashlib.blake2b(pixels.tobytes() + size, digest_size=16).digest())
    record["small"] = cv2.resize(grey, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    record["width"], record["height"] = found.width, found.height
    record["format"] = _FORMATS.index(found.format)
    record["orientation"], record["animated"] = found.orientation, found.animated
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
    """Decode every picture.

    Args:
        examples: to look at; what was set aside is left alone.
        on_progress: called with the pictures done and their total, from several threads.

    Returns:
        The examples, those that cannot be decoded set aside; and for each usable one that is left,
        in their order, a record of type `LOOK` and a small square.
    """
    rows = [row for row in examples.rows if row.usable]
    measurements, thumbnails = np.zeros(len(rows), MEASUREMENTS), Thumbnails()
    failures: dict[Path, str] = {}
    done = itertools.count(1)  # counts right in several threads

    def place(i: int) -> None:
        try:
            seen = look(images.read(rows[i].path))
            for name in MEASUREMENTS.names or ():
                measurements[name][i] = seen[name]
            thumbnails.put(i, seen["small"])
        except BadImage as error:
            failures[rows[i].path] = error.reason
        on_progress(next(done), len(rows))

    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="look") as pool:
        for start in range(0, len(rows), _AT_ONCE):
            for _ in pool.map(place, range(start, min(start + _AT_ONCE, len(rows)))):
                pass
    kept = [i for i, row in enumerate(rows) if row.path not in failures]
    sums = {rows[i].path: measurements["sha256"][i].tobytes().hex() for i in kept}
    thumbnails.choose(kept)
    return (
        examples.as_read(sums, failures),
        measurements[kept] if failures else measurements,
        thumbnails,
    )


def unusable(examples: Examples) -> Iterator[Finding]:
    """The files that were set aside, but for what the system leaves behind."""
    for row in examples.set_aside:
        if row.reason not in LEFTOVERS:
            code = _CODES.get(row.reason, row.reason.split(",")[0].replace(" ", "-"))
            if code in _STRAY and row.path.suffix.lower() not in set().union(*_SUFFIXES.values()):
                code = "other-file"
            where = f" (line {row.line})" if row.line else ""
            yield Finding(code, row.name, row.reason + where, label=row.label, split=row.split)


def quality_findings(rows: Sequence[Example], measurements: NDArray[np.void]) -> Iterator[Finding]:
    """What is odd about single pictures.

    Args:
        rows: usable pictures.
        measurements: their records.
    """
    for row, seen in zip(rows, measurements, strict=True):
        for kind, detail in _odd(row, seen):
            yield Finding(kind, row.name, detail, label=row.label, split=row.split)


def _odd(row: Example, seen: NDArray[np.void]) -> Iterator[tuple[str, str]]:
    form = _FORMATS[int(seen["format"])]
    suffix = row.path.suffix.lower()
    if suffix not in _SUFFIXES[form]:
        yield "wrong-suffix", f"a {form} called {suffix or 'without a suffix'}"
    width, height = int(seen["width"]), int(seen["height"])
    if min(width, height) < _TINY:
        yield "tiny", f"{width} × {height} pixels"
    if max(width, height) > _LONG * min(width, height):
        yield "long", f"{width} × {height} pixels"
    if seen["orientation"] != 1:
        yield "rotated", f"EXIF orientation {seen['orientation']}, which is honoured"
    if seen["animated"]:
        yield "animated", "only the first frame is used"
    if seen["grey"]:
        yield "greyscale", "without colours"
    if seen["bright"] < _DARK:
        yield "dark", f"its brightest hundredth is at {seen['bright']:.0f} of 255"
    if seen["dark"] > _BLOWN_OUT:
        yield "blown-out", f"its darkest twentieth is at {seen['dark']:.0f} of 255"
    if seen["spread"] < _UNIFORM:
        yield "uniform", "hardly anything but one colour"
    elif min(width, height) >= SIDE and seen["detail"] < _BLURRY:
        yield "blurry", "hardly any fine details"


def class_findings(examples: Examples) -> Iterator[Finding]:
    """What is odd about classes: too small, imbalanced, missing in a split, of similar names."""
    counts = Counter(row.label for row in examples.rows if row.usable)
    trained = Counter(
        row.label for row in examples.rows if row.usable and row.split in ("", "train")
    )
    # A class whose files are all broken is one, too.
    named = {row.label for row in examples.rows if row.label and row.reason not in LEFTOVERS}
    for name in sorted(named | counts.keys()):
        if trained[name] < _FEW:
            yield Finding("small-class", name, f"{trained[name]} pictures to train on")
    if counts and max(counts.values()) > _IMBALANCE * min(counts.values()):
        (large, most), (small, least) = counts.most_common()[0], counts.most_common()[-1]
        detail = f"{most:,} pictures of {large}, {least:,} of {small}"
        yield Finding("imbalance", large, detail, other=small)
    yield from _missing(examples, named | counts.keys())
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted({row.label for row in examples.rows if row.label}):
        alike["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    for first, *others in alike.values():
        for other in others:
            yield Finding("similar-names", first, "different classes, or one?", other=other)


def _missing(examples: Examples, names: Set[str]) -> Iterator[Finding]:
    for split in SPLITS:
        present = {row.label for row in examples.of(split)}
        for name in sorted(names - present) if present else ():
            yield Finding("missing-in-split", name, f"no picture in {split}", split=split)


def described(examples: Examples, measurements: NDArray[np.void]) -> dict[str, Any]:
    """Numbers about a source: pictures by class and split, sizes, formats."""
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
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["problem", *columns])
    for each in findings:
        values = (getattr(each, column) for column in columns)
        writer.writerow(["yes" if each.is_problem else "no", *values])
    return table.getvalue()
