"""OpenVINO models for other programs: without what only efftune needs, described in the file.

The description that Intel's Model API reads is in `rt_info/model_info`.

Source: `model_api/models`, https://github.com/open-edge-platform/model_api.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from efftune.model.engines import openvino_engine

_RESIZE_TYPES = {"stretch": "standard", "crop": "crop", "pad": "fit_to_window_letterbox"}
_GREY = "127"  # of `pad`


def probabilities(model: ov.Model) -> ov.Model:
    """The part of a model, as `openvino_engine.read_classifier` returns it, that classifies."""
    return ov.Model([model.output("probabilities")], model.get_parameters(), "classifier")


def divide_logits(model: ov.Model, temperature: float) -> None:
    """Change a model so that the logits are divided by a temperature."""
    if temperature == 1:
        return
    result = model.output("probabilities").get_node()
    softmax = result.input_value(0).get_node()
    (logits,) = softmax.input_values()
    softmax.input(0).replace_source_output(
        ops.multiply(logits, np.float32(1 / temperature)).output(0)
    )
    model.validate_nodes_and_infer_types()


def write(
    model: ov.Model, path: Path, metadata: Mapping[str, str], *, half: bool, batch: int | None
) -> None:
    """Write a model for other programs.

    Args:
        model: from pixels to `probabilities`. It is changed.
        path: of the `.xml`; the weights are written beside it.
        metadata: what programs can read from the file without running it.
        half: store weights that are floats in 16 bits.
        batch: how many pictures each call takes; any number if None.

    Raises:
        OSError: the files cannot be written.
    """
    if batch is not None:
        _, *sides = model.input().get_partial_shape()
        model.reshape([batch, *sides])
    for key, value in metadata.items():
        model.set_rt_info(value, ["efftune", key])
    for key, value in _for_model_api(metadata).items():
        model.set_rt_info(value, ["model_info", key])
    openvino_engine.write(model, path, half=half)


def _for_model_api(metadata: Mapping[str, str]) -> dict[str, str]:
    """What Model API reads; it takes pictures in the order of the channels that the model has."""
    labels = ("_".join(label.split()) or "_" for label in json.loads(metadata["classes"]))
    known = {
        "model_type": "Classification",
        "labels": " ".join(labels),  # which it splits at spaces
        "resize_type": _RESIZE_TYPES[metadata["fit"]],
        "pad_value": _GREY,
        "reverse_input_channels": "False",
        "output_raw_scores": "True",
        "confidence_threshold": metadata.get("unsure_below", "0"),
    }
    return {key: value.encode("utf-8", "backslashreplace").decode() for key, value in known.items()}
