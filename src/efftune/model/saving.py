"""Writing a trained classifier to a folder, for Keras and for OpenVINO."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efftune.model.backbone import Backbone
from efftune.model.engines import devices
from efftune.model.engines.engine import KERAS_FILE, OPENVINO_FILE
from efftune.model.tensors import set_weights
from efftune.model.uncertainty import Uncertainty
from efftune.system import files

if TYPE_CHECKING:
    import keras

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
        head: kernel (features, classes) and bias (classes,), as for `keras_classifier`.
        class_names: in the order of the head's outputs.
        uncertainty: temperature and thresholds.
        mirrored: average the logits of each picture and its mirror image.

    Returns:
        The SHA-256 of each file, by its path within the folder.
    """
    if uncertainty is not None:
        uncertainty.write(folder / UNCERTAINTY_FILE)
    with files.written_whole(folder / KERAS_FILE) as partial:
        keras_classifier(backbone, *head, mirrored=mirrored).save(partial)
    if devices.has_openvino():
        shutil.rmtree((folder / OPENVINO_FILE).parent, ignore_errors=True)  # of a stopped run
        _write_openvino(folder, backbone, head, mirrored=mirrored)
    files.write(folder / CLASSES_FILE, json.dumps(list(class_names), indent=1, ensure_ascii=False))
    return checksums(folder)


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a saved classifier, by its path within the folder."""
    names = (KERAS_FILE, *_OPENVINO_FILES, CLASSES_FILE, UNCERTAINTY_FILE)
    return {name: files.sha256(folder / name) for name in names if (folder / name).exists()}


def keras_classifier(
    backbone: Backbone,
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    *,
    mirrored: bool = False,
) -> "keras.Model":
    """A backbone's graph with a softmax head on top.

    Args:
        backbone: the trained or pretrained backbone.
        kernel: the head's weights, shape (features, classes), for the features of the last stage,
            of all stages, or of all members of an ensemble.
        bias: the head's bias, shape (classes,).
        mirrored: average the logits of each picture and its mirror image.

    Returns:
        A model from float32 pixels to float32 probabilities (batch, classes).
    """
    import keras
    from keras import layers, ops

    from efftune.model.initial_weights import drawn_by_numpy

    network = backbone.to_features(backbone.features_of(kernel))
    pixels, features = network.input, network.output
    if mirrored:
        pixels = keras.Input(pixels.shape[1:], name="pixels")
        both = [network(pixels), network(ops.flip(pixels, axis=2))]
        features = layers.Average(name="both")(both)
    x = layers.Dropout(0.2, name="dropout")(features)
    logits = layers.Dense(len(bias), name="logits")
    with drawn_by_numpy():  # and replaced at once
        probabilities = layers.Softmax(name="probabilities", dtype="float32")(logits(x))
    set_weights(logits, [kernel, bias])
    return keras.Model(pixels, probabilities, name=f"{backbone.entry.short_name}-classifier")


def _write_openvino(
    folder: Path,
    backbone: Backbone,
    head: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    mirrored: bool,
) -> None:
    from efftune.model.engines import openvino_engine, openvino_heads

    is_published = not backbone.weights_changed and not mirrored
    output = backbone.features_of(head[0])
    converted = openvino_engine.converted(
        lambda: backbone.to_features(output),
        mirrored=mirrored,
        cached=backbone.conversion(openvino_engine, [output]) if is_published else None,
    )
    openvino_engine.write_classifier(openvino_heads.with_head(converted, *head), folder)


def summary(folder: Path) -> str:
    """Keras' layer summary of a run's classifier."""
    from efftune.model.engines.saved import load_keras

    lines: list[str] = []
    load_keras(folder).summary(line_length=100, print_fn=lambda line, **_: lines.append(line))
    return "\n".join(lines) + "\n"
