"""Predictions for any number of pictures, written in parts: each picture once, also after a stop.

A part is written whole or not at all. Its number tells which pictures are in it, so that those that
are there need not be computed again.
"""

import csv
import glob
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from efftune.data.sources import addresses
from efftune.delivery.exported import ExportedClassifier
from efftune.errors import DataError, UsageError
from efftune.model import saving
from efftune.model.classifier import Classifier
from efftune.model.prediction import Prediction
from efftune.system import files, packages

MANIFEST = "predictions.json"
PART = 10_000  # pictures
_SUFFIXES = {"csv": ".csv", "parquet": ".parquet"}
_DAMAGED = "Remove it, or name another folder with --into."


@dataclass(frozen=True)
class Form:
    """How predictions are written.

    Attributes:
        kind: of the files.
        top: number of classes of each picture, 1 or more.
        raw: write uncalibrated probabilities.
    """

    kind: Literal["csv", "parquet"] = "csv"
    top: int = 1
    raw: bool = False


@dataclass(frozen=True)
class Parts:
    """Predictions in the files of a folder.

    Attributes:
        folder: of the parts.
        parts: their number.
        pictures: in all of them, also those that cannot be decoded.
        computed: pictures that were not there before.
        classes: number of pictures by predicted class, most first.
        unsure: number of pictures whose confidence is too low to rely on.
        unlike: number of pictures unlike the training pictures.
        problems: number of pictures that cannot be decoded.
        seconds: that this took.
    """

    folder: Path
    parts: int
    pictures: int
    computed: int
    classes: dict[str, int]
    unsure: int
    unlike: int
    problems: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The result as values for JSON."""
        return {**vars(self), "folder": str(self.folder), "seconds": round(self.seconds, 1)}


def write(
    classifier: Classifier,
    paths: Sequence[Path],
    failures: Mapping[Path, str],
    folder: Path,
    form: Form,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Parts:
    """Write predictions in parts of `PART` pictures; those that are there are kept.

    A row is a picture: its path, the class, its probability, whether the answer is unsure, whether
    the picture is unlike those of training, and why it cannot be decoded; then, if more than one
    class is wanted, the next ones and their probabilities.

    Args:
        classifier: that predicts.
        paths: the pictures.
        failures: why others cannot be read, by path; they are listed behind these.
        folder: for the parts; new, or one that the same call has begun.
        form: of the files.
        on_progress: called with the number of pictures done and their total.

    Raises:
        UsageError: the folder holds something else, or cannot be written to; or pyarrow is not
            installed.
        DataError: a part is damaged.
        DiskFull: there is no room for a part.
    """
    if form.kind == "parquet" and find_spec("pyarrow") is None:
        raise UsageError(f"Parquet needs pyarrow. Run: {packages.install('efftune[parquet]')}")
    started, given = time.perf_counter(), [*paths, *failures]
    columns = _columns(min(form.top, len(classifier.class_names)))
    with _writing(folder):
        _begin(folder, _task(classifier, given, form))
    counts, computed = _Counts(classifier.class_names), 0
    for number, start in enumerate(range(0, len(given), PART)):
        part, name = given[start : start + PART], f"part-{number:06}{_SUFFIXES[form.kind]}"
        if not (folder / name).exists():

            def told(done: int, _total: int, start: int = start) -> None:
                on_progress(start + done, len(given))

            rows = list(_rows(classifier, part, failures, form, told))
            with _writing(folder):
                _write_part(folder / name, columns, rows)
            computed += len(part)
        counts.add(folder / name, len(part))
        on_progress(start + len(part), len(given))
    return Parts(
        folder,
        -(-len(given) // PART),
        len(given),
        computed,
        counts.classes,
        *(counts.unsure, counts.unlike, counts.problems),
        time.perf_counter() - started,
    )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"{folder} cannot be written: {error.strerror or error}."
        raise files.disk_full(error, folder) or UsageError(problem) from None


def _task(classifier: Classifier, given: Sequence[Path], form: Form) -> dict[str, str | int]:
    """What tells the parts of a call from those of others."""
    names = hashlib.sha256()
    for path in given:
        names.update(os.fsencode(addresses.shown(path) or "") + b"\0")
    return {
        "classifier": _identity(classifier),
        "pictures": len(given),
        "names": names.hexdigest(),
        "part": PART,
        **vars(form),
    }


def _identity(classifier: Classifier) -> str:
    """A checksum of the classifier's files, and of what its answers depend on besides."""
    if isinstance(classifier, ExportedClassifier):
        beside = sorted(classifier.path.parent.glob(f"{glob.escape(classifier.path.stem)}.*"))
        found = [files.sha256(path) for path in beside if path.is_file()]
    else:
        stored = saving.checksums(classifier.folder)  # OpenVINO's may be added later
        found = [stored[name] for name in sorted(stored) if not name.startswith("openvino")]
    known = classifier.uncertainty
    limits = None if known is None else (known.temperature, known.unsure_below, known.unlike_above)
    found += [repr(limits), classifier.precision, classifier.device]
    return hashlib.sha256(" ".join(found).encode()).hexdigest()


def _begin(folder: Path, task: Mapping[str, str | int]) -> None:
    """Begin a folder, or go on with it.

    Raises:
        UsageError: it holds something else.
    """
    manifest = folder / MANIFEST
    if manifest.is_file():
        try:
            begun = json.loads(manifest.read_bytes())
        except (ValueError, RecursionError):
            begun = None
        if begun == task:
            return
        raise UsageError(
            f"{folder} holds predictions of another classifier, for other pictures or in another "
            "form. Name another folder with --into."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists, and is not empty. Name a new folder with --into.")
    files.write(manifest, json.dumps(task, indent=1) + "\n")


def _columns(top: int) -> list[str]:
    further = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("label", "confidence")]
    return ["path", "label", "confidence", "unsure", "unlike", "problem", *further]


def _rows(
    classifier: Classifier,
    paths: Sequence[Path],
    failures: Mapping[Path, str],
    form: Form,
    on_progress: Callable[[int, int], None],
) -> Iterator[list[Any]]:
    """Rows of a part, one for each picture, in order."""
    readable = [path for path in paths if path not in failures]
    reasons = {path: failures[path] for path in paths if path in failures}
    found = iter(
        classifier.predict(
            *(readable, form.top),
            raw=form.raw,
            on_unreadable=reasons.__setitem__,
            on_progress=on_progress,
        )
    )
    further = 2 * (min(form.top, len(classifier.class_names)) - 1)
    for path in paths:
        name = addresses.shown(path)
        if path in reasons:
            yield [name, None, None, None, None, reasons[path], *[None] * further]
        else:
            yield [name, *_answer(next(found))]


def _answer(prediction: Prediction) -> list[Any]:
    further = [value for each in prediction.top[1:] for value in each]
    flags = [prediction.unsure, prediction.unlike]
    return [prediction.label, prediction.confidence, *flags, None, *further]


def _write_part(path: Path, columns: Sequence[str], rows: Sequence[list[Any]]) -> None:
    with files.written_whole(path) as partial:
        if path.suffix == _SUFFIXES["parquet"]:
            _write_parquet(partial, columns, rows)
            return
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            writer = files.csv_writer(stream)
            writer.writerow(columns)
            writer.writerows([_text(value) for value in row] for row in rows)


def _text(value: Any) -> str:
    """A value as CSV has it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _write_parquet(path: Path, columns: Sequence[str], rows: Sequence[list[Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {"confidence": pyarrow.float32(), "unsure": pyarrow.bool_(), "unlike": pyarrow.bool_()}
    schema = pyarrow.schema(
        [(name, kinds.get(name.split("_")[0], pyarrow.string())) for name in columns]
    )
    arrays = [
        pyarrow.array(map(_unicode, column), field.type)
        for column, field in zip(zip(*rows, strict=True), schema, strict=True)
    ]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), path)


def _unicode(value: Any) -> Any:
    """A value as parts have it: the names of files and classes may contain any bytes."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


class _Counts:
    """What the parts hold."""

    def __init__(self, class_names: Sequence[str]):
        self.unsure = self.unlike = self.problems = 0
        self._classes = dict.fromkeys(class_names, 0)

    @property
    def classes(self) -> dict[str, int]:
        """Pictures by class, most first, without classes that have none."""
        found = sorted(self._classes.items(), key=lambda each: -each[1])
        return {name: count for name, count in found if count}

    def add(self, path: Path, pictures: int) -> None:
        """Count the rows of a part.

        Raises:
            DataError: it is damaged.
        """
        try:
            labels, unsure, unlike = _read(path)
            names = {_unicode(name): name for name in self._classes}
            labels = [label and names[_unicode(label)] for label in labels]
            if len(labels) != pictures:
                raise ValueError(f"{len(labels):,} rows instead of {pictures:,}")
            for label in filter(None, labels):
                self._classes[label] += 1
        except (ValueError, LookupError, csv.Error, UnicodeError) as error:
            raise DataError(f"{path} is damaged: {error}. {_DAMAGED}") from None
        self.problems += sum(not label for label in labels)
        self.unsure += sum(value in (True, "yes") for value in unsure)
        self.unlike += sum(value in (True, "yes") for value in unlike)


def _read(path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Labels and flags of a part."""
    names = ("label", "unsure", "unlike")
    if path.suffix == _SUFFIXES["parquet"]:
        from pyarrow import parquet

        table = parquet.read_table(path, columns=list(names))  # raises ValueErrors
        labels, unsure, unlike = (table[name].to_pylist() for name in names)
    else:
        # Parts of earlier versions have the bytes of names as they were.
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            rows = list(csv.DictReader(stream))
        labels, unsure, unlike = ([row[name] for row in rows] for name in names)
    return labels, unsure, unlike
