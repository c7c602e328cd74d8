import json

import keras
import numpy as np
import pytest

from efftune.errors import DataError
from efftune.model import architectures, catalogue, graphs
from efftune.model.weights import readers
from efftune.model.weights.recognition import recognise
from efftune.model.weights_table import INCEPTION, OWN, SYMMETRIC, Graph
from model.conftest import SIZE, answers, distance, each, noise, shaken

B0 = catalogue.model("efficientnet-b0")
UNKNOWN = "f" * 64
SYMMETRIC_INCEPTION = Graph("symmetric", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        ("tf_efficientnet_b0_ns-c0e6a31c.pth", OWN),
        ("tf_efficientnet_b0_ap-f262efe1.pth", INCEPTION),
        ("tf_efficientnet_b0.ap_in1k.safetensors", INCEPTION),
        ("tf_efficientnet_b0.ap_in1k/model.safetensors", INCEPTION),
        ("tf_efficientnetv2_s_21ft1k-d7dafa41.pth", INCEPTION),
        ("tf_efficientnetv2_m.in21k_ft_in1k.bin", INCEPTION),
        ("tf_efficientnetv2_s-eb54923e.pth", OWN),
        ("efficientnet_b0_ra-3dd342df.pth", SYMMETRIC),
        ("efficientnet_b0.ra4_e3600_r224_in1k.safetensors", SYMMETRIC_INCEPTION),
        ("models--timm--efficientnet_b0.ra_in1k/snapshots/1a2b/model.safetensors", SYMMETRIC),
        ("models--timm--tf_efficientnet_b0.ap_in1k/snapshots/1a/pytorch_model.bin", INCEPTION),
        ("adv-efficientnet-b0-b64d5a18.pth", INCEPTION),
        ("efficientnet-b0-355c32eb.pth", OWN),
        ("efficientnet_b0/model.pth", OWN),  # any folder may be called so
        ("map_efficientnet_b0.pth", OWN),
        ("efficientnet_b0_ra.h5", OWN),  # not PyTorch's
        ("best.pth", OWN),
    ],
)
def test_name_of_a_timm_model_tells_its_graph(name, graph, tmp_path):
    assert recognise(B0, tmp_path / name, UNKNOWN) == graph


def test_published_file_is_known_whatever_it_is_called(tmp_path):
    by_name = {row.name: row.checksum.removeprefix("sha256:") for row in B0.others}
    path = tmp_path / "weights.pth"
    assert recognise(B0, path, by_name["advprop"] + "0" * 56) == INCEPTION
    assert recognise(B0, path, by_name["timm"] + "0" * 56) == SYMMETRIC
    assert recognise(B0, path, by_name["noisy-student"] + "0" * 56) == OWN


def test_configuration_of_the_hub_is_believed_before_the_name(tmp_path):
    path = tmp_path / "tf_efficientnet_b0.pth"
    config = {"architecture": "efficientnet_b0", "num_classes": 1000}
    described = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    expected = Graph("symmetric", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    for content in (config | {"pretrained_cfg": described}, config | described):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert recognise(B0, path, UNKNOWN) == expected
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')  # of another program
    assert recognise(B0, path, UNKNOWN) == OWN


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"architecture": 3}', '{"architecture": "efficientnet_b0", "mean": [1, 2]}'],
)
def test_damaged_configuration_is_an_error_that_names_it(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json, which is beside .* move the weights file"):
        recognise(B0, tmp_path / "model.safetensors", UNKNOWN)


@pytest.mark.long
@pytest.mark.parametrize("graph", [SYMMETRIC_INCEPTION])
@pytest.mark.parametrize(
    "name", each(["efficientnet-lite0", "efficientnet-b0", "efficientnet-v2-b0"], "lite0")
)
def test_keras_file_holds_its_graph(name, graph, tmp_path):
    """A network that a run has saved is the same network as weights of another run."""
    entry = catalogue.model(name)
    model = shaken(architectures.backbone(name, SIZE, graph=graph))
    path = tmp_path / "model.keras"
    model.save(path)
    again = architectures.backbone(name, SIZE, graph=recognise(entry, path, UNKNOWN))
    readers.load(again, path)
    assert distance(answers(again, noise()), answers(model, noise())) <= 1e-5


@pytest.mark.ci
def test_keras_file_of_the_familys_own_graph_is_its_own(tmp_path):
    name = "efficientnet-lite0"
    architectures.backbone(name, 32).save(tmp_path / "model.keras")
    assert recognise(catalogue.model(name), tmp_path / "model.keras", UNKNOWN) == OWN
    (tmp_path / "model.keras").write_bytes(b"PK")
    assert recognise(B0, tmp_path / "model.keras", UNKNOWN) == OWN


@pytest.mark.ci
def test_symmetric_padding_is_alike_on_all_sides():
    """And the convolutions keep their strides, so that all shapes stay the same."""
    model = graphs.rebuilt(architectures.backbone("efficientnet-lite0", 64), SYMMETRIC)
    stem = model.get_layer("stem_conv_pad")
    assert stem.padding == ((1, 1), (1, 1))
    pads = {layer.name: layer.padding for layer in model.layers if layer.name.endswith("_pad")}
    assert pads["block3a_dwconv_pad"] == ((2, 2), (2, 2))
    assert len(pads) == 5
    assert model.get_layer("top_conv").output.shape == (None, 2, 2, 1280)
    assert model.get_layer("stem_bn").epsilon == 1e-5


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("efficientnet-lite0", "preprocessing"),
        pytest.param("efficientnet-b0", "normalization", marks=pytest.mark.variant),
        pytest.param("efficientnet-v2-b0", "normalization", marks=pytest.mark.variant),
        pytest.param("efficientnet-v2-s", "rescaling", marks=pytest.mark.variant),
    ],
)
def test_preprocessing_of_inception_spans_minus_one_to_one(name, last):
    model = architectures.backbone(name, 32, graph=INCEPTION)
    scaled = keras.Model(model.input, model.get_layer(last).output)
    pixels = np.zeros((1, 32, 32, 3), np.float32)
    for value, expected in ((0, -1), (127.5, 0), (255, 1)):
        assert answers(scaled, pixels + value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.ci
def test_network_with_another_graph_is_converted_as_it_is():
    """The engine computes what Keras does, with one scale per channel and padding of its own."""
    from model.test_architectures import as_openvino

    model = shaken(architectures.backbone("efficientnet-lite0", 75, graph=SYMMETRIC))
    pixels = noise(2, 75)
    assert distance(as_openvino(model, pixels), answers(model, pixels)) <= 1e-4
