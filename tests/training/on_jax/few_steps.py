"""What a few steps of each stage change, on the backend that Keras is set to.

python -m training.on_jax.few_steps OUT.npz STAGE…
"""

import sys

import keras
import numpy as np
from keras import ops

from data.scenes import scene
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe, Stage
from efftune.training import gradient_head
from efftune.training.attempt import Attempt, AttemptState
from efftune.training.batches import ArrayViews, DecodedImages, LabelledInputs, StageData
from efftune.training.stage_result import NetworkState
from efftune.training.trainer import trainer_for

SIZE, CLASSES, BATCH, STEPS = 32, 3, 4, 3
RATE = 4e-5
STAGES = {"upper": "block7a", "whole": "pixels", "scratch": "pixels"}
RECIPE = Recipe(
    **{"image_size": SIZE, "batch_size": BATCH, "dropout": 0.0, "augment": "none", "views": 0},
    **{"class_weights": "none", "warmup": 0.0, "precision": "f32"},
)


def values(model: keras.Model) -> dict[str, np.ndarray]:
    """A copy of every weight by name."""
    return {each.path: ops.convert_to_numpy(each).copy() for each in model.weights}


def network_after(name: str, steps: int) -> dict[str, np.ndarray]:
    """The change of every weight of the network, and the mean loss of the steps."""
    pictures = steps * BATCH
    backbone = Backbone("efficientnet-lite0", SIZE, drop_connect_rate=0.0)
    random = np.random.default_rng(0)
    if name == "scratch":  # not by Keras, whose random numbers depend on the backend
        weights = backbone.keras_model.trainable_weights
        kernels = [each for each in weights if len(each.shape) == 4]
        for kernel in kernels:
            kernel.assign(random.normal(0, np.prod(kernel.shape[:3]) ** -0.5, kernel.shape))
    if name == "upper":
        activations = random.normal(0, 50, (pictures, *backbone.shape("block7a"))).astype("float32")
        inputs = ArrayViews(lambda _epoch: activations, activations.shape)
    else:
        pixels = np.stack([np.asarray(scene(i, SIZE)) for i in range(pictures)])
        inputs = DecodedImages(pixels, [bytes(32)] * pictures, RECIPE)
    kernel = random.normal(0, 0.05, (1280, CLASSES)).astype(np.float32)
    data = LabelledInputs(inputs, np.arange(pictures) % CLASSES)
    start = NetworkState(backbone, kernel, np.zeros(CLASSES, np.float32))
    stage = Stage(name, STAGES[name], 1, RATE)
    state = AttemptState(RATE, BATCH)
    attempt = Attempt(start, stage, RECIPE, (data, data), state)
    before = values(backbone.keras_model)
    attempt._started()
    list(attempt._steps(1, attempt.data.steps, lambda *_: None))
    loss = attempt.state.loss / attempt.data.steps
    after = values(backbone.keras_model)
    assert np.mean(np.abs(after["top_conv/kernel"] - before["top_conv/kernel"]) > RATE / 2) > 0.05
    changes = {path: value - before[path] for path, value in after.items()}
    return changes | {"head": attempt.network.head[0] - kernel, "loss": np.array(loss)}


def head_after(steps: int) -> dict[str, np.ndarray]:
    """The change of every weight of the head by gradient descent, and the steps' outcomes."""
    pictures = steps * BATCH
    random = np.random.default_rng(0)
    features = random.normal(size=(pictures, 20)).astype(np.float32)
    model = gradient_head._model(20, CLASSES, Stage("head", "", 1, 1e-2), RECIPE)
    kernel = random.normal(size=(20, CLASSES)).astype(np.float32)
    model.get_layer("logits").set_weights([kernel, np.zeros(CLASSES, np.float32)])
    split = LabelledInputs(
        ArrayViews(lambda _epoch: features, features.shape), np.arange(pictures) % CLASSES
    )
    data = StageData(split, np.ones(pictures, np.float32), split, 1, BATCH, BATCH)
    order = np.arange(pictures).reshape(-1, BATCH)
    before = values(model)
    outcomes = list(trainer_for(model, model, data).train(1, order))
    changes = {path: value - before[path] for path, value in values(model).items()}
    return changes | {"outcomes": np.array(outcomes)}


def after_steps(name: str) -> dict[str, np.ndarray]:
    """What a stage has changed, by name."""
    if name == "head":
        return head_after(STEPS)
    # From random weights, BatchNorm of so few pictures blows up rounding from step to step.
    return network_after(name, 1 if name == "scratch" else STEPS)


if __name__ == "__main__":
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)  # tracing would take far longer
    path, *names = sys.argv[1:]
    np.savez(path, **{f"{name}:{key}": x for name in names for key, x in after_steps(name).items()})
