import keras
import numpy as np
import pytest
from keras import layers, ops

from efftune.model.backbone import Backbone
from efftune.model.folded_layers import (
    FLOAT32,
    NO_PADDING,
    Arithmetic,
    FoldedConvolution,
    FusedNorm,
    same_padding,
    shifted,
)
from efftune.model.folding import trainable_norms
from model.conftest import distance, shaken


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-lite0", 64)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.float32)


@pytest.mark.ci
@pytest.mark.parametrize("block", ["pixels", "block1a", "block2a", "block5b", "block6a", "block7a"])
def test_folded_part_gives_the_outputs_of_the_plain_one(backbone, pixels, block):
    inputs, plain = pixels, backbone.keras_model
    if block != "pixels":
        lower, plain = backbone.cut(block)
        inputs = lower(pixels)
    expected = ops.convert_to_numpy(plain(inputs))
    found = ops.convert_to_numpy(backbone.upper(block, FLOAT32)(inputs))
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("efficientnet-b0", "block3b"),
        pytest.param("efficientnet-v2-b0", "pixels", marks=pytest.mark.variant),
        pytest.param("efficientnet-b0", "pixels", marks=pytest.mark.variant),
        pytest.param("efficientnet-v2-b0", "block3b", marks=pytest.mark.variant),
    ],
)
def test_other_families_are_folded_too(name, block, pixels):
    backbone = Backbone(name, 64, weights="none")
    shaken(backbone.keras_model)
    inputs, plain = pixels, backbone.keras_model
    if block != "pixels":
        block = backbone.block(block)
        lower, plain = backbone.cut(block)
        inputs = lower(pixels)
    part = backbone.upper(block, FLOAT32)
    assert not [each for each in part.layers if isinstance(each, layers.BatchNormalization)]
    expected = ops.convert_to_numpy(plain(inputs))
    assert distance(ops.convert_to_numpy(part(inputs)), expected) <= 1e-4


def test_bfloat16_products_stay_close(backbone, pixels):
    lower, plain = backbone.cut("block6a")
    inputs = lower(pixels)
    expected = ops.convert_to_numpy(plain(inputs))
    found = ops.convert_to_numpy(backbone.upper("block6a", Arithmetic("bfloat16"))(inputs))
    assert 1e-4 < np.abs(found - expected).max() <= 0.25
    assert np.abs(found - expected).mean() <= 0.01


@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-lite0",
        "efficientnet-b0",
        pytest.param("efficientnet-v2-b0", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("fold", [True, False])
def test_short_activations_stay_close(name, fold, pixels):
    backbone = Backbone(name, 64, weights="none")
    shaken(backbone.keras_model)
    expected = ops.convert_to_numpy(backbone.keras_model(pixels))
    short = Arithmetic("bfloat16", "bfloat16")
    model = backbone.keras_model
    part = backbone.upper("pixels", short) if fold else trainable_norms(model, short)
    types = [keras.backend.standardize_dtype(each.output.dtype) for each in part.layers]
    assert types.count("bfloat16") > len(types) / 3
    found = part(pixels)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    difference = ops.convert_to_numpy(found) - expected
    assert 1e-4 < np.sqrt((difference**2).mean()) / expected.std() <= 0.15
    names = {each.path for each in part.trainable_variables}
    assert names == {each.path for each in backbone.keras_model.trainable_variables}


@pytest.mark.ci
def test_norms_that_train_are_updated_with_short_activations(pixels):
    backbone = Backbone("efficientnet-lite0", 64, weights="none").randomly_initialized(0)
    norm = backbone.keras_model.get_layer("block3a_bn")
    before = ops.convert_to_numpy(norm.moving_mean).copy()
    trainable_norms(backbone.keras_model, Arithmetic("bfloat16", "bfloat16"))(pixels, training=True)
    assert np.abs(ops.convert_to_numpy(norm.moving_mean) - before).max() > 0


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(9, 12), (8, 5)])
def test_shifted_products_are_a_depthwise_convolution(padding, stride, size, height, width):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, height, width, 4)).astype(np.float32)
    kernel = random.normal(size=(size, size, 4)).astype(np.float32)
    expected = ops.depthwise_conv(x, kernel[..., None], stride, padding=padding)
    ends = same_padding((height, width), size, stride) if padding == "same" else NO_PADDING
    found = ops.convert_to_numpy(shifted(x, kernel, stride, ends))
    assert found == pytest.approx(ops.convert_to_numpy(expected), abs=1e-5)


@pytest.mark.long
def test_shifts_give_the_outputs_of_the_backends_kernels(backbone, pixels):
    expected = ops.convert_to_numpy(backbone.keras_model(pixels))
    found = backbone.upper("pixels", Arithmetic(depthwise="shifts"))(pixels)
    assert np.abs(ops.convert_to_numpy(found) - expected).max() <= 1e-4


def test_folding_leaves_no_norm_to_pass(backbone):
    part = backbone.upper("block5a", FLOAT32)
    assert not [each for each in part.layers if isinstance(each, layers.BatchNormalization)]
    count = sum(isinstance(each, FoldedConvolution) for each in part.layers)
    plain = [each.name for each in backbone.cut("block5a")[1].layers if "conv" in each.name]
    assert count == len(plain)


def stepped(model, inputs, weights):
    """The weights after one step of plain gradient descent."""
    features = keras.Model(model.input, layers.Dense(2, kernel_initializer="ones")(model.output))
    features.compile(optimizer=keras.optimizers.SGD(1e-3), loss="mse")
    features.train_on_batch(inputs, np.array([[0.0, 1.0]] * len(inputs), np.float32))
    return [ops.convert_to_numpy(each).copy() for each in weights]


@pytest.mark.ci
def test_folded_part_learns_what_the_plain_one_learns(pixels):
    results = []
    for fold in (False, True):
        backbone = Backbone("efficientnet-lite0", 64)
        for layer in backbone.keras_model.layers:
            layer.trainable = not isinstance(layer, layers.BatchNormalization)
        lower, plain = backbone.cut("block7a")
        part = backbone.upper("block7a", FLOAT32) if fold else plain
        before = [ops.convert_to_numpy(each).copy() for each in plain.trainable_weights]
        after = stepped(part, ops.convert_to_numpy(lower(pixels)), plain.trainable_weights)
        results.append([two - one for one, two in zip(before, after, strict=True)])
    for plain, fold in zip(*results, strict=True):
        assert np.abs(plain).max() > 0
        assert np.abs(plain - fold).max() <= 1e-3 * np.abs(plain).max()


on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow's operation"
)


@on_tensorflow
@pytest.mark.parametrize("side", [1, 8])
def test_fused_norm_learns_what_keras_norm_learns(side):
    """One layer: through fifty of them rounding alone grows to a percent of the gradients."""
    random = np.random.default_rng(0)
    inputs = random.normal(3, 2, (4, side, side, 5)).astype(np.float32)
    results = []
    for fuse in (False, True):
        entry = keras.Input(inputs.shape[1:])
        norm = layers.BatchNormalization(epsilon=1e-3, momentum=0.9)
        norm.build((None, *inputs.shape[1:]))
        values = [[1, 2, 3, 4, 5], [0, 1, 0, -1, 0], [0.5] * 5, [2.0] * 5]
        norm.set_weights([np.array(each, np.float32) for each in values])
        widened = layers.Conv2D(5, 1, kernel_initializer=keras.initializers.Orthogonal(seed=0))
        x = (FusedNorm(norm) if fuse else norm)(widened(entry))
        model = keras.Model(entry, layers.GlobalAveragePooling2D()(layers.ReLU(6.0)(x)))
        results.append(stepped(model, inputs, [*widened.weights, *norm.weights]))
    for plain, fuse in zip(*results, strict=True):
        assert fuse == pytest.approx(plain, rel=1e-5, abs=1e-6)


@pytest.mark.ci
@on_tensorflow
def test_fused_network_answers_as_the_plain_one(pixels):
    backbone = Backbone("efficientnet-lite0", 64)
    part = trainable_norms(backbone.keras_model)
    assert not [each for each in part.layers if isinstance(each, layers.BatchNormalization)]
    assert {each.path for each in part.weights} == {
        each.path for each in backbone.keras_model.weights
    }
    expected = ops.convert_to_numpy(backbone.keras_model(pixels))
    assert np.array_equal(ops.convert_to_numpy(part(pixels)), expected)
