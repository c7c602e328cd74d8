import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple

import pytest

from conftest import COLOURS, fill, square
from efftune.data.sources import archives, discovery
from efftune.errors import DataError, EfftuneWarning

pytestmark = pytest.mark.usefixtures("own_cache")

MODES = {".zip": None, ".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}


def packed(folder, archive, below=""):
    """An archive of a folder's content, in folders of the names `below`."""
    paths = sorted(folder.rglob("*"))
    names = [f"{below}{path.relative_to(folder)}" for path in paths]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path, name in zip(paths, names, strict=True):
                file.write(path, name)
    else:
        with tarfile.open(archive, MODES["".join(archive.suffixes)]) as file:
            for path, name in zip(paths, names, strict=True):
                file.add(path, name, recursive=False)
    return archive


def picture():
    stream = io.BytesIO()
    square(COLOURS["red"], 1).save(stream, "PNG")
    return stream.getvalue()


def in_zip(archive, **contents):
    """An archive with members of the names and contents."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return archive


def in_tar(archive, *members, mode="w"):
    """An archive with members of the names, contents, and other attributes."""
    with tarfile.open(archive, mode) as file:
        for name, content, attributes in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in attributes.items():
                setattr(member, key, value)
            file.addfile(member, io.BytesIO(content))
    return archive


def names(examples):
    return [row.name for row in examples.rows if row.usable]


def cached(own_cache):
    return list(own_cache.glob("archives/*"))


@pytest.mark.parametrize("suffix", MODES)
@pytest.mark.parametrize("below", ["", "photos/", "./photos/2024/"])
@pytest.mark.parametrize("split", [False, True])
def test_archive_holds_what_its_folder_holds(tmp_path, suffix, below, split):
    folder = tmp_path / "squares"
    for name in ("train", "test") if split else ("",):
        fill(folder / name, count=3)
    archive = packed(folder, tmp_path / f"squares{suffix}", below)
    plain, found = discovery.find(folder), discovery.find(archive)
    assert [(row.name, row.label, row.split) for row in found.rows] == [
        (row.name, row.label, row.split) for row in plain.rows
    ]
    assert [row.path.read_bytes() for row in found.rows] == [
        row.path.read_bytes() for row in plain.rows
    ]
    assert found.source == str(archive)


def test_format_of_an_archive_is_detected_from_its_content(tmp_path):
    fill(tmp_path / "squares", count=2)
    zipped = packed(tmp_path / "squares", tmp_path / "squares.zip").rename(tmp_path / "a.tar")
    gzipped = packed(tmp_path / "squares", tmp_path / "squares.tgz").rename(tmp_path / "b.tar")
    assert len(discovery.find(zipped).rows) == len(discovery.find(gzipped).rows) == 6


def test_archive_is_unpacked_once_and_again_when_it_changed(tmp_path, own_cache):
    calls = []
    archive = packed(fill(tmp_path / "squares", count=2), tmp_path / "Squares.zip")
    first = discovery.find(archive, lambda *progress: calls.append(progress)).rows[0].path
    assert calls[-1] == ("unpack", 9, 9)
    made = first.stat().st_mtime_ns
    calls.clear()
    assert discovery.find(archive, lambda *progress: calls.append(progress)).rows[0].path == first
    assert (first.stat().st_mtime_ns, calls) == (made, [])
    (folder,) = cached(own_cache)
    assert folder.name.startswith("Squares-")
    fill(tmp_path / "more", count=3)
    assert len(discovery.find(packed(tmp_path / "more", archive)).rows) == 9


def test_unpacked_archives_make_room_for_others_unless_they_are_used(
    tmp_path, own_cache, monkeypatch
):
    first = packed(fill(tmp_path / "squares", count=2), tmp_path / "first.zip")
    discovery.find(first)
    discovery.find(packed(fill(tmp_path / "more", count=3), tmp_path / "second.zip"))
    (own_cache / "archives" / ".partial-killed").mkdir()
    for folder in cached(own_cache):
        os.utime(folder, times=(0, 0))
    discovery.find(first)  # which notes its use
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: namedtuple("disk", "free")(0))
    discovery.find(packed(tmp_path / "squares" / "red", tmp_path / "third.tar", "red/"))
    assert {path.name[:5] for path in cached(own_cache)} == {"first", "third"}


def test_progress_of_a_tar_is_in_bytes(tmp_path):
    calls = []
    archive = packed(fill(tmp_path / "squares", count=2), tmp_path / "squares.tar")
    archives.unpacked(archive, lambda *progress: calls.append(progress))
    size = archive.stat().st_size
    assert calls[-1] == ("unpack", size, size)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_files_beside_the_only_folder_are_reported(tmp_path):
    folder = fill(tmp_path / "all" / "photos", count=2).parent
    (folder / "LICENSE").write_text("CC0")
    (folder / "__MACOSX").mkdir()
    (folder / "photos" / "notes.txt").write_text("text")
    found = discovery.find(packed(folder, tmp_path / "all.zip"))
    assert found.class_names == tuple(COLOURS)
    assert {row.name: row.reason for row in found.set_aside} == {
        "LICENSE": "not in a class folder",
        "__MACOSX": "left over from a macOS archive",
        "notes.txt": "not in a class folder",
    }


def test_only_class_is_a_class(tmp_path):
    fill(tmp_path / "squares", count=2)
    found = discovery.find(packed(tmp_path / "squares" / "red", tmp_path / "red.zip", "red/"))
    assert found.class_names == ("red",)
    (tmp_path / "squares" / "red" / "more").mkdir()
    found = discovery.find(packed(tmp_path / "squares" / "red", tmp_path / "red.zip", "red/"))
    assert found.class_names == ("red",)


def test_only_folder_may_be_called_like_a_split(tmp_path):
    fill(tmp_path / "squares", count=2)
    found = discovery.find(packed(tmp_path / "squares", tmp_path / "a.zip", "test/"))
    assert found.class_names == tuple(COLOURS)
    found = discovery.find(packed(tmp_path / "squares", tmp_path / "b.zip", "train/"))
    assert {row.split for row in found.rows} == {"train"}


@pytest.mark.parametrize(
    "name", ["../evil.png", "red/../../evil.png", "/tmp/evil.png", "C:\\evil.png", "a/c:/evil.png"]
)
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_member_that_would_land_elsewhere_is_refused(tmp_path, own_cache, name, suffix):
    archive = tmp_path / f"evil{suffix}"
    if suffix == ".zip":
        in_zip(archive, **{"red/a.png": picture(), name: picture()})
    else:
        in_tar(archive, ("red/a.png", picture(), {}), (name, picture(), {}))
    with pytest.raises(DataError, match=r"written outside its folder: '.*evil\.png'"):
        discovery.find(archive)
    assert not list(tmp_path.rglob("evil.png"))
    assert cached(own_cache) == []


def test_links_and_devices_are_left_out(tmp_path):
    link = zipfile.ZipInfo("red/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    zipped = in_zip(tmp_path / "a.zip", **{"red/a.png": picture()})
    with zipfile.ZipFile(zipped, "a") as file:
        file.writestr(link, "/etc/passwd")
    kinds = {"sym": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
    kinds |= {"device": tarfile.CHRTYPE}
    odd = [(f"red/{k}.png", b"", {"type": v, "linkname": "/etc/passwd"}) for k, v in kinds.items()]
    tarred = in_tar(tmp_path / "a.tar", *odd, ("red/a.png", picture(), {}))
    for archive, count in ((zipped, 1), (tarred, 4)):
        with pytest.warns(EfftuneWarning, match=f"^{count} members of .* are left out: links"):
            (row,) = discovery.find(archive).rows
        assert row.name == "red/a.png"


def test_hard_links_are_the_files_that_they_stand_for(tmp_path):
    fill(tmp_path / "photos", count=2)
    first = tmp_path / "photos" / "red" / "01.png"
    (tmp_path / "photos" / "blue" / "same.png").hardlink_to(first)
    archive = packed(tmp_path / "photos", tmp_path / "photos.tgz")
    with tarfile.open(archive) as file:
        assert [each.name for each in file if each.islnk()] == ["red/01.png"]
    found = discovery.find(archive)
    assert names(found) == names(discovery.find(tmp_path / "photos"))
    contents = {row.name: row.path.read_bytes() for row in found.rows}
    assert contents["blue/same.png"] == contents["red/01.png"] == first.read_bytes()
    (row,) = (row for row in found.rows if row.name == "red/01.png")
    assert row.path.stat().st_nlink == 1  # a change of one of them is none of the other


@pytest.mark.parametrize("target", ["red/b.png", "red/c.png", "red", "../a.tar", "/etc/passwd", ""])
def test_hard_links_to_what_was_not_unpacked_are_left_out(tmp_path, target):
    link = {"type": tarfile.LNKTYPE, "linkname": target}
    members = [("red/a.png", picture(), {}), ("red/b.png", b"", link), ("red/c.png", b"x", {})]
    with pytest.warns(EfftuneWarning, match="1 members of"):
        found = discovery.find(in_tar(tmp_path / "a.tar", *members))
    assert [row.name for row in found.rows] == ["red/a.png", "red/c.png"]


def test_hard_links_count_as_what_is_written(tmp_path, little, own_cache):
    link = {"type": tarfile.LNKTYPE, "linkname": "red/0.png"}
    links = [(f"red/{i}.png", b"", link) for i in range(1, 25)]
    archive = in_tar(tmp_path / "a.tar", ("red/0.png", os.urandom(50_000), {}), *links)
    with pytest.raises(DataError, match="unpacks to more than"):
        discovery.find(archive)
    assert cached(own_cache) == []


def test_later_member_of_a_name_takes_the_place_of_the_earlier(tmp_path):
    members = [("red/a.png", b"old", {}), ("red/a.png", picture(), {})]
    (row,) = discovery.find(in_tar(tmp_path / "a.tar", *members)).rows
    assert row.path.read_bytes() == picture()


@pytest.mark.parametrize("other", ["Red/b.png", "red/A.png", "RED/a.png"])
def test_names_that_a_disk_makes_one_are_refused_there(tmp_path, other):
    """A link stands for what such a disk does: a folder is found under another spelling."""
    archive = in_zip(tmp_path / "a.zip", **{"red/a.png": picture(), other: picture()})
    assert len(discovery.find(archive).rows) == 2
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "UNPACKED").symlink_to(tmp_path / "unpacked", target_is_directory=True)
    members = archives._zip_members(archive, lambda *_: None)
    with pytest.raises(DataError, match=r"has 'red.*' and '.*', which are one on this disk"):
        archives._write(members, tmp_path / "unpacked", archive)


def test_link_to_a_folder_cannot_be_written_through(tmp_path):
    (tmp_path / "outside").mkdir()
    through = {"type": tarfile.SYMTYPE, "linkname": str(tmp_path / "outside")}
    members = [("red", b"", through), ("red/a.png", picture(), {})]
    with pytest.warns(EfftuneWarning, match="left out"):
        discovery.find(in_tar(tmp_path / "a.tar", *members))
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.fixture
def little(monkeypatch):
    """Bounds that a test can reach."""
    monkeypatch.setattr(archives, "ALWAYS_BYTES", 300_000)
    monkeypatch.setattr(archives, "MOST_TIMES", 10)


def test_bomb_is_stopped(tmp_path, own_cache, little):
    zeros = bytes(1_000_000)
    bombs = [
        in_zip(tmp_path / "a.zip", **{"red/a.png": zeros}),
        in_zip(tmp_path / "b.zip", **{f"red/{i}.png": zeros[:50_000] for i in range(20)}),
        in_tar(tmp_path / "a.tgz", ("red/a.png", zeros, {}), mode="w:gz"),
    ]
    for bomb in bombs:
        with pytest.raises(DataError, match=r"unpacks to more than 0\.0003 GB"):
            discovery.find(bomb)
    assert cached(own_cache) == []


def test_what_counts_is_what_is_written(tmp_path, little):
    """A header that promises little does not help."""
    bomb = in_zip(tmp_path / "a.zip", **{"red/a.png": bytes(1_000_000)})
    with zipfile.ZipFile(bomb) as file:
        assert file.getinfo("red/a.png").file_size == 1_000_000
    content = bomb.read_bytes()
    bomb.write_bytes(content.replace((1_000_000).to_bytes(4, "little"), b"\x10\0\0\0"))
    with pytest.raises(DataError, match="is damaged"):  # the rest is not read, and is missing
        discovery.find(bomb)


def test_pictures_are_no_bomb(tmp_path, little):
    content = os.urandom(400_000)
    (row,) = discovery.find(in_zip(tmp_path / "a.zip", **{"red/a.png": content})).rows
    assert row.path.stat().st_size == 400_000


def test_absolute_bound_holds_for_large_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 300_000)
    with pytest.raises(DataError, match="unpacks to more than"):
        discovery.find(in_zip(tmp_path / "a.zip", **{"red/a.png": os.urandom(400_000)}))


def test_members_and_depth_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    few = in_zip(tmp_path / "a.zip", **{f"red/{i}.png": picture() for i in range(3)})
    assert len(discovery.find(few).rows) == 3
    with pytest.raises(DataError, match="more than 3 members"):
        discovery.find(in_zip(tmp_path / "b.zip", **{f"red/{i}.png": b"x" for i in range(4)}))
    with pytest.raises(DataError, match="more than 50 nested folders"):
        discovery.find(in_zip(tmp_path / "c.zip", **{"a/" * 60 + "a.png": b"x"}))


def test_header_that_asks_for_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LARGEST_READ", 10_000)
    comment = {"pax_headers": {"comment": "x" * 50_000}}
    archive = in_tar(tmp_path / "a.tgz", ("red/a.png", picture(), comment), mode="w:gz")
    with pytest.raises(DataError, match="a header is too large"):
        discovery.find(archive)


@pytest.mark.parametrize("suffix", MODES)
@pytest.mark.parametrize("left", [0.0, 0.1, 0.5, 0.9])
def test_truncated_archive_is_reported(tmp_path, own_cache, suffix, left):
    archive = packed(fill(tmp_path / "squares"), tmp_path / f"squares{suffix}")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(left * len(content))])
    with pytest.raises(DataError, match=r"is damaged, truncated or not an archive"):
        discovery.find(archive)
    assert cached(own_cache) == []


def test_tar_truncated_between_two_members_is_reported(tmp_path):
    members = [(f"red/{i}.png", picture(), {}) for i in range(3)]
    archive = in_tar(tmp_path / "a.tar", *members)
    with tarfile.open(archive) as file:
        *_, last = file.getmembers()
    archive.write_bytes(archive.read_bytes()[: last.offset])
    with pytest.raises(DataError, match="its end is missing"):
        discovery.find(archive)


def test_damage_within_a_tar_is_no_end(tmp_path):
    members = [(f"red/{i}.png", picture(), {}) for i in range(3)]
    archive = in_tar(tmp_path / "a.tar", *members)
    with tarfile.open(archive) as file:
        at = file.getmembers()[1].offset
    content = archive.read_bytes()
    archive.write_bytes(content[:at] + b"x" * 512 + content[at + 512 :])
    with pytest.raises(DataError, match="is damaged"):
        discovery.find(archive)


def test_altered_member_is_reported(tmp_path):
    archive = packed(fill(tmp_path / "squares", count=2), tmp_path / "squares.zip")
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        member = next(each for each in file.infolist() if not each.is_dir())
    content[member.header_offset + 200] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged.*CRC"):
        discovery.find(archive)


def test_encrypted_archive_is_reported(tmp_path):
    archive = in_zip(tmp_path / "a.zip", **{"red/a.png": picture()})
    content = bytearray(archive.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[6] |= 1
    content[directory + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip is encrypted\. Unpack it"):
        discovery.find(archive)


def test_names_of_any_bytes_are_unpacked(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    tarred = in_tar(tmp_path / "a.tar", (f"{odd}/a.png", picture(), {}))
    assert discovery.find(tarred).class_names == (odd,)
    zipped = in_zip(tmp_path / "a.zip", **{"cafXX/a.png": picture()})
    for raw, label in ((b"caf\xc3\xa9", "caf\u00e9"), (b"caf\xe9!", "caf\u0398!")):
        content = zipped.read_bytes().replace(b"cafXX", raw)
        (tmp_path / "b.zip").write_bytes(content)
        assert discovery.find(tmp_path / "b.zip").class_names == (label,)


def test_folders_as_windows_parts_them_are_folders(tmp_path):
    archive = in_zip(tmp_path / "a.zip", **{"red!a.png": picture()})
    archive.write_bytes(archive.read_bytes().replace(b"red!a", b"red\\a"))
    assert names(discovery.find(archive)) == ["red/a.png"]


def test_member_in_the_way_of_a_folder_is_reported(tmp_path):
    archive = in_zip(tmp_path / "a.zip", **{"red": b"x", "red/a.png": picture()})
    with pytest.raises(DataError, match=r"Cannot unpack .*a\.zip: .*at .*red"):
        discovery.find(archive)


def test_empty_archive_is_an_empty_source(tmp_path):
    for archive in (in_zip(tmp_path / "a.zip"), in_tar(tmp_path / "a.tar")):
        assert discovery.find(archive).rows == ()
