"""Validation metrics, the choice of the best epoch, and the history as CSV."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efftune.system import files

ALL = "all"


@dataclass(frozen=True)
class Epoch:
    """Metrics of one pass over the training pictures.

    Attributes:
        stage: name of the stage.
        number: from 1; 0 is the state before the first step.
        seconds: duration, including validation.
        loss: mean training loss, with label smoothing, dropout and augmentation.
        accuracy: training accuracy, with dropout and augmentation.
        val_loss: mean cross-entropy on the validation split, in nats.
        val_accuracy: accuracy on the validation split.
        learning_rate: learning rate at the end of the epoch.
        val_calibrated_loss: mean cross-entropy on the validation split at the best temperature, in
            nats. Unlike `val_loss`, it is invariant to the scale of the logits, which label
            smoothing changes.
        network: of an ensemble: `1` for the first network and so on, or `all`: what all of them
            together achieve, which has no training metrics.
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
    network: str = ""


def is_better(epoch: Epoch, best: Epoch, top: float, pictures: int) -> bool:
    """Whether an epoch replaces the best one so far.

    On a small validation split, differences in accuracy are mostly noise, and picking the highest
    accuracy favours lucky epochs. Of the epochs within one standard error of the highest accuracy,
    the one with the lowest calibrated loss is kept, since it generalises better.

    Args:
        epoch: the candidate.
        best: the best epoch so far.
        top: the highest validation accuracy so far, including that of `epoch`.
        pictures: number of validation pictures.
    """
    threshold = top - math.sqrt(top * (1 - top) / pictures)
    if epoch.val_accuracy < threshold:
        return False
    return epoch.val_calibrated_loss < best.val_calibrated_loss or best.val_accuracy < threshold


def validation_metrics(
    logits: NDArray[np.floating], labels: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Mean cross-entropy in nats, accuracy, and calibrated loss of logits (pictures, classes)."""
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    return _cross_entropy(logits, labels), accuracy, calibrated_loss(logits, labels)


def calibrated_loss(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean cross-entropy in nats after temperature scaling, at the best temperature in [1/20, 20].

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017),
    https://arxiv.org/abs/1706.04599.
    """
    from scipy.optimize import minimize_scalar

    limit = math.log(20)
    optimum = minimize_scalar(
        lambda log_scale: _cross_entropy(logits * math.exp(log_scale), labels),
        bounds=(-limit, limit),
        method="bounded",
    )
    return float(optimum.fun)


def _cross_entropy(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    from scipy.special import log_softmax

    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def to_csv(epochs: Sequence[Epoch]) -> str:
    """The epochs as `history.csv`; values that do not apply to a stage are empty."""
    table = io.StringIO()
    writer = files.csv_writer(table)
    metrics = ("loss", "accuracy", "val_loss", "val_accuracy")
    writer.writerow(["stage", "epoch", "seconds", *metrics, "learning_rate", "network"])
    for epoch in epochs:
        values = (epoch.loss, epoch.accuracy, epoch.val_loss, epoch.val_accuracy)
        cells = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
        rate = "" if math.isnan(epoch.learning_rate) else f"{epoch.learning_rate:.3g}"
        row = [epoch.stage, epoch.number, f"{epoch.seconds:.2f}", *cells, rate, epoch.network]
        writer.writerow(row)
    return table.getvalue()
