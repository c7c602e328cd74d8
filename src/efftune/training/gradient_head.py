"""Training the head by gradient descent on augmented views, as in the public Keras example.

The example runs the whole network on each picture in each epoch. Since everything below the head is
frozen, the features of all views can be computed beforehand, at inference speed.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from efftune.errors import DataError
from efftune.model.tensors import set_weights
from efftune.recipe.recipe import Recipe, Stage
from efftune.training import attempt, stages, validation
from efftune.training.batches import ArrayViews, LabelledInputs, StageData
from efftune.training.regression_head import Head, Labels, Matrix, class_weights
from efftune.training.stage_result import StageResult
from efftune.training.trainer import trainer_for
from efftune.training.validation import Epoch

_VAL_BATCH_SIZE = 1024


def fit(
    stage: Stage,
    views: Callable[[int], Matrix],
    labels: Labels,
    val: tuple[Matrix, Labels],
    recipe: Recipe,
    on_step: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Head, StageResult]:
    """Train a BatchNorm, dropout and a dense softmax layer with Adam.

    Args:
        stage: sets the epochs and the learning rate.
        views: returns the features of the training pictures for an epoch, counted from 1, shape
            (pictures, features).
        labels: class numbers, shape (pictures,).
        val: features and class numbers of the validation split.
        recipe: sets batch size, dropout, label smoothing, class weights and the seed.
        on_step: called with the number of steps done and their total.

    Returns:
        The head of the best epoch (see `validation.is_better`), with the BatchNorm folded into
        it; and the result of the stage.

    Raises:
        DataError: the loss stays above that of guessing even at a tenth of the learning rate.
    """
    failures: list[str] = []
    guessing = math.log(max(2, int(labels.max()) + 1))
    while True:
        head, result = _attempt(stage, views, labels, val, recipe, on_step)
        # Epochs are cheap and the first ones may be unstable, so only the last one is checked.
        loss, rate = result.epochs[-1].loss, stage.learning_rate
        if loss <= attempt.DIVERGED * max(guessing, result.start.val_loss):
            return head, replace(result, failures=tuple(failures))
        failures.append(f"the final loss was {loss:.3g} at a learning rate of {rate:g}")
        if len(failures) > 1:
            raise DataError(
                f"Training of the head diverged: {'; '.join(failures)}. Set a lower "
                "learning rate with --set head_learning_rate=…, and check for wrong labels or "
                "damaged pictures."
            )
        stage = replace(stage, learning_rate=stages.RATE_AFTER_FAILURE * rate)


def _attempt(
    stage: Stage,
    views: Callable[[int], Matrix],
    labels: Labels,
    val: tuple[Matrix, Labels],
    recipe: Recipe,
    on_step: Callable[[int, int], None],
) -> tuple[Head, StageResult]:
    size = min(int(recipe.optimization.batch_size), len(labels))
    random = np.random.default_rng(recipe.seed)
    model = _model(val[0].shape[1], int(labels.max()) + 1, stage, recipe)
    weights = class_weights(labels, recipe)[labels]
    train = LabelledInputs(ArrayViews(views, (len(labels), val[0].shape[1]), stage.epochs), labels)
    held_out = LabelledInputs(ArrayViews(lambda _epoch: val[0], val[0].shape), val[1])
    data = StageData(train, weights, held_out, stage.epochs, size, _VAL_BATCH_SIZE)
    steps, trainer = data.steps, trainer_for(model, model, data)
    loss, accuracy, calibrated_loss = validation.validation_metrics(trainer.logits(), val[1])
    initial = Epoch("head", 0, 0.0, math.nan, math.nan, loss, accuracy, 0.0, calibrated_loss)
    best, best_weights, top, epochs = initial, model.get_weights(), accuracy, list[Epoch]()
    for number in range(1, stage.epochs + 1):
        start = time.perf_counter()
        order = random.permutation(len(labels))[: steps * size].reshape(steps, size)
        totals = np.zeros(2)  # of loss and accuracy
        for done, outcome in enumerate(trainer.train(number, order), (number - 1) * steps + 1):
            totals += outcome
            on_step(done, stage.epochs * steps)
        trained = (float(totals[0] / steps), float(totals[1] / steps))
        loss, accuracy, calibrated_loss = validation.validation_metrics(trainer.logits(), val[1])
        validated = (loss, accuracy, stage.learning_rate, calibrated_loss)
        epochs.append(Epoch("head", number, time.perf_counter() - start, *trained, *validated))
        top = max(top, accuracy)
        if validation.is_better(epochs[-1], best, top, len(val[1])):
            best, best_weights = epochs[-1], model.get_weights()
    set_weights(model, best_weights)
    return _folded(model), StageResult(stage, initial, tuple(epochs), best.number, size)


def _model(width: int, classes: int, stage: Stage, recipe: Recipe) -> Any:
    import keras
    from keras import layers

    features = keras.Input((width,))
    x = layers.BatchNormalization(name="norm")(features)
    x = layers.Dropout(recipe.optimization.dropout, seed=recipe.seed)(x)
    initializer = keras.initializers.GlorotUniform(seed=recipe.seed)
    logits = layers.Dense(classes, kernel_initializer=initializer, name="logits")(x)
    model = keras.Model(features, logits)
    model.compile(
        optimizer=keras.optimizers.Adam(stage.learning_rate),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.optimization.label_smoothing
        ),
        metrics=["accuracy"],
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _folded(model: Any) -> Head:
    """The head as one dense layer: BatchNorm in inference mode scales and shifts each feature."""
    norm = model.get_layer("norm")
    gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in norm.get_weights())
    kernel, bias = (
        np.asarray(part, np.float64) for part in model.get_layer("logits").get_weights()
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    bias = bias + (beta - mean * scale) @ kernel
    kernel = scale[:, None] * kernel
    return Head(kernel.astype(np.float32), bias.astype(np.float32))
