"""Writing a trained classifier to a folder, for Keras and for OpenVINO."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.model.backbone import Backbone
from efftune.model.engines import devices
from efftune.model.engines.engine import KERAS_FILE, OPENVINO_FILE
from efftune.model.uncertainty import Uncertainty
from efftune.system import files

CLASSES_FILE = "classes.json"
UNCERTAINTY_FILE = "uncertainty.npz"
UNCERTAINTY_FILE_BEFORE = "doubts.npz"  # its name in runs of earlier versions
_OPENVINO_FILES = (OPENVINO_FILE, "openvino/model.bin")


def save(
    folder: Path,
    backbone: Backbone,
    head: tuple[NDArray[np.float32], NDArray[np.float32]],
    class_names: Sequence[str],
    uncertainty: Uncertainty | None = None,
    *,
    mirrored: bool = False,
) -> dict[str, str]:
    """Write a classifier's files: Keras model, OpenVINO model, class names, uncertainty.

    Where OpenVINO is not installed, its model is written when the classifier is first used on a
    machine that has it.

    Args:
        folder: where to write them.
        backbone: the trained or pretrained backbone.
        head: kernel (features, classes), for the features of the last stage or of all, and bias
            (classes,).
        class_names: in the order of the head's outputs.
        uncertainty: temperature and thresholds.
        mirrored: average the logits of each picture and its mirror image.

    Returns:
        The SHA-256 of each file, by its path within the folder.
    """
    if uncertainty is not None:
        uncertainty.write(folder / UNCERTAINTY_FILE)
    with files.written_whole(folder / KERAS_FILE) as partial:
        backbone.keras_classifier(*head, mirrored=mirrored).save(partial)
    if devices.has_openvino():
        _write_openvino(folder, backbone, head, mirrored=mirrored)
    files.write(folder / CLASSES_FILE, json.dumps(list(class_names), indent=1, ensure_ascii=False))
    names = (KERAS_FILE, *_OPENVINO_FILES, CLASSES_FILE, UNCERTAINTY_FILE)
    return {name: files.sha256(folder / name) for name in names if (folder / name).exists()}


def _write_openvino(
    folder: Path,
    backbone: Backbone,
    head: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    mirrored: bool,
) -> None:
    from efftune.model.engines import openvino_engine

    is_published = not backbone.weights_changed and not mirrored
    output = backbone.features_of(head[0])
    converted = openvino_engine.converted(
        lambda: backbone.to_features(output),
        mirrored=mirrored,
        cached=backbone.conversion(openvino_engine, [output]) if is_published else None,
    )
    openvino_engine.write_classifier(openvino_engine.with_head(converted, *head), folder)


def summary(folder: Path) -> str:
    """Keras' layer summary of a run's classifier."""
    from efftune.model.engines.saved import load_keras

    lines: list[str] = []
    load_keras(folder).summary(line_length=100, print_fn=lambda line, **_: lines.append(line))
    return "\n".join(lines) + "\n"
