import json

import keras
import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
from openvino import opset13 as ops

from efftune.delivery import onnx_file
from efftune.errors import DataError
from efftune.model.architectures import build
from efftune.model.engines.conversion import convert
from model.conftest import shaken

SIZE = 64


def answers(path, pixels):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pixels": pixels})
    return found


def pixels(count):
    return np.random.default_rng(1).uniform(0, 255, (count, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-lite0",
        pytest.param("efficientnet-b0", marks=pytest.mark.variant),
        pytest.param("efficientnet-v2-b0", marks=pytest.mark.variant),
        pytest.param("efficientnet-v2-s", marks=pytest.mark.variant),
    ],
)
def test_onnx_answers_as_keras(tmp_path, name, mirrored):
    model = build(name, weights=None, include_top=False, pooling="avg", image_size=SIZE)
    shaken(model)
    converted = convert(model, mirrored=mirrored)
    output = converted.output(0).get_any_name()
    onnx_file.write(converted, tmp_path / "model.onnx", {}, output=output)
    batch = pixels(3)
    expected = keras.ops.convert_to_numpy(model(batch))
    if mirrored:
        expected = (expected + keras.ops.convert_to_numpy(model(batch[:, :, ::-1]))) / 2
    found = answers(tmp_path / "model.onnx", batch)
    assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.fixture
def small():
    """From pixels to the means of the colours."""
    entry = ops.parameter([-1, SIZE, SIZE, 3], np.float32, "pixels")
    entry.output(0).tensor.set_names({"pixels"})
    means = ops.reduce_mean(entry, np.array([1, 2]), keep_dims=False)
    means.output(0).tensor.set_names({"probabilities"})
    return ov.Model([means], [entry], "means")


@pytest.mark.parametrize("batch", [None, 1])
def test_file_describes_itself(small, tmp_path, batch):
    onnx_file.write(small, tmp_path / "model.onnx", {"classes": '["a", "ü"]'}, batch=batch)
    document = onnx.load(tmp_path / "model.onnx")
    assert {each.key: json.loads(each.value) for each in document.metadata_props} == {
        "classes": ["a", "ü"]
    }
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (entry,), (output,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.shape) == ("pixels", [batch or "batch", SIZE, SIZE, 3])
    assert (output.name, output.shape) == ("probabilities", [batch or "batch", 3])
    some = pixels(batch or 2)
    assert answers(tmp_path / "model.onnx", some) == pytest.approx(some.mean(axis=(1, 2)), rel=1e-4)


def test_operation_without_counterpart_is_refused(small, tmp_path):
    entry = small.get_parameters()[0]
    odd = ops.hard_sigmoid(entry, np.float32(0.2), np.float32(0.5))
    odd.output(0).tensor.set_names({"probabilities"})
    with pytest.raises(DataError, match="HardSigmoid"):
        onnx_file.write(ov.Model([odd], [entry], "odd"), tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())
