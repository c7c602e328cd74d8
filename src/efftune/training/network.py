"""The Keras model that a stage trains. Freezing and compiling happen together, as Keras requires.

Imports Keras, so `stages` imports this module only when a stage begins.
"""

import math
import re
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from efftune.model import folding
from efftune.model.backbone import Backbone
from efftune.model.engines.engine import chosen_precision
from efftune.model.initial_weights import drawn_by_numpy
from efftune.model.tensors import set_weights, tensor
from efftune.recipe.recipe import Recipe, Stage

_SPAN = 0.1  # of a stage's steps, which moving averages span at most


class Network:
    """The part of a classifier that a stage trains, ready for its first step.

    Attributes:
        inference_model: from the stage's inputs to logits.
        training_model: the same weights, compiled for training.
        bytes: size of `variables`.
    """

    @drawn_by_numpy()
    def __init__(
        self,
        backbone: Backbone,
        head: tuple[NDArray[np.float32], NDArray[np.float32]],
        stage: Stage,
        recipe: Recipe,
        accumulated: int = 1,
        steps: int | None = None,
    ):
        """Freeze and compile.

        Args:
            backbone: its weights are shared and trained in place. Pretrained BatchNorm layers and
                all blocks below the stage's block stay frozen.
            head: kernel (features, classes) and bias (classes,).
            stage: the blocks to train, and the learning rate, unless each step is given its own.
            recipe: the settings of the run.
            accumulated: number of steps over which gradients are accumulated before each update of
                the weights.
            steps: of the stage; None for so many that moving averages need not follow faster.
        """
        _freeze(backbone, stage, recipe)
        _set_momentum(backbone, stage, steps)
        _seed(backbone, recipe.seed)
        kernel, bias = head
        part = _trained_part(backbone, stage, recipe)
        x = layers.Dropout(recipe.optimization.dropout, seed=recipe.seed, name="dropout")(
            part.output
        )
        logits = layers.Dense(len(bias), name="logits")
        self.inference_model = keras.Model(part.input, logits(x))
        set_weights(logits, [kernel, bias])
        self._logits = logits
        model, mixes = self.inference_model, recipe.augmentation.mix != "none"
        self.training_model = _mixing(model) if mixes else model
        self.training_model.compile(
            optimizer=_optimizer(model, backbone, stage, recipe, (accumulated, steps)),
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=recipe.optimization.label_smoothing
            ),
            metrics=["accuracy"],
            # XLA takes longer to compile these graphs for a CPU than it saves; JAX has no choice.
            jit_compile=keras.backend.backend() == "jax",
        )
        _build_for_training(self.training_model, len(bias))
        self.bytes = sum(4 * math.prod(each.shape) for each in self._variables)
        self._averages = keras.callbacks.SwapEMAWeights() if recipe.optimization.ema else None
        if self._averages:
            self._averages.set_model(self.training_model)

    @property
    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Current kernel and bias."""
        kernel, bias = self._logits.get_weights()
        return kernel, bias

    @head.setter
    def head(self, head: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
        set_weights(self._logits, head)

    @property
    def variables(self) -> list[NDArray[Any]]:
        """The values of all that training changes: weights, random states, the optimizer's."""
        return [np.asarray(each) for each in self._variables]

    @variables.setter
    def variables(self, values: list[NDArray[Any]]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(tensor(value))

    @property
    def _variables(self) -> list[Any]:
        return [*self.training_model.variables, *self.training_model.optimizer.variables]

    def show_averages(self) -> None:
        """Swap the weights for their moving averages, if there are any."""
        if self._averages:
            self._averages.on_test_begin()

    def hide_averages(self) -> None:
        """Swap the weights back."""
        if self._averages:
            self._averages.on_test_end()


class Layerwise:
    """An optimizer with a learning rate per weight, which decays from block to block downward.

    Source: Clark et al., "ELECTRA" (2020), https://arxiv.org/abs/2003.10555.
    """

    def __init__(self, factors: list[float], **arguments: Any):
        super().__init__(**arguments)
        self._factors = factors

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one weight at its own learning rate."""
        factor = self._factors[self._get_variable_index(variable)]  # type: ignore[attr-defined]
        super().update_step(gradient, variable, learning_rate * factor)  # type: ignore[misc]


class LayerwiseAdamW(Layerwise, keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW with layer-wise learning rates; Adam if the weight decay is 0.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019),
    https://arxiv.org/abs/1711.05101.
    """


class LayerwiseRMSprop(Layerwise, keras.optimizers.RMSprop):  # type: ignore[misc]
    """RMSprop with layer-wise learning rates; EfficientNet's authors trained it with RMSprop."""


class Mixing(layers.Layer):  # type: ignore[misc]
    """Blends each picture with a partner from the same batch (mixup and CutMix)."""

    def call(self, x: Any, partners: Any, mask: Any) -> Any:
        """Blend inputs (batch, height, width, channels) by `mask` (batch, height, width, 1)."""
        x = ops.cast(x, "float32")
        return mask * x + (1 - mask) * ops.take(x, partners, axis=0)


def _freeze(backbone: Backbone, stage: Stage, recipe: Recipe) -> None:
    scratch = stage.name == "scratch"
    for layer in backbone.keras_model.layers:
        frozen = isinstance(layer, layers.BatchNormalization) or (
            isinstance(layer, layers.DepthwiseConv2D) and not recipe.tuning.train_depthwise
        )
        layer.trainable = scratch or not frozen


def _set_momentum(backbone: Backbone, stage: Stage, steps: int | None) -> None:
    """Let BatchNorm's moving averages, if trained, follow faster in few steps; see `momentum`."""
    if stage.name != "scratch":
        return
    chosen = momentum(backbone.momentum, steps)
    for layer in backbone.keras_model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = chosen


def momentum(asked: float, steps: int | None) -> float:
    """The decay per step of a moving average, which spans a tenth of a stage's steps at most.

    After few steps, most of a slower average is still its initial value: random weights, or a mean
    of 0 and a variance of 1 in each BatchNorm, with which a deep network gives the same for all
    pictures, however well it has learnt.

    Args:
        asked: 0 to 1.
        steps: of the stage; None for any number.
    """
    return asked if steps is None else min(asked, max(0.0, 1 - 1 / (_SPAN * max(1, steps))))


def _seed(backbone: Backbone, seed: int) -> None:
    """Seed the backbone's drop-connect layers, which Keras seeds at random."""
    for i, layer in enumerate(backbone.keras_model.layers):
        if isinstance(layer, layers.Dropout):
            layer.seed_generator.state.assign(np.array([(seed + i) % 2**32, 0], np.uint32))


def _trained_part(backbone: Backbone, stage: Stage, recipe: Recipe) -> keras.Model:
    precision = chosen_precision(backbone.engine, recipe.backbone.precision)
    arithmetic = folding.arithmetic(backbone.device, precision)
    if stage.name == "scratch":
        return folding.trainable_norms(backbone.keras_model, arithmetic)
    block = stage.block if stage.block == "pixels" else backbone.block(stage.block)
    return backbone.upper(block, arithmetic)


def _build_for_training(model: keras.Model, classes: int) -> None:
    """Create the variables of the optimizer and the metrics now.

    If the first step created them, TensorFlow would trace that step twice, which doubles the time
    for tracing and keeps additional graphs in memory.
    """
    model.optimizer.build(model.trainable_variables)
    zeros = np.zeros((1, classes), np.float32)
    model.compute_metrics(None, zeros, zeros, np.zeros(1, np.float32))
    model.reset_metrics()


def _mixing(model: keras.Model) -> keras.Model:
    """A model that blends its inputs before it applies `model`; see `Mixing`."""
    inputs = keras.Input(model.input.shape[1:], dtype=model.input.dtype)
    partners = keras.Input((), dtype="int32")
    mask = keras.Input((*model.input.shape[1:3], 1))
    return keras.Model([inputs, partners, mask], model(Mixing()(inputs, partners, mask)))


def _optimizer(
    model: keras.Model,
    backbone: Backbone,
    stage: Stage,
    recipe: Recipe,
    pace: tuple[int, int | None],
) -> keras.optimizers.Optimizer:
    has_decay = recipe.optimization.optimizer == "adamw"
    accumulated, steps = pace
    kind = LayerwiseRMSprop if recipe.optimization.optimizer == "rmsprop" else LayerwiseAdamW
    optimizer = kind(
        _factors(model, backbone, recipe),
        learning_rate=stage.learning_rate,
        weight_decay=recipe.optimization.weight_decay if has_decay else 0.0,
        use_ema=recipe.optimization.ema > 0,
        ema_momentum=momentum(recipe.optimization.ema or 0.99, steps),
        gradient_accumulation_steps=accumulated if accumulated > 1 else None,
    )
    vectors = [weight for weight in model.trainable_weights if len(weight.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=vectors)  # biases, and scales of BatchNorm
    return optimizer


def _factors(model: keras.Model, backbone: Backbone, recipe: Recipe) -> list[float]:
    """Learning-rate factor of each weight: 1 for the head and the top, lower in lower blocks."""
    depths = {block: i for i, block in enumerate(reversed(backbone.blocks), start=1)}
    factors = []
    for weight in model.trainable_weights:
        match = re.search(r"(block\d+[a-z]+|stem)_", weight.path)
        depth = 0 if match is None else depths.get(match[1], len(depths) + 1)
        factors.append(recipe.tuning.layer_decay**depth)
    return factors
