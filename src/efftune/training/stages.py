"""One stage of training: its epochs, the choice of the best one, and restarts after failures."""

import gc
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.errors import DataError
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe, Stage
from efftune.training import regression_head as heads
from efftune.training.batches import LabelledInputs, Mix, StageData
from efftune.training.regression_head import Head
from efftune.training.trainer import trainer_for
from efftune.training.validation import ALL, Epoch, is_better, validation_metrics

Array = NDArray[np.float32]

RATE_AFTER_FAILURE = 0.1  # factor of the learning rate when a stage is restarted
DIVERGED = 1.5  # times the reference loss, after an epoch
_EXPLODED = 10.0  # times the reference loss, after any step: no stage recovers from that
_TREND_STEPS = 5  # time constant of the moving average of the loss, which both limits apply to
_AT_RATE = "at a learning rate of"


@dataclass(frozen=True)
class StageResult:
    """How a stage went.

    Attributes:
        stage: the stage as it was run; its learning rate may have been reduced.
        start: validation metrics before the first step.
        epochs: the epochs that were trained; those of an ensemble's networks one after another,
            and a last one of all together.
        best: number of the epoch whose weights were selected; 0 if the stage was rolled back
            because no epoch improved on the start, or not taken by cross-validation.
        batch_size: pictures per step; smaller than requested if that did not fit into memory.
        failures: why the stage was restarted or stopped, one text per failure.
        members: number of networks whose logits are averaged.
    """

    stage: Stage
    start: Epoch
    epochs: tuple[Epoch, ...]
    best: int
    batch_size: int
    failures: tuple[str, ...] = ()
    members: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The result as written to `run.json`."""
        return {
            "name": self.stage.name,
            "block": self.stage.block,
            "epochs": sum(each.network != ALL for each in self.epochs),
            "members": self.members,
            "best_epoch": self.best,
            "rolled_back": self.best == 0,
            "val_accuracy": {
                "before": self.start.val_accuracy,
                "after": self.selected.val_accuracy,
            },
            "val_loss": {"before": self.start.val_loss, "after": self.selected.val_loss},
            "learning_rate": self.stage.learning_rate,
            "batch_size": self.batch_size,
            "failures": list(self.failures),
        }

    @property
    def selected(self) -> Epoch:
        """The epoch whose weights were selected; `start` if the stage was rolled back."""
        return (self.start, *self.epochs)[self.best]


@dataclass(frozen=True)
class NetworkState:
    """A network between two stages.

    Attributes:
        backbone: its Keras weights are trained in place.
        kernel: of the head, float32 (features, classes).
        bias: of the head, float32 (classes,).
        new_head: a head that replaces the current one when the next stage starts, if any.
    """

    backbone: Backbone
    kernel: Array
    bias: Array
    new_head: Head | None = None

    @property
    def head(self) -> Head:
        """Kernel and bias."""
        return Head(self.kernel, self.bias)


class _Diverged(Exception):
    """The loss is NaN, or far above the reference loss."""


class TrainingDiverged(DataError):
    """A stage diverged at a lower learning rate, too."""


def fit(
    network: NetworkState,
    stage: Stage,
    train: LabelledInputs,
    val: LabelledInputs | None,
    recipe: Recipe,
    on_step: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[NetworkState, StageResult]:
    """Run one stage.

    Args:
        network: the network as the previous stage left it.
        stage: what to train, and for how long.
        train: training data at the input of the stage's first block.
        val: the same for the validation split; None to keep the last epoch, whatever it is like.
        recipe: the settings of the run.
        on_step: called with the number of steps done and their total.

    Returns:
        The network with the weights of its best epoch (see `validation.is_better`), or with its
        initial weights if no epoch improved on them; and the result of the stage.

    Raises:
        TrainingDiverged: the loss diverges even at a lower learning rate.
        DataError: not even a single picture fits into memory.
    """
    failures: list[str] = []
    batch_size = min(int(recipe.optimization.batch_size), len(train.labels))
    parts = 1
    while True:
        attempt = _Attempt(network, stage, recipe, (train, val), (batch_size, parts))
        try:
            return attempt.run(on_step, tuple(failures))
        except _Diverged as error:
            attempt.undo()
            failures.append(f"{error} {_AT_RATE} {stage.learning_rate:g}")
            if len([failure for failure in failures if _AT_RATE in failure]) > 1:
                raise TrainingDiverged(
                    f"Training diverged in stage {stage.name}: {'; '.join(failures)}. Set a lower "
                    "--learning-rate, and check for wrong labels or damaged pictures."
                ) from None
            stage = replace(stage, learning_rate=RATE_AFTER_FAILURE * stage.learning_rate)
        except Exception as error:
            if not _out_of_memory(error):
                raise
            attempt.undo()
            failures.append(f"out of memory at a batch size of {batch_size}")
            if batch_size == 1:
                raise DataError(
                    f"Stage {stage.name} does not fit into memory, even at a batch size of 1. "
                    "Choose a smaller --image-size or --model, or a higher block with --unfreeze, "
                    "or close other programs that use the device's memory."
                ) from None
            batch_size, parts = -(-batch_size // 2), parts * 2
        del attempt  # and what it holds of the device's memory, before the next one is made
        gc.collect()


class _Attempt:
    """One attempt to run a stage, at a given learning rate and batch size."""

    def __init__(
        self,
        initial: NetworkState,
        stage: Stage,
        recipe: Recipe,
        data: tuple[LabelledInputs, LabelledInputs | None],
        batch: tuple[int, int],
    ):
        from efftune.training.network import Network

        self.initial, self.stage, self.recipe = initial, stage, recipe
        train, val = data
        self.batch_size, parts = batch
        weights = heads.class_weights(train.labels, recipe)[train.labels]
        self.data = StageData(train, weights, val, stage.epochs, self.batch_size, self.batch_size)
        # The loss of guessing, or that of the first step if it is higher.
        self.reference_loss = self.trend = math.log(max(2, len(initial.bias)))
        self.total = self.data.steps * stage.epochs
        head = (initial.kernel, initial.bias)
        self.network = Network(initial.backbone, head, stage, recipe, (self.total, parts))
        self.initial_weights = self.network.inference_model.get_weights()
        models = self.network.training_model, self.network.inference_model
        self.trainer = trainer_for(*models, self.data)

    def undo(self) -> None:
        self.network.inference_model.set_weights(self.initial_weights)

    def run(
        self, on_step: Callable[[int, int], None], failures: tuple[str, ...]
    ) -> tuple[NetworkState, StageResult]:
        untrained = (math.nan, math.nan)
        loss, accuracy, calibrated_loss = self._validate()
        start = Epoch(self.stage.name, 0, 0.0, *untrained, loss, accuracy, 0.0, calibrated_loss)
        best = start
        weights, top = self.initial_weights, start.val_accuracy
        if self.initial.new_head is not None:  # only now: it has to improve on the previous head
            self.network.head = self.initial.new_head.kernel, self.initial.new_head.bias
        epochs: list[Epoch] = []
        for number in range(1, self.stage.epochs + 1):
            began = time.perf_counter()
            trained = self._train(number, on_step)
            self.network.show_averages()
            loss, accuracy, calibrated_loss = self._validate()
            rate, seconds = self.network.learning_rate, time.perf_counter() - began
            validated = (loss, accuracy, rate, calibrated_loss)
            epochs.append(Epoch(self.stage.name, number, seconds, *trained, *validated))
            worse = accuracy < start.val_accuracy or self.data.val is None
            if self.trend > DIVERGED * self.reference_loss and worse:
                failures = (*failures, self._why_stopped(number, failures))
                break
            top = max(top, epochs[-1].val_accuracy)
            if self._replaces(best, epochs[-1], top):
                best, weights = epochs[-1], self.network.inference_model.get_weights()
            self.network.hide_averages()
            patience = self.recipe.optimization.patience
            if patience and number - best.number >= patience and self.data.val is not None:
                break
        self.network.inference_model.set_weights(weights)
        self.initial.backbone.weights_changed |= best.number > 0
        kernel, bias = self.network.head
        result = StageResult(
            self.stage, start, tuple(epochs), best.number, self.batch_size, failures
        )
        return NetworkState(self.initial.backbone, kernel, bias), result

    def _replaces(self, best: Epoch, epoch: Epoch, top: float) -> bool:
        """Whether an epoch replaces the best one so far; `top` is the highest accuracy so far."""
        if self.data.val is None:
            return epoch.number == self.stage.epochs
        return is_better(epoch, best, top, len(self.data.val.labels))

    def _why_stopped(self, epoch: int, failures: tuple[str, ...]) -> str:
        """Why the stage stops after an epoch with a high loss, if a lower rate was tried before.

        The initial weights, or those of an earlier epoch, are still good then.

        Raises:
            _Diverged: a lower learning rate may help, or there are no good weights to go back to.
        """
        message = f"the loss was {self.trend:.3g} after epoch {epoch}, worse than guessing"
        if self.stage.name == "scratch" or not any(_AT_RATE in each for each in failures):
            raise _Diverged(message)
        return f"{message}; the stage was stopped"

    def _train(self, epoch: int, on_step: Callable[[int, int], None]) -> tuple[float, float]:
        """Train one epoch, shuffled and without the last partial batch.

        Returns:
            Mean loss and accuracy of its steps.
        """
        random = np.random.default_rng([self.recipe.seed, epoch])
        steps = self.data.steps
        order = random.permutation(len(self.data.train.labels))[: steps * self.batch_size]
        mixes = None
        if self.recipe.augmentation.mix != "none":
            mixes = (self._mix(random) for _ in range(steps))
        total_loss = total_accuracy = 0.0
        done = (epoch - 1) * steps
        with closing(self.trainer.train(epoch, order.reshape(steps, -1), mixes)) as outcomes:
            for loss, accuracy in outcomes:
                if done == 0:  # computed before the first update of the weights
                    self.reference_loss = self.trend = max(self.reference_loss, loss)
                self.trend += (loss - self.trend) / _TREND_STEPS
                if not self.trend < _EXPLODED * self.reference_loss:  # NaN, too
                    raise _Diverged(f"the loss reached {loss:.3g} in epoch {epoch}")
                total_loss, total_accuracy = total_loss + loss, total_accuracy + accuracy
                done += 1
                on_step(done, self.total)
        return total_loss / steps, total_accuracy / steps

    def _mix(self, random: np.random.Generator) -> Mix:
        partners = random.permutation(self.batch_size).astype(np.int32)
        mask = _mixing_mask(self.recipe, self.data.train.inputs.shape[:2], random)
        return Mix(partners, mask, float(mask.mean()))

    def _validate(self) -> tuple[float, float, float]:
        """The `validation_metrics` of the network in its present state; NaN without validation."""
        if self.data.val is None:
            return math.nan, math.nan, math.nan
        return validation_metrics(self.trainer.logits(), self.data.val.labels)


def _mixing_mask(recipe: Recipe, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Weight of a picture against its partner at each position, float32 (1, height, width, 1).

    Sources: Zhang et al., "mixup" (2018), https://arxiv.org/abs/1710.09412; Yun et al., "CutMix"
    (2019), https://arxiv.org/abs/1905.04899.
    """
    ratio = random.beta(recipe.augmentation.mix_alpha, recipe.augmentation.mix_alpha)
    if recipe.augmentation.mix == "mixup":
        return np.full((1, *shape, 1), ratio, np.float32)
    mask = np.ones((1, *shape, 1), np.float32)
    sides = [max(1, round(side * math.sqrt(1 - ratio))) for side in shape]
    top, left = (random.integers(0, side - cut + 1) for side, cut in zip(shape, sides, strict=True))
    mask[:, top : top + sides[0], left : left + sides[1]] = 0
    return mask


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, TensorFlow or JAX ran out of memory; each raises an error of its own."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "RESOURCE_EXHAUSTED" in str(error) or bool(
        names & {"MemoryError", "ResourceExhaustedError"}
    )
