import io
import os
import shutil
import sys
from contextlib import contextmanager

import pytest

from conftest import COLOURS, fill, square
from efftune.data.sources import discovery, image_paths
from efftune.data.sources.table_columns import Columns
from efftune.errors import DataError, UsageError


def reasons(examples) -> dict[str, str]:
    return {row.name: row.reason for row in examples.set_aside}


def test_class_folders_are_the_classes(source):
    found = discovery.find(source)
    assert found.class_names == tuple(COLOURS)
    assert len(found.rows) == 30
    assert found.set_aside == ()
    assert {row.split for row in found.rows} == {""}


def test_rows_are_sorted_whatever_the_order_on_disk(source):
    names = [row.name for row in discovery.find(source).rows]
    assert names == sorted(names)


def test_pictures_in_subfolders_belong_to_the_class(tmp_path):
    fill(tmp_path)
    (tmp_path / "red" / "more" / "deep").mkdir(parents=True)
    square(COLOURS["red"], 99).save(tmp_path / "red" / "more" / "deep" / "x.png")
    row = next(row for row in discovery.find(tmp_path).rows if row.name.endswith("x.png"))
    assert (row.label, row.name) == ("red", "red/more/deep/x.png")


def test_everything_unusable_is_listed_with_a_reason(broken_source):
    assert reasons(discovery.find(broken_source)) == {
        "README.md": "not in a class folder",
        "__MACOSX": "left over from a macOS archive",
        "blue/.hidden.png": "hidden",
        "blue/Thumbs.db": "left over from Windows",
        "blue/gone.png": "broken link",
        "nothing in here": "empty folder",
        "red/empty.png": "empty file",
        "red/notes.txt": "not an image",
    }


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders_are_the_splits(tmp_path, val):
    for name in ("train", val, "test"):
        fill(tmp_path / name, count=4)
    (tmp_path / "LICENSE").write_text("CC0")
    found = discovery.find(tmp_path)
    assert [len(found.of(split)) for split in ("train", "val", "test")] == [12, 12, 12]
    assert found.class_names == tuple(COLOURS)
    assert reasons(found) == {"LICENSE": "not in a split folder"}


def test_class_called_test_is_a_class(tmp_path):
    fill(tmp_path)
    (tmp_path / "red").rename(tmp_path / "test")
    found = discovery.find(tmp_path)
    assert found.class_names == ("blue", "green", "test")
    assert {row.split for row in found.rows} == {""}


def test_splits_beside_classes_are_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / "red").rename(tmp_path / "train")
    with pytest.raises(DataError, match=r"split folders \(train\) and others \(blue, green\)"):
        discovery.find(tmp_path)


LAYOUTS = {  # folders, each with class folders inside; how they are described
    "photos": (["photos"], "class folders in photos/"),
    "two folders down": (["a/b"], "class folders in a/b/"),
    "medical": (
        ["Training", "Testing"],
        "split folders Testing (as test), Training (as train) with class folders",
    ),
    "inside another": (
        ["chest/Train", "chest/Val", "chest/Test"],
        "split folders Test (as test), Train (as train), Val (as val) with class folders in chest/",
    ),
    "pictures below splits": (
        ["train/images", "dev/images", "eval/images"],
        "split folders dev (as val), eval (as test), train with class folders",
    ),
}
SPLIT_WORDS = {"tra": "train", "val": "val", "dev": "val", "tes": "test", "eva": "test"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_layouts_are_recognised_and_reported(tmp_path, layout, caplog):
    folders, description = LAYOUTS[layout]
    for folder in folders:
        fill(tmp_path / folder, count=3)
    (tmp_path / "README.md").write_text("about these pictures")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    with caplog.at_level("INFO", logger="efftune"):
        found = discovery.find(tmp_path)
    assert found.class_names == tuple(COLOURS)
    assert len(found.rows) - len(found.set_aside) == 9 * len(folders)
    named = (name[:3] for name in "/".join(folders).casefold().split("/"))
    splits = {SPLIT_WORDS[name] for name in named if name in SPLIT_WORDS}
    assert {row.split for row in found.rows if row.usable} == (splits or {""})
    assert reasons(found).keys() == {"README.md", ".DS_Store"}
    assert caplog.messages == [f"{tmp_path}: {description}"]


def test_class_of_one_split_with_subfolders_is_not_looked_through(tmp_path):
    fill(tmp_path / "train", count=3)
    fill(tmp_path / "test" / "red", count=3)  # subfolders of the class
    found = discovery.find(tmp_path)
    assert found.class_names == tuple(COLOURS)
    assert {row.label for row in found.of("test")} == {"red"}


def test_classes_named_like_splits_must_be_asked_for(tmp_path):
    fill(tmp_path, count=3)
    (tmp_path / "red").rename(tmp_path / "Training")
    (tmp_path / "blue").rename(tmp_path / "Testing")
    with pytest.raises(DataError, match=r"others \(green\)\. .* --splits none"):
        discovery.find(tmp_path)
    found = discovery.find(tmp_path, columns=Columns(splits="none"))
    assert found.class_names == ("Testing", "Training", "green")


@pytest.mark.parametrize(
    "pattern", ["{}.{}.png", "{}_{:03}.png", "{} ({}).png", "{}-{}.png", "{}_1 ({}).png"]
)
@pytest.mark.parametrize("below", ["", "photos"])
def test_classes_are_read_from_names_where_there_are_no_folders(tmp_path, pattern, below, caplog):
    folder = tmp_path / below
    folder.mkdir(exist_ok=True)
    for name, colour in {"cat": COLOURS["red"], "great_dane": COLOURS["blue"]}.items():
        for i in range(1, 5):
            square(colour, i).save(folder / pattern.format(name, i))
    (folder / "notes.txt").write_text("text")
    with caplog.at_level("INFO", logger="efftune"):
        found = discovery.find(tmp_path)
    assert found.class_names == ("cat", "great_dane")
    assert found.counts == {"train": 0, "val": 0, "test": 0}
    assert len(found.rows) == 9
    assert reasons(found) == {"notes.txt": "no class in its name"}
    assert "classes from the file names (" in caplog.messages[0]


@pytest.mark.parametrize(
    "names", [("IMG", "DSC"), ("", "2021-05-"), ("cat", "IMG"), ("one", "one")]
)
def test_names_that_cameras_give_are_no_classes(tmp_path, names):
    for number, name in enumerate(names):
        for i in range(10, 14):
            square(COLOURS["red"], i).save(tmp_path / f"{name}_{number}{i}.png")
    found = discovery.find(tmp_path)
    assert set(reasons(found).values()) == {"not in a class folder"}


def test_names_are_read_in_split_folders_too(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name in ("cat", "dog"):
            for i in range(3):
                square(COLOURS["red"], i).save(tmp_path / split / f"{name}.{i}.png")
    found = discovery.find(tmp_path)
    assert found.class_names == ("cat", "dog")
    assert (len(found.of("train")), len(found.of("test"))) == (6, 6)


def test_table_of_labels_beside_pictures_is_used(tmp_path, caplog):
    fill(tmp_path / "all")
    (tmp_path / "images").mkdir()
    lines = ["path,label"]
    for path in sorted((tmp_path / "all").rglob("*.*g")):
        name = f"images/{path.parent.name[0]}{path.name}"
        path.rename(tmp_path / name)
        lines.append(f"{name},{path.parent.name}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    shutil.rmtree(tmp_path / "all")
    with caplog.at_level("INFO", logger="efftune"):
        found = discovery.find(tmp_path)
    assert found.class_names == tuple(COLOURS)
    assert len(found.rows) == 30
    description = "table labels.csv with paths in column 'path', classes in column 'label'"
    assert caplog.messages == [f"{tmp_path}: {description}"]


def test_table_is_used_if_the_folders_are_ambiguous(tmp_path):
    fill(tmp_path / "train", count=2)
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="both split folders"):
        discovery.find(tmp_path)
    (tmp_path / "train.csv").write_text("path,label\ntrain/red/01.png,a\ntrain/blue/01.png,b\n")
    assert discovery.find(tmp_path).class_names == ("a", "b")


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    for split, name in (("train", "cafe\u0301"), ("test", "caf\u00e9")):
        fill(tmp_path / split, count=3)
        (tmp_path / split / "red").rename(tmp_path / split / name)
    assert discovery.find(tmp_path).class_names == ("blue", "caf\u00e9", "green")


def test_icon_of_a_folder_under_macos_is_hidden(tmp_path):
    fill(tmp_path)
    (tmp_path / "red" / "Icon\r").touch()
    assert reasons(discovery.find(tmp_path)) == {"red/Icon\r": "hidden"}


def test_pipe_in_a_class_folder_is_set_aside(tmp_path):
    fill(tmp_path)
    os.mkfifo(tmp_path / "red" / "pipe.jpg")
    assert reasons(discovery.find(tmp_path)) == {"red/pipe.jpg": "not a regular file"}


def test_link_to_a_folder_above_the_classes_is_not_followed(tmp_path):
    fill(tmp_path / "photos", count=3)
    (tmp_path / "photos" / "red" / "all").symlink_to("..")
    (tmp_path / "photos" / "blue" / "here").symlink_to(tmp_path / "photos")
    found = discovery.find(tmp_path)
    assert reasons(found) == dict.fromkeys(("blue/here", "red/all"), "folder links back to itself")
    assert len(found.rows) == 3 * 3 + 2


def test_home_of_nobody_is_a_name_like_any(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    square(COLOURS["red"], 1).save("~backup.png")
    assert image_paths.pictures(["~backup.png"])[0][0].name == "~backup.png"


def test_two_folders_for_one_split_are_refused(tmp_path):
    for name in ("train", "val", "valid"):
        fill(tmp_path / name, count=1)
    with pytest.raises(DataError, match="several val splits: val, valid"):
        discovery.find(tmp_path)


def test_linked_class_folders_are_followed_but_loops_are_not(tmp_path):
    fill(tmp_path / "photos")
    (tmp_path / "photos" / "rosso").symlink_to(tmp_path / "photos" / "red")
    (tmp_path / "photos" / "blue" / "loop").symlink_to(tmp_path / "photos" / "blue")
    found = discovery.find(tmp_path / "photos")
    assert sum(row.label == "rosso" for row in found.rows) == 10
    assert reasons(found) == {"blue/loop": "folder links back to itself"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "There is no folder 'nowhere'"),
        ("gone.csv", "There is no file 'gone.csv'"),
        ("gone.TAR.GZ", "There is no file 'gone.TAR.GZ'"),
        ("sample:digit", "Unknown sample 'sample:digit'. Did you mean 'sample:digits'"),
    ],
)
def test_missing_source_is_named(name, words):
    with pytest.raises(UsageError, match=words):
        discovery.find(name)


def test_file_is_no_source(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UsageError, match=r"a\.jpg' is a file.*\.tar\.gz.*\.csv, \.tsv, \.parquet"):
        discovery.find(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a.csv", "a.zip", "a.tar.gz"])
def test_folder_may_be_called_like_a_file(tmp_path, name):
    found = discovery.find(fill(tmp_path / name, count=1))
    assert found.class_names == tuple(COLOURS)
    assert {(row.line, row.group) for row in found.rows} == {(0, "")}


def test_pipe_called_like_a_table_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(UsageError, match=r"a\.csv' is a file"):
        discovery.find(tmp_path / "a.csv")


@contextmanager
def as_nobody():
    """Give up the right to read everything, if these tests run with it."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that others may enter; pytest's own are closed to them."""
    import shutil
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_unreadable_folder_is_named(open_folder):
    fill(open_folder / "photos", count=3)
    (open_folder / "photos" / "red").chmod(0)
    with as_nobody(), pytest.raises(DataError, match=r"No permission to read the folder .*red"):
        discovery.find(open_folder / "photos")


def test_unreadable_picture_is_set_aside(open_folder):
    fill(open_folder / "photos", count=3)
    (open_folder / "photos" / "red" / "01.png").chmod(0)
    with as_nobody():
        found = discovery.find(open_folder / "photos")
    assert reasons(found) == {"red/01.png": "no permission to read"}


def test_digits_are_the_real_ones():
    found = discovery.find("sample:digits")
    assert len(found.rows) == 1797
    assert found.class_names == tuple("0123456789")
    assert found.set_aside == ()


@pytest.mark.ci
def test_digits_are_made_once(own_cache):
    first = discovery.find("sample:digits").rows[0].path
    made = first.stat().st_mtime_ns
    assert discovery.find("sample:digits").rows[0].path.stat().st_mtime_ns == made


def test_pictures_are_found_in_files_folders_and_globs(source):
    paths, failures = image_paths.pictures(
        [source / "red" / "01.png", source / "blue", f"{source}/green/*.jpg"]
    )
    assert failures == {}
    assert len(paths) == 1 + 10 + 4
    assert paths[0] == source / "red" / "01.png"


def test_named_file_that_is_no_picture_has_a_reason(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert image_paths.pictures([tmp_path / "a.txt"]) == ([], {tmp_path / "a.txt": "not an image"})


def test_useless_pictures_in_a_folder_have_a_reason(broken_source):
    paths, failures = image_paths.pictures([broken_source / "red", broken_source / "blue"])
    assert len(paths) == 21
    assert {path.name: reason for path, reason in failures.items()} == {
        "empty.png": "empty file",
        "gone.png": "broken link",
    }


def test_what_is_named_like_a_picture_in_a_folder_has_a_reason(tmp_path):
    square(COLOURS["red"], 1).save(tmp_path / "a.png")
    contents = {"text.jpg": b"text", "zeros.JPG": bytes(99), "page.png": b"<!DOCTYPE html><html>"}
    others = dict.fromkeys(("notes.txt", "page.html", "._a.jpg", "no suffix"), b"text")
    for name, content in (contents | others).items():
        (tmp_path / name).write_bytes(content)
    paths, failures = image_paths.pictures([tmp_path])
    assert paths == [tmp_path / "a.png"]
    assert {path.name for path in failures} == set(contents)
    assert failures[tmp_path / "page.png"] == "not an image: a web page"


def test_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match="holds no picture"):
        image_paths.pictures([tmp_path])


def test_missing_picture_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no file or folder .*gone\.jpg"):
        image_paths.pictures([tmp_path / "gone.jpg"])


def tell(monkeypatch, content):
    """Put something into standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_paths_come_from_standard_input(tmp_path, monkeypatch, end):
    names = ["a b.png", os.fsdecode(b"caf\xe9.png"), "c.png"]
    for name in names:
        square(COLOURS["red"], 1).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    tell(monkeypatch, end.join(map(os.fsencode, names)) + end)
    paths, failures = image_paths.pictures(["-"])
    assert ([str(path) for path in paths], failures) == (names, {})


def test_standard_input_mixes_with_other_names(source, monkeypatch):
    tell(monkeypatch, f"{source}/red/01.png\n\n{source}/blue/*.jpg\n{source}/green".encode())
    paths, _ = image_paths.pictures(
        [source / "red" / "02.png", "-", source / "red" / "00.jpg", "-"]
    )
    assert [path.parent.name for path in paths] == ["red"] * 2 + ["blue"] * 4 + ["green"] * 10 + [
        "red"
    ]


def test_name_with_newline_can_be_given_with_nul(tmp_path, monkeypatch):
    square(COLOURS["red"], 1).save(tmp_path / "x.png")
    odd = (tmp_path / "x.png").rename(tmp_path / "a\nb.png")
    tell(monkeypatch, os.fsencode(odd) + b"\0")
    assert image_paths.pictures(["-"]) == ([odd], {})


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\0"])
def test_empty_standard_input_is_an_error(monkeypatch, content):
    tell(monkeypatch, content)
    with pytest.raises(UsageError, match="Standard input is empty"):
        image_paths.pictures(["-"])


def test_missing_path_from_standard_input_is_named(monkeypatch):
    tell(monkeypatch, b"gone.jpg\n")
    with pytest.raises(UsageError, match=r"no file or folder 'gone\.jpg'"):
        image_paths.pictures(["-"])


def test_held_out_pictures_may_be_elsewhere(tmp_path):
    train, val = fill(tmp_path / "photos", count=4), fill(tmp_path / "other", count=2, offset=50)
    test = fill(tmp_path / "set" / "test", count=3, offset=90).parent
    fill(tmp_path / "set" / "train", count=1, offset=120)
    found = discovery.find(train, held_out={"val": f"{val}/", "test": str(test)})
    assert [len(found.of(split)) for split in ("val", "test")] == [6, 9]
    assert {row.split for row in found.rows if row.path.is_relative_to(train)} == {""}
    names = [row.name for row in found.rows]
    assert f"{val}/blue/00.jpg" in names
    assert len(set(names)) == len(names) == 12 + 6 + 9


def test_held_out_pictures_inside_the_source_are_not_trained_on(tmp_path):
    fill(tmp_path, count=4)
    inside = tmp_path / "red" / "later"
    for colour in COLOURS:
        (inside / colour).mkdir(parents=True)
        square(COLOURS[colour], 7).save(inside / colour / "x.png")
    found = discovery.find(tmp_path, held_out={"val": str(inside)})
    later = [row for row in found.rows if row.path.is_relative_to(inside)]
    assert {row.split for row in later} == {"val"}
    assert sorted(row.label for row in later) == sorted(COLOURS)


def test_held_out_pictures_must_not_be_given_twice(tmp_path):
    for name in ("train", "val"):
        fill(tmp_path / "set" / name, count=2)
    fill(tmp_path / "other", count=2)
    with pytest.raises(UsageError, match="has val pictures already: omit --val"):
        discovery.find(tmp_path / "set", held_out={"val": str(tmp_path / "other")})
    with pytest.raises(UsageError, match="divided into splits, and none is test"):
        discovery.find(tmp_path / "other", held_out={"test": str(tmp_path / "set")})
    with pytest.raises(UsageError, match="There is no folder"):
        discovery.find(tmp_path / "other", held_out={"test": str(tmp_path / "nowhere")})
    with pytest.raises(UsageError, match=r"holds all pictures of .*: none are left"):
        discovery.find(tmp_path / "other", held_out={"test": str(tmp_path / "other")})


@pytest.mark.parametrize("spelling", ["hold", "{}/hold", "../photos/hold", "link/hold"])
def test_held_out_pictures_in_the_source_are_no_class(tmp_path, monkeypatch, spelling):
    photos = fill(tmp_path / "photos", count=2)
    fill(photos / "hold", count=1)
    (tmp_path / "other").symlink_to(photos)
    monkeypatch.chdir(photos)
    place = spelling.format(photos).replace("link", str(tmp_path / "other"))
    found = discovery.find(".", held_out={"val": place})
    assert found.class_names == tuple(COLOURS)
    assert (len(found.of("val")), sum(row.usable for row in found.rows)) == (3, 9)


def run_folder(folder):
    (folder / "plots").mkdir(parents=True)
    square(COLOURS["red"], 1).save(folder / "plots" / "curves.png")
    (folder / "run.json").write_text("{}")
    (folder / "recipe.toml").touch()
    return folder


@pytest.mark.parametrize("place", ["runs/photos-1", "runs/photos-2", "mine", "red/mine"])
def test_runs_in_the_folder_are_no_pictures(tmp_path, place):
    fill(tmp_path, count=2)
    run_folder(tmp_path / "runs" / "photos-1")
    (tmp_path / "runs" / ".hidden").touch()
    if place != "runs/photos-1":
        run_folder(tmp_path / place)
    found = discovery.find(tmp_path)
    assert found.class_names == tuple(COLOURS)
    assert len(found.rows) - len(found.set_aside) == 6
    assert set(reasons(found).values()) == {"run folder"}
    assert len(image_paths.pictures([str(tmp_path)])[0]) == 6


def test_run_that_is_not_finished_is_no_picture_and_no_split(tmp_path):
    for split in ("train", "test"):
        fill(tmp_path / split, count=2)
    (tmp_path / "runs" / "one" / "unfinished").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "run.json").write_text("{}")
    found = discovery.find(tmp_path)
    assert [len(found.of(split)) for split in ("train", "test")] == [6, 6]
    assert reasons(found) == {"runs": "run folder"}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a-explained.png", "a-explained-2.png"), "heat maps of efftune"),
        (("findings.csv", "samples.png", "sizes.png"), "findings of efftune"),
    ],
)
def test_what_was_drawn_in_the_folder_is_no_picture(tmp_path, names, reason):
    fill(tmp_path, count=2)
    for name in (*names, ".hidden"):
        path = tmp_path / "drawn" / name
        path.parent.mkdir(exist_ok=True)
        square(COLOURS["red"], 1).save(path, "PNG")
    assert reasons(discovery.find(tmp_path)) == {"drawn": reason}
    assert len(image_paths.pictures([str(tmp_path)])[0]) == 6


@pytest.mark.parametrize(
    "names", [("a-explained.png", "b.png"), ("samples.png",), ("findings.csv", "1.png")]
)
def test_class_of_pictures_with_such_names_stays_one(tmp_path, names):
    fill(tmp_path, count=2)
    (tmp_path / "drawn").mkdir()
    for name in names:
        square(COLOURS["red"], 1).save(tmp_path / "drawn" / name, "PNG")
    assert "drawn" in discovery.find(tmp_path).class_names


def test_class_with_a_run_among_its_pictures_stays_one(tmp_path):
    fill(tmp_path, count=2)
    (tmp_path / "runs").mkdir()
    square(COLOURS["red"], 5).save(tmp_path / "runs" / "sprint.png")
    run_folder(tmp_path / "runs" / "photos-1")
    found = discovery.find(tmp_path)
    assert found.class_names == (*tuple(COLOURS), "runs")
    assert reasons(found) == {"runs/photos-1": "run folder"}


@pytest.mark.parametrize(
    ("choice", "option"),
    [
        ({"group": "site"}, "--group-column"),
        ({"split": "part"}, "--split-column"),
        ({"label": "species"}, "--label-column"),
        ({"labels": ("a", "b")}, "--label-columns"),
        ({"root": "pictures"}, "--root"),
    ],
)
def test_column_of_what_is_no_table_is_refused(source, choice, option):
    with pytest.raises(UsageError, match=f"{option} has no effect on .*class folders"):
        discovery.find(source, columns=Columns(**choice))
    assert discovery.find(source, columns=Columns(**choice), strict=False).class_names


def test_table_in_the_folder_is_read_if_its_columns_are_named(tmp_path):
    fill(tmp_path, count=2)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    rows = [f"{path},{path.split('/')[0]}ish,{i}" for i, path in enumerate(files)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,species,site", *rows]))
    assert discovery.find(tmp_path).class_names == tuple(COLOURS)
    found = discovery.find(tmp_path, columns=Columns(label="species", group="site"))
    assert found.class_names == tuple(sorted(f"{name}ish" for name in COLOURS))
    assert len({row.group for row in found.rows}) == 6
    columns = Columns(label="breed")  # of a run that was trained on another table
    assert discovery.find(tmp_path, columns=columns, strict=False).class_names == tuple(COLOURS)
    (tmp_path / "labels.csv").write_text("path,breed", encoding="utf-16")  # which is not read
    assert discovery.find(tmp_path, columns=columns, strict=False).class_names == tuple(COLOURS)


def test_columns_may_be_those_of_a_table_that_is_held_out(source, tmp_path):
    files = sorted(fill(tmp_path, count=2).rglob("*.*"))
    rows = [f"{path},{path.parent.name},{i}" for i, path in enumerate(files)]
    table = tmp_path / "third.csv"
    table.write_text("\n".join(["path,breed,site", *rows]))
    found = discovery.find(source, columns=Columns(label="breed"), held_out={"test": str(table)})
    assert len(found.of("test")) == 6
    other = fill(tmp_path / "other", count=1)
    with pytest.raises(UsageError, match="--label-column has no effect"):
        discovery.find(source, columns=Columns(label="breed"), held_out={"test": str(other)})
