"""Shards: what is packed is what is read again, and what others packed is read, too."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

import efftune
from conftest import COLOURS, square
from efftune.data import picture_bytes
from efftune.data.sources import discovery, shards, table_columns
from efftune.data.sources.storage import Storage
from efftune.errors import BadImage, DataError, UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


def described(examples):
    return [
        (row.name, row.label, row.split, hashlib.sha256(picture_bytes.read(row.path)).hexdigest())
        for row in examples.rows
        if row.usable
    ]


def png(number=0):
    stream = io.BytesIO()
    square(COLOURS["red"], number).save(stream, "PNG")
    return stream.getvalue()


def tar(path, members, mode="w:"):
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("split", ["", "train"])
def test_what_is_packed_is_what_is_read(source, tmp_path, split):
    if split:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "train").symlink_to(source)
        (tmp_path / "photos" / "test").symlink_to(source)
    given = tmp_path / "photos" if split else source
    result = efftune.pack(given, tmp_path / "shards")
    found = discovery.find(tmp_path / "shards")
    wanted = described(discovery.find(given))
    assert described(found) == wanted
    assert result.pictures == len(wanted)
    assert all(row.usable for row in found.rows)


def test_shards_are_the_same_each_time_and_of_the_size_asked_for(tmp_path, monkeypatch):
    noise = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (320, 320, 3), np.uint8)).save(path)
    size = path.stat().st_size
    found = [
        efftune.pack(tmp_path / "photos", tmp_path / f"shards{number}", megabytes=1)
        for number in range(2)
    ]
    assert found[0].shards == found[1].shards
    for each in found[0].shards:
        content = (tmp_path / "shards0" / each["name"]).read_bytes()
        assert len(content) == each["bytes"]
        assert hashlib.sha256(content).hexdigest() == each["sha256"]
    for each in found[0].shards[:-1]:
        assert each["pictures"] * size < 10**6 < (each["pictures"] + 1) * size
    listed = [each["name"] for each in found[0].shards]
    assert listed == [f"photos-{number:06}.tar" for number in range(len(listed))]
    assert len(listed) > 1
    pattern = tmp_path / "shards0" / f"photos-{{000000..{len(listed) - 1:06}}}.tar"
    assert described(discovery.find(pattern)) == described(discovery.find(tmp_path / "photos"))


@pytest.mark.parametrize("form", ["tar", pytest.param("parquet", marks=pytest.mark.ci)])
def test_a_run_from_shards_is_that_from_the_folder(source, tmp_path, form):
    packed = efftune.pack(source, tmp_path / "shards", form=form)
    runs = [
        efftune.train(
            given, recipe="quick", image_size=32, seed=3, run=tmp_path / name, on_progress=None
        )
        for given, name in ((source, "near"), (packed.source, "packed"))
    ]
    names = {"tar": ("examples.csv", "evaluation.json", "predictions.csv")}
    for name in names.get(form, ("evaluation.json",)):
        near, far = ((run.folder / name).read_bytes() for run in runs)
        assert near == far


def test_hugging_face_reads_what_is_packed_as_parquet(source, tmp_path):
    datasets = pytest.importorskip("datasets")
    result = efftune.pack(source, tmp_path / "shards", form="parquet")
    found = discovery.find(result.source)
    wanted = {(label, sha256) for _, label, _, sha256 in described(discovery.find(source))}
    assert {(label, sha256) for _, label, _, sha256 in described(found)} == wanted
    table = datasets.load_dataset(str(tmp_path / "shards"), cache_dir=tmp_path / "cache")["train"]
    assert table.features["label"].names == sorted({label for label, _ in wanted})


def test_small_pictures_do_not_make_larger_shards(tmp_path):
    for number in range(600):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number % 7))
    (tmp_path / "shards").mkdir()  # empty, so it may be used
    found = efftune.pack(tmp_path / "photos", tmp_path / "shards", megabytes=1)
    assert len(found.shards) > 1
    assert max(each["bytes"] for each in found.shards) <= 10**6
    assert len(discovery.find(tmp_path / "shards").rows) == 600


def test_groups_are_packed(source, tmp_path):
    lines = ["path,label,group", "red/00.jpg,red,anna", "blue/00.jpg,blue,", "blue/03.jpg,blue,7"]
    (tmp_path / "groups.csv").write_text("\n".join(lines))
    columns = table_columns.Columns(root=str(source))
    result = efftune.pack(tmp_path / "groups.csv", tmp_path / "shards", columns=columns)
    assert [row.group for row in discovery.find(result.source).rows] == ["anna", "", "7"]
    with pytest.raises(UsageError, match="Parquet shards cannot tell groups apart"):
        efftune.pack(tmp_path / "groups.csv", tmp_path / "p", form="parquet", columns=columns)
    assert not (tmp_path / "p").exists()


def test_what_is_set_aside_is_left_out_and_told(broken_source, tmp_path, efftune_command):
    result = efftune_command("pack", broken_source, "--into", tmp_path / "shards")
    assert result.returncode == 0
    assert "Left out: " in result.stdout
    told = efftune_command("pack", broken_source, "--into", tmp_path / "others", "--json")
    told = json.loads(told.stdout)
    assert told["left_out"]
    assert told["pictures"] == sum(row.usable for row in discovery.find(broken_source).rows)
    near, far = (efftune.check(each) for each in (broken_source, tmp_path / "shards"))
    assert near.numbers["pictures"] == far.numbers["pictures"]


def test_an_existing_folder_is_not_written_to(source, tmp_path, efftune_command):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine.txt").write_text("mine")
    result = efftune_command("pack", source, "--into", tmp_path / "shards")
    assert result.returncode == 2
    assert "exists, and is not empty" in result.stderr
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ({"a.png": png(), "a.cls": b"7"}, "7"),
        ({"a.cls": b" cat\n", "a.png": png()}, "cat"),
        ({"x/a.b.png": png(), "x/a.txt": b"cat"}, "cat"),
        ({"a.png": png(), "a.json": b'{"label": 3}', "a.txt": b"cat"}, "3"),
        ({"a.png": png(), "a.json": b"{", "a.txt": b"cat"}, "cat"),
        ({"a.png": png(), "a.json": b"[" * 100_000, "a.cls": b"1"}, "1"),
        ({"a.PNG": png(), "a.CLS": b"1"}, "1"),
    ],
)
def test_shards_of_others(tmp_path, members, label):
    path = tar(tmp_path / "data-000.tar", members)
    (row,) = discovery.find(tmp_path / "data-{000..000}.tar").rows
    assert (row.label, row.reason) == (label, "")
    assert picture_bytes.read(row.path) == png()
    assert row.name.startswith(f"{path.name}/")


def test_members_that_are_no_pictures_are_set_aside(tmp_path):
    members = {"a.png": png(), "a.cls": b"1", "b.png": png(1), "c.npy": b"12", "c.cls": b"1"}
    path = tar(tmp_path / "photos.tar", members | {"._d.png": b"1", "e.png": b""})
    with tarfile.open(path, "a") as file:
        link = tarfile.TarInfo("f.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    found = {row.name.partition("/")[2]: row.reason for row in discovery.find(path).rows}
    assert found.pop("c.npy").startswith("not an image")
    assert found == {
        **{"a.png": "", "b.png": "no label", "._d.png": "hidden"},
        **{"e.png": "empty file", "f.png": "empty file"},
    }


def test_the_names_of_shards_tell_the_splits(tmp_path):
    for number, name in enumerate(["set-train-0.tar", "set-validation-0.tar", "test_1.tar"]):
        tar(tmp_path / name, {"a.png": png(number), "a.cls": b"1"})
    found = discovery.find(tmp_path)
    assert [row.split for row in found.rows] == ["train", "val", "test"]


def test_an_archive_of_folders_is_no_shard(source, tmp_path):
    with tarfile.open(tmp_path / "photos.tar", "w") as file:
        file.add(source, "photos")
    found = discovery.find(tmp_path / "photos.tar")
    assert described(found) == described(discovery.find(source))


def test_texts_beside_pictures_in_an_archive_are_no_labels(tmp_path):
    members = {f"{label}/{n}.png": png(n) for n, label in enumerate("aabb")}
    members |= {f"{label}/{n}.txt": b"0 0.1 0.2" for n, label in enumerate("aabb")}
    found = discovery.find(tar(tmp_path / "photos.tar", members))
    assert {row.label for row in found.rows if row.usable} == {"a", "b"}


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "bytes, and by manifest.json"),
        (lambda path: path.unlink(), "There is no file 'photos-000000.tar'"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + path.read_bytes()[2:]), "is compressed"),
    ],
)
def test_damaged_shards_are_told(source, tmp_path, spoil, text):
    efftune.pack(source, tmp_path / "shards")
    spoil(tmp_path / "shards" / "photos-000000.tar")
    with pytest.raises((DataError, UsageError), match=text):
        discovery.find(tmp_path / "shards" / "photos-{000000..000000}.tar")


def test_a_shard_that_is_cut_off_is_damaged(tmp_path):
    path = tar(tmp_path / "photos.tar", {"a.png": png(), "a.cls": b"1"})
    path.write_bytes(path.read_bytes()[:1600])
    with pytest.raises(DataError, match="damaged, truncated"):
        discovery.find(path)


def test_patterns():
    assert shards.expanded("a-{008..010}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert shards.expanded("{9..10}-{0..1}.tar") == ["9-0.tar", "9-1.tar", "10-0.tar", "10-1.tar"]
    for pattern in ("{3..2}.tar", "{0..99999999999}.tar", "{0..999}-{0..999}.tar"):
        with pytest.raises(UsageError, match="stands for"):
            shards.expanded(pattern)


def test_only_paths_in_files_are_read_there(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"0123456789")
    inside = picture_bytes.path_in(path, 3, 4, "a.png")
    assert picture_bytes.read(inside) == b"3456"
    assert picture_bytes.read(inside, 2) == b"34"
    (tmp_path / "@1+2").mkdir()
    others = path / "a.png", tmp_path / "@1+2" / "a.png", tmp_path / "none.tar" / "@1+2" / "a.png"
    for other in others:
        with pytest.raises(BadImage):
            picture_bytes.read(other)


def test_parquet_shards_are_not_written_to_an_address(source):
    with pytest.raises(UsageError, match="use --format tar"):
        efftune.pack(source, "memory://packed/parquet", form="parquet", on_progress=None)


def test_a_stop_leaves_nothing_of_a_shard_that_is_not_complete(source, own_cache):
    def on_progress(phase, done, _total):
        if phase == "pack" and done == 20:
            raise KeyboardInterrupt

    place = "memory://packed/stopped"
    with pytest.raises(KeyboardInterrupt):
        efftune.pack(source, place, megabytes=1, on_progress=on_progress)
    assert not list(own_cache.glob("pack-*"))
    with pytest.raises(UsageError, match="There is nothing at"):
        Storage(place).files()


def test_an_address_without_a_folder_is_told(source, tmp_path):
    with pytest.raises(UsageError, match="make its folder or bucket first"):
        efftune.pack(source, f"file://{tmp_path}/missing/shards", on_progress=None)
