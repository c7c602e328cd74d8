"""One attempt to run a stage at a learning rate and batch size, which can go on after a stop."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.model.tensors import set_weights
from efftune.recipe.recipe import Recipe, Stage
from efftune.system import stopping
from efftune.system.journal import Checkpoints
from efftune.system.stopping import Stop
from efftune.training import regression_head as heads
from efftune.training.batches import LabelledInputs, Mix, StageData
from efftune.training.deadline import Deadline
from efftune.training.schedule import Schedule, Tail
from efftune.training.stage_result import Array, NetworkState, StageResult
from efftune.training.trainer import trainer_for
from efftune.training.validation import Epoch, is_better, validation_metrics

DIVERGED = 1.5  # times the reference loss, after an epoch
_EXPLODED = 10.0  # times the reference loss, after any step: no stage recovers from that
AT_RATE = "at a learning rate of"  # in the failures that are no lack of memory
_NOT_TRACING = 0.3  # share of the first validation, about
_TREND_STEPS = 5  # time constant of the moving average of the loss, which both limits apply to


class Diverged(Exception):
    """The loss is NaN, or far above the reference loss."""


@dataclass
class AttemptState:
    """Where an attempt is, as far as it is not in arrays.

    Attributes:
        learning_rate: peak of the schedule.
        batch_size: pictures per step.
        parts: number of steps over which gradients are accumulated.
        failures: of this attempt and those before, one text each.
        reference_loss: the loss of guessing, or that of the first step if it is higher.
        trend: moving average of the loss.
        start: validation metrics before the first step.
        best: the best epoch so far.
        top: the highest validation accuracy so far.
        epochs: those that are complete.
        step: number of steps of the next epoch that are done.
        loss: sum of their losses.
        accuracy: sum of their accuracies.
        seconds: that they took.
        tails: how the schedule was shortened: the fields of each `Tail`.
    """

    learning_rate: float
    batch_size: int
    parts: int = 1
    failures: list[str] = field(default_factory=list)
    reference_loss: float = 0.0
    trend: float = 0.0
    start: Epoch | None = None
    best: Epoch | None = None
    top: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)
    step: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    seconds: float = 0.0
    tails: list[dict[str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, values: dict[str, Any]) -> "AttemptState":
        """The state that `asdict` has described."""
        parts: dict[str, Any] = {"epochs": [Epoch(**each) for each in values["epochs"]]}
        if values["start"]:
            parts |= {key: Epoch(**values[key]) for key in ("start", "best")}
        return cls(**(values | parts))


class Attempt:
    """One attempt to run a stage.

    Attributes:
        state: where it is.
    """

    def __init__(
        self,
        initial: NetworkState,
        stage: Stage,
        recipe: Recipe,
        data: tuple[LabelledInputs, LabelledInputs | None],
        state: AttemptState,
    ):
        """Build and compile the network.

        Args:
            initial: the network as the previous stage left it.
            stage: what to train; the state has its learning rate.
            recipe: the settings of the run.
            data: training and validation data; see `stages.fit`.
            state: where to start.
        """
        from efftune.training.network import Network

        self.stage = stage = replace(stage, learning_rate=state.learning_rate)
        self.initial, self.recipe, self.state = initial, recipe, state
        train, val = data
        weights = heads.class_weights(train.labels, recipe)[train.labels]
        size = state.batch_size
        self.data = StageData(train, weights, val, stage.epochs, size, size)
        self._stopped: int | None = None
        steps = self.data.steps * stage.epochs
        tails = tuple(Tail(**each) for each in state.tails)
        rate, settings = stage.learning_rate, recipe.optimization
        self.schedule = Schedule(rate, steps, settings, state.parts, tails)
        head = (initial.kernel, initial.bias)
        self.network = Network(initial.backbone, head, stage, recipe, state.parts, steps)
        self.initial_weights = self.best_weights = self.network.inference_model.get_weights()
        models = self.network.training_model, self.network.inference_model
        self.trainer = trainer_for(*models, self.data, divided=recipe.optimization.divide_steps)

    def undo(self) -> None:
        """Give the network its initial weights back."""
        set_weights(self.network.inference_model, self.initial_weights)

    def restore(self, arrays: dict[str, list[NDArray[Any]]]) -> None:
        """Take over the arrays of a checkpoint of the same state; none before the first step."""
        if arrays:
            self.network.variables = arrays["variables"]
            self.best_weights = arrays.get("best", self.initial_weights)

    def stop_here(self) -> None:
        """Train no more: `run` selects the best of the epochs that are complete."""
        done, asked = len(self.state.epochs), self.stage.epochs
        self.state.failures.append(f"finished after {done} of {asked} epochs, as asked")
        self._stopped = done * self.data.steps

    def run(
        self, checkpoints: Checkpoints, deadline: Deadline, on_step: Callable[[int, int], None]
    ) -> tuple[NetworkState, StageResult]:
        """Train what is left of the stage; see `stages.fit`.

        Args:
            checkpoints: where the state is kept.
            deadline: when the stage has to end.
            on_step: called with the number of steps done and their total.

        Raises:
            Diverged: a lower learning rate may help, or there are no good weights to go back to.
            DiskFull: there is no room for a checkpoint.
        """
        state = self.state
        if self._stopped is None:
            checkpoints.require_room(self.network.bytes)
        deadline.begin(f"{state.learning_rate:g}, {state.batch_size}", len(state.tails))
        began, is_new = time.perf_counter(), state.start is None
        start, best = self._started()
        if is_new:
            deadline.validation = _NOT_TRACING * (time.perf_counter() - began)
        with stopping.deferred() as stop:
            while len(state.epochs) * self.data.steps < self._end:
                epoch = self._epoch(checkpoints, stop, deadline, on_step)
                state.epochs.append(epoch)
                state.step, state.loss, state.accuracy, state.seconds = 0, 0.0, 0.0, 0.0
                worse = epoch.val_accuracy < start.val_accuracy or self.data.val is None
                if state.trend > DIVERGED * state.reference_loss and worse:
                    state.failures.append(self._why_stopped(epoch.number))
                    break
                state.top = max(state.top, epoch.val_accuracy)
                if self._replaces(best, epoch):
                    state.best = best = epoch
                    self.best_weights = self.network.inference_model.get_weights()
                self.network.hide_averages()
                patience = self.recipe.optimization.patience
                if patience and epoch.number - best.number >= patience and self.data.val:
                    break
                self._keep(checkpoints, stop, ends_epoch=True)
        set_weights(self.network.inference_model, self.best_weights)
        self.initial.backbone.weights_changed |= best.number > 0
        kernel, bias = self.network.head
        epochs, failures = tuple(state.epochs), tuple(state.failures)
        if self.schedule.tails:
            shortened = f"{self.schedule.end} of {self.schedule.steps} steps"
            failures = (*failures, f"{shortened}, so that the run ends in time")
        result = StageResult(self.stage, start, epochs, best.number, state.batch_size, failures)
        return NetworkState(self.initial.backbone, kernel, bias), result

    def _started(self) -> tuple[Epoch, Epoch]:
        """The epochs before the first step, and of the best weights so far."""
        state = self.state
        if state.start is None or state.best is None:
            loss, accuracy, calibrated = self._validate()
            untrained = (math.nan, math.nan)
            state.start = state.best = Epoch(
                self.stage.name, 0, 0.0, *untrained, loss, accuracy, 0.0, calibrated
            )
            state.top = accuracy
            state.reference_loss = state.trend = math.log(max(2, len(self.initial.bias)))
            if self.initial.new_head is not None:  # only now: it has to beat the previous head
                self.network.head = self.initial.new_head.kernel, self.initial.new_head.bias
        return state.start, state.best

    def _epoch(
        self,
        checkpoints: Checkpoints,
        stop: Stop,
        deadline: Deadline,
        on_step: Callable[[int, int], None],
    ) -> Epoch:
        """Train and validate what is left of an epoch. The network has averaged weights then."""
        state, number = self.state, len(self.state.epochs) + 1
        began = time.perf_counter() - state.seconds
        if state.step:  # else it is asked after the first one
            self._shorten(deadline)
        while self._done < (last := min(number * self.data.steps, self._end)):
            if (known := deadline.known) is not None:
                last = min(last, known)
            for _ in self._steps(number, last - self._done, on_step):
                state.seconds = time.perf_counter() - began
                self._keep(checkpoints, stop)
                if self._shorten(deadline):
                    break
        trained = (state.loss / max(1, state.step), state.accuracy / max(1, state.step))
        self.network.show_averages()
        validating = time.perf_counter()
        loss, accuracy, calibrated_loss = self._validate()
        deadline.validation = time.perf_counter() - validating
        rate, seconds = self.schedule.rate(self._done), time.perf_counter() - began
        validated = (loss, accuracy, rate, calibrated_loss)
        return Epoch(self.stage.name, number, seconds, *trained, *validated)

    @property
    def _end(self) -> int:
        """Number of steps in all."""
        return self.schedule.end if self._stopped is None else self._stopped

    @property
    def _done(self) -> int:
        """Number of steps that are done."""
        return len(self.state.epochs) * self.data.steps + self.state.step

    def _shorten(self, deadline: Deadline) -> bool:
        """Shorten the schedule if it is time to; returns whether it was."""
        if not (deadline.is_near(self._done) and self.trainer.settle()):
            return False
        tail = deadline.tail(self._done, self.schedule.end, self.data.steps)
        if tail is None:
            return False
        self.schedule = replace(self.schedule, tails=(*self.schedule.tails, tail))
        self.state.tails.append(asdict(tail))
        return True

    def _keep(self, checkpoints: Checkpoints, stop: Stop, *, ends_epoch: bool = False) -> None:
        """Write a checkpoint, if it is time to or the work is to stop."""
        is_due = stop.requested or checkpoints.is_due(self.network.bytes, ends_epoch=ends_epoch)
        if not is_due or not self.trainer.settle():
            return
        arrays = {"variables": self.network.variables}
        if self.state.best and self.state.best.number:
            arrays["best"] = self.best_weights
        with stopping.saving():
            checkpoints.save(asdict(self.state), arrays)
        if stop.requested:
            stop.now()

    def _replaces(self, best: Epoch, epoch: Epoch) -> bool:
        """Whether an epoch replaces the best one so far."""
        if self.data.val is None:
            return epoch.number * self.data.steps >= self._end
        return is_better(epoch, best, self.state.top, len(self.data.val.labels))

    def _why_stopped(self, epoch: int) -> str:
        """Why the stage stops after an epoch with a high loss, if a lower rate was tried before.

        The initial weights, or those of an earlier epoch, are still good then.

        Raises:
            Diverged: a lower learning rate may help, or there are no good weights to go back to.
        """
        message = f"the loss was {self.state.trend:.3g} after epoch {epoch}, worse than guessing"
        if self.stage.name == "scratch" or not any(AT_RATE in each for each in self.state.failures):
            raise Diverged(message)
        return f"{message}; the stage was stopped"

    def _steps(self, epoch: int, count: int, on_step: Callable[[int, int], None]) -> Iterator[None]:
        """Train some of what is left of an epoch, shuffled and without the last partial batch.

        Args:
            epoch: its number.
            count: number of steps.
            on_step: as for `run`.

        Yields:
            After each step, which is counted in the state.
        """
        state, steps = self.state, self.data.steps
        random = np.random.default_rng([self.recipe.seed, epoch])
        order = random.permutation(len(self.data.train.labels))[: steps * state.batch_size]
        mixes = None
        if self.recipe.augmentation.mix != "none":
            for _ in range(state.step):  # those of the steps that are done
                self._mix(random)
            mixes = (self._mix(random) for _ in range(count))
        batches = order.reshape(steps, -1)[state.step : state.step + count]
        rates = self.schedule.rates(self._done, count)
        with closing(self.trainer.train(epoch, batches, mixes, rates)) as outcomes:
            for loss, accuracy in outcomes:
                if epoch == 1 and not state.step:  # computed before the first update of the weights
                    state.reference_loss = state.trend = max(state.reference_loss, loss)
                state.trend += (loss - state.trend) / _TREND_STEPS
                if not state.trend < _EXPLODED * state.reference_loss:  # NaN, too
                    raise Diverged(f"the loss reached {loss:.3g} in epoch {epoch}")
                state.loss, state.accuracy = state.loss + loss, state.accuracy + accuracy
                state.step += 1
                on_step(self._done, self._end)
                yield

    def _mix(self, random: np.random.Generator) -> Mix:
        partners = random.permutation(self.state.batch_size).astype(np.int32)
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
