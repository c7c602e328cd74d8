"""Fine-tuning: stages in order, each starting from the best that the one before it came to."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.errors import DataError
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Recipe, Stage
from efftune.training import regression_head as heads
from efftune.training.batches import LabelledInputs
from efftune.training.regression_head import Head
from efftune.training.validation import Epoch, is_better, validation_metrics

Array = NDArray[np.float32]

RATE_AFTER_FAILURE = 0.1  # of the learning rate, when a stage starts again
DIVERGED = 1.5  # times the loss of guessing, or of the first step, after an epoch
_EXPLODED = 10.0  # times that, at any time: no stage comes back from it
_RATE = "at a learning rate of"
_TREND_STEPS = 5  # that the loss is averaged over, for both


@dataclass(frozen=True)
class StageResult:
    """What came of a stage.

    Attributes:
        stage: as asked for.
        start: how the network fared before.
        epochs: those that were trained.
        best: the number of the epoch whose weights were kept; 0 if the stage was rolled back,
            because it ended worse than it began.
        batch_size: pictures in a step that fitted into memory.
        failures: why it had to start again, if it had to.
    """

    stage: Stage
    start: Epoch
    epochs: tuple[Epoch, ...]
    best: int
    batch_size: int
    failures: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What `run.json` says of it."""
        return {
            "name": self.stage.name,
            "block": self.stage.block,
            "epochs": len(self.epochs),
            "best_epoch": self.best,
            "rolled_back": self.best == 0,
            "val_accuracy": {"before": self.start.val_accuracy, "after": self.kept.val_accuracy},
            "val_loss": {"before": self.start.val_loss, "after": self.kept.val_loss},
            "learning_rate": self.stage.learning_rate,
            "batch_size": self.batch_size,
            "failures": list(self.failures),
        }

    @property
    def kept(self) -> Epoch:
        """The state that was kept."""
        return (self.start, *self.epochs)[self.best]


@dataclass(frozen=True)
class NetworkState:
    """A network under training.

    Attributes:
        backbone: its Keras weights change in place.
        kernel: of the head, shape (features, classes).
        bias: of the head, shape (classes,).
        new_head: to begin the next stage with, in that one's place.
    """

    backbone: Backbone
    kernel: Array
    bias: Array
    new_head: Head | None = None


class _Diverged(Exception):
    """The loss is no number, or far above that of guessing."""


def fit(
    tuned: NetworkState,
    stage: Stage,
    train: LabelledInputs,
    val: LabelledInputs,
    recipe: Recipe,
    on_step: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[NetworkState, StageResult]:
    """Run one stage.

    Args:
        tuned: the network as the stages before it have left it.
        stage: what to train, and for how long.
        train: inputs at the input of the stage's first block.
        val: the same, to judge by.
        recipe: how to train.
        on_step: called with the steps done and their total.

    Returns:
        The network with the weights of its best epoch (see `better`), or as it was if none is
        better than that, and how that came about.

    Raises:
        DataError: the loss explodes even at a lower learning rate, or a single picture does not
            fit into memory; the message says what to do.
    """
    failures: list[str] = []
    batch_size = min(recipe.optimization.batch_size, len(train.labels))
    parts = 1
    while True:
        attempt = _Attempt(tuned, stage, recipe, (train, val), (batch_size, parts))
        try:
            return attempt.run(on_step, tuple(failures))
        except _Diverged as problem:
            attempt.undo()
            failures.append(f"{problem} {_RATE} {stage.learning_rate:g}")
            if len([each for each in failures if _RATE in each]) > 1:
                raise DataError(
                    f"Stage {stage.name} cannot be trained: {'; '.join(failures)}. Give a lower "
                    "--learning-rate, and look for wrong labels or damaged pictures."
                ) from None
            stage = replace(stage, learning_rate=RATE_AFTER_FAILURE * stage.learning_rate)
        except Exception as error:
            if not _out_of_memory(error):
                raise
            attempt.undo()
            failures.append(f"out of memory with {batch_size} pictures in a step")
            if batch_size == 1:
                raise DataError(
                    f"Stage {stage.name} does not fit into memory, not even one picture at a "
                    "time. Choose a smaller --image-size or --model, or a higher block with "
                    "--unfreeze."
                ) from None
            batch_size, parts = -(-batch_size // 2), parts * 2


class _Attempt:
    """A stage being run, at one learning rate and batch size."""

    def __init__(
        self,
        tuned: NetworkState,
        stage: Stage,
        recipe: Recipe,
        materials: tuple[LabelledInputs, LabelledInputs],
        batch: tuple[int, int],
    ):
        from efftune.training.network import Network

        self.tuned, self.stage, self.recipe = tuned, stage, recipe
        self.train, self.val = materials
        self.batch_size, parts = batch
        self.steps = max(1, len(self.train.labels) // self.batch_size)
        self.classes = len(tuned.bias)
        self.weights = heads.class_weights(self.train.labels, recipe)[self.train.labels]
        self.usual = self.trend = math.log(max(2, self.classes))
        total = self.steps * stage.epochs
        head = (tuned.kernel, tuned.bias)
        self.network = Network(tuned.backbone, head, stage, recipe, (total, parts))
        self.before = self.network.judged.get_weights()

    def undo(self) -> None:
        self.network.judged.set_weights(self.before)

    def run(
        self, on_step: Callable[[int, int], None], failures: tuple[str, ...]
    ) -> tuple[NetworkState, StageResult]:
        nothing = (math.nan, math.nan)
        loss, accuracy, calibrated_loss = self._judge()
        start = Epoch(self.stage.name, 0, 0.0, *nothing, loss, accuracy, 0.0, calibrated_loss)
        best = start
        weights, top = self.before, start.val_accuracy
        if self.tuned.new_head is not None:  # it has to come out better than the one judged here
            self.network.head = self.tuned.new_head.kernel, self.tuned.new_head.bias
        epochs: list[Epoch] = []
        for number in range(1, self.stage.epochs + 1):
            began = time.perf_counter()
            trained = self._train(number, on_step)
            self.network.show_averages()
            loss, accuracy, calibrated_loss = self._judge()
            rate, seconds = self.network.learning_rate, time.perf_counter() - began
            judged = (loss, accuracy, rate, calibrated_loss)
            epochs.append(Epoch(self.stage.name, number, seconds, *trained, *judged))
            if self.trend > DIVERGED * self.usual and accuracy < start.val_accuracy:
                told = f"the loss was {self.trend:.3g} after epoch {number}, worse than guessing"
                if self.stage.name == "scratch" or not any(_RATE in each for each in failures):
                    raise _Diverged(told)
                # What it began with, or an epoch before, is still good.
                failures = (*failures, f"{told}; the stage ended there")
                break
            top = max(top, epochs[-1].val_accuracy)
            if is_better(epochs[-1], best, top, len(self.val.labels)):
                best, weights = epochs[-1], self.network.judged.get_weights()
            self.network.hide_averages()
            if (
                self.recipe.optimization.patience
                and number - best.number >= self.recipe.optimization.patience
            ):
                break
        self.network.judged.set_weights(weights)
        self.tuned.backbone.tuned |= best.number > 0
        kernel, bias = self.network.head
        outcome = StageResult(
            self.stage, start, tuple(epochs), best.number, self.batch_size, failures
        )
        return NetworkState(self.tuned.backbone, kernel, bias), outcome

    def _train(self, epoch: int, on_step: Callable[[int, int], None]) -> tuple[float, float]:
        """One pass over the training pictures, shuffled; a last partial batch is left out."""
        random = np.random.default_rng([self.recipe.seed, epoch])
        order = random.permutation(len(self.train.labels))
        total = right = 0.0
        for step in range(self.steps):
            pictures = order[step * self.batch_size : (step + 1) * self.batch_size]
            loss, accuracy = self._step(pictures, epoch, random)
            if epoch == 1 and step == 0:  # at the bottom of the warm-up: the loss of the start
                self.usual = self.trend = max(self.usual, loss)
            self.trend += (loss - self.trend) / _TREND_STEPS
            if not self.trend < _EXPLODED * self.usual:
                raise _Diverged(f"the loss came to {loss:.3g} in epoch {epoch}")
            total, right = total + loss, right + accuracy
            on_step((epoch - 1) * self.steps + step + 1, self.steps * self.stage.epochs)
        return total / self.steps, right / self.steps

    def _step(
        self, pictures: NDArray[np.int64], epoch: int, random: np.random.Generator
    ) -> tuple[float, float]:
        labels = self.train.labels[pictures]
        inputs: Any = self.train.batch(pictures, epoch)
        targets = np.eye(self.classes, dtype=np.float32)[labels]
        if self.recipe.augmentation.mix != "none":
            partners = random.permutation(len(pictures)).astype(np.int32)
            share = _shares(self.recipe, self.train.inputs.shape[:2], random)
            part = float(share.mean())
            targets = part * targets + (1 - part) * targets[partners]
            inputs = [inputs, partners, np.repeat(share, len(pictures), axis=0)]
        weights = self.weights[pictures]
        loss, accuracy = self.network.trained.train_on_batch(inputs, targets, weights)
        return float(loss), float(accuracy)

    def _judge(self) -> tuple[float, float, float]:
        """See `verdict`; on validation."""
        batches = self.val.in_order(self.batch_size)
        logits = np.concatenate([self.network.judged.predict_on_batch(batch) for batch in batches])
        return validation_metrics(logits, self.val.labels)


def _shares(recipe: Recipe, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """How much of a picture is its own at each place, float32 (1, height, width, 1).

    Sources: Zhang et al., "mixup" (2018), https://arxiv.org/abs/1710.09412; Yun et al., "CutMix"
    (2019), https://arxiv.org/abs/1905.04899.
    """
    own = random.beta(recipe.augmentation.mix_alpha, recipe.augmentation.mix_alpha)
    if recipe.augmentation.mix == "mixup":
        return np.full((1, *shape, 1), own, np.float32)
    share = np.ones((1, *shape, 1), np.float32)
    sides = [max(1, round(side * math.sqrt(1 - own))) for side in shape]
    top, left = (random.integers(0, side - cut + 1) for side, cut in zip(shape, sides, strict=True))
    share[:, top : top + sides[0], left : left + sides[1]] = 0
    return share


def _out_of_memory(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    told = "RESOURCE_EXHAUSTED" in str(error)
    return told or bool(names & {"MemoryError", "ResourceExhaustedError"})
