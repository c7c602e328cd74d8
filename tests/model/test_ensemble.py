import numpy as np
import pytest
from keras import layers, ops

from efftune.model import catalogue, folding, saving
from efftune.model.backbone import MEMBER_FEATURES, Backbone
from efftune.model.engines import openvino_engine
from efftune.model.engines.saved import load_keras

from .conftest import distance, each, shaken


def upper_layers(backbone, block):
    """The layers from a block up."""
    names = [layer.name for layer in backbone.keras_model.layers]
    first = next(i for i, name in enumerate(names) if name.startswith(f"{block}_"))
    return backbone.keras_model.layers[first:]


def changed(backbone, block, factor):
    """Change the convolutions of the layers from a block up."""
    for layer in upper_layers(backbone, block):
        if layer.name.endswith("_conv"):
            layer.set_weights([factor * each for each in layer.get_weights()])


def with_members(name, block, size=40):
    """An ensemble of two, its pictures, and the features of each of them."""
    backbone = Backbone(name, size, weights="none")
    shaken(backbone.keras_model)
    before = backbone.keras_model.get_weights()
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.float32)
    block, features = backbone.block(block), []
    for factor in (1.01, 0.98):
        changed(backbone, block, factor)
        features.append(ops.convert_to_numpy(backbone.keras_model(pixels)))
        backbone.add_member(block)
        backbone.keras_model.set_weights(before)
    return backbone, pixels, features


@pytest.mark.ci
@pytest.mark.parametrize("name", each((row.name for row in catalogue.MODELS), ("-lite0",)))
def test_features_of_an_ensemble_are_those_of_its_members(name):
    backbone, pixels, features = with_members(name, "block3")
    together = ops.convert_to_numpy(backbone.to_features(MEMBER_FEATURES)(pixels))
    assert together.shape == (2, *backbone.shape(MEMBER_FEATURES))
    assert distance(features[0], features[1]) > 1e-3
    # The same operations: a layer that is not quite the same changes little in such a network.
    assert distance(together, np.concatenate(features, axis=1)) <= 1e-6


@pytest.mark.long
def test_folded_ensemble_gives_the_outputs_of_the_plain_one():
    backbone, pixels, _ = with_members("efficientnet-lite0", "block6")
    plain = backbone.to_features(MEMBER_FEATURES)
    fast = folding.folded(plain, plain.input, plain.outputs)
    assert not any(isinstance(each, layers.BatchNormalization) for each in fast.layers)
    expected = ops.convert_to_numpy(plain(pixels))
    assert distance(ops.convert_to_numpy(fast(pixels)), expected) <= 1e-5


@pytest.mark.ci
def test_only_the_blocks_of_their_own_are_copied():
    backbone, _, _ = with_members("efficientnet-lite0", "block6")
    own = sum(each.count_params() for each in upper_layers(backbone, "block6a"))
    ensemble = backbone.to_features(MEMBER_FEATURES)
    shared = backbone.keras_model.count_params() - own
    assert ensemble.count_params() == shared + 2 * own


@pytest.mark.ci
@pytest.mark.parametrize("mirrored", [pytest.param(False, marks=pytest.mark.long), True])
def test_saved_ensemble_averages_the_logits_of_its_members(tmp_path, mirrored):
    backbone, pixels, features = with_members("efficientnet-lite0", "block6", size=32)
    random = np.random.default_rng(1)
    kernels = [random.normal(size=(1280, 3)).astype(np.float32) for _ in features]
    bias = random.normal(size=3).astype(np.float32)
    head = (np.concatenate(kernels) / np.float32(2), bias)
    if mirrored:
        both = backbone.to_features(MEMBER_FEATURES)
        halves = [ops.convert_to_numpy(both(each)) for each in (pixels, pixels[:, :, ::-1])]
        features = np.split(sum(halves) / 2, 2, axis=1)
    logits = sum(each @ kernel for each, kernel in zip(features, kernels, strict=True)) / 2 + bias
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    saving.save(tmp_path, backbone, head, ["a", "b", "c"], mirrored=mirrored)
    assert np.abs(ops.convert_to_numpy(load_keras(tmp_path)(pixels)) - expected).max() <= 1e-4
    rows = []
    network = openvino_engine.classifier(tmp_path, size=32, has_features=False)
    network.run(
        range(2),
        lambda i: pixels[i : i + 1].astype(np.uint8),
        lambda _i, _view, values: rows.append(values[0].copy()),
    )
    assert np.abs(np.array(rows) - expected).max() <= 1e-4


@pytest.mark.ci
def test_members_are_forgotten_with_their_training():
    backbone, *_ = with_members("efficientnet-lite0", "block7", size=32)
    before = backbone.keras_model.get_weights()
    assert backbone.weights_changed
    backbone.restore(before)
    assert not backbone.weights_changed
    assert backbone.shape(MEMBER_FEATURES) == (0,)
    assert backbone.features_of(np.zeros((1280, 3))) == "features"
