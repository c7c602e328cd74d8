import errno
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from efftune.delivery import sorted_files, sorting
from efftune.delivery.sorted_files import Undone
from efftune.delivery.sorting import Sorter
from efftune.errors import DataError, DiskFull, UsageError
from efftune.model.prediction import Prediction


@pytest.fixture
def photos(tmp_path):
    """Photos of two folders, two of them with the same name."""
    places = [tmp_path / "photos" / name for name in ("one/a.jpg", "two/a.jpg", "two/b ü.jpg")]
    for number, path in enumerate(places):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(path)
    return places


def predicted(path, label, **flags):
    return Prediction(path, label, 0.9, ((label, 0.9),), **flags)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def place(photos, into, labels=("cat", "cat", "dog"), **options):
    sorter = Sorter(into, ("cat", "dog"), **options)
    return sorter.place([predicted(*each) for each in zip(photos, labels, strict=True)])


def test_photos_are_linked_into_the_folder_of_their_class(photos, tmp_path):
    before, into = contents(tmp_path / "photos"), tmp_path / "sorted"
    found = place(photos, into)
    wanted = [into / "cat" / "a.jpg", into / "cat" / "a-2.jpg", into / "dog" / "b ü.jpg"]
    assert [each.path for each in found] == wanted
    assert all(map(Path.samefile, photos, wanted))
    assert contents(tmp_path / "photos") == before


def test_unsure_and_unlike_ones_have_a_folder_of_their_own(photos, tmp_path):
    sorter = Sorter(tmp_path / "sorted", ("cat", "unsure"))
    found = sorter.place(
        [
            predicted(photos[0], "cat", unsure=True),
            predicted(photos[1], "cat", unlike=True),
            predicted(photos[2], "unsure"),
        ]
    )
    assert [each.path.parent.name for each in found] == ["unsure", "unsure", "unsure-2"]


def test_sorting_again_leaves_out_what_is_there(photos, tmp_path):
    into = tmp_path / "sorted"
    place(photos[:2], into, ("cat", "dog"))
    found = place(photos, into, ("dog", "dog", "dog"))
    assert [each.path and each.path.name for each in found] == [None, None, "b ü.jpg"]
    (into / "cat" / "a.jpg").unlink()
    assert place(photos[:1], into, ("cat",))[0].path == into / "cat" / "a.jpg"


def test_another_photo_under_the_same_name_is_sorted_too(photos, tmp_path):
    into = tmp_path / "sorted"
    place(photos[:1], into, ("cat",))
    photos[0].unlink()  # as if the card had been emptied, and the camera had begun anew
    Image.new("RGB", (30, 30), "green").save(photos[0])
    assert place(photos[:1], into, ("cat",))[0].path == into / "cat" / "a-2.jpg"
    assert (into / "cat" / "a-2.jpg").samefile(photos[0])
    assert place(photos[:1], into, ("cat",))[0].path is None


@pytest.mark.parametrize("copy", [False, True])
def test_photo_whose_time_alone_differs_is_there_already(photos, tmp_path, copy):
    into = tmp_path / "sorted"
    place(photos[:1], into, ("cat",), copy=copy)
    os.utime(photos[0], ns=(0, 1_700_000_000_000_000_000))
    assert place(photos[:1], into, ("cat",), copy=copy)[0].path is None
    same_size = photos[0].read_bytes()[:-1] + b"?"
    photos[0].unlink()
    photos[0].write_bytes(same_size)
    assert place(photos[:1], into, ("cat",), copy=copy)[0].path == into / "cat" / "a-2.jpg"


@pytest.mark.parametrize("xmp", [False, True])
def test_link_to_a_photo_that_is_overwritten_goes_where_it_belongs_now(photos, tmp_path, xmp):
    into = tmp_path / "sorted"
    place(photos[:1], into, ("cat",), xmp=xmp)
    for size, label in ((30, "dog"), (40, "dog"), (50, "cat")):
        Image.new("RGB", (size, size), "green").save(photos[0])  # where it lies
        assert place(photos[:1], into, (label,), xmp=xmp)[0].path == into / label / "a.jpg"
        assert {path.parent.name for path in into.rglob("a.jpg*")} == {label}
        assert place(photos[:1], into, (label,), xmp=xmp)[0].path is None
    content = photos[0].read_bytes()
    photos[0].write_bytes(content[:-1] + b"?")  # as large as before
    os.utime(photos[0], ns=(0, 1_700_000_000_000_000_000))
    assert place(photos[:1], into, ("dog",), xmp=xmp)[0].path == into / "dog" / "a.jpg"
    assert sorted_files.undo(into) == Undone(1 + xmp, {})
    assert photos[0].is_file()


def test_photo_that_was_brought_again_can_be_taken_away(photos, tmp_path):
    into, content = tmp_path / "sorted", photos[0].read_bytes()
    place(photos[:1], into, ("cat",))
    photos[0].unlink()  # as by a program that copies folders
    photos[0].write_bytes(content)
    os.utime(photos[0], ns=(0, 1_700_000_000_000_000_000))
    assert place(photos[:1], into, ("cat",))[0].path is None
    assert sorted_files.undo(into) == Undone(1, {})


def test_photo_that_is_reached_through_the_sorted_ones_is_never_taken_away(photos, tmp_path):
    into = tmp_path / "sorted"
    place(photos[:1], into, ("cat",))
    folder = photos[0].parent
    (tmp_path / "more.jpg").hardlink_to(photos[0])
    shutil.rmtree(into / "cat")
    (into / "cat").symlink_to(folder)  # by somebody else
    photos[0].write_bytes(b"overwritten")
    place(photos[:1], into, ("dog",))
    assert photos[0].read_bytes() == b"overwritten"


def test_photos_of_one_name_are_placed_without_a_look_at_each_before(tmp_path, monkeypatch):
    into, photos = tmp_path / "sorted", []
    for number in range(40):
        photos.append(tmp_path / f"{number:02}" / "a.jpg")
        photos[-1].parent.mkdir()
        photos[-1].write_bytes(b"%d" % number)
    looks, look = [], os.path.lexists

    def counted(path):
        looks.append(path)
        return look(path)

    monkeypatch.setattr(os.path, "lexists", counted)
    place(photos, into, ["cat"] * 40)
    assert sorted(path.name for path in (into / "cat").iterdir()) == sorted(
        ["a.jpg", *(f"a-{number}.jpg" for number in range(2, 41))]
    )
    assert len(looks) < 5 * 40


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_copies_take_the_place_of_links_that_cannot_be(photos, tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refused)
    into = tmp_path / "sorted"
    found = place(photos, into)
    for photo, each in zip(photos, found, strict=True):
        assert not photo.samefile(each.path)
        assert each.path.read_bytes() == photo.read_bytes()
        assert each.path.stat().st_mtime_ns == photo.stat().st_mtime_ns
    assert sorted_files.undo(into) == Undone(3, {})
    assert not into.exists()


def test_full_disk_loses_nothing(photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before, into = contents(tmp_path / "photos"), tmp_path / "sorted"
    place(photos[:1], into, ("cat",))
    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(DiskFull, match="Make room"):
        place(photos[1:], into, ("cat", "dog"), copy=True)
    monkeypatch.undo()
    assert [each.path is not None for each in place(photos, into)] == [False, True, True]
    assert sorted_files.undo(into).kept == {}
    assert contents(tmp_path / "photos") == before
    assert not into.exists()


def test_photo_that_is_gone_is_named(photos, tmp_path):
    into = tmp_path / "sorted"
    photos[1].unlink()
    with pytest.raises(DataError, match=r"two/a\.jpg cannot be read any more"):
        place(photos, into)
    assert sorted_files.undo(into) == Undone(1, {})


def test_links_to_photos_are_followed(photos, tmp_path):
    link = tmp_path / "link.jpg"
    link.symlink_to(photos[0])
    (found,) = place([link], tmp_path / "sorted", ("cat",))
    assert not found.path.is_symlink()
    assert found.path.samefile(photos[0])


@pytest.mark.parametrize("label", ["cat", "a & <b>", "\x00\x1f", "\udcff", 'quo"te', "数据"])
def test_sidecars_hold_the_class_as_a_keyword(photos, tmp_path, label):
    into = tmp_path / "sorted"
    sorter = Sorter(into, (label, "dog"), xmp=True)
    (sure, unsure) = sorter.place(
        [predicted(photos[0], label), predicted(photos[1], "dog", unsure=True)]
    )
    sidecar = sure.path.with_name(f"{sure.path.name}.xmp")
    (keyword,) = ET.fromstring(sidecar.read_bytes()).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
    )
    assert keyword.text == (label if label.isprintable() and label != "\udcff" else keyword.text)
    assert keyword.text
    assert not unsure.path.with_name(f"{unsure.path.name}.xmp").exists()
    assert sorted_files.undo(into) == Undone(3, {})


@given(st.lists(st.text(), unique=True, max_size=20))
def test_folders_have_names_that_every_system_takes(labels):
    names = list(sorting.folder_names(labels).values())
    assert len({name.casefold() for name in (*names, "unsure")}) == len(labels) + 1
    for name in names:
        assert Path(name).parts == (name,)
        assert not set(name) & set('\\/:*?"<>|\0')
        assert name not in (".", "..")
        assert not name.endswith((" ", "."))
        assert len(name.encode()) < 200


@pytest.mark.parametrize("label", ["CON", "nul.txt", "..", "", " ", "a/b", "x" * 300, "COM1"])
def test_odd_classes_get_a_folder(photos, tmp_path, label):
    into = tmp_path / "sorted"
    sorter = Sorter(into, (label, "other"))
    (found,) = sorter.place([predicted(photos[0], label)])
    assert found.path.parent.parent == into
    assert sorted_files.undo(into).kept == {}


def test_undo_leaves_the_photos_and_other_files(photos, tmp_path):
    before, into = contents(tmp_path / "photos"), tmp_path / "sorted"
    place(photos, into, xmp=True)
    own = into / "cat" / "mine.txt"
    own.write_text("mine")
    assert sorted_files.undo(into) == Undone(6, {})
    assert contents(into) == {"cat/mine.txt": b"mine"}
    assert contents(tmp_path / "photos") == before
    with pytest.raises(UsageError, match="nothing was sorted"):
        sorted_files.undo(into)


@pytest.mark.parametrize("copy", [False, True])
def test_undo_keeps_what_is_the_last_of_its_kind(photos, tmp_path, copy):
    into = tmp_path / "sorted"
    place(photos, into, copy=copy)
    photos[0].unlink()
    found = sorted_files.undo(into)
    assert (found.removed, list(found.kept)) == (2, ["cat/a.jpg"])
    assert "is gone" in found.kept["cat/a.jpg"]
    assert sorted(contents(into)) == ["cat/a.jpg", "undo.jsonl"]
    assert sorted_files.undo(into).kept == found.kept  # it can be asked again


def test_undo_keeps_what_the_photo_s_own_path_leads_to(photos, tmp_path):
    into = tmp_path / "sorted"
    place(photos[:1], into, ("cat",))
    shutil.rmtree(photos[0].parent)
    photos[0].parent.symlink_to(into / "cat")  # as if nothing had been moved
    found = sorted_files.undo(into)
    assert (found.removed, list(found.kept)) == (0, ["cat/a.jpg"])
    assert photos[0].is_file()


def test_nothing_is_made_for_photos_that_cannot_be_read(finished_run, tmp_path):
    broken, failures = tmp_path / "broken.jpg", {}
    broken.write_bytes(b"no picture")
    sorter = Sorter(tmp_path / "album", finished_run.classifier.class_names)
    assert sorting.sort(finished_run.classifier, [broken], sorter, failures.__setitem__) == []
    assert list(failures) == [broken]
    assert not (tmp_path / "album").exists()


def test_undo_keeps_what_has_changed(photos, tmp_path):
    into = tmp_path / "sorted"
    place(photos, into, copy=True)
    (into / "cat" / "a.jpg").write_bytes(b"edited")
    photos[1].write_bytes(b"edited, so that the copy is the last of the old one")
    (into / "dog" / "b ü.jpg").unlink()
    (into / "dog" / "b ü.jpg").symlink_to(photos[2])
    found = sorted_files.undo(into)
    assert (found.removed, set(found.kept)) == (0, {"cat/a.jpg", "cat/a-2.jpg", "dog/b ü.jpg"})


@pytest.mark.parametrize("which", ["the copies", "the photos", "both"])
def test_undo_takes_away_copies_whose_times_a_disk_has_rounded(photos, tmp_path, which):
    into = tmp_path / "sorted"
    for photo in photos:
        os.utime(photo, ns=(0, 1_700_000_001_234_567_890))
    found = place(photos, into, copy=True)
    copies = [each.path for each in found]
    rounded = {"the copies": copies, "the photos": photos, "both": copies + photos}[which]
    for path in rounded:
        os.utime(path, ns=(0, 1_700_000_000_000_000_000))
    assert sorted_files.undo(into) == Undone(3, {})
    assert all(map(Path.is_file, photos))


def test_undo_keeps_a_copy_that_was_edited_without_a_change_of_size(photos, tmp_path):
    into = tmp_path / "sorted"
    (found,) = place(photos[:1], into, ("cat",), copy=True)
    content = found.path.read_bytes()
    found.path.write_bytes(content[:-1] + b"?")
    os.utime(found.path, ns=(0, photos[0].stat().st_mtime_ns - 10**9))
    assert sorted_files.undo(into) == Undone(0, {"cat/a.jpg": "it has changed"})


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("xmp", [False, True])
@pytest.mark.parametrize("stem", ["ü" * 125 + "a", "a" * 251, "a." + "b" * 249])
def test_names_that_are_as_long_as_can_be_are_shortened(tmp_path, stem, xmp, copy):
    photos = [tmp_path / "photos" / folder / f"{stem}.jpg" for folder in ("one", "two")]
    for number, path in enumerate(photos):
        path.parent.mkdir(parents=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(path)
    into = tmp_path / "sorted"
    found = place(photos, into, ("cat", "cat"), xmp=xmp, copy=copy)
    for photo, each in zip(photos, found, strict=True):
        assert each.path.read_bytes() == photo.read_bytes()
        assert each.path.name[:100] == stem[:100]
        assert each.path.suffix == ".jpg"
    assert found[1].path.stem.endswith("-2")
    assert xmp or found[0].path.name == photos[0].name
    assert len(list(into.rglob("*.xmp"))) == 2 * xmp
    assert sorted_files.undo(into) == Undone(2 + 2 * xmp, {})


@pytest.mark.parametrize(
    "line",
    [
        "no json\n",
        "[]\n",
        "{}\n",
        json.dumps({"photo": "/x", "path": "../precious", "way": "link"}) + "\n",
        json.dumps({"photo": "/x", "path": "/precious", "way": "link"}) + "\n",
        json.dumps({"photo": "/x", "path": "a/../../precious", "way": "link"}) + "\n",
        json.dumps({"photo": "/x", "path": "cat/a.jpg", "way": "link", "size": "7"}) + "\n",
        "[" * 100_000 + "\n",
    ],
)
def test_record_of_others_is_not_trusted(photos, tmp_path, line):
    into = tmp_path / "sorted"
    place(photos, into)
    (tmp_path / "precious").write_text("precious")
    record = into / "undo.jsonl"
    record.write_text(line + record.read_text())
    with pytest.raises(DataError, match="damaged in line 1"):
        sorted_files.undo(into)
    with pytest.raises(DataError, match="damaged in line 1"):
        Sorter(into, ("cat", "dog"))
    assert (tmp_path / "precious").read_text() == "precious"
    assert len(contents(into)) == 4


def test_record_that_was_cut_off_is_read_as_far_as_it_goes(photos, tmp_path):
    into = tmp_path / "sorted"
    place(photos, into)
    with (into / "undo.jsonl").open("a") as stream:
        stream.write('{"photo": "/somewh')
    assert sorted_files.undo(into) == Undone(3, {})


def test_sorting_goes_on_after_a_record_that_was_cut_off(photos, tmp_path):
    into = tmp_path / "sorted"
    place(photos[:1], into, ("cat",))
    with (into / "undo.jsonl").open("a") as stream:
        stream.write('{"photo": "/somewh')
    place(photos[1:], into, ("cat", "dog"))
    assert sorted_files.undo(into) == Undone(3, {})


def test_sorted_photos_are_not_sorted_again(finished_run, photos, tmp_path):
    into = tmp_path / "photos" / "album"  # among the photos
    for wanted in (3, 0):
        sorter = Sorter(into, finished_run.classifier.class_names)
        given = sorted((tmp_path / "photos").rglob("*.jpg"))
        found = sorting.sort(finished_run.classifier, given, sorter, lambda *_: None)
        assert len([each for each in found if each.path]) == wanted
        assert len(found) == 3
    assert len(list(into.rglob("*.jpg"))) == 3


def test_what_another_process_sorts_before_the_lock_is_taken_is_not_sorted_again(
    finished_run, photos, tmp_path
):
    sorters = [Sorter(tmp_path / "sorted", finished_run.classifier.class_names) for _ in range(2)]
    for sorter, wanted in zip(sorters, (3, 0), strict=True):
        found = sorting.sort(finished_run.classifier, photos, sorter, lambda *_: None)
        assert len([each for each in found if each.path]) == wanted


def test_commands(finished_run, source, tmp_path, efftune_command):
    pictures = tmp_path / "new photos"
    shutil.copytree(source, pictures)
    whole = next(pictures.rglob("*.png")).read_bytes()
    (pictures / "red" / "cut.jpg").write_bytes(whole[:60])
    before, into = contents(pictures), tmp_path / "my album"
    done = efftune_command("sort", finished_run.folder, pictures, "--into", into, "--xmp")
    assert done.returncode == 1
    assert "cut.jpg" in done.stderr
    assert f"efftune unsort '{into}'" in done.stdout
    placed = [path for path in into.rglob("*") if path.suffix == ".png"]
    assert len(placed) == len(list(pictures.rglob("*.png")))
    expected = finished_run.classifier.predict(sorted(pictures.rglob("*.png")))
    sure = [each for each in expected if not (each.unsure or each.unlike)]
    for each in sure:
        assert any(each.path.samefile(path) for path in (into / each.label).glob("*.png"))
    done = efftune_command("sort", finished_run.folder, pictures, "--into", into, "--json")
    assert {json.loads(line)["placed"] for line in done.stdout.splitlines()} == {None}
    done = efftune_command("unsort", into, "--json")
    assert (done.returncode, json.loads(done.stdout)["kept"]) == (0, {})
    assert not into.exists()
    assert contents(pictures) == before
    done = efftune_command("unsort", into)
    assert done.returncode == 2
    assert "nothing was sorted" in done.stderr


@pytest.mark.ci
def test_killed_sorting_can_be_undone_and_goes_on(photos, tmp_path):
    program = """
import os, sys
from pathlib import Path
from efftune.delivery.sorting import Sorter
from efftune.model.prediction import Prediction
link = os.link
def killed(*paths):
    link(*paths)
    os.kill(os.getpid(), 9)
os.link = killed
into, *photos = map(Path, sys.argv[1:])
Sorter(into, ("cat",)).place([Prediction(each, "cat", 1.0, ()) for each in photos])
"""
    into = tmp_path / "sorted"
    subprocess.run([sys.executable, "-c", program, into, *photos], check=False)
    assert len(contents(into)) == 2
    assert [each.path is None for each in place(photos, into)] == [True, False, False]
    assert sorted_files.undo(into) == Undone(3, {})


def test_one_process_at_a_time_sorts_into_a_folder(finished_run, photos, tmp_path):
    into = tmp_path / "sorted"
    sorter = Sorter(into, finished_run.classifier.class_names)
    place(photos, into)
    with sorted_files.held(tmp_path / "other" / ".." / "sorted"):
        with pytest.raises(UsageError, match="Another efftune sorts into"):
            sorting.sort(finished_run.classifier, photos, sorter, lambda *_: None)
        with pytest.raises(UsageError, match="Another efftune sorts into"):
            sorted_files.undo(into)
    assert sorted_files.undo(into).removed == len(photos)
    assert photos[0].is_file()
