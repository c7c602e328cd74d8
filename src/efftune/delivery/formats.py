"""The kinds of files that a classifier can be exported to, and how each is written and loaded."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.delivery import runtimes
from efftune.delivery.runtimes import Loaded
from efftune.model.classifier import Classifier


@dataclass(frozen=True)
class Material:
    """What a file is written from.

    Attributes:
        classifier: of the run.
        metadata: what programs can read from the file without running it.
        batch: how many pictures each call takes; any number if None.
        scratch: a folder for files that are needed for a while.
        decode_calibration: decodes training pictures, for the ranges of values in 8 bits: uint8
            (pictures, size, size, 3).
        judged: gives some pictures that choose between ways to write it, uint8 (pictures, size,
            size, 3), and the numbers of the classes that they should be given, int64 (pictures,).
        max_drop: by how much the share of these that are given them may drop, 0 to 1.
        browser_runtime: the archive of ONNX Runtime Web, if it is needed.
        temperature: to divide the logits by, beside the classifier's own, for files of 8 bits.
    """

    classifier: Classifier
    metadata: Mapping[str, str]
    batch: int | None
    scratch: Path
    decode_calibration: Callable[[], Pixels]
    judged: Callable[[], tuple[Pixels, NDArray[np.int64]]]
    max_drop: float
    browser_runtime: Path | None = None
    temperature: float = 1.0

    def recalibrated(self, temperature: float) -> "Material":
        """The same for a file whose logits are divided by a temperature, too."""
        total = float(self.metadata["temperature"]) * temperature
        metadata = {**self.metadata, "temperature": f"{total:.6f}"}
        return replace(self, metadata=metadata, temperature=temperature)

    @property
    def run_name(self) -> str:
        """That of the run folder."""
        return self.classifier.folder.resolve().name

    @property
    def labels(self) -> list[str]:
        """The classes, one line each."""
        return [as_line(label) for label in json.loads(self.metadata["classes"])]

    @property
    def labels_text(self) -> str:
        """The text of a file of the classes."""
        return "".join(f"{label}\n" for label in self.labels)

    @property
    def calibration(self) -> Path:
        """The `.npy` file of the pictures to calibrate with, in `scratch`."""
        path = self.scratch / "calibration.npy"
        if not path.exists():
            pixels = np.array(self.decode_calibration())
            pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255  # bytes in are to be the pixels themselves
            np.save(path, pixels)
        return path


Write = Callable[[Material, Path], None]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        file: its name; a folder's if it has no suffix.
        ways: to write it, by name: the first whose file answers well enough is taken.
        bound: on the gap between its probabilities and the classifier's, for the same pixels. None
            if they may differ: then the accuracy may drop by at most `Material.max_drop`.
        load: loads it in the runtime that it is for.
        needs: packages for that.
    """

    file: str
    ways: Mapping[str, Write]
    bound: float | None
    load: Callable[[Path], Loaded]
    needs: tuple[str, ...] = ("openvino",)


def as_line(name: str) -> str:
    """A name as a line of a text file, which programs number."""
    return " ".join(name.splitlines())


def _write_onnx(material: Material, path: Path) -> None:
    from efftune.delivery import onnx_file
    from efftune.model.engines import openvino_engine

    model = openvino_engine.read_classifier(material.classifier.folder)
    onnx_file.write(model, path, material.metadata, batch=material.batch)


def _write_openvino(material: Material, path: Path, *, half: bool = False) -> None:
    from efftune.delivery import openvino_file
    from efftune.model.engines import openvino_engine

    model = openvino_file.probabilities(openvino_engine.read_classifier(material.classifier.folder))
    openvino_file.divide_logits(model, material.temperature)
    openvino_file.write(model, path, material.metadata, half=half, batch=material.batch)


def _write_openvino_int8(material: Material, path: Path, *, careful: bool = False) -> None:
    from efftune.delivery import openvino_file
    from efftune.model.engines import openvino_engine

    quantized = material.scratch / ("careful.xml" if careful else "quantized.xml")
    if not quantized.exists():
        _quantize(material, quantized, careful=careful)
    model = openvino_engine.read(quantized)
    openvino_file.divide_logits(model, material.temperature)
    openvino_file.write(model, path, material.metadata, half=True, batch=material.batch)


def _quantize(material: Material, path: Path, *, careful: bool) -> None:
    """Have NNCF quantize the model."""
    from efftune.delivery import converters

    words = [str(material.calibration)]
    if careful:
        judged = material.scratch / "judged.npz"
        pixels, classes = material.judged()
        drop = np.float64(material.max_drop)
        np.savez(judged, pixels=pixels, classes=classes, max_drop=drop)
        words.append(str(judged))
    converters.convert("nncf_conversion", material.classifier.folder, path, *words)


def _write_litert(material: Material, path: Path, *, kind: str) -> None:
    from efftune.delivery import converters, litert_file

    words = [kind, repr(material.temperature)]
    words += [str(material.calibration)] if kind == "int8" else []
    converters.convert("tensorflow_conversion", material.classifier.folder, path, *words)
    known = dict(material.metadata)
    if kind in ("int8", "f16-bytes"):
        known |= {each: known[each].replace("float32", "uint8") for each in ("input", "output")}
    threshold = float(known.get("unsure_below", 0))
    litert_file.describe(path, material.labels, known, threshold)


def _write_saved_model(material: Material, path: Path) -> None:
    from efftune.delivery import converters

    kind = "saved" if material.batch is None else "saved-1"
    converters.convert("tensorflow_conversion", material.classifier.folder, path, kind)


# Bounds on gaps of probabilities. Programs that compute in float32 differ by up to 1e-5, and by
# somewhat more where a head is steep, as each is that far from what float64 gives.
_NEARLY, _HALF = 1e-4, 0.05
_FOR_ONNX = ("openvino", "onnx", "onnxruntime")
_FOR_NNCF = ("openvino", "nncf")
_FOR_LITERT = ("tensorflow", "ai_edge_litert")
FORMATS: dict[str, Format] = {
    "onnx": Format("model.onnx", {"float32": _write_onnx}, _NEARLY, runtimes.onnx, _FOR_ONNX),
    "openvino": Format("model.xml", {"float32": _write_openvino}, _NEARLY, runtimes.openvino),
    "openvino-f16": Format(
        "model.xml", {"float16": partial(_write_openvino, half=True)}, _HALF, runtimes.openvino
    ),
    "openvino-int8": Format(
        "model.xml",
        {
            "int8": _write_openvino_int8,
            "int8, worst layers float16": partial(_write_openvino_int8, careful=True),
            "float16": partial(_write_openvino, half=True),
        },
        *(None, runtimes.openvino, _FOR_NNCF),
    ),
    "litert": Format(
        "model.tflite",
        {"float32": partial(_write_litert, kind="f32")},
        *(_NEARLY, runtimes.litert, _FOR_LITERT),
    ),
    "litert-f16": Format(
        "model.tflite",
        {"float16": partial(_write_litert, kind="f16")},
        *(_HALF, runtimes.litert, _FOR_LITERT),
    ),
    "litert-int8": Format(
        "model.tflite",
        {
            "int8": partial(_write_litert, kind="int8"),
            "float16": partial(_write_litert, kind="f16-bytes"),
        },
        *(None, runtimes.litert, _FOR_LITERT),
    ),
    "savedmodel": Format(
        "model",
        {"float32": _write_saved_model},
        *(_NEARLY, runtimes.saved_model, ("tensorflow",)),
    ),
}
