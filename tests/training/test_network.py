import keras
import numpy as np
import pytest
from keras import ops

from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe, Stage
from efftune.training.network import Mixing, Network, momentum

from .conftest import weights

CLASSES = 3

pytestmark = pytest.mark.usefixtures("eager")


def network(
    backbone, *, block="block7a", name="upper", rate=0.01, accumulated=1, steps=None, **choices
):
    random = np.random.default_rng(0)
    head = (random.normal(0, 0.1, (1280, CLASSES)).astype(np.float32), np.zeros(3, np.float32))
    recipe = Recipe(**({"dropout": 0.0, "warmup": 0.0} | choices))
    return Network(backbone, head, Stage(name, block, 1, rate), recipe, accumulated, steps)


def inputs_of(backbone, block, random):
    """What a block is given of six noisy pictures."""
    pixels = random.integers(0, 256, (6, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    if block == "pixels":
        return pixels.astype(np.float32)
    lower, _ = backbone.cut(backbone.block(block))
    return ops.convert_to_numpy(lower(pixels.astype(np.float32)))


def trained(made, backbone, steps=2, mixed=False):
    random = np.random.default_rng(1)
    block = made.inference_model.input.name.split("_")[0]
    for _ in range(steps):
        inputs = inputs_of(backbone, block, random)
        if mixed:
            share = np.full((6, *inputs.shape[1:3], 1), 0.7, np.float32)
            inputs = [inputs, np.arange(6, dtype=np.int32)[::-1].copy(), share]
        targets = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, 6)]
        made.training_model.train_on_batch(inputs, targets, np.ones(6, np.float32))
    return made


def changed(backbone, before):
    return {path for path, value in weights(backbone).items() if (value != before[path]).any()}


def test_only_convolutions_above_the_block_are_trained(backbone):
    before = weights(backbone)
    trained(network(backbone, weight_decay=0.0), backbone)
    assert changed(backbone, before) == {
        "block7a_expand_conv/kernel",
        "block7a_project_conv/kernel",
        "top_conv/kernel",
    }


def test_depthwise_kernels_are_trained_if_asked_for(backbone):
    before = weights(backbone)
    trained(network(backbone, train_depthwise=True), backbone)
    assert "block7a_dwconv/kernel" in changed(backbone, before)


@pytest.mark.ci
def test_whole_stage_leaves_batchnorm_alone_and_trains_the_stem(backbone):
    before = weights(backbone)
    trained(network(backbone, block="pixels", name="whole"), backbone, steps=1)
    found = changed(backbone, before)
    assert "stem_conv/kernel" in found
    assert not [path for path in found if "bn/" in path]


@pytest.mark.ci
def test_training_from_scratch_moves_batchnorm_too(backbone):
    before = weights(backbone)
    trained(network(backbone, block="pixels", name="scratch"), backbone, steps=1)
    found = changed(backbone, before)
    assert {"stem_bn/moving_mean", "stem_bn/gamma", "block7a_dwconv/kernel"} <= found


def test_moving_averages_of_few_steps_forget_where_they_began():
    for steps in (1, 5, 10, 100, 999):
        assert momentum(0.99, steps) ** steps < 1e-4
    assert momentum(0.99, 1000) == momentum(0.99, 10**6) == momentum(0.99, None) == 0.99
    assert momentum(0.5, 100) == 0.5  # which was asked for, and is faster


@pytest.mark.ci
def test_batchnorm_follows_a_short_training_from_scratch(backbone):
    """With the published momentum, the averages would still be a mean of 0 and a variance of 1."""
    made = network(backbone, block="pixels", name="scratch", steps=10, rate=1e-9, ema=0.99)
    norm = backbone.keras_model.get_layer("stem_bn")
    assert norm.momentum == 0 and made.training_model.optimizer.ema_momentum == 0
    trained(made, backbone, steps=2)
    stem = keras.Model(backbone.keras_model.input, norm.input)
    random = np.random.default_rng(1)  # as `trained` has it
    for _ in range(2):
        pixels = inputs_of(backbone, "pixels", random)
        random.integers(0, CLASSES, 6)
    last = ops.convert_to_numpy(stem(pixels)).reshape(-1, 32)
    assert np.allclose(norm.moving_mean, last.mean(axis=0), rtol=0.05, atol=0.01)
    assert np.allclose(norm.moving_variance, last.var(axis=0), rtol=0.05, atol=0.01)
    network(backbone, block="pixels", name="scratch", steps=10**4)
    assert norm.momentum == 0.99


def test_weight_decay_spares_biases(backbone):
    made = network(backbone)
    decays = {
        weight.path.split("/")[-1]: made.training_model.optimizer._use_weight_decay(weight)
        for weight in made.inference_model.trainable_weights
    }
    assert decays == {"kernel": True, "bias": False}


@pytest.mark.parametrize(
    ("optimizer", "kind", "decay"),
    [
        ("adamw", keras.optimizers.AdamW, 0.02),
        ("adam", keras.optimizers.Adam, 0.0),
        ("rmsprop", keras.optimizers.RMSprop, 0.0),
    ],
)
def test_optimizer_can_be_chosen(backbone, optimizer, kind, decay):
    made = network(backbone, optimizer=optimizer)
    assert isinstance(made.training_model.optimizer, kind)
    assert made.training_model.optimizer.weight_decay == decay
    before = weights(backbone)
    trained(made, backbone, steps=1)
    assert changed(backbone, before)


@pytest.mark.long
def test_blocks_are_left_out_at_random_and_repeatably():
    kernels = []
    for seed in (0, 0, 1):
        backbone = Backbone("efficientnet-lite0", 32, drop_connect_rate=0.8)
        made = network(backbone, block="block6a", seed=seed)
        trained(made, backbone, steps=1)
        kernels.append(weights(backbone)["top_conv/kernel"])
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


@pytest.mark.ci
def test_gathered_gradients_change_weights_every_other_step(backbone):
    made = network(backbone, accumulated=2)
    before = weights(backbone)
    trained(made, backbone, steps=1)
    assert not changed(backbone, before)
    trained(made, backbone, steps=1)
    assert changed(backbone, before)


def test_lower_blocks_get_lower_rates(backbone):
    made = network(backbone, block="block6d", layer_decay=0.5)
    factors = dict(
        zip(
            [weight.path for weight in made.inference_model.trainable_weights],
            made.training_model.optimizer._factors,
            strict=True,
        )
    )
    assert factors["block6d_expand_conv/kernel"] == 0.25
    assert factors["block7a_project_conv/kernel"] == 0.5
    assert factors["top_conv/kernel"] == factors["logits/kernel"] == 1


def test_rate_factor_shrinks_the_step(backbone):
    """Adam's first step is as long as its rate, so the factor shows in the length."""
    before = weights(backbone)
    trained(network(backbone, layer_decay=0.1, weight_decay=0.0), backbone, steps=1)
    after = weights(backbone)
    top, block = (
        np.abs(after[path] - before[path]).max()
        for path in ("top_conv/kernel", "block7a_project_conv/kernel")
    )
    assert top == pytest.approx(0.01, rel=0.05)
    assert block == pytest.approx(0.001, rel=0.05)


@pytest.mark.ci
def test_averages_are_shown_and_hidden(backbone):
    made = trained(network(backbone, ema=0.5), backbone, steps=4)
    own = made.head[0]
    made.show_averages()
    assert np.abs(made.head[0] - own).max() > 1e-4
    made.hide_averages()
    assert made.head[0] == pytest.approx(own, abs=1e-6)


def test_mixing_takes_each_place_from_its_owner():
    x = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((3, 2, 2, 1), np.float32)
    share = np.array([[1, 1], [0.25, 0]], np.float32).reshape(1, 2, 2, 1).repeat(3, axis=0)
    mixed = ops.convert_to_numpy(Mixing()(x, np.array([2, 0, 1], np.int32), share))
    assert mixed[0, ..., 0].tolist() == [[0, 0], [1.5, 2]]
    assert mixed[1, ..., 0].tolist() == [[1, 1], [0.25, 0]]


def test_mixing_is_for_training_only(backbone):
    made = network(backbone, mix="mixup")
    trained(made, backbone, mixed=True)
    assert made.inference_model.input.shape[1:] == (1, 1, 192)
    assert len(made.training_model.inputs) == 3


@pytest.mark.long
def test_dropout_is_seeded():
    heads = []
    for _ in range(2):
        keras.utils.clear_session()
        backbone = Backbone("efficientnet-lite0", 32)
        made = trained(network(backbone, dropout=0.5), backbone)
        heads.append(made.head[0])
    assert (heads[0] == heads[1]).all()
