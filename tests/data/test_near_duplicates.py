import numpy as np
import pytest
from PIL import Image

from efftune.data import inspection, near_duplicates
from efftune.data.examples import Example
from efftune.data.inspection import Finding
from efftune.data.near_duplicates import DuplicatePair

from .scenes import COPIES, encoded, scene


def found(pictures, folder):
    rows = []
    for i, picture in enumerate(pictures):
        path = folder / f"{i}.png"
        picture.save(path)
        rows.append(Example(path, path.name, "a"))
    measurements = np.stack([inspection.measure(row.path.read_bytes()) for row in rows])
    return near_duplicates.pairs(rows, measurements, list(measurements["small"]))


@pytest.mark.parametrize("kind", COPIES)
def test_copy_is_found_among_others(kind, tmp_path):
    others = [scene(seed) for seed in range(1, 12)]
    (pair,) = found([*others, scene(0), COPIES[kind](scene(0))], tmp_path)
    assert (pair.first, pair.second, pair.exact) == (11, 12, False)
    assert pair.mirrored is (kind == "mirrored")


def test_same_pixels_are_an_exact_copy_whatever_the_file(tmp_path):
    scene(0).save(tmp_path / "a.bmp")
    same = Image.open(tmp_path / "a.bmp")
    assert found([scene(0), scene(1), same], tmp_path) == [DuplicatePair(0, 2, exact=True)]


def test_tiny_pictures_are_no_copies_unless_all_pixels_are_the_same(tmp_path):
    small = [scene(0, 24), encoded(scene(0, 24), 60), scene(0, 24)]
    assert found(small, tmp_path) == [DuplicatePair(0, 2, exact=True)]


def test_groups_join_chains_of_copies_and_groups_of_the_source():
    pairs = [DuplicatePair(0, 1, exact=True), DuplicatePair(1, 4, exact=False)]
    numbers = near_duplicates.groups(7, pairs, ["", "", "x", "y", "", "x", ""])
    assert numbers[0] == numbers[1] == numbers[4]
    assert numbers[2] == numbers[5]
    assert len(set(numbers.tolist())) == 4


def rows(*labels_and_splits):
    return [Example(None, str(i), *each) for i, each in enumerate(labels_and_splits)]


def test_contradictions_and_leaks_are_reported():
    given = rows(("a", "train"), ("b", "train"), ("a", "test"))
    findings = list(
        near_duplicates.findings(
            given, [DuplicatePair(0, 1, exact=True), DuplicatePair(0, 2, exact=False)]
        )
    )
    assert [each.kind for each in findings] == ["exact-copy", "contradiction", "near-copy", "leak"]
    assert "a and b" in findings[1].detail
    assert (findings[3].name, findings[3].other) == ("2", "0")
    assert "in train and test" in findings[3].detail


def test_leaks_are_validation_and_test_pictures():
    given = rows(("a", "test"), ("a", "train"), ("a", "val"), ("a", "test"), ("a", "test"))
    numbers = np.array([0, 0, 1, 1, 2])
    assert near_duplicates.leaks(given, numbers) == [0, 3]


def test_leaks_of_groups_and_copies_of_copies_are_named():
    given = [
        Example(None, "a", "x", "train", group="anna"),
        Example(None, "b", "x", "test", group="anna"),
        Example(None, "c", "x", "train"),
        Example(None, "d", "x", "test"),
        Example(None, "e", "x", "test"),
        Example(None, "f", "x", "test", group="ben"),
        Example(None, "g", "x", "val", group="carl"),
        Example(None, "h", "x", "test", group="carl"),
    ]
    pairs = [DuplicatePair(2, 3, exact=True), DuplicatePair(3, 4, exact=True)]
    found = [each for each in near_duplicates.findings(given, pairs) if each.kind.endswith("leak")]
    assert [(each.kind, each.name, each.other) for each in found] == [
        ("leak", "d", "c"),
        ("group-leak", "b", "a"),
        ("leak", "e", "c"),
        ("group-leak", "h", "g"),
    ]
    assert all(each.is_problem and each.split == "test" for each in found)
    assert found[1].detail == "group anna; in train and test"
    named = {each.name for each in found}
    numbers = near_duplicates.groups(len(given), pairs, [row.group for row in given])
    assert named == {given[i].name for i in near_duplicates.leaks(given, numbers)}


def test_few_groups_among_what_judges_are_a_remark():
    def found(*splits_and_groups):
        given = [
            Example(None, str(i), "x", split, group=group)
            for i, (split, group) in enumerate(splits_and_groups)
        ]
        return [(each.name, each.detail) for each in near_duplicates.findings(given, [])]

    few = [("test", "anna")] * 4 + [("test", "ben"), ("test", "")]
    assert found(("train", "carl"), *few) == [("test", "6 pictures of 3 groups")]
    assert found(("train", "carl"), *few, ("test", "")) == []
    leaks = [("train", "carl"), *[("test", "carl")] * 4]
    assert found(*leaks)[-1] == ("test", "4 pictures of 1 group")  # as no others judge
    assert found(*leaks, *few)[-1] == ("test", "6 pictures of 3 groups")
    assert found(*[("train", "carl")] * 3) == [("train", "3 pictures of 1 group")]
    assert found(*[("", "carl")] * 3) == found(*[("test", "")] * 3) == []
    assert not Finding("few-groups", "test").is_problem
