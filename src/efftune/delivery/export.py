"""Exports of a run: files for other programs, each judged before it is kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from efftune.delivery import receipt as receipts
from efftune.delivery import runtimes
from efftune.delivery.receipt import Originals, Receipt
from efftune.delivery.runtimes import Loaded
from efftune.errors import DataError, UsageError, unknown_name
from efftune.model import catalogue
from efftune.model.classifier import Classifier
from efftune.recipe.recipe import Recipe
from efftune.report import model_card
from efftune.system import files

LABELS_FILE = "labels.txt"


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        file: its name.
        bound: on the gap between its probabilities and the classifier's, for the same pixels.
        write: writes it, from the run folder, its metadata and the number of pictures in a call.
        load: loads it in the runtime that it is for.
        needs: packages for that.
    """

    file: str
    bound: float
    write: Callable[[Path, Path, Mapping[str, str], int | None], None]
    load: Callable[[Path], Loaded]
    needs: tuple[str, ...] = ("openvino",)


@dataclass(frozen=True)
class Export:
    """A file that was exported.

    Attributes:
        path: of the file.
        receipt: what it answers on the run's pictures.
    """

    path: Path
    receipt: Receipt


def _write_onnx(run: Path, path: Path, metadata: Mapping[str, str], batch: int | None) -> None:
    from efftune.delivery import onnx_file
    from efftune.model.engines import openvino_engine

    onnx_file.write(openvino_engine.read_classifier(run), path, metadata, batch=batch)


def _write_openvino(
    run: Path, path: Path, metadata: Mapping[str, str], batch: int | None, *, half: bool = False
) -> None:
    from efftune.delivery import openvino_file
    from efftune.model.engines import openvino_engine

    model = openvino_engine.read_classifier(run)
    openvino_file.write(model, path, metadata, half=half, batch=batch)


def _write_litert(
    run: Path, path: Path, metadata: Mapping[str, str], _batch: int | None, *, half: bool = False
) -> None:
    from efftune.delivery import litert_file

    litert_file.convert(run, path, "f16" if half else "f32")
    labels = [_line(label) for label in json.loads(metadata["classes"])]
    threshold = float(metadata.get("unsure_below", 0))
    litert_file.describe(path, labels, metadata, threshold)


_FOR_LITERT = ("tensorflow", "ai_edge_litert")
FORMATS: dict[str, Format] = {
    "onnx": Format(
        *("model.onnx", 1e-5, _write_onnx, runtimes.onnx), ("openvino", "onnx", "onnxruntime")
    ),
    "openvino": Format("model.xml", 1e-4, _write_openvino, runtimes.openvino),
    "openvino-f16": Format(
        "model.xml", 0.05, partial(_write_openvino, half=True), runtimes.openvino
    ),
    "litert": Format("model.tflite", 1e-4, _write_litert, runtimes.litert, _FOR_LITERT),
    "litert-f16": Format(
        "model.tflite", 0.05, partial(_write_litert, half=True), runtimes.litert, _FOR_LITERT
    ),
}


@dataclass(frozen=True)
class Exportable:
    """A run that is exported.

    Attributes:
        record: its `run.json`.
        recipe: of it.
        originals: what its classifier answers.
    """

    record: Mapping[str, Any]
    recipe: Recipe
    originals: Originals

    @property
    def classifier(self) -> Classifier:
        """That of the run."""
        return self.originals.classifier


def require_possible(names: Sequence[str], into: Path) -> None:
    """Check what can be known before anything is written.

    Args:
        names: of formats.
        into: the folder for a folder of each format.

    Raises:
        UsageError: there are no formats, or one is unknown; what it needs is not installed; or
            there is something else in its place.
    """
    if not names:
        raise UsageError(f"Name a format: {', '.join(FORMATS)}.")
    for name in names:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
        missing = [package for package in FORMATS[name].needs if find_spec(package) is None]
        if missing:
            packages = " ".join(each.replace("_", "-") for each in missing)
            raise UsageError(f"Format {name} needs {packages}. Run: pip install {packages}")
        folder = into / name
        is_other = folder.exists() and not (folder / receipts.FILE).is_file()
        if is_other and not (folder.is_dir() and not any(folder.iterdir())):
            raise UsageError(
                f"{folder} exists and is no export of efftune. Choose another place with --into."
            )


def export(
    run: Exportable,
    name: str,
    folder: Path,
    batch: int | None,
    on_progress: Callable[[int, int], None],
) -> Export:
    """Write a classifier in another format, and keep the file if it answers alike.

    Args:
        run: whose classifier.
        name: of the format, as in `FORMATS`.
        folder: for the file, its labels, its receipt and its model card; an export that is there
            is replaced.
        batch: how many pictures each call takes, 1, or any number if None.
        on_progress: called with the number of pictures judged and their total.

    Raises:
        UsageError: the folder cannot be written to.
        DiskFull: there is no room for the file.
        DataError: the file answers otherwise than the classifier.
    """
    wanted = FORMATS[name]
    try:
        with files.folder_written_whole(folder, replace=True) as partial:
            path = partial / wanted.file
            wanted.write(run.classifier.folder, path, _metadata(run), batch)
            size = sum(each.stat().st_size for each in partial.iterdir())
            measured = receipts.judge(lambda: wanted.load(path), run.originals, on_progress)
            made = Receipt(format=name, file=path.name, bytes=size, bound=wanted.bound, **measured)
            _require_alike(made, run)
            labels = "".join(f"{_line(label)}\n" for label in run.classifier.class_names)
            files.write(partial / LABELS_FILE, labels)
            text = json.dumps(made.to_dict(), indent=1, ensure_ascii=False)
            files.write(partial / receipts.FILE, text + "\n")
            model_card.write(run.classifier.folder, partial, receipt=made.to_dict())
    except OSError as error:
        place = f"Cannot write to {folder}: {error.strerror or error}."
        full = files.disk_full(error, folder)
        raise full or UsageError(f"{place} Choose another place with --into.") from None
    return Export(folder / wanted.file, made)


def _line(name: str) -> str:
    """A name as a line of a text file, which programs number."""
    return " ".join(name.splitlines())


def _metadata(run: Exportable) -> dict[str, str]:
    """What programs can read from a file without running it, in ASCII."""
    classifier, model = run.classifier, run.record["model"]
    known = {
        "producer": f"efftune {version('efftune')}",
        "run": classifier.folder.resolve().name,
        "model": model["name"],
        "weights": model["weights"],
        "classes": json.dumps(classifier.class_names),
        "input": "float32, red, green and blue, 0 to 255, (batch, height, width, 3)",
        "image_size": str(classifier.image_size),
        "fit": str(classifier.fit),
        "output": "calibrated probabilities, float32 (batch, classes)",
    }
    if licence := catalogue.licence(model, run.recipe.backbone.weights):
        known["licence"] = licence
    if classifier.uncertainty is not None:
        known["unsure_below"] = repr(classifier.uncertainty.unsure_below)  # may be just above 1
        known["temperature"] = f"{classifier.uncertainty.temperature:.6f}"
    return {key: value.encode("ascii", "backslashreplace").decode() for key, value in known.items()}


def _require_alike(made: Receipt, run: Exportable) -> None:
    """Check the gaps for the same pixels.

    Raises:
        DataError: one is beyond the bound.
    """
    worst = max(made.same_pixels, key=lambda score: score.largest_gap)
    if worst.largest_gap > made.bound:
        raise DataError(
            f"The {made.format} file answers otherwise than {run.classifier.folder}: for the same "
            f"pixels of {worst.worst}, a probability differs by {worst.largest_gap:.2g}, and "
            f"{made.bound:g} is the most. {worst.agreement:.1%} of the first answers agree. The "
            "file was not kept. Please report that."
        )
