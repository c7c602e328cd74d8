"""Small networks and pictures for the programs of JAX; `test_on_jax.py` runs what is here."""

import os

import jax
import keras
import numpy as np
import pytest
from keras import layers

from data.scenes import scene
from efftune.recipe.recipe import Recipe
from efftune.training import jax_feed
from efftune.training.batches import DecodedImages, LabelledInputs, StageData
from efftune.training.network import LayerwiseAdamW, _mixing

DEVICES = 4
if keras.backend.backend() != "jax" or f"count={DEVICES}" not in os.environ.get("XLA_FLAGS", ""):
    collect_ignore_glob = ["test_*.py"]

SIZE, CLASSES, PICTURES, BATCH = 8, 3, 26, 8
DIGESTS = [bytes([i]) * 32 for i in range(PICTURES)]


def pictures(**choices):
    """Decoded pictures and their labels; `choices` are settings of augmentation."""
    recipe = Recipe(**({"augment": "none", "views": 0} | choices))
    pixels = np.stack([np.asarray(scene(i, SIZE)) for i in range(PICTURES)])
    inputs = DecodedImages(pixels, DIGESTS, recipe)
    return LabelledInputs(inputs, np.arange(PICTURES) % CLASSES)


def stage_data(train=None, epochs=4, weights=None):
    train = train or pictures()
    weights = np.ones(len(train.labels), np.float32) if weights is None else weights
    return StageData(train, weights, pictures(), epochs, BATCH, 7)


def models(shape=(SIZE, SIZE, 3), mixed=False, **optimizer):
    """A network with dropout and BatchNorm, compiled for training, and the one for inference."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, strides=2, use_bias=False)(x)  # BatchNorm shifts
    x = layers.BatchNormalization(momentum=0.5)(x)
    x = layers.Dropout(0.2, seed=1)(layers.Flatten()(layers.ReLU()(x)))
    model = keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x))
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 20)
    factors = [0.5 ** (i % 2) for i in range(len(model.trainable_weights))]
    training = _mixing(model) if mixed else model
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    optimizer = LayerwiseAdamW(factors, learning_rate=rate, weight_decay=0.01, **optimizer)
    training.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    optimizer.build(training.trainable_variables)
    return training, model


def orders(epochs, steps=PICTURES // BATCH):
    random = np.random.default_rng(0)
    for _ in range(epochs):
        yield random.permutation(PICTURES)[: steps * BATCH].reshape(steps, BATCH)


@pytest.fixture
def one_device(monkeypatch):
    """Only the first device is there."""
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax_feed.jax, "local_devices", lambda: first)


@pytest.fixture
def streamed(monkeypatch):
    """Nothing fits on the device for good, and a block holds two steps."""
    monkeypatch.setattr(jax_feed, "RESIDENT_SHARE", 0.0)
    monkeypatch.setattr(jax_feed, "_BLOCK_PICTURES", 2 * BATCH)
