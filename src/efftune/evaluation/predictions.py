"""What the classifier said of each picture it was judged on, as a table."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Example, Split
from efftune.errors import DataError

FILE = "predictions.csv"


@dataclass(frozen=True)
class SplitPredictions:
    """What a classifier says of the pictures of a split.

    Attributes:
        split: which.
        rows: its pictures.
        probabilities: calibrated, float32 (pictures, classes).
        unsure: whether each answer is unsure, bool (pictures,).
        unlike: whether each picture is unlike the training pictures, bool (pictures,).
    """

    split: Split
    rows: Sequence[Example]
    probabilities: NDArray[np.float32]
    unsure: NDArray[np.bool_]
    unlike: NDArray[np.bool_]


def to_csv(answers: Iterable[SplitPredictions], class_names: Sequence[str]) -> str:
    """The table `predictions.csv`.

    Args:
        answers: of splits.
        class_names: in the order of the probabilities.

    Returns:
        CSV with the columns path, split, label, predicted, confidence, unsure and unlike (yes or
        no), and one column `p_CLASS` per class with its probability, to six digits.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    header = ["path", "split", "label", "predicted", "confidence", "unsure", "unlike"]
    writer.writerow(header + [f"p_{name}" for name in class_names])
    for part in answers:
        told = zip(part.rows, part.probabilities, part.unsure, part.unlike, strict=True)
        for row, values, unsure, unlike in told:
            answer = int(values.argmax())
            digits = [f"{value:.6f}" for value in values]
            uncertainty = ["yes" if each else "no" for each in (unsure, unlike)]
            said = [class_names[answer], digits[answer], *uncertainty]
            writer.writerow([row.name, part.split, row.label, *said, *digits])
    return table.getvalue()


def confidences(folder: Path, split: Split) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How sure a run was of its answers to a split, and whether they were right.

    Raises:
        DataError: the table is missing or damaged.
    """
    try:
        with (folder / FILE).open(encoding="utf-8", newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if row["split"] == split]
        sure = [float(row["confidence"]) for row in rows]
        right = [row["predicted"] == row["label"] for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{folder / FILE} is damaged: {error}. Train again.") from None
    return np.array(sure), np.array(right, dtype=bool)
