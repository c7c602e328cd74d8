import keras
import numpy as np
import pytest
from keras import layers

from efftune.model import lite
from efftune.model.engines import openvino_engine, openvino_heads
from efftune.model.engines.conversion import convert
from efftune.model.engines.openvino_engine import Network
from model.conftest import each, shaken


def run(model, pixels):
    result = np.zeros(
        (len(pixels), model.output(0).get_partial_shape()[1].get_length()), np.float32
    )

    def deliver(i, _number, outputs):
        result[i] = outputs[0]

    network = Network(lambda: model, size=pixels.shape[1])
    network.run(range(len(pixels)), lambda i: pixels[i][None], deliver)
    return result


@pytest.mark.ci
@pytest.mark.parametrize("name", each(lite.VARIANTS))
@pytest.mark.parametrize("size", [64, 75])
def test_converted_model_gives_the_same_outputs(name, size):
    model = shaken(lite.backbone(name, size))
    pixels = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    expected = model.predict(pixels.astype(np.float32), verbose=0)
    assert np.abs(run(convert(model), pixels) - expected).max() <= 1e-4 * max(1, expected.max())


def test_layer_without_counterpart_is_refused():
    entry = keras.Input((8, 8, 3))
    x = layers.UpSampling2D(name="bigger")(entry)
    model = keras.Model(entry, layers.GlobalAveragePooling2D()(x))
    with pytest.raises(TypeError, match=r"UpSampling2D \(bigger\)"):
        convert(model)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, dilation_rate=2, name="odd"),
        layers.Conv2D(3, 3, groups=3, name="odd"),
        layers.Conv2D(4, 3, activation="tanh", name="odd"),
        layers.DepthwiseConv2D(3, name="odd"),
        layers.Reshape((2, 2, 48), name="odd"),
    ],
)
def test_layer_of_another_form_is_refused(layer):
    entry = keras.Input((8, 8, 3))
    with pytest.raises(TypeError, match="odd: "):
        convert(keras.Model(entry, layers.GlobalAveragePooling2D()(layer(entry))))


@pytest.mark.ci
def test_head_is_carried_on_to_probabilities():
    random = np.random.default_rng(0)
    backbone = convert(lite.backbone("efficientnet-lite0", 32))
    kernel = random.normal(size=(1280, 5)).astype(np.float32)
    bias = random.normal(size=5).astype(np.float32)
    pixels = random.integers(0, 256, (2, 32, 32, 3), np.uint8)
    logits = run(backbone, pixels) @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert run(openvino_heads.with_head(backbone, kernel, bias), pixels) == pytest.approx(
        expected, abs=1e-5
    )


def test_written_model_reads_back_and_needs_its_files_no_more(tmp_path):
    backbone = convert(lite.backbone("efficientnet-lite0", 32))
    openvino_engine.write(backbone, tmp_path / "model.xml")
    again = openvino_engine.read(tmp_path / "model.xml")
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    assert (run(again, pixels) == run(backbone, pixels)).all()
