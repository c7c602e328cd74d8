import subprocess
import sys

import numpy as np
import pytest
from keras import ops

from efftune.errors import UsageError
from efftune.model import catalogue
from efftune.model.backbone import FEATURES, STAGE_FEATURES, Backbone

from .conftest import distance, each, shaken


def output(backbone):
    result = []
    network = backbone.pretrained(precision="f32", dtypes=["float32"])
    pixels = np.full((1, 32, 32, 3), 90, np.uint8)
    network.run([0], lambda _i: pixels, lambda _i, _n, rows: result.append(rows[0].copy()))
    return result[0]


@pytest.mark.ci
@pytest.mark.parametrize("damage", [b"", b"<net/>"])
def test_damaged_conversion_is_noticed_and_rebuilt(own_cache, damage):
    good = output(Backbone("efficientnet-lite0", 32))
    (converted,) = own_cache.glob("backbones/*/model.xml")
    converted.write_bytes(damage)
    assert (output(Backbone("efficientnet-lite0", 32)) == good).all()
    assert converted.stat().st_size > 1000


@pytest.mark.ci
def test_kept_conversion_needs_no_keras_model(own_cache):
    output(Backbone("efficientnet-lite0", 32))
    again = Backbone("efficientnet-lite0", 32)
    output(again)
    assert "keras_model" not in vars(again)


@pytest.mark.ci
@pytest.mark.parametrize("name", each((row.name for row in catalogue.MODELS), ("-lite0",)))
def test_lower_and_upper_part_are_the_whole_at_every_block(name):
    backbone = Backbone(name, 40, weights="none")
    shaken(backbone.keras_model)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.float32)
    blocks = backbone.blocks
    assert len(blocks) == sum(
        layer.name.endswith("_project_conv") for layer in backbone.keras_model.layers
    )
    top = backbone.keras_model.get_layer("top_conv")
    top.set_weights([1.01 * top.get_weights()[0]])  # as after training: the parts share weights
    whole = ops.convert_to_numpy(backbone.keras_model(pixels))
    for block in blocks:
        lower, upper = backbone.cut(block)
        activations = lower(pixels)
        assert tuple(activations.shape[1:]) == backbone.shape(block)
        assert distance(ops.convert_to_numpy(upper(activations)), whole) <= 1e-5


@pytest.mark.parametrize("name", each((row.name for row in catalogue.MODELS), ("-lite0",)))
def test_features_of_all_stages_are_means_and_then_the_features(name):
    backbone = Backbone(name, 40, weights="none")
    shaken(backbone.keras_model)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.uint8)
    ends = [block for block in backbone.blocks[1:] if block.endswith("a")]
    found = [[], []]
    outputs = [*ends, STAGE_FEATURES, FEATURES]
    network = backbone.engine.network(
        lambda: backbone._part(outputs), size=40, dtypes=["float32"] * len(outputs)
    )
    network.run(
        [0, 1],
        lambda i: pixels[i : i + 1],
        lambda i, _view, values: found[i].extend(map(np.copy, values)),
    )
    for *activations, features, last in found:
        means = [each.mean(axis=(0, 1)) for each in activations]
        assert features.shape == backbone.shape(STAGE_FEATURES)
        assert distance(features, np.concatenate([*means, last])) <= 1e-5
        assert (features[-len(last) :] == last).all()


def test_parts_hold_every_weight_once():
    backbone = Backbone("efficientnet-lite0", 32)
    lower, upper = backbone.cut("block6a")
    paths = [weight.path for part in (lower, upper) for weight in part.weights]
    assert sorted(paths) == sorted(weight.path for weight in backbone.keras_model.weights)


def test_block_can_be_named_by_its_number():
    backbone = Backbone("efficientnet-lite0", 32)
    assert backbone.block("block6") == backbone.block("block6a") == "block6a"
    assert backbone.block("block6c") == "block6c"
    with pytest.raises(UsageError, match=r"Unknown block 'block6e'. Did you mean"):
        backbone.block("block6e")


@pytest.mark.long
def test_untrained_weights_are_random_and_repeatable():
    kernels = []
    pretrained = Backbone("efficientnet-lite0", 32)
    for seed in (0, 0, 1):
        backbone = pretrained.randomly_initialized(seed)
        kernels.append(backbone.keras_model.get_layer("block4b_expand_conv").get_weights()[0])
        before = pretrained.keras_model.get_layer("block4b_expand_conv").get_weights()[0]
        assert (kernels[-1] != before).any()
        norm = backbone.keras_model.get_layer("block4b_bn").get_weights()
        assert [set(np.unique(part)) for part in norm] == [{1}, {0}, {0}, {1}]
    assert (kernels[0] == kernels[1]).all()
    assert (kernels[0] != kernels[2]).any()
    assert kernels[0].std() == pytest.approx(np.sqrt(2 / 480), rel=0.1)
    assert backbone.weights_changed


def test_untrained_biases_are_zero_and_pixels_still_normalised():
    backbone = Backbone("efficientnet-b0", 32, weights="none").randomly_initialized(0)
    squeeze = backbone.keras_model.get_layer("block4b_se_reduce")
    assert (squeeze.bias.numpy() == 0).all()
    assert squeeze.kernel.numpy().std() > 0.01
    mean, variance, _ = backbone.keras_model.get_layer("normalization").get_weights()
    assert mean == pytest.approx([0.485, 0.456, 0.406])
    assert np.sqrt(variance) == pytest.approx([0.229, 0.224, 0.225])


FULL = """
import resource, sys
from efftune.model.backbone import Backbone
from efftune.model.engines import openvino_engine

resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))  # as if the disk were full
backbone = Backbone("efficientnet-lite0", 32)
folder = backbone.conversion(openvino_engine)
print(len(openvino_engine.converted(lambda: backbone.keras_model, cached=folder).get_ops()))
"""


@pytest.mark.long
def test_full_disk_does_not_end_a_conversion(own_cache):
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
    assert "could not be cached" in done.stderr
    assert "the disk may be full" in done.stderr
    assert list((own_cache / "backbones").iterdir()) == []


@pytest.mark.ci
def test_last_block_is_where_the_last_stage_begins():
    assert Backbone("efficientnet-lite0", 32).block("last") == "block7a"
    assert Backbone("efficientnet-v2-b0", 32, weights="none").block("last") == "block6a"


def test_unknown_model_is_refused():
    with pytest.raises(UsageError, match="Unknown model 'resnet'"):
        Backbone("resnet")
