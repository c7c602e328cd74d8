import csv
import hashlib
import json
import math
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from efftune.errors import DataError, UsageError
from efftune.evaluation import comparison
from efftune.evaluation.comparison import ComparedRun, Difference, compare, holm, mcnemar
from efftune.report import comparison_plot


def made(folder, rows, seconds=10.0):
    """A run folder's tables: rows of (path, content, split, label, predicted)."""
    folder.mkdir(parents=True)
    with (folder / "examples.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split", "status", "reason", "sha256"])
        writer.writerow(["notes.txt", "", "", "set aside", "not an image", ""])
        for path, content, split, label, _ in rows:
            digest = hashlib.sha256(content.encode()).hexdigest()
            writer.writerow([path, label, split, "used", "", digest])
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "split", "label", "predicted", "confidence", "p_cat", "p_dog"])
        for path, _, split, label, predicted in rows:
            if split != "train":
                writer.writerow([path, split, label, predicted, "0.9", "0.9", "0.1"])
    judged = Counter(split for _, _, split, _, _ in rows)
    scores = {split: {"pictures": judged[split]} for split in ("val", "test")}
    (folder / "evaluation.json").write_text(json.dumps(scores))
    return ComparedRun(folder, "efficientnet-lite0", "quick", seconds)


def run(folder, correct, *, prefix="", seconds=10.0, split="test"):
    """A run whose predictions for pictures `a`, `b`, `c` and so on are correct or wrong."""
    rows = [
        (f"{prefix}{name}.jpg", name, split, "cat", "cat" if good else "dog")
        for name, good in zip("abcdefghijklmnopqrstuvwxyz", correct, strict=False)
    ]
    return made(folder, rows, seconds)


def exact(only_first, only_second):
    """McNemar's exact test by counting coin throws at least as uneven as these."""
    total = only_first + only_second
    uneven = abs(only_first - only_second)
    ways = (
        math.comb(total, heads) for heads in range(total + 1) if abs(2 * heads - total) >= uneven
    )
    return sum(ways) / 2**total


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (5, 0), (3, 8), (8, 3), (12, 12), (40, 17)])
def test_mcnemar_counts_coin_throws(counts):
    assert mcnemar(*counts) == pytest.approx(exact(*counts))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_stepwise_procedure(values):
    adjusted = holm(values)
    assert all(raw <= new <= 1 for raw, new in zip(values, adjusted, strict=True))
    ranked = sorted(values)
    count = len(values)
    for raw, new in zip(values, adjusted, strict=True):
        steps = [min(1, (count - j) * p) for j, p in enumerate(ranked) if p <= raw]
        assert new == max(steps)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_going_down_the_steps_rejects(values, level):
    rejected = set()
    for rank, i in enumerate(np.argsort(values, kind="stable").tolist()):
        if values[i] * (len(values) - rank) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(holm(values)) if p <= level} == rejected


def test_pictures_are_matched_by_content(tmp_path):
    first = run(tmp_path / "one", [True, True, False, False])
    other = run(tmp_path / "two", [True, False, True, False], prefix="renamed/")
    found = compare([first, other])
    assert (found.pictures, found.relabelled, found.trained_on) == (4, 0, 0)
    difference = found.standings[1].difference
    assert (difference.both_right, difference.both_wrong) == (1, 1)
    assert (difference.only_first, difference.only_this) == (1, 1)
    assert found.standings[0].difference is None


def test_only_pictures_evaluated_by_all_runs_count(tmp_path):
    first = run(tmp_path / "one", [True] * 6)
    other = run(tmp_path / "two", [True, False, True])
    found = compare([first, other])
    assert found.pictures == 3
    assert [standing.pictures for standing in found.standings] == [6, 3]
    assert [standing.accuracy for standing in found.standings] == [1, pytest.approx(2 / 3)]


def test_equal_contents_count_once(tmp_path):
    rows = [("a.jpg", "a", "test", "cat", "cat"), ("copy.jpg", "a", "test", "cat", "cat")]
    found = compare([made(tmp_path / name, rows) for name in ("one", "two")])
    assert found.pictures == found.standings[0].pictures == 1


def test_pictures_of_other_classes_are_left_out(tmp_path):
    rows = [(f"{name}.jpg", name, "test", "cat", "cat") for name in "abc"]
    other = [*rows[:2], ("c.jpg", "c", "test", "dog", "dog")]
    found = compare([made(tmp_path / "one", rows), made(tmp_path / "two", other)])
    assert (found.pictures, found.relabelled) == (2, 1)


def test_content_that_a_run_has_in_two_classes_is_left_out(tmp_path):
    rows = [(f"{name}.jpg", name, "test", "cat", "cat") for name in "abc"]
    odd = [*rows, ("again.jpg", "a", "test", "dog", "cat"), ("more.jpg", "a", "test", "cat", "cat")]
    for number, first in enumerate((rows, odd)):
        folders = [tmp_path / f"{name}{number}" for name in ("one", "two")]
        found = compare([made(folders[0], first), made(folders[1], odd)])
        assert (found.pictures, found.relabelled) == (2, 1)


def test_pictures_that_a_run_was_trained_on_are_left_out(tmp_path):
    rows = [(f"{name}.jpg", name, "test", "cat", "cat") for name in "abc"]
    leaky = [*rows, ("copy of a.jpg", "a", "train", "cat", "cat")]
    found = compare([made(tmp_path / "one", rows), made(tmp_path / "two", leaky)])
    assert (found.pictures, found.trained_on) == (2, 1)
    with pytest.raises(DataError, match=r"was a training picture for at least one.*efftune check"):
        compare([made(tmp_path / "three", rows[:1]), made(tmp_path / "four", leaky[::3])])


def test_validation_is_compared_where_asked(tmp_path):
    runs = [run(tmp_path / name, [True, False], split="val") for name in ("one", "two")]
    assert compare(runs, "val").pictures == 2
    with pytest.raises(DataError, match="no picture in common in their test split"):
        compare(runs)


def test_no_common_picture_is_an_error_with_a_remedy(tmp_path):
    first = run(tmp_path / "one", [True])
    rows = [("z.jpg", "z", "test", "cat", "cat")]
    with pytest.raises(DataError, match=r"no picture in common .* same --seed"):
        compare([first, made(tmp_path / "two", rows)])
    renamed = [("a.jpg", "a", "test", "Cat", "Cat")]
    with pytest.raises(DataError, match="do not have the same class in all of them"):
        compare([first, made(tmp_path / "three", renamed)])


def test_unfit_arguments_are_refused(tmp_path):
    first = run(tmp_path / "one", [True])
    with pytest.raises(UsageError, match=r"two runs or more.*Received: 1"):
        compare([first])
    with pytest.raises(UsageError, match=r"Unknown split 'tset'. Did you mean 'test'"):
        compare([first, first], "tset")


@pytest.mark.parametrize("name", ["examples.csv", "predictions.csv"])
@pytest.mark.parametrize("content", [None, b"", b"path,split\nx\n", b"\xff\xfe\x00"])
def test_damaged_run_is_named(tmp_path, name, content):
    runs = [run(tmp_path / each, [True, False]) for each in ("one", "two")]
    broken = tmp_path / "two" / name
    broken.unlink() if content is None else broken.write_bytes(content)
    with pytest.raises(DataError, match=rf"two.{name} is (damaged|missing).*Restore it, or train"):
        compare(runs)


@pytest.mark.parametrize("name", ["examples.csv", "predictions.csv"])
def test_table_that_is_cut_off_is_named(tmp_path, name):
    runs = [run(tmp_path / each, [True] * 4) for each in ("one", "two")]
    path = tmp_path / "two" / name
    lines = path.read_text().splitlines(keepends=True)
    for kept in (lines[:1], lines[:-1], [*lines[:-1], lines[-1].split(",")[0]]):
        path.write_text("".join(kept))
        with pytest.raises(
            DataError, match=rf"two.{name} is damaged: .*Restore it, or train again"
        ):
            compare(runs)


def test_verdict_states_direction_size_and_p_value(tmp_path):
    first = run(tmp_path / "one", [False] * 14 + [True] * 6)
    better = run(tmp_path / "two", [True] * 20)
    same = run(tmp_path / "three", [False] * 14 + [True] * 6)
    close = run(tmp_path / "four", [True] + [False] * 13 + [True] * 6)
    verdicts = [
        each.difference.verdict for each in compare([first, better, same, close]).standings[1:]
    ]
    assert verdicts == [
        "better by 70.0 points, p < 0.001",
        "no difference: correct on the same pictures",
        "no clear difference: +5.0 points, p = 1.00",
    ]
    assert compare([better, first]).standings[1].difference.verdict.startswith("worse by 70.0")
    assert Difference(10, 1, 7, 0, 0.016, 0.016).verdict == "worse by 38.9 points, p = 0.016"


def test_more_runs_make_chance_less_surprising(tmp_path):
    first = run(tmp_path / "one", [False] * 6 + [True] * 14)
    better = [run(tmp_path / f"better{i}", [True] * 20) for i in range(3)]
    alone = compare([first, better[0]]).standings[1].difference
    assert alone.p == alone.adjusted == exact(0, 6) < 0.05
    among = compare([first, *better]).standings[1].difference
    assert (among.p, among.adjusted) == (alone.p, pytest.approx(3 * alone.p))
    assert among.verdict.startswith("no clear difference")


def test_gain_that_is_expected_raises_the_upper_end(tmp_path):
    plain = run(tmp_path / "one", [False] * 6 + [True] * 14)
    first, second = compare([plain, replace(plain, expected_gain=0.02)]).standings
    assert (second.low, second.high) == (first.low, pytest.approx(first.high + 0.02))
    _, third = compare([plain, replace(plain, expected_gain=0.9)]).standings
    assert third.high == 1


def entry(run):
    seconds = sum(run.record["seconds"].values())
    return ComparedRun(run.folder, run.record["model"]["name"], run.recipe.name, seconds)


def test_real_runs_on_one_source_share_their_test_split(finished_run, tuned_run):
    runs = [finished_run, tuned_run]
    for split in ("test", "val"):
        found = compare([entry(each) for each in runs], split)
        for each, standing in zip(runs, found.standings, strict=True):
            score = getattr(each.evaluation, split)
            assert found.pictures == standing.pictures == score.pictures
            assert standing.accuracy == pytest.approx(score.accuracy)
            assert (standing.low, standing.high) == pytest.approx((score.low, score.high))
    assert found.to_dict()["runs"][0]["model"] == "efficientnet-lite0"
    assert found.to_dict()["out_of_fold"] is found.out_of_fold


def test_plain_values_hold_everything(tmp_path):
    runs = [run(tmp_path / "one", [True, False]), run(tmp_path / "two", [True, True], seconds=99)]
    values = json.loads(json.dumps(compare(runs).to_dict()))
    counts = [values[key] for key in ("pictures", "trained_on", "relabelled")]
    assert (values["split"], counts, values["out_of_fold"]) == ("test", [2, 0, 0], False)
    first, second = values["runs"]
    assert first["run"] == str(tmp_path / "one")
    assert (first["accuracy"], first["right"], first["difference"]) == (0.5, 1, None)
    assert second["seconds"] == 99
    assert second["difference"]["gain"] == 0.5
    assert second["difference"]["verdict"] == "no clear difference: +50.0 points, p = 1.00"


@pytest.mark.parametrize("seconds", [(12, 80, 300), (5, 5, 5), (0, 1, 50)])
def test_accuracy_is_drawn_against_seconds(tmp_path, seconds):
    runs = [
        run(tmp_path / f"$run{i}_{{", [True] * (i + 3) + [False] * 4, seconds=each)
        for i, each in enumerate(seconds)
    ]
    comparison_plot.draw(compare(runs), tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.size[0] > 600
        assert len(picture.convert("RGB").getcolors(2**20)) > 50


def test_place_that_cannot_be_written_is_refused(tmp_path):
    found = compare([run(tmp_path / name, [True]) for name in ("one", "two")])
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="Cannot write"):
        comparison_plot.draw(found, tmp_path / "out" / "drawn.png")


def test_probabilities_of_many_classes_are_not_kept(tmp_path):
    folder = run(tmp_path / "a", [True] * 26).folder
    lines = (folder / "predictions.csv").read_text().splitlines()
    ends = [",".join(f"p_{i}" for i in range(9000)), *[",".join(["0.000000"] * 9000)] * 26]
    (folder / "predictions.csv").write_text(
        "\n".join(f"{line},{end}" for line, end in zip(lines, ends, strict=True))
    )
    size = (folder / "predictions.csv").stat().st_size
    tracemalloc.start()
    assert len(comparison._read(folder, "test").predictions) == 26
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * size  # as dictionaries, they take 8 times as much
