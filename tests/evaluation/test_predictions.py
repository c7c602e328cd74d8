import csv
import io
from pathlib import Path

import numpy as np

from efftune.data.examples import Example
from efftune.evaluation import predictions


def test_table_holds_answer_and_every_probability():
    rows = [Example(Path("x/1.png"), "1.png", "b", "test")]
    text = predictions.to_csv([("test", rows, np.array([[0.25, 0.75]], np.float32))], ["a", "b"])
    assert list(csv.DictReader(io.StringIO(text))) == [
        {
            "path": "1.png",
            "split": "test",
            "label": "b",
            "predicted": "b",
            "confidence": "0.750000",
            "p_a": "0.250000",
            "p_b": "0.750000",
        }
    ]
