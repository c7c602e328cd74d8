"""What only the device can do to a stage: run out of memory."""

import weakref

import keras
import numpy as np
import pytest
from keras import ops

from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe, Stage
from efftune.training import attempt, network, stages
from efftune.training.batches import ArrayViews, LabelledInputs
from efftune.training.jax_trainer import JaxTrainer
from efftune.training.stage_result import NetworkState

PICTURES, CLASSES = 16, 3


class Greedy(keras.layers.Layer):
    """Changes nothing; takes 4 MiB of memory to train on 4 pictures, 16 TiB on 8."""

    def call(self, x, training=False):
        if not training:
            return x
        side = 2 ** (21 * x.shape[0] // 8)
        rows = ops.sum(x) * ops.ones((side, 1)) + ops.arange(side, dtype="float32")
        return x + 0 * ops.max(ops.stop_gradient(ops.sort(rows, axis=0)))

    def compute_output_shape(self, shape):
        return shape


@pytest.fixture
def greedy(monkeypatch):
    def part(*arguments):
        found = trained_part(*arguments)
        return keras.Model(found.input, Greedy()(found.output))

    trained_part = network._trained_part
    monkeypatch.setattr(network, "_trained_part", part)


def fit(batch_size, **choices):
    backbone = Backbone("efficientnet-lite0", 32)
    random = np.random.default_rng(0)
    labels = np.arange(PICTURES) % CLASSES
    activations = random.normal(0, 20, (PICTURES, *backbone.shape("block7a"))).astype(np.float32)
    activations += 20 * labels[:, None, None, None]
    data = LabelledInputs(ArrayViews(lambda _epoch: activations, activations.shape), labels)
    head = random.normal(0, 0.01, (1280, CLASSES)).astype(np.float32)
    start = NetworkState(backbone, head, np.zeros(CLASSES, np.float32))
    recipe = Recipe(image_size=32, batch_size=batch_size, views=0, **choices)
    return stages.fit(start, Stage("upper", "block7a", 2, 1e-3), data, data, recipe)


def test_batch_that_the_device_cannot_hold_is_halved(greedy, one_device, monkeypatch):
    made = []

    def trainer_for(*arguments, **_):
        assert not any(each() for each in made)  # what it held of the memory is given back
        trainer = JaxTrainer(*arguments)
        made.append(weakref.ref(trainer))
        return trainer

    monkeypatch.setattr(attempt, "trainer_for", trainer_for)
    _, outcome = fit(8)
    assert len(made) == 2
    assert outcome.failures == ("out of memory at a batch size of 8",)
    assert outcome.batch_size == 4
    assert outcome.selected.val_loss < outcome.start.val_loss
    assert all(np.isfinite(epoch.loss) for epoch in outcome.epochs)
