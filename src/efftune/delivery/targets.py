"""What classifiers are exported for: the files that each application needs, and what it does."""

import io
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.delivery import applications, runtimes, target_files
from efftune.delivery.formats import Material
from efftune.delivery.runtimes import Loaded
from efftune.errors import BadImage, UsageError, unknown_name
from efftune.model.classifier import Classifier

Prepare = Callable[[bytes], Pixels]


@dataclass(frozen=True)
class Target:
    """Something that a classifier is exported for.

    Attributes:
        format: of its file, in `formats.FORMATS`.
        does: with a picture, in a sentence.
        write: writes the files beside the classifier's into a folder.
        load: loads the classifier's file, in the runtime that the application has.
        prepare: as the application does, from a photo's content, for a classifier. None: as the
            `predict.py` that is written.
        model_file: where the classifier's file goes in the folder.
        batch: how many pictures each call takes; any number if None.
        has_labels: whether `labels.txt` lies in the folder.
        training: settings with which a run gives the application what it will see.
        size: the only side of the input square that the application can use, in pixels.
    """

    format: str
    does: str
    write: Callable[[Material, Path], None]
    load: Callable[[Path], Loaded]
    prepare: Callable[[bytes, Classifier], Pixels] | None = None
    model_file: Callable[[Material], str] = lambda _: "model.tflite"
    batch: int | None = 1
    has_labels: bool = True
    training: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None

    def require(self, run: Path, image_size: int) -> None:
        """Check that the application can use a classifier.

        Args:
            run: its run folder.
            image_size: side of its input square, in pixels.

        Raises:
            UsageError: it cannot.
        """
        if self.size not in (None, image_size):
            name = next(name for name, each in TARGETS.items() if each is self)
            raise UsageError(
                f"For {name} a classifier takes {self.size} pixels; that of {run} takes "
                f"{image_size}. Train one with --for {name}."
            )

    def preparation(self, folder: Path, classifier: Classifier) -> Prepare:
        """What makes the pixels of a picture, uint8 (size, size, 3), from its content.

        Args:
            folder: with the files that were written.
            classifier: of the run.
        """
        prepare = self.prepare
        if prepare is None:
            return _script(next(folder.rglob("predict.py")))
        return lambda content: prepare(content, classifier)


def _script(path: Path) -> Prepare:
    """The `prepare` of a `predict.py` that was written."""
    made = runpy.run_path(str(path))["prepare"]

    def prepare(content: bytes) -> Pixels:
        try:
            return np.asarray(made(io.BytesIO(content)), np.uint8)
        except Exception:  # noqa: BLE001  (the decoders raise many)
            raise BadImage("predict.py cannot read it") from None

    return prepare


def _as_frigate_reads(path: Path) -> Loaded:
    """The file, whose scores Frigate divides by their sum."""
    loaded = runtimes.litert(path)

    def answer(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = loaded.answer(pixels)
        sums = scores.sum(axis=1, keepdims=True)
        return np.asarray(scores / np.where(sums > 0, sums, 1), np.float32)

    return replace(loaded, answer=answer)


def _sized(prepare: Callable[[bytes, int], Pixels]) -> Callable[[bytes, Classifier], Pixels]:
    return lambda content, classifier: prepare(content, classifier.image_size)


_STRETCHES = {"fit": "stretch"}
TARGETS: dict[str, Target] = {
    "mediapipe": Target(
        "litert-f16",
        "MediaPipe stretches the picture to a square, without averaging: so it was measured. The "
        "snippets cut the central square first, where the run crops.",
        *(target_files.write_mediapipe, runtimes.litert, _sized(applications.mediapipe)),
        training=_STRETCHES,
    ),
    "raspberry-pi": Target(
        "litert-int8",
        "predict.py makes the pixels with Pillow, as efftune does.",
        *(target_files.write_raspberry_pi, runtimes.litert),
    ),
    "frigate": Target(
        "litert-int8",
        "Frigate stretches its part of a frame to 224 x 224 pixels, without averaging.",
        *(target_files.write_frigate, _as_frigate_reads, _sized(applications.frigate)),
        has_labels=False,
        training=_STRETCHES | {"image_size": 224},
        size=224,
    ),
    "photoprism": Target(
        "onnx",
        "PhotoPrism cuts the central square, makes a thumbnail of it and stores that as JPEG.",
        *(target_files.write_photoprism, runtimes.onnx, _sized(applications.photoprism)),
        model_file=lambda material: (
            f"{target_files.safe_name(material)}/{target_files.safe_name(material)}.onnx"
        ),
        has_labels=False,
    ),
    "ovms": Target(
        "openvino",
        "OpenVINO Model Server decodes the bytes of a file and stretches the picture, without "
        "averaging. It ignores the orientation in EXIF.",
        *(target_files.write_model_server, runtimes.openvino, _sized(applications.model_server)),
        model_file=lambda material: f"{target_files.safe_name(material)}/1/model.xml",
        training=_STRETCHES,
    ),
    "triton": Target(
        "onnx",
        "Triton is given pixels: its client makes them, here as predict.py does.",
        *(target_files.write_triton, runtimes.onnx),
        model_file=lambda material: f"{target_files.safe_name(material)}/1/model.onnx",
        batch=None,
        has_labels=False,
    ),
    "browser": Target(
        "onnx",
        "The page decodes with the browser and makes the pixels as efftune does, but for large "
        "JPEG files, which it decodes at their full size.",
        *(target_files.write_browser, runtimes.onnx, applications.browser),
        model_file=lambda _: "model.onnx",
        has_labels=False,
    ),
    "python": Target(
        "onnx",
        "predict.py makes the pixels with Pillow, as efftune does.",
        *(target_files.write_python, runtimes.onnx),
        model_file=lambda _: "model.onnx",
    ),
}
ALIASES = {"android": "mediapipe"}


def find(name: str) -> Target:
    """A target by its name or its other name.

    Raises:
        UsageError: there is no such target.
    """
    name = ALIASES.get(name, name)
    if name not in TARGETS:
        raise unknown_name("target", name, [*TARGETS, *ALIASES])
    return TARGETS[name]
