"""How an epoch is judged on validation, and which one is kept."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Epoch:
    """One pass over the training pictures.

    Attributes:
        stage: the stage it belongs to.
        number: from 1; 0 is the state the stage began with.
        seconds: that it took, validation included.
        loss: mean training loss, as trained: smoothed labels, dropout, views.
        accuracy: on the training pictures, as trained.
        val_loss: mean cross-entropy on validation, in nats.
        val_accuracy: on validation.
        learning_rate: at its end.
        val_calibrated_loss: mean cross-entropy on validation at the best temperature, in nats.
            Unlike `val_loss` it does not change if all logits are scaled, as label smoothing
            scales them.
    """

    stage: str
    number: int
    seconds: float
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    val_calibrated_loss: float = math.nan


def is_better(epoch: Epoch, best: Epoch, top: float, pictures: int) -> bool:
    """Whether an epoch is to be kept instead of the best so far.

    Accuracy on few pictures is mostly luck, so that whoever picks the highest of several picks the
    luckiest. Of the epochs within a standard error of the highest accuracy, the one with the lowest
    log-loss at its best temperature is kept: it chooses better for pictures not seen.

    Args:
        epoch: the one in question.
        best: the one that is kept so far.
        top: the highest accuracy on validation so far, that of `epoch` included.
        pictures: how many it was measured on.
    """
    least = top - math.sqrt(top * (1 - top) / pictures)
    if epoch.val_accuracy < least:
        return False
    return epoch.val_calibrated_loss < best.val_calibrated_loss or best.val_accuracy < least


def validation_metrics(
    logits: NDArray[np.floating], labels: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Mean cross-entropy in nats, accuracy, and `sharpness`, of logits (pictures, classes)."""
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    return _cross_entropy(logits, labels), accuracy, calibrated_loss(logits, labels)


def calibrated_loss(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The mean cross-entropy at the temperature, from 1/20 to 20, at which it is lowest, in nats.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017),
    https://arxiv.org/abs/1706.04599.
    """
    from scipy.optimize import minimize_scalar

    furthest = math.log(20)
    found = minimize_scalar(
        lambda power: _cross_entropy(logits * math.exp(power), labels),
        bounds=(-furthest, furthest),
        method="bounded",
    )
    return float(found.fun)


def _cross_entropy(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    from scipy.special import log_softmax

    likelihoods = log_softmax(logits.astype(np.float64), axis=1)
    return float(-likelihoods[np.arange(len(labels)), labels].mean())


def to_csv(epochs: Sequence[Epoch]) -> str:
    """The table `history.csv`; what a stage does not have is left empty."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    judged = ("loss", "accuracy", "val_loss", "val_accuracy")
    writer.writerow(["stage", "epoch", "seconds", *judged, "learning_rate"])
    for each in epochs:
        values = (each.loss, each.accuracy, each.val_loss, each.val_accuracy)
        told = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
        rate = "" if math.isnan(each.learning_rate) else f"{each.learning_rate:.3g}"
        writer.writerow([each.stage, each.number, f"{each.seconds:.2f}", *told, rate])
    return table.getvalue()
