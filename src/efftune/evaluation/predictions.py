"""What the classifier said of each picture it was judged on, as a table."""

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Example, Split


def to_csv(
    parts: Iterable[tuple[Split, Sequence[Example], NDArray[np.float32]]],
    class_names: Sequence[str],
) -> str:
    """The table `predictions.csv`.

    Args:
        parts: splits with their pictures and these' probabilities (pictures, classes).
        class_names: in the order of the probabilities.

    Returns:
        CSV with the columns path, split, label, predicted, confidence, and one column `p_CLASS`
        per class with its probability, to six digits.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    header = ["path", "split", "label", "predicted", "confidence"]
    writer.writerow(header + [f"p_{name}" for name in class_names])
    for split, rows, probabilities in parts:
        for row, values in zip(rows, probabilities, strict=True):
            answer = int(values.argmax())
            digits = [f"{value:.6f}" for value in values]
            told = [row.name, split, row.label, class_names[answer], digits[answer]]
            writer.writerow(told + digits)
    return table.getvalue()
