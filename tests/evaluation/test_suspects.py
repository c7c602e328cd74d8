import csv
import io
from pathlib import Path

import numpy as np
import pytest

from efftune.data.examples import Example
from efftune.errors import DataError
from efftune.evaluation import suspects

NAMES = ["cat", "dog"]


def rows(labels):
    return [
        Example(Path(f"x/{i}.png"), f"{i}.png", NAMES[label], "train")
        for i, label in enumerate(labels)
    ]


LABELS = np.array([0, 0, 0, 1, 1, 1])
PROBABILITIES = np.array(
    [[0.9, 0.1], [0.4, 0.6], [0.05, 0.95], [0.1, 0.9], [0.3, 0.7], [0.55, 0.45]], np.float32
)


def test_the_least_likely_label_comes_first():
    found = suspects.suspects(rows(LABELS), PROBABILITIES, LABELS, NAMES)
    assert [each.example.name for each in found] == ["2.png", "1.png", "5.png"]
    assert [each.suggested for each in found] == ["dog", "dog", "cat"]
    assert found[0].score < found[1].score < found[2].score


def test_likely_ones_reach_the_threshold_of_their_class():
    """The thresholds are (0.9 + 0.7 + 0.45) / 3 for dogs and (0.9 + 0.4 + 0.05) / 3 for cats."""
    labels = np.tile(LABELS, 2)
    found = suspects.suspects(rows(labels), np.tile(PROBABILITIES, (2, 1)), labels, NAMES)
    assert [each.likely for each in found] == [True, True, False, False, True, True]


def test_none_is_likely_where_few_tell_what_is_usual():
    found = suspects.suspects(rows(LABELS), PROBABILITIES, LABELS, NAMES)
    assert len(found) == 3
    assert not any(each.likely for each in found)


def test_confirmed_labels_are_left_out():
    given = rows(LABELS)
    found = suspects.suspects(given, PROBABILITIES, LABELS, NAMES, {given[2].path})
    assert [each.example.name for each in found] == ["1.png", "5.png"]


def test_pictures_without_probabilities_are_left_out():
    probabilities = PROBABILITIES.copy()
    probabilities[2] = np.nan
    found = suspects.suspects(rows(LABELS), probabilities, LABELS, NAMES)
    assert [each.example.name for each in found] == ["1.png", "5.png"]


def test_table_is_read_back(tmp_path):
    labels = np.tile(LABELS, 2)
    found = suspects.suspects(rows(labels), np.tile(PROBABILITIES, (2, 1)), labels, NAMES)
    text = suspects.to_csv(found)
    likely = [row["likely"] for row in csv.DictReader(io.StringIO(text))]
    assert likely == ["yes", "yes", "no", "no", "yes", "yes"]
    (tmp_path / "suspects.csv").write_text(text)
    listed = suspects.read(tmp_path, lambda _: "no time")
    assert [(each.name, each.label, each.suggested) for each in listed] == [
        (each.example.name, each.example.label, each.suggested) for each in found
    ]


def test_run_without_suspects_gives_the_reason(tmp_path):
    with pytest.raises(DataError, match="no suspect labels: no time"):
        suspects.read(tmp_path, lambda _: "no time")


def test_damaged_table_is_named(tmp_path):
    (tmp_path / "suspects.csv").write_text("path,label\n1.png,cat\n")
    with pytest.raises(DataError, match=r"suspects\.csv is damaged"):
        suspects.read(tmp_path, lambda _: "no time")
