import csv
import io
import json
import shutil
import tracemalloc
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


def judged(folder, **pictures):
    """What `evaluation.json` says of the pictures that were judged."""
    scores = {split: {"pictures": count} for split, count in pictures.items()}
    (folder / "evaluation.json").write_text(json.dumps(scores))


@pytest.mark.parametrize(
    ("marks", "expected"),
    [(("yes", "no", "yes"), [0.9, 0.7]), (None, [0.9, 0.8, 0.7])],  # earlier versions had none
)
def test_confidences_are_those_that_thresholds_were_chosen_on(tmp_path, marks, expected):
    lines = ["split,label,predicted,confidence" + ",chosen_on" * bool(marks)]
    for i, confidence in enumerate((0.9, 0.8, 0.7)):
        lines.append(f"val,a,a,{confidence}" + (f",{marks[i]}" if marks else ""))
    (tmp_path / "predictions.csv").write_text("\n".join(lines))
    judged(tmp_path, val=3, test=0)
    confidences, correct = predictions.confidences(tmp_path, "val")
    assert confidences.tolist() == expected
    assert correct.tolist() == [True] * len(expected)


@pytest.mark.parametrize(
    "text", ["", "path,split\n1.png,val\n", "path,split,confidence\na,val,x\n", "\0", "path\na\n"]
)
def test_damaged_table_is_named(tmp_path, text):
    (tmp_path / "predictions.csv").write_text(text)
    judged(tmp_path, val=1, test=0)
    with pytest.raises(
        DataError, match=r"predictions\.csv is damaged: .*Restore it, or train again"
    ):
        predictions.confidences(tmp_path, "val")


@pytest.mark.parametrize("name", ["predictions.csv", "evaluation.json"])
def test_missing_file_is_named(finished_run, tmp_path, name):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is missing\. Restore it, or train again"):
        predictions.confidences(folder, "val")


@pytest.mark.parametrize("size", ["header", "row", "cell", "nothing"])
def test_table_that_is_cut_off_is_refused(finished_run, tmp_path, size):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    path = folder / "predictions.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = {"header": lines[:1], "row": lines[:-1], "nothing": []}
    kept["cell"] = [*lines[:-1], lines[-1][: lines[-1].index(",")]]
    path.write_text("".join(kept[size]), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"predictions\.csv is damaged: .*Restore it, or train again"
    ):
        predictions.confidences(folder, "val")


def test_table_of_a_cross_validated_run_is_counted_too(tmp_path):
    lines = ["split,label,predicted,confidence", *["out-of-fold,a,a,0.9"] * 3]
    scores = {"test": {"pictures": 3}, "val": {"pictures": 3}, "cross_validation": {"folds": 5}}
    (tmp_path / "evaluation.json").write_text(json.dumps(scores))
    (tmp_path / "predictions.csv").write_text("\n".join(lines))
    assert predictions.confidences(tmp_path, "val")[0].tolist() == [0.9] * 3
    (tmp_path / "predictions.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match=r"2 rows of the split 'out-of-fold', but 3 pictures were"):
        predictions.confidences(tmp_path, "val")


def test_large_tables_take_little_memory(tmp_path):
    classes, pictures = 2000, 100
    header = ["path", "split", "label", "predicted", "confidence"]
    row = ["a.jpg", "val", "a", "a", "0.9", *["0.000000"] * classes]
    lines = [[*header, *(f"p_{i}" for i in range(classes))], *[row] * pictures]
    text = "\n".join(map(",".join, lines))
    (tmp_path / "predictions.csv").write_text(text)
    judged(tmp_path, val=pictures, test=0)
    tracemalloc.start()
    assert len(predictions.confidences(tmp_path, "val")[0]) == pictures
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(text)
