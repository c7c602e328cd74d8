import csv
import io
from pathlib import Path

import numpy as np
import pytest

from efftune.data.examples import Example
from efftune.errors import DataError
from efftune.evaluation import predictions
from efftune.evaluation.predictions import SplitPredictions


def test_table_holds_prediction_flags_and_all_probabilities():
    rows = [Example(Path("x/1.png"), "1.png", "b", "test")]
    probabilities = np.array([[0.25, 0.75]], np.float32)
    yes, no = np.array([True]), np.array([False])
    split = SplitPredictions("test", rows, probabilities, yes, no, yes)
    text = predictions.to_csv([split], ["a", "b"])
    assert list(csv.DictReader(io.StringIO(text))) == [
        {
            "path": "1.png",
            "split": "test",
            "label": "b",
            "predicted": "b",
            "confidence": "0.750000",
            "unsure": "yes",
            "unlike": "no",
            "chosen_on": "yes",
            "p_a": "0.250000",
            "p_b": "0.750000",
        }
    ]


def test_confidences_are_those_of_the_split(finished_run):
    confidences, correct = predictions.confidences(finished_run.folder, "val")
    assert len(confidences) == len(correct) == 6
    assert correct.mean() == finished_run.evaluation.val.accuracy
    assert (confidences > 1 / 3).all()


@pytest.mark.parametrize(
    ("marks", "expected"),
    [(("yes", "no", "yes"), [0.9, 0.7]), (None, [0.9, 0.8, 0.7])],  # earlier versions had none
)
def test_confidences_are_those_that_thresholds_were_chosen_on(tmp_path, marks, expected):
    lines = ["split,label,predicted,confidence" + ",chosen_on" * bool(marks)]
    for i, confidence in enumerate((0.9, 0.8, 0.7)):
        lines.append(f"val,a,a,{confidence}" + (f",{marks[i]}" if marks else ""))
    (tmp_path / "predictions.csv").write_text("\n".join(lines))
    confidences, correct = predictions.confidences(tmp_path, "val")
    assert confidences.tolist() == expected
    assert correct.tolist() == [True] * len(expected)


@pytest.mark.parametrize(
    "text", ["", "path,split\n1.png,val\n", "path,split,confidence\na,val,x\n"]
)
def test_damaged_table_is_named(tmp_path, text):
    if text:
        (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(DataError, match=r"predictions\.csv is damaged"):
        predictions.confidences(tmp_path, "val")
