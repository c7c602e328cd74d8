"""The engine of GPUs on JAX's CPU device."""

import shutil

import jax
import numpy as np
import pytest

from efftune.errors import DataError, UsageError
from efftune.model import saving
from efftune.model.backbone import FEATURES, STAGE_FEATURES, Backbone
from efftune.model.engines import devices, jax_engine, openvino_engine
from efftune.model.engines.jax_engine import Network

SIZE = 32
CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def backbone():
    return Backbone("efficientnet-lite0", SIZE)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


def mean_network():
    """A network that gives each square's mean colour."""

    def program(weights, pixels):
        return [pixels.astype("float32").mean(axis=(1, 2)) * weights]

    return Network(lambda: (jax.jit(program), np.float32(1)), size=8)


def grey(value, views=1):
    return np.full((views, 8, 8, 3), value, np.uint8)


def outputs_of(network, pixels):
    """Every output of a network for some pictures."""
    found = []
    network.run(
        range(len(pixels)),
        lambda i: pixels[i][None],
        lambda _i, _n, values: found.append([np.array(each) for each in values]),
    )
    return [np.stack(each) for each in zip(*found, strict=True)]


def keras_outputs(backbone, names, pixels):
    return [
        np.asarray(each)
        for each in backbone._part(names)(pixels.astype(np.float32), training=False)
    ]


def test_there_are_several_devices():
    assert len(jax.local_devices()) == 4


@pytest.mark.parametrize("count", [0, 1, 3, 31, 32, 33, 100])
def test_each_item_gets_its_own_output_in_order(count):
    found = []
    mean_network().run(
        range(count), grey, lambda i, number, values: found.append((i, number, *values[0]))
    )
    assert found == [(i, 0, i, i, i) for i in range(count)]


def test_views_of_an_item_keep_their_numbers():
    found = {}

    def load(i):
        return None if i == 4 else np.concatenate([grey(i + 20 * number) for number in range(3)])

    def deliver(i, number, values):
        found[i, number] = values[0][0].item()

    mean_network().run(range(30), load, deliver, views=3)
    expected = {(i, n): i + 20 * n for i in range(30) if i != 4 for n in range(3)}
    assert found == expected


@pytest.mark.parametrize("fails_in", ["load", "deliver"])
def test_failures_come_out_as_they_are(fails_in):
    def fail(*_):
        raise LookupError("seven")

    with pytest.raises(LookupError, match="seven"):
        mean_network().run(range(50), fail if fails_in == "load" else grey, fail)


def test_network_is_not_made_if_nothing_needs_it():
    def make():
        raise AssertionError

    Network(make, size=8).run(range(5), lambda _i: None, lambda *_: None)


@pytest.mark.long
@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-b0"])
def test_outputs_are_those_of_keras(name, pixels):
    weights = "imagenet" if name.endswith("lite0") else "none"
    backbone = Backbone(name, SIZE, weights=weights)
    names = ["block5a", FEATURES]
    network = jax_engine.network(
        lambda: backbone._part(names), size=SIZE, dtypes=["float32", "float32"]
    )
    for found, expected in zip(
        outputs_of(network, pixels), keras_outputs(backbone, names, pixels), strict=True
    ):
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.long
def test_bfloat16_stays_close_and_types_are_those_asked_for(backbone, pixels):
    names = ["block5a", FEATURES]
    network = jax_engine.network(
        lambda: backbone._part(names), size=SIZE, precision="bf16", dtypes=["float16", "float32"]
    )
    activations, features = outputs_of(network, pixels)
    assert (activations.dtype, features.dtype) == (np.float16, np.float32)
    _, expected = keras_outputs(backbone, names, pixels)
    assert 1e-5 < np.abs(features - expected).mean() / expected.std() <= 0.05


@pytest.mark.long
def test_mirrored_network_averages_both(backbone, pixels):
    plain, mirrored = (
        jax_engine.network(lambda: backbone.keras_model, size=SIZE, mirrored=each)
        for each in (False, True)
    )
    (one,), (other,) = outputs_of(plain, pixels), outputs_of(plain, pixels[:, :, ::-1])
    (both,) = outputs_of(mirrored, pixels)
    assert np.abs(both - (one + other) / 2).max() <= 1e-5


@pytest.fixture(scope="module", params=[pytest.param(False, marks=pytest.mark.long), True])
def saved(request, backbone, tmp_path_factory):
    """A classifier saved by Keras on JAX; one with mirror images sees all stages."""
    folder = tmp_path_factory.mktemp("classifier")
    output = STAGE_FEATURES if request.param else FEATURES
    random = np.random.default_rng(1)
    head = (
        random.normal(0, 0.2, (*backbone.shape(output), 3)).astype(np.float32),
        random.normal(0, 1, 3).astype(np.float32),
    )
    saving.save(folder, backbone, head, CLASSES, mirrored=request.param)
    return folder


def test_saved_classifier_answers_as_with_openvino(saved, pixels):
    answers = [
        outputs_of(each.classifier(saved, size=SIZE, has_features=True), pixels)
        for each in (jax_engine, openvino_engine)
    ]
    for ours, theirs in zip(*answers, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4
    assert answers[0][0].sum(axis=1) == pytest.approx(1)


@pytest.mark.long
def test_classifier_can_leave_features_out(saved, pixels):
    both, alone = (
        outputs_of(jax_engine.classifier(saved, size=SIZE, has_features=each), pixels)
        for each in (True, False)
    )
    assert len(alone) == 1
    assert alone[0] == pytest.approx(both[0], abs=1e-6)


@pytest.mark.long
def test_explanation_is_that_of_openvino(saved, pixels):
    (ours, kernel), (theirs, expected) = (
        each.explainer(saved, size=SIZE) for each in (jax_engine, openvino_engine)
    )
    assert np.abs(kernel - expected).max() <= 1e-6
    for one, other in zip(outputs_of(ours, pixels), outputs_of(theirs, pixels), strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 1e-3


def test_conversion_is_added_where_openvino_was_missing(saved, pixels, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    shutil.rmtree(folder / "openvino")
    expected = outputs_of(openvino_engine.classifier(saved, size=SIZE, has_features=True), pixels)
    found = outputs_of(openvino_engine.classifier(folder, size=SIZE, has_features=True), pixels)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)
    for name in ("model.xml", "model.bin"):
        assert (folder / "openvino" / name).exists()


def test_place_that_cannot_be_written_costs_only_the_conversion(saved, pixels, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    shutil.rmtree(folder / "openvino")
    (folder / "openvino").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be stored in .*openvino"):
        openvino_engine.read_classifier(folder)


def test_classifier_is_saved_without_openvino(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "has_openvino", lambda: False)
    head = (np.zeros((1280, 3), np.float32), np.zeros(3, np.float32))
    written = saving.save(tmp_path, backbone, head, CLASSES)
    assert sorted(written) == ["classes.json", "model.keras"]
    assert not (tmp_path / "openvino").exists()


def test_program_that_is_there_serves_few_pictures_too():
    network = mean_network()
    for count in (100, 2):  # 100 are three batches of 32, and 4
        network.run(range(count), grey, lambda *_: None)
    assert list(network._compiled) == [32]
    alone = mean_network()
    alone.run(range(2), grey, lambda *_: None)
    assert list(alone._compiled) == [4]


def test_program_can_be_prepared():
    network = mean_network()
    network.prepare()
    found = []
    network.run(range(40), grey, lambda i, _n, values: found.append((i, values[0][0].item())))
    assert found == [(i, i) for i in range(40)]
    assert list(network._compiled) == [32]


def test_forked_process_is_told_what_to_do(monkeypatch):
    network = mean_network()
    network.run(range(2), grey, lambda *_: None)
    monkeypatch.setattr(jax_engine.os, "getpid", lambda: -1)
    with pytest.raises(UsageError, match="spawn"):
        network.run(range(2), grey, lambda *_: None)


class SmallMemory:
    """A device whose memory holds batches up to a size; this machine's own has no such limit."""

    def __init__(self, network, largest):
        self.start, self.largest, self.sizes = network.start, largest, []

    def __call__(self, pixels):
        self.sizes.append(len(pixels))
        if len(pixels) > self.largest:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return self.start(pixels)


@pytest.mark.parametrize("largest", [16, 8, 4])
def test_batches_that_do_not_fit_are_halved(largest, monkeypatch):
    network, found = mean_network(), []
    memory = SmallMemory(network, largest)
    monkeypatch.setattr(network, "start", memory)
    network.run(range(150), grey, lambda i, _n, values: found.append((i, values[0][0].item())))
    assert found == [(i, i) for i in range(150)]
    assert network.batch_sizes[-1] == largest
    assert memory.sizes[-1] <= largest


def test_memory_for_no_picture_at_all_is_an_error(monkeypatch):
    network = mean_network()
    monkeypatch.setattr(network, "start", SmallMemory(network, 0))
    with pytest.raises(DataError, match="nvidia-smi"):
        network.run(range(50), grey, lambda *_: None)


def test_another_failure_of_the_device_is_not_taken_for_lack_of_memory(monkeypatch):
    def fail(_pixels):
        raise jax.errors.JaxRuntimeError("INTERNAL: lost")

    network = mean_network()
    monkeypatch.setattr(network, "start", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="lost"):
        network.run(range(50), grey, lambda *_: None)
