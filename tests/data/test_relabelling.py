import csv
import shutil
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import COLOURS, fill, square
from efftune.data import relabelling, splitting
from efftune.data.relabelling import Decision
from efftune.data.sources import discovery
from efftune.errors import DataError, UsageError
from efftune.recipe.recipe import Recipe

TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=20
)
DECISIONS = st.one_of(
    st.builds(Decision, TEXT, st.sampled_from(["keep", "drop"])),
    st.builds(Decision, TEXT, st.just("relabel"), TEXT.filter(str.strip)),
)


@given(st.dictionaries(TEXT, DECISIONS, max_size=8))
def test_decisions_are_read_back(tmp_path_factory, decisions):
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    relabelling.write(path, decisions)
    assert relabelling.read(path) == decisions


@pytest.fixture
def photos(tmp_path):
    return fill(tmp_path / "photos", count=8)


def split(photos, tmp_path, decisions, **choices):
    relabelling.write(tmp_path / "labels.csv", decisions)
    recipe = Recipe(labels=str(tmp_path / "labels.csv"), **choices)
    return splitting.split(discovery.find(photos), recipe)[0]


@pytest.mark.parametrize("choices", [{"test": 0.15}, {}])
def test_labels_change_and_splits_do_not(choices, photos, tmp_path):
    plain = splitting.split(discovery.find(photos), Recipe(**choices))[0]
    train = [row.name for row in plain.of("train") if row.label == "red"]
    decided = {
        train[0]: Decision("red", "relabel", "blue"),
        train[1]: Decision("red", "keep"),
        train[2]: Decision("red", "drop"),
    }
    found = split(photos, tmp_path, decided, **choices)
    assert found.fold_of == plain.fold_of
    assert bool(plain.fold_of) == (not choices)
    before = {row.name: row for row in plain.rows}
    after = {row.name: row for row in found.rows}
    assert after[train[0]].label == "blue"
    assert after[train[1]].label == "red"
    assert after[train[2]].reason == "dropped in review"
    assert {name: row.split for name, row in before.items()} == {
        name: row.split for name, row in after.items()
    }
    assert {path.name for path in found.confirmed} == {before[name].path.name for name in train[:2]}
    assert [path.name for path in found.confirmed] and all(
        path.exists() for path in found.confirmed
    )


def test_class_can_be_emptied_only_knowingly(photos, tmp_path):
    names = [row.name for row in discovery.find(photos).rows if row.label == "red"]
    decided = {name: Decision("red", "drop") for name in names}
    with pytest.raises(DataError, match="red"):
        split(photos, tmp_path, decided)


def test_new_class_may_be_made(photos, tmp_path):
    names = [row.name for row in discovery.find(photos).rows if row.label == "red"]
    decided = {name: Decision("red", "relabel", "crimson") for name in names}
    found = split(photos, tmp_path, decided)
    assert found.class_names == ("blue", "crimson", "green")


def test_decision_about_another_source_is_refused(photos, tmp_path):
    with pytest.raises(DataError, match=r"gone\.png, which is not in"):
        split(photos, tmp_path, {"red/gone.png": Decision("red", "keep")})


def test_decision_that_was_carried_out_in_the_source_holds(photos, tmp_path):
    decided = {"blue/new.png": Decision("red", "relabel", "blue")}
    shutil.copy(photos / "red" / "01.png", photos / "blue" / "new.png")
    (photos / "red" / "01.png").unlink()
    found = split(photos, tmp_path, decided)
    assert {row.label for row in found.rows if row.name == "blue/new.png"} == {"blue"}


def test_label_that_has_changed_since_is_reported(photos, tmp_path):
    with pytest.raises(
        DataError, match=r"lists red/01\.png as 'green', but its label in .* is now 'red'"
    ):
        split(photos, tmp_path, {"red/01.png": Decision("green", "relabel", "blue")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na,b\n", "no column 'decision'"),
        ("path,label,decision,new_label\na,b,maybe,\n", "Line 2 .* 'maybe'"),
        ("path,label,decision,new_label\na,b,keep,\nc,d,relabel,\n", "Line 3 .* new_label"),
        ("path,label,decision,new_label\na,b\n", "Line 2 .* Received: ''"),
        ('path,label,decision,new_label\n"a,b,keep,\n', "not a CSV table"),
        ("", "no column 'path'"),
        ("label,decision,new_label,path\nb,keep\n", r"Line 2 of .*labels\.csv has no path"),
        (
            "path,label,decision,new_label\na,b,keep,\nc,b,keep,\na,b,relabel,d\n",
            r"Lines 2 and 4 of .*labels\.csv decide differently about a\. Remove one",
        ),
    ],
)
def test_invalid_labels_file_is_reported_with_the_line(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        relabelling.read(tmp_path / "labels.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_table_of_a_spreadsheet_program_is_read(tmp_path, delimiter):
    rows = [relabelling.COLUMNS, ("a, b.png", "c", "relabel", "d;e"), ("f.png", "c", "keep", "")]
    with (tmp_path / "labels.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([*rows, rows[1]])  # one of them twice
    assert relabelling.read(tmp_path / "labels.csv") == {
        "a, b.png": Decision("c", "relabel", "d;e"),
        "f.png": Decision("c", "keep"),
    }


def test_names_of_any_bytes_and_files_listed_twice_are_met(photos, tmp_path):
    odd = photos / "red" / "a\udcff.png"
    shutil.copy(photos / "red" / "01.png", odd)
    (tmp_path / "table.csv").write_bytes(
        b"path,label\n" + b"photos/red/02.png,red\n" * 2 + b"photos/blue/02.png,blue\n"
    )
    found = relabelling.relabelled(
        discovery.find(photos), {"red/a\\udcff.png": Decision("red", "relabel", "blue")}
    )
    assert {row.label for row in found.rows if row.path == odd} == {"blue"}
    twice = discovery.find(tmp_path / "table.csv")
    name = twice.rows[0].name
    found = relabelling.relabelled(twice, {name: Decision("red", "relabel", "blue")})
    assert len(found.rows) == 3
    assert [row.label for row in found.rows if row.usable] == ["blue", "blue"]


def test_missing_labels_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.csv: No such file"):
        relabelling.read(tmp_path / "gone.csv")


def test_labels_file_in_another_encoding_is_reported(tmp_path):
    (tmp_path / "labels.csv").write_bytes(
        "path,label,decision,new_label\nä,b,keep,\n".encode("latin-1")
    )
    with pytest.raises(DataError, match="UTF-8"):
        relabelling.read(tmp_path / "labels.csv")


def kept_beside(tmp_path, number=0, colour="red"):
    """A picture beside the labels file, as `efftune serve --feedback` keeps it."""
    square(COLOURS[colour], seed=5000 + number).save(tmp_path / f"kept-{number}.png")
    return f"kept-{number}.png"


@pytest.mark.parametrize("choices", [{"test": 0.15}, {}])
def test_pictures_beside_the_labels_file_are_for_training(choices, photos, tmp_path):
    plain = splitting.split(discovery.find(photos), Recipe(**choices))[0]
    decided = {
        kept_beside(tmp_path, 0): Decision("red", "relabel", "blue"),
        kept_beside(tmp_path, 1): Decision("red", "keep"),
        kept_beside(tmp_path, 2): Decision("red", "drop"),
    }
    found = split(photos, tmp_path, decided, **choices)
    added = {row.name: row for row in found.rows if row.name in decided}
    assert [(row.label, row.split, row.reason) for row in added.values()] == [
        ("blue", "train", ""),
        ("red", "train", ""),
        ("red", "", "dropped in review"),
    ]
    others = [row for row in found.rows if row.name not in decided]
    assert others == list(plain.rows)
    assert found.confirmed == {added["kept-0.png"].path, added["kept-1.png"].path}


def test_decisions_that_were_made_find_their_pictures_from_another_folder(photos, tmp_path):
    decided = {
        kept_beside(tmp_path, 0): Decision("red", "relabel", "blue"),
        kept_beside(tmp_path, 1): Decision("red", "drop"),
        "red/01.png": Decision("red", "relabel", "green"),
        "red/02.png": Decision("red", "keep"),
        "blue/02.png": Decision("red", "relabel", "blue"),  # as the source has it by now
    }
    found = split(photos, tmp_path, decided)
    whole = {str(tmp_path / name) if "kept" in name else name: decided[name] for name in decided}
    assert relabelling.made(found) == whole
    (tmp_path / "elsewhere").mkdir()
    again = split(photos, tmp_path / "elsewhere", whole)
    assert relabelling.made(again) == whole
    rows = [[(row.path, row.label, row.reason) for row in each.rows] for each in (found, again)]
    assert rows[0] == rows[1]
    assert again.confirmed == found.confirmed


@pytest.mark.parametrize("where", ["photos/{}", "{folder}/photos/{}", "link/{}"])
def test_paths_that_lead_into_the_source_are_its_own_pictures(photos, tmp_path, where):
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    plain = splitting.split(discovery.find(photos), Recipe(test=0.15))[0]
    names = [row.name for row in plain.of("train") if row.label == "red"]
    choices = [Decision("red", "drop"), Decision("red", "relabel", "blue")]
    decided = dict(zip(names[:2], choices, strict=True))
    listed = {where.format(name, folder=tmp_path): each for name, each in decided.items()}
    found = split(photos, tmp_path, listed, test=0.15)
    assert [row.name for row in found.rows] == [row.name for row in plain.rows]
    after = {row.name: row for row in found.rows}
    assert after[names[0]].reason == "dropped in review"
    assert after[names[1]].label == "blue" and after[names[1]].usable
    before = {row.name: row.split for row in plain.rows}
    assert {row.name: row.split for row in found.rows} == before
    assert relabelling.made(found) == decided


def test_picture_with_two_names_is_decided_once(photos, tmp_path):
    same = {"red/01.png": Decision("red", "keep"), "photos/red/01.png": Decision("red", "keep")}
    assert relabelling.made(split(photos, tmp_path, same)) == {
        "red/01.png": Decision("red", "keep")
    }
    other = same | {"photos/red/01.png": Decision("red", "drop")}
    with pytest.raises(DataError, match=r"about photos/red/01\.png and red/01\.png"):
        split(photos, tmp_path, other)


def test_classes_are_those_of_the_source_however_a_spreadsheet_writes_them(photos, tmp_path):
    (photos / "green").rename(photos / "vert\u00e9")
    (photos / "blue").rename(photos / "blue ")  # a class folder may be called so
    decided = {
        "red/01.png": Decision("red ", "relabel", " verte\u0301 "),
        "red/02.png": Decision("red", "relabel", "blue"),
        "red/04.png": Decision("red", "relabel", "crimson "),
        kept_beside(tmp_path): Decision("red", "relabel", "verte\u0301"),
    }
    found = split(photos, tmp_path, decided, missing_classes="allow")
    labels = {row.name: row.label for row in found.rows}
    assert [labels[name] for name in decided] == ["vert\u00e9", "blue ", "crimson", "vert\u00e9"]
    assert {row.label for row in found.rows} == {"blue ", "crimson", "red", "vert\u00e9"}


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_class_that_is_no_text_is_named_as_tables_write_it(photos, tmp_path):
    (photos / "green").rename(photos / "caf\udce9")
    decided = {"red/01.png": Decision("red", "relabel", "caf\\udce9")}
    found = split(photos, tmp_path, decided)
    assert found.class_names == ("blue", "caf\udce9", "red")


def test_copy_of_what_judges_is_not_trained_on(photos, tmp_path):
    plain = splitting.split(discovery.find(photos), Recipe(test=0.15))[0]
    judged = [plain.of(split)[0] for split in ("val", "test", "train")]
    for number, row in enumerate(judged):
        shutil.copy(row.path, tmp_path / f"copy-{number}.png")
    decided = {f"copy-{i}.png": Decision("red", "relabel", "blue") for i in range(3)}
    found = split(photos, tmp_path, decided, test=0.15)
    reasons = {row.name: row.reason for row in found.rows if row.name in decided}
    aside = "a copy of a picture for validation or testing"
    assert reasons == {"copy-0.png": aside, "copy-1.png": aside, "copy-2.png": ""}
    assert not found.leaked
    assert found.of("test") == plain.of("test") and found.of("val") == plain.of("val")


def test_unreadable_pictures_beside_the_labels_file_are_set_aside(photos, tmp_path):
    (tmp_path / "kept.png").write_bytes(b"nothing")
    found = split(photos, tmp_path, {"kept.png": Decision("red", "keep")})
    assert [row.reason for row in found.rows if row.name == "kept.png"] == ["not an image"]


@pytest.mark.parametrize("name", ["../outside.png", "gone.png", "a\0b", "photos", ""])
def test_what_is_not_beside_the_labels_file_is_not_taken(photos, tmp_path, name):
    (tmp_path / "inner").mkdir()
    square(COLOURS["red"], seed=1).save(tmp_path / "outside.png")
    examples = discovery.find(photos)
    decided = {name: Decision("red", "keep")}
    assert relabelling.further(examples, decided, tmp_path / "inner") == []


def test_labels_file_is_a_table_in_which_decisions_count(tmp_path):
    names = [kept_beside(tmp_path, i) for i in range(3)]
    choices = [Decision("a", "relabel", "b"), Decision("a", "keep"), Decision("a", "drop")]
    relabelling.write(tmp_path / "labels.csv", dict(zip(names, choices, strict=True)))
    found = discovery.find(tmp_path / "labels.csv").rows
    assert [(row.label, row.reason) for row in found] == [
        ("b", ""),
        ("a", ""),
        ("a", "dropped in review"),
    ]
