import csv
import io
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efftune.data.examples import Example, Examples, labels
from efftune.errors import DataError


def examples(counts: dict[str, int], split: str = "") -> Examples:
    rows = [
        Example(Path(f"{label}/{i}"), f"{label}/{i}", label, split)
        for label, count in counts.items()
        for i in range(count)
    ]
    return Examples("photos", tuple(rows))


sizes = st.dictionaries(st.sampled_from("abcdef"), st.integers(3, 60), min_size=2)
shares = st.floats(0.01, 0.5)


@given(sizes, shares, shares, st.integers(0, 2**32 - 1))
def test_every_class_has_its_share_in_every_split(counts, val, test, seed):
    split = examples(counts).split(val, test, seed)
    split.require_trainable(allow_missing=False)
    for label, count in counts.items():
        parts = Counter(row.split for row in split.rows if row.label == label)
        assert sum(parts.values()) == count
        assert parts["test"] == max(1, min(round(test * count), count - 2))
        assert 1 <= parts["val"] <= max(1, round(val * count))


@given(sizes, st.integers(0, 1000))
def test_split_depends_on_the_seed_alone(counts, seed):
    assert examples(counts).split(0.2, 0.2, seed) == examples(counts).split(0.2, 0.2, seed)


def test_other_seeds_split_otherwise():
    assert examples({"a": 40}).split(0.2, 0.2, 0) != examples({"a": 40}).split(0.2, 0.2, 1)


def test_brought_splits_stay():
    brought = Examples(
        "x", examples({"a": 9, "b": 9}, "train").rows + examples({"a": 3, "b": 3}, "test").rows
    )
    split = brought.split(0.3, 0.3, 0)
    assert split.of("test") == brought.of("test")
    assert len(split.of("val")) == 6
    assert {row.name for row in split.of("val")} < {row.name for row in brought.of("train")}


def test_test_split_stands_in_for_a_missing_validation_split():
    train, test = (
        examples({"a": n, "b": n}, split).rows for n, split in ((9, "train"), (3, "test"))
    )
    both = Examples("x", train + test).with_test_as_val().split(0.3, 0.3, 0)
    both.require_trainable(allow_missing=False)
    assert both.of("val") == both.of("test")
    assert both.counts == {"train": 18, "val": 6, "test": 6}
    assert Examples("x", train).with_test_as_val().split(0.3, 0.3, 0).val_is_test is False
    val = examples({"a": 2, "b": 2}, "val").rows
    whole = Examples("x", train + test + val).with_test_as_val().split(0.3, 0.3, 0)
    assert whole.counts == {"train": 18, "val": 4, "test": 6}


def test_files_set_aside_get_no_split():
    rows = (*examples({"a": 5, "b": 5}).rows, Example(Path("a/x"), "a/x", "a", reason="damaged"))
    split = Examples("x", rows).split(0.2, 0.2, 0)
    assert split.set_aside == (rows[-1],)
    assert "a/x" not in {row.name for part in ("train", "val", "test") for row in split.of(part)}


def test_class_names_are_sorted_and_number_the_labels():
    found = examples({"pear": 2, "Apple": 1, "fig": 1})
    assert found.class_names == ("Apple", "fig", "pear")
    assert labels(found.rows, found.class_names).tolist() == [2, 2, 0, 1]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, "photos holds no picture that can be read. It is empty"),
        ({"a": 5}, "contains only one class, 'a'"),
        ({"a": 5, "b": 1}, r"Class 'b' has 1 usable training picture\(s\), but needs at least 3"),
    ],
)
def test_unsplittable_examples_are_refused(counts, words):
    with pytest.raises(DataError, match=words):
        examples(counts).require_splittable(allow_missing=False)


def test_error_without_readable_pictures_lists_the_reasons():
    rows = tuple(Example(Path(n), n, "a", reason="truncated") for n in "xyz")
    with pytest.raises(DataError, match="Found: 3 truncated"):
        Examples("photos", rows).require_splittable(allow_missing=False)


def test_small_classes_can_be_allowed():
    found = examples({"a": 5, "b": 1})
    found.require_splittable(allow_missing=True)
    split = found.split(0.2, 0.2, 0)
    split.require_trainable(allow_missing=True)
    assert [row.split for row in split.rows if row.label == "b"] == ["train"]


@pytest.mark.parametrize("lacking", ["val", "test"])
def test_class_missing_from_a_split_is_refused_unless_allowed(lacking):
    rows = [
        row for split in ("train", "val", "test") for row in examples({"a": 2, "b": 2}, split).rows
    ]
    found = Examples("x", tuple(row for row in rows if (row.label, row.split) != ("b", lacking)))
    with pytest.raises(DataError, match=f"class 'b' in the {lacking} split"):
        found.require_trainable(allow_missing=False)
    found.require_trainable(allow_missing=True)


def test_class_missing_from_training_is_always_refused():
    found = Examples(
        "x", examples({"a": 2}, "train").rows + examples({"a": 2, "b": 2}, "test").rows
    ).split(0.3, 0.3, 0)
    with pytest.raises(DataError, match=r"'b' in the train split of x. Add training pictures"):
        found.require_trainable(allow_missing=True)


def test_reading_adds_hashes_and_reasons():
    found = examples({"a": 2, "b": 1})
    first, second, _ = (row.path for row in found.rows)
    read = found.as_read({first: "12ab"}, {second: "truncated"})
    assert [row.sha256 for row in read.rows] == ["12ab", "", ""]
    assert [row.usable for row in read.rows] == [True, False, True]


def test_class_lost_in_reading_is_refused():
    found = examples({"a": 9, "b": 3, "c": 9}).split(0.2, 0.2, 0)
    read = found.as_read({}, {Path(f"b/{i}"): "truncated" for i in range(3)})
    with pytest.raises(DataError, match=r"No usable picture of class 'b' \(3 truncated\)"):
        read.require_trainable(allow_missing=False)
    read.require_trainable(allow_missing=True)


def test_class_of_unusable_files_is_refused_but_leftovers_are_no_class():
    rows = examples({"a": 5, "b": 5}).rows
    odd = Example(Path("c/x"), "c/x", "c", reason="HEIC or AVIF, which is not supported")
    with pytest.raises(DataError, match=r"No usable picture of class 'c' \(1 HEIC"):
        Examples("x", (*rows, odd)).require_splittable(allow_missing=False)
    hidden = Example(Path("c/.x"), "c/.x", "c", reason="hidden")
    Examples("x", (*rows, hidden)).require_splittable(allow_missing=False)


def test_advice_fits_the_splits_origin():
    def refusal(found: Examples) -> str:
        read = found.as_read(
            {}, {row.path: "truncated" for row in found.of("val") if row.label == "b"}
        )
        with pytest.raises(DataError) as caught:
            read.require_trainable(allow_missing=False)
        return str(caught.value)

    counts = {"a": 6, "b": 6}
    assert "at least three must be readable" in refusal(examples(counts).split(0.2, 0.2, 0))
    parts = [examples(counts, split).rows for split in ("train", "test")]
    own = tuple(Example(Path(f"val/{row.name}"), row.name, row.label, "val") for row in parts[0])
    assert "remove that split or --" in refusal(
        Examples("x", (*parts[0], *own, *parts[1])).split(0.2, 0.2, 0)
    )


@given(sizes, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_what_belongs_together_comes_into_one_split(counts, seed, random):
    rows = examples(counts)
    together = {row.path: random.randrange(len(rows.rows)) for row in rows.rows}
    split = rows.split(0.2, 0.2, seed, together)
    assert {row.split for row in split.rows} <= {"train", "val", "test"}
    places = {}
    for row in split.rows:
        places.setdefault(together[row.path], set()).add(row.split)
    assert all(len(splits) == 1 for splits in places.values())


def test_groups_hardly_change_the_shares():
    rows = examples({"a": 100, "b": 200})
    together = {row.path: i // 4 for i, row in enumerate(rows.rows)}
    counts = rows.split(0.2, 0.1, 0, together).counts
    assert abs(counts["val"] - 60) <= 4
    assert abs(counts["test"] - 30) <= 4


@pytest.mark.parametrize("seed", range(4))
def test_a_large_group_does_not_take_the_place_of_many_small_ones(seed):
    rows = examples({"a": 200, "b": 200})
    groups = {row.path: max(0, i % 200 - 90) for i, row in enumerate(rows.rows)}  # one of 91
    together = {row.path: 1000 * (row.label == "b") + groups[row.path] for row in rows.rows}
    assert rows.split(0.15, 0.15, seed, together).counts == {"train": 280, "val": 60, "test": 60}


def test_where_all_groups_are_large_the_smallest_is_held_out():
    rows = examples({"a": 100, "b": 100})
    ends = (40, 70, 90, 100)  # groups of 40, 30, 20 and 10
    together = {
        row.path: 10 * (row.label == "b") + sum(i % 100 >= end for end in ends)
        for i, row in enumerate(rows.rows)
    }
    for seed in range(4):
        counts = rows.split(0.03, 0.03, seed, together).counts
        assert counts == {"train": 140, "val": 40, "test": 20}


def test_class_of_one_group_stays_in_training():
    rows = examples({"a": 9, "b": 9})
    split = rows.split(0.2, 0.2, 0, {row.path: 1 for row in rows.rows if row.label == "a"})
    assert {row.split for row in split.rows if row.label == "a"} == {"train"}


def test_csv_lists_every_file():
    rows = (*examples({"a,b": 1}, "val").rows, Example(Path("n"), "notes.txt", reason="hidden"))
    table = list(csv.DictReader(io.StringIO(Examples("x", rows).to_csv())))
    assert [row["path"] for row in table] == ["a,b/0", "notes.txt"]
    assert [row["status"] for row in table] == ["used", "set aside"]
    assert table[1]["reason"] == "hidden"


def test_fingerprint_follows_content_label_and_split_not_names():
    def one(name: str = "a", label: str = "x", split: str = "train", sha: str = "00") -> str:
        return Examples("s", (Example(Path(name), name, label, split, sha256=sha),)).fingerprint

    assert one() == one(name="b")
    assert len({one(), one(label="y"), one(split="val"), one(sha="01")}) == 4


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(2, 30), min_size=2),
    st.integers(2, 20),
    st.integers(0, 2**32 - 1),
)
def test_folds_hold_each_class_evenly(counts, folds, seed):
    found = examples(counts).in_folds(folds, seed, {})
    assert {row.split for row in found.rows} == {"train"}
    found.require_trainable(allow_missing=False)
    sizes = Counter(found.fold_of.values())
    folds = min(folds, max(counts.values()))
    assert max(sizes.values()) - min(sizes[fold] for fold in range(folds)) <= 1
    assert len(sizes) == folds
    for label in counts:
        inside = Counter(found.fold_of[row.path] for row in found.rows if row.label == label)
        assert max(inside.values()) - min(inside[fold] for fold in range(folds)) <= 1


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 8)), min_size=4, max_size=40),
    st.integers(2, 5),
)
def test_groups_stay_in_one_fold(rows, folds):
    made = tuple(
        Example(Path(f"{label}/{i}"), f"{label}/{i}", label) for i, (label, _) in enumerate(rows)
    )
    together = {row.path: group for row, (_, group) in zip(made, rows, strict=True)}
    found = Examples("photos", made).in_folds(folds, 0, together)
    pairs = {(together[path], fold) for path, fold in found.fold_of.items()}
    assert len(pairs) == len(set(together.values()))
    # Even if groups hold several classes, a class of several groups is in several folds.
    for label in {row.label for row in made}:
        numbers = {together[row.path] for row in made if row.label == label}
        found_in = {found.fold_of[row.path] for row in made if row.label == label}
        assert len(found_in) >= min(2, len(numbers))
    assert found.fold_of == Examples("photos", made).in_folds(folds, 0, together).fold_of


@pytest.mark.parametrize("patients", [2, 3, 12])
def test_groups_of_all_classes_are_spread_over_folds(patients):
    """Each patient has pictures of each class."""
    made = [
        Example(Path(f"{label}/{i}"), f"{label}/{i}", label) for label in "abc" for i in range(24)
    ]
    together = {row.path: int(row.path.name) % patients for row in made}
    for seed in range(20):
        found = Examples("photos", tuple(made)).in_folds(5, seed, together)
        found.require_trainable(allow_missing=False)
        sizes = Counter(found.fold_of.values())
        assert len(sizes) == min(5, patients)
        assert max(sizes.values()) - min(sizes.values()) <= 72 // patients
