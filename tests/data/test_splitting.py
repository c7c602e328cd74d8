import shutil
from collections import Counter

import pytest

import efftune
from conftest import fill
from efftune.data import splitting
from efftune.data.sources import discovery
from efftune.errors import DataError, UsageError
from efftune.recipe.recipe import Recipe

from .scenes import COPIES, scene


@pytest.fixture
def photos(tmp_path):
    """Scenes of two classes; each of the first five of a class has a copy in it."""
    for label in ("a", "b"):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for i in range(20):
            picture = scene(1000 * (label == "b") + i)
            picture.save(folder / f"{i:02}.png")
            if i < 5:
                COPIES["encoded again"](picture).save(folder / f"{i:02} copy.jpg")
    return tmp_path / "photos"


@pytest.fixture
def leaky(photos, tmp_path):
    """The same in splits of its own: three pictures of each class are in two of them."""
    for label in ("a", "b"):
        train = tmp_path / "leaky" / "train" / label
        shutil.copytree(photos / label, train)
        test = tmp_path / "leaky" / "test" / label
        test.mkdir(parents=True)
        for i in range(3):
            shutil.copy(train / f"{i + 6:02}.png", test / f"copy {i}.png")
        for i in range(6, 12):
            scene(50 + 1000 * (label == "b") + i).save(test / f"{i}.png")
    return tmp_path / "leaky"


def test_copies_come_into_one_split(photos):
    for seed in range(5):
        recipe = Recipe(seed=seed, test=0.15)
        examples, findings = splitting.split(discovery.find(photos), recipe)
        split = {row.name: row.split for row in examples.rows}
        for label in ("a", "b"):
            for i in range(5):
                assert split[f"{label}/{i:02}.png"] == split[f"{label}/{i:02} copy.jpg"]
        assert Counter(each.kind for each in findings)["near-copy"] == 10
        names = [
            row.name.removesuffix(".png").removesuffix(" copy.jpg") for row in examples.of("train")
        ]
        groups = examples.groups("train").tolist()
        assert len(set(names)) == len(set(groups)) == len(set(zip(names, groups, strict=True)))


def test_class_with_many_damaged_files_is_refused_unless_allowed(tmp_path):
    fill(tmp_path / "photos", count=40)
    reds = sorted((tmp_path / "photos" / "red").iterdir())
    for path in reds[:2]:
        path.write_bytes(path.read_bytes()[:1500])
    splitting.split(discovery.find(tmp_path / "photos"), Recipe())  # 5 %, not more
    reds[2].write_bytes(reds[2].read_bytes()[:1500])
    with pytest.raises(DataError, match=r"3 of the 40 files of class 'red' are damaged, .*red/00"):
        splitting.split(discovery.find(tmp_path / "photos"), Recipe())
    allowed = Recipe(damaged_files="allow")
    examples, _ = splitting.split(discovery.find(tmp_path / "photos"), allowed)
    assert sum(examples.counts.values()) == 117


def test_leaks_between_splits_of_the_source_are_reported(leaky):
    examples, findings = splitting.split(discovery.find(leaky), Recipe())
    leaks = [each for each in findings if each.kind == "leak"]
    assert {each.split for each in leaks} == {"test"}
    assert {path.name for path in examples.leaked} == {f"copy {i}.png" for i in range(3)}
    assert len(examples.leaked) == len(leaks) == 6
    assert examples.counts["test"] == 18


def test_leaks_can_be_dropped_or_ignored(leaky):
    dropped, _ = splitting.split(discovery.find(leaky), Recipe(leaks="drop"))
    assert dropped.counts["test"] == 12
    assert {row.reason for row in dropped.set_aside} == {"an earlier split contains a copy"}
    examples, _ = splitting.split(discovery.find(leaky), Recipe(leaks="keep"))
    assert examples.counts["test"] == 18
    assert not examples.leaked


@pytest.mark.long
def test_run_is_evaluated_with_and_without_leaks(leaky, tmp_path):
    run = efftune.train(leaky, recipe="quick", image_size=32, run=tmp_path / "run")
    assert run.evaluation.test.pictures == 18
    assert run.evaluation.test_without_leaks.pictures == 12
    assert run.record["data"]["leaked"] == {"val": 0, "test": 6}
    evaluation = run.evaluation
    assert evaluation.unsure.test.pictures == evaluation.unlike.test.pictures == 12
    assert sum(each.pictures for each in evaluation.calibration.bins["after"]) == 12
    clean = evaluation.test_without_leaks
    assert evaluation.calibration.ece["test"]["after"] == pytest.approx(clean.ece)
    assert "also the leaks" in (page := (run.folder / "report.html").read_text())  # of the matrix
    assert "test, without leaks" in page
    assert efftune.Run.load(run.folder).evaluation == run.evaluation
    assert "leak" in (run.folder / "findings.csv").read_text()


def test_user_groups_stay_together(photos):
    found = discovery.find(photos)
    rows = tuple(
        type(row)(row.path, row.name, row.label, group=str(i // 3) if i % 7 else "")
        for i, row in enumerate(found.rows)
    )
    found = type(found)(found.source, rows)
    examples, _ = splitting.split(found, Recipe(test=0.15))
    in_folds, _ = splitting.split(found, Recipe())
    places, folds = {}, {}
    for row in examples.rows:
        if row.group:
            places.setdefault(row.group, set()).add(row.split)
            folds.setdefault(row.group, set()).add(in_folds.fold_of[row.path])
    assert all(len(splits) == 1 for splits in places.values())
    assert all(len(numbers) == 1 for numbers in folds.values())
    assert len(set().union(*folds.values())) == 5


def test_few_pictures_come_into_folds_with_their_copies(photos):
    for seed in range(3):
        examples, _ = splitting.split(discovery.find(photos), Recipe(seed=seed))
        assert examples.counts == {"train": 50, "val": 0, "test": 0}
        fold = {row.name: examples.fold_of[row.path] for row in examples.of("train")}
        for label in ("a", "b"):
            counts = Counter(number for name, number in fold.items() if name.startswith(label))
            assert set(counts) == set(range(5))
            assert max(counts.values()) - min(counts.values()) <= 1
            for i in range(5):
                assert fold[f"{label}/{i:02}.png"] == fold[f"{label}/{i:02} copy.jpg"]


@pytest.mark.parametrize(
    "choices",
    [
        *({"val": 0.2}, {"test": 0.15}, {"folds": 0}, {"head_epochs": 2}),
        {"phases": ("scratch",)},
    ],
)
def test_splits_come_back(photos, choices):
    examples, _ = splitting.split(discovery.find(photos), Recipe(**choices))
    assert not examples.fold_of
    assert min(examples.counts.values()) >= 4


def test_many_pictures_are_split_unless_folds_are_asked_for(photos, monkeypatch):
    monkeypatch.setattr(splitting, "_FEW_PICTURES", 24)  # less than half of those of few a class
    assert not splitting.split(discovery.find(photos), Recipe())[0].fold_of
    examples, _ = splitting.split(discovery.find(photos), Recipe(folds=3))
    assert set(examples.fold_of.values()) == {0, 1, 2}
    monkeypatch.setattr(splitting, "_FEW_PICTURES", 50)
    assert splitting.split(discovery.find(photos), Recipe())[0].fold_of


def test_splits_of_the_source_are_no_folds(leaky):
    assert not splitting.split(discovery.find(leaky), Recipe())[0].fold_of
    with pytest.raises(UsageError, match="has validation or test pictures of its own, so --folds"):
        splitting.split(discovery.find(leaky), Recipe(folds=5))


@pytest.mark.parametrize(
    ("few", "few_of_class", "folds"),
    [(50, 1, 5), (49, 24, 0), (49, 25, 5), (25, 25, 5), (24, 25, 0)],
)
def test_few_pictures_or_few_a_class_are_not_held_out(
    photos, monkeypatch, few, few_of_class, folds
):
    """Here, there are 50 of two classes."""
    monkeypatch.setattr(splitting, "_FEW_PICTURES", few)
    monkeypatch.setattr(splitting, "_FEW_OF_CLASS", few_of_class)
    found = splitting.split(discovery.find(photos), Recipe())[0]
    assert len(set(found.fold_of.values())) == folds
    assert bool(found.fold_of) != bool(found.counts["test"])


def test_class_of_copies_only_cannot_be_judged(photos):
    for path in (photos / "b").iterdir():
        if not path.name.startswith("00"):
            path.unlink()
    with pytest.raises(
        DataError, match=r"class 'b' are in one fold: there is only one, or they are copies"
    ) as raised:
        splitting.split(discovery.find(photos), Recipe())
    assert "missing_classes" not in str(raised.value)  # it would not help
    # Then one class is left, which is no task either.
    with pytest.raises(DataError, match=r"class 'b' are in one fold"):
        splitting.split(discovery.find(photos), Recipe(missing_classes="allow"))
