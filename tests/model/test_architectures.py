import keras
import numpy as np
import pytest
from keras import layers

import efftune
from efftune.errors import DataError, UsageError
from efftune.model import architectures, catalogue
from efftune.model.engines import conversion
from efftune.model.engines.openvino_engine import Network

from .conftest import SIZE, answers, distance, each, every_variant, noise, shaken

# With ImageNet's 1000 classes and the statistics of norms, as Keras' documentation counts them.
PUBLISHED = {
    "efficientnet-b0": 5_330_571,
    "efficientnet-b1": 7_856_239,
    "efficientnet-b2": 9_177_569,
    "efficientnet-b3": 12_320_535,
    "efficientnet-b4": 19_466_823,
    "efficientnet-b5": 30_562_527,
    "efficientnet-b6": 43_265_143,
    "efficientnet-b7": 66_658_687,
    "efficientnet-v2-b0": 7_200_312,
    "efficientnet-v2-b1": 8_212_124,
    "efficientnet-v2-b2": 10_178_374,
    "efficientnet-v2-b3": 14_467_622,
    "efficientnet-v2-s": 21_612_360,
    "efficientnet-v2-m": 54_431_388,
    "efficientnet-v2-l": 119_027_848,
}


def keras_own(name, size=SIZE):
    """What `keras.applications` makes of a name."""
    make = f"EfficientNet{name.removeprefix('efficientnet-').upper().replace('-', '')}"
    return getattr(keras.applications, make)(
        weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3)
    )


def as_openvino(model, pixels):
    found = {}
    network = Network(lambda: conversion.convert(model), size=pixels.shape[1])
    squares = pixels.astype(np.uint8)
    network.run(
        range(len(squares)),
        lambda i: squares[i][None],
        lambda i, _number, outputs: found.update({i: outputs[0].copy()}),
    )
    return np.stack([found[i] for i in range(len(squares))])


@pytest.mark.ci
@pytest.mark.parametrize("name", each(PUBLISHED, ("efficientnet-b0",)))
def test_same_weights_give_what_keras_gives(name, tmp_path):
    other = shaken(keras_own(name))
    other.save_weights(tmp_path / "random.weights.h5")
    model = efftune.build(
        name, weights=tmp_path / "random.weights.h5", include_top=False, image_size=SIZE
    )
    assert distance(answers(model, noise()), answers(other, noise())) <= 1e-5


@pytest.mark.ci
@every_variant
def test_variant_is_as_published_and_works_at_its_native_size(name):
    model = efftune.build(name, weights=None)
    entry = catalogue.model(name)
    trainable = sum(int(np.prod(each.shape)) for each in model.trainable_weights)
    assert trainable == entry.parameters
    assert model.count_params() == PUBLISHED.get(name, model.count_params())
    assert model.get_layer("avg_pool").output.shape[-1] == entry.features
    assert multiplications(model) / 1e6 == pytest.approx(entry.macs, rel=0.06)
    (probabilities,) = answers(model, noise(1, entry.resolution))
    assert probabilities.shape == (1000,)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def multiplications(model):
    count = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense):
            places = np.prod(layer.output.shape[1:-1]) if len(layer.output.shape) == 4 else 1
            count += int(places) * int(np.prod(layer.kernel.shape))
    return count


def test_b0_for_120_classes_has_the_parameters_of_the_public_example():
    model = efftune.build("efficientnet-b0", 120, weights=None)
    trainable = sum(int(np.prod(each.shape)) for each in model.trainable_weights)
    assert (model.count_params(), trainable) == (4_203_291, 4_161_268)


@pytest.mark.ci
@pytest.mark.parametrize("name", each((row.name for row in catalogue.MODELS), ("-lite0",)))
def test_saved_and_converted_models_give_the_same_outputs(name, tmp_path):
    model = shaken(architectures.backbone(name, SIZE))
    pixels = noise()
    expected = answers(model, pixels)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert distance(answers(again, pixels), expected) <= 1e-6
    assert distance(as_openvino(model, pixels), expected) <= 1e-4


# Lite pads within its convolutions, the others with a layer of its own.
ODD_SIZES = [
    *(("efficientnet-lite0", 33), ("efficientnet-lite0", 100), ("efficientnet-b0", 75)),
    pytest.param("efficientnet-lite0", 75, marks=pytest.mark.variant),
    *(pytest.param("efficientnet-b0", size, marks=pytest.mark.variant) for size in (33, 100)),
    *(
        pytest.param("efficientnet-v2-b0", size, marks=pytest.mark.variant)
        for size in (33, 75, 100)
    ),
]


@pytest.mark.ci
@pytest.mark.parametrize(("name", "size"), ODD_SIZES)
def test_odd_sizes_work(name, size):
    model = shaken(architectures.backbone(name, size))
    expected = answers(model, noise(2, size))
    assert distance(as_openvino(model, noise(2, size)), expected) <= 1e-4


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet-lite0",
        pytest.param("efficientnet-b0", marks=pytest.mark.variant),
        pytest.param("efficientnet-v2-b0", marks=pytest.mark.variant),
    ],
)
def test_drop_connect_changes_training_and_no_weight(name, tmp_path):
    model = shaken(architectures.backbone(name, SIZE, 0.0))
    model.save_weights(tmp_path / "all.weights.h5")
    found = {}
    for rate in (0.0, 0.2, 0.8):
        again = efftune.build(
            name,
            weights=tmp_path / "all.weights.h5",
            include_top=False,
            image_size=SIZE,
            drop_connect_rate=rate,
        )
        for mine, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
            assert np.array_equal(mine, theirs)
        assert distance(answers(again, noise()), answers(model, noise())) <= 1e-6
        again.trainable = False  # BatchNorm as in use: what differs is what was left out
        trained = keras.ops.convert_to_numpy(again(noise(), training=True))
        found[rate] = distance(trained, answers(model, noise()))
    assert found[0.0] <= 1e-5
    assert found[0.2] > 1e-3
    assert found[0.8] > 1e-3


def test_drop_connect_rate_rises_with_depth():
    model = architectures.backbone("efficientnet-lite0", SIZE, 0.4)
    rates = [layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(0.4 * 2 / 16)
    assert rates[-1] == pytest.approx(0.4 * 14 / 16)


@pytest.mark.long
def test_without_top_there_are_features_or_activations():
    choices = {"weights": None, "include_top": False, "image_size": SIZE}
    assert efftune.build("efficientnet-b0", **choices).output.shape == (None, 1280)
    assert efftune.build("efficientnet-b2", pooling="max", **choices).output.shape == (None, 1408)
    activations = efftune.build("efficientnet-b0", pooling=None, **choices)
    assert activations.output.shape == (None, 2, 2, 1280)
    largest = efftune.build("efficientnet-lite0", pooling="max", image_size=SIZE, include_top=False)
    all_of_them = efftune.build(
        "efficientnet-lite0", pooling=None, image_size=SIZE, include_top=False
    )
    expected = answers(all_of_them, noise()).max(axis=(1, 2))
    assert np.array_equal(answers(largest, noise()), expected)


@pytest.mark.ci
def test_head_of_other_classes_is_new():
    with_its_own = efftune.build("efficientnet-lite0", image_size=SIZE)
    new = efftune.build("efficientnet-lite0", 5, image_size=SIZE)
    assert with_its_own.get_layer("predictions").bias.numpy().std() > 0.01
    assert (new.get_layer("predictions").bias.numpy() == 0).all()
    top = [model.get_layer("top_conv").get_weights()[0] for model in (with_its_own, new)]
    assert np.array_equal(*top)


@pytest.mark.parametrize(
    "choices",
    [
        {"num_classes": 0},
        {"image_size": -1},
        {"pooling": "median"},
        {"drop_connect_rate": 1.0},
        {"dropout": -0.1},
        {"weights": "nowhere.h5"},
    ],
)
def test_numbers_out_of_range_are_refused(choices):
    with pytest.raises(UsageError, match=next(iter(choices))):
        efftune.build("efficientnet-lite0", **choices)


def test_unknown_option_is_refused():
    with pytest.raises(UsageError, match=r"Unknown option of build 'droput'.*Did you mean"):
        efftune.build("efficientnet-lite0", droput=0.1)


def test_altered_published_weights_are_refused(own_cache, monkeypatch):
    entry = catalogue.model("efficientnet-b0")
    path = own_cache / "weights" / entry.weights.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"efficientnetb0\.h5 is not the published one"):
        efftune.build("efficientnet-b0")
