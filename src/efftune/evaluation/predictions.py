"""Predictions on validation and test, or out of fold, and their table `predictions.csv`."""

import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Example, Split
from efftune.data.sources import addresses
from efftune.model.prediction import Prediction
from efftune.system import files, stored
from efftune.system.stored import Row, reading
from efftune.system.text import counted

FILE = "predictions.csv"
OUT_OF_FOLD: Literal["out-of-fold"] = "out-of-fold"
_CHOSEN_ON = "chosen_on"
_YES_OR_NO = {True: "yes", False: "no", None: ""}  # None if it is not known
JudgedSplit = Split | Literal["out-of-fold"]


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions of a classifier for a split.

    Attributes:
        split: the split; or `out-of-fold`, if cross-validation judged.
        rows: its pictures.
        probabilities: calibrated, float32 (pictures, classes).
        unsure: whether each prediction is unsure, bool (pictures,).
        unlike: whether each picture is unlike the training pictures, bool (pictures,).
        chosen_on: whether thresholds were chosen on each picture, bool (pictures,).
    """

    split: JudgedSplit
    rows: Sequence[Example]
    probabilities: NDArray[np.float32]
    unsure: NDArray[np.bool_]
    unlike: NDArray[np.bool_]
    chosen_on: NDArray[np.bool_]


def to_csv(predictions: Iterable[SplitPredictions], class_names: Sequence[str]) -> str:
    """Format `predictions.csv`.

    Args:
        predictions: of one or more splits.
        class_names: in the order of the probabilities.

    Returns:
        CSV with the columns path, split, label, predicted, confidence, unsure, unlike and chosen_on
        (yes or no), and one column `p_CLASS` per class with its probability, to six decimals.
    """
    table = io.StringIO()
    writer = files.csv_writer(table)
    header = ["path", "split", "label", "predicted", "confidence", "unsure", "unlike", _CHOSEN_ON]
    writer.writerow(header + [f"p_{name}" for name in class_names])
    for part in predictions:
        columns = part.unsure, part.unlike, part.chosen_on
        for row, values, *marks in zip(part.rows, part.probabilities, *columns, strict=True):
            predicted = int(values.argmax())
            digits = [f"{value:.6f}" for value in values]
            flags = ["yes" if each else "no" for each in marks]
            result = [class_names[predicted], digits[predicted], *flags]
            writer.writerow([row.name, part.split, row.label, *result, *digits])
    return table.getvalue()


def write_csv(stream: TextIO, found: Sequence[Prediction]) -> None:
    """Write predictions for any pictures as CSV, one row per class in `top`.

    Args:
        stream: where to.
        found: the predictions.
    """
    writer = files.csv_writer(stream)
    ids = ["class_index", "wordnet_id"] if any(each.wordnet_ids for each in found) else []
    writer.writerow(["path", "rank", "label", "confidence", "unsure", "unlike", *ids])
    for each in found:
        flags = [_YES_OR_NO[flag] for flag in (each.unsure, each.unlike)]
        path = addresses.shown(each.path)
        for rank, (label, value) in enumerate(each.top, start=1):
            numbers = [each.top_indices[rank - 1], each.wordnet_ids[rank - 1]] if ids else []
            writer.writerow([path, rank, label, f"{value:.6f}", *flags, *numbers])


def rows(folder: Path, columns: Collection[str]) -> Iterator[Row]:
    """The rows of a run's table, one at a time: thousands of classes have as many columns.

    Args:
        folder: of the run.
        columns: to keep of those that the table has.

    Raises:
        DataError: the table is missing, damaged or cut off, or `evaluation.json` is.
    """
    path, expected, found = folder / FILE, _judged(folder / "evaluation.json"), Counter[str]()
    with reading(path):
        for row in stored.rows(path, {*columns, "split"}):
            found[row["split"]] += 1
            yield row
        for split, pictures in expected.items():
            if found[split] != pictures:
                told = f"{counted(found[split], 'row')} of the split {split!r}"
                raise ValueError(f"it has {told}, but {counted(pictures, 'picture')} were judged")


def _judged(path: Path) -> dict[str, int]:
    """How many pictures of each split were judged, as `evaluation.json` says."""
    with reading(path):
        scores = json.loads(path.read_text(encoding="utf-8"))
        if scores.get("cross_validation"):
            return {OUT_OF_FOLD: int(scores["test"]["pictures"])}
        return {split: int(scores[split]["pictures"]) for split in ("val", "test")}


def confidences(folder: Path, split: Split) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read the confidence of a run's predictions for a split, and whether they are correct.

    Only those are read that its thresholds were chosen on, as copies of training pictures are not.
    Runs of earlier versions do not tell which these are: all are read then.

    Returns:
        Confidences, float64 (pictures,), 0 to 1; and correctness, bool (pictures,).

    Raises:
        DataError: see `rows`.
    """
    columns = ("label", "predicted", "confidence", _CHOSEN_ON)
    with reading(folder / FILE):
        found = [
            (float(row["confidence"]), row["predicted"] == row["label"])
            for row in rows(folder, columns)
            if row["split"] in (split, OUT_OF_FOLD) and row.get(_CHOSEN_ON, "yes") == "yes"
        ]
    return np.array([each for each, _ in found]), np.array([each for _, each in found], dtype=bool)
