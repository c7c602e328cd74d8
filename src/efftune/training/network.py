"""What a stage trains: freeze and compile in one place, since one does nothing without the other.

Imports Keras; `stages` imports this module only when a stage begins.
"""

import re
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from efftune.model.backbone import Backbone
from efftune.model.engines.openvino_engine import fastest_precision
from efftune.recipe.recipe import Recipe, Stage
from efftune.training.folding import folded, fused


class Network:
    """The part of a classifier that a stage trains, ready for its first step.

    Attributes:
        inference_model: from the stage's inputs to logits.
        training_model: the same weights, compiled for training.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: tuple[NDArray[np.float32], NDArray[np.float32]],
        stage: Stage,
        recipe: Recipe,
        steps: tuple[int, int],
    ):
        """Freeze and compile.

        Args:
            backbone: its weights are shared and will change. BatchNorm stays as it was pretrained,
                and so does everything below the stage's block.
            head: kernel (features, classes) and bias (classes,).
            stage: what to train, at which rate.
            recipe: how to train.
            steps: how many there will be in all, and over how many of them gradients are gathered
                until the weights change.
        """
        _freeze(backbone, stage, recipe)
        _seed(backbone, recipe.seed)
        kernel, bias = head
        part = _part(backbone, stage)
        x = layers.Dropout(recipe.optimization.dropout, seed=recipe.seed, name="dropout")(
            part.output
        )
        logits = layers.Dense(len(bias), name="logits")
        self.inference_model = keras.Model(part.input, logits(x))
        logits.set_weights([kernel, bias])
        self._logits = logits
        self.training_model = (
            self.inference_model
            if recipe.augmentation.mix == "none"
            else _mixing(self.inference_model)
        )
        self.training_model.compile(
            optimizer=_optimizer(self.inference_model, backbone, stage, recipe, steps),
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=recipe.optimization.label_smoothing
            ),
            metrics=["accuracy"],
            # XLA takes longer to compile these graphs for a CPU than it saves; JAX has no choice.
            jit_compile=keras.backend.backend() == "jax",
        )
        _build_for_training(self.training_model, len(bias))
        self._averages = keras.callbacks.SwapEMAWeights() if recipe.optimization.ema else None
        if self._averages:
            self._averages.set_model(self.training_model)

    @property
    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Kernel and bias as they are now."""
        kernel, bias = self._logits.get_weights()
        return kernel, bias

    @head.setter
    def head(self, head: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
        self._logits.set_weights(head)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.training_model.optimizer.learning_rate)

    def show_averages(self) -> None:
        """Put the weights' moving averages, if any, in their place."""
        if self._averages:
            self._averages.on_test_begin()

    def hide_averages(self) -> None:
        """Put the weights themselves back."""
        if self._averages:
            self._averages.on_test_end()


class Layerwise:
    """An optimizer whose learning rate shrinks from the head down, a factor a block.

    Source: Clark et al., "ELECTRA" (2020), https://arxiv.org/abs/2003.10555.
    """

    def __init__(self, factors: list[float], **choices: Any):
        super().__init__(**choices)
        self._factors = factors

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One weight's step, at that weight's own rate."""
        factor = self._factors[self._get_variable_index(variable)]  # type: ignore[attr-defined]
        super().update_step(gradient, variable, learning_rate * factor)  # type: ignore[misc]


class LayerwiseAdamW(Layerwise, keras.optimizers.AdamW):  # type: ignore[misc]
    """AdamW, or Adam if weights do not decay.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019),
    https://arxiv.org/abs/1711.05101.
    """


class LayerwiseRMSprop(Layerwise, keras.optimizers.RMSprop):  # type: ignore[misc]
    """RMSprop, with which EfficientNet was trained by its authors."""


class Mixing(layers.Layer):  # type: ignore[misc]
    """Blends each picture with another one of its batch, at each place by that place's share."""

    def call(self, x: Any, partners: Any, share: Any) -> Any:
        """Blend inputs (batch, height, width, channels) by `share` (batch, height, width, 1)."""
        x = ops.cast(x, "float32")
        return share * x + (1 - share) * ops.take(x, partners, axis=0)


def _freeze(backbone: Backbone, stage: Stage, recipe: Recipe) -> None:
    scratch = stage.name == "scratch"
    for layer in backbone.keras_model.layers:
        frozen = isinstance(layer, layers.BatchNormalization) or (
            isinstance(layer, layers.DepthwiseConv2D) and not recipe.tuning.train_depthwise
        )
        layer.trainable = scratch or not frozen


def _seed(backbone: Backbone, seed: int) -> None:
    """Make it repeatable which blocks are left out: graphs draw their seeds at random."""
    for i, layer in enumerate(backbone.keras_model.layers):
        if isinstance(layer, layers.Dropout):
            layer.seed_generator.state.assign(np.array([(seed + i) % 2**32, 0], np.uint32))


def _part(backbone: Backbone, stage: Stage) -> keras.Model:
    if stage.name == "scratch":
        return fused(backbone)
    block = stage.block if stage.block == "pixels" else backbone.block(stage.block)
    product_dtype = "bfloat16" if fastest_precision() == "bf16" else "float32"
    return folded(backbone, block, product_dtype)


def _build_for_training(model: keras.Model, classes: int) -> None:
    """Make the optimizer's and the metrics' variables now.

    Made by the first step, they would have TensorFlow trace that step twice, which takes as long
    again and leaves graphs in memory for good.
    """
    model.optimizer.build(model.trainable_variables)
    nothing = np.zeros((1, classes), np.float32)
    model.compute_metrics(None, nothing, nothing, np.zeros(1, np.float32))
    model.reset_metrics()


def _mixing(model: keras.Model) -> keras.Model:
    entry = keras.Input(model.input.shape[1:], dtype=model.input.dtype)
    partners = keras.Input((), dtype="int32")
    share = keras.Input((*model.input.shape[1:3], 1))
    return keras.Model([entry, partners, share], model(Mixing()(entry, partners, share)))


def _optimizer(
    model: keras.Model, backbone: Backbone, stage: Stage, recipe: Recipe, steps: tuple[int, int]
) -> keras.optimizers.Optimizer:
    total, gathered = steps
    decays = recipe.optimization.optimizer == "adamw"
    kind = LayerwiseRMSprop if recipe.optimization.optimizer == "rmsprop" else LayerwiseAdamW
    optimizer = kind(
        _factors(model, backbone, recipe),
        learning_rate=_schedule(stage, recipe, max(1, total // gathered)),
        weight_decay=recipe.optimization.weight_decay if decays else 0.0,
        use_ema=recipe.optimization.ema > 0,
        ema_momentum=recipe.optimization.ema or 0.99,
        gradient_accumulation_steps=gathered if gathered > 1 else None,
    )
    plain = [weight for weight in model.trainable_weights if len(weight.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=plain)
    return optimizer


def _schedule(stage: Stage, recipe: Recipe, total: int) -> Any:
    if recipe.optimization.schedule == "constant":
        return stage.learning_rate
    warmup = round(recipe.optimization.warmup * total)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else stage.learning_rate,
        decay_steps=max(1, total - warmup),
        warmup_target=stage.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _factors(model: keras.Model, backbone: Backbone, recipe: Recipe) -> list[float]:
    """The learning rate's factor for each weight: 1 for head and top, less for lower blocks."""
    depths = {block: i for i, block in enumerate(reversed(backbone.blocks), start=1)}
    factors = []
    for weight in model.trainable_weights:
        found = re.search(r"(block\d+[a-z]+|stem)_", weight.path)
        depth = 0 if found is None else depths.get(found[1], len(depths) + 1)
        factors.append(recipe.tuning.layer_decay**depth)
    return factors
