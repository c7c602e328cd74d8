"""What a stage starts from, and how it went."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.errors import DataError
from efftune.model.backbone import Backbone
from efftune.recipe.recipe import Stage
from efftune.training.regression_head import Head
from efftune.training.validation import ALL, Epoch

Array = NDArray[np.float32]


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

    def to_state(self) -> dict[str, Any]:
        """All of it as JSON values, for `from_state`."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "StageResult":
        """The result that `to_state` describes."""
        parts = {
            "stage": Stage(**state["stage"]),
            "start": Epoch(**state["start"]),
            "epochs": tuple(Epoch(**each) for each in state["epochs"]),
            "failures": tuple(state["failures"]),
        }
        return cls(**(state | parts))

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


class LeftOut(Exception):
    """A stage is left out, and why: the run is to be finished, or there is no time for it."""


class TrainingDiverged(DataError):
    """A stage diverged at a lower learning rate, too."""
