"""Sources at addresses: what is copied, and that nothing else is in the folders."""

import csv
import http.server
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
import urllib.parse
from contextlib import closing
from pathlib import Path

import fsspec
import pytest

from conftest import COLOURS, square
from efftune.data import packing
from efftune.data.sources import addresses, copies, copy_folder, discovery, storage, table_columns
from efftune.errors import DataError, DiskFull, UsageError
from efftune.system.files import cache_folder as own_cache_folder
from efftune.system.progress import silent

pytestmark = pytest.mark.usefixtures("own_cache")

PHOTOS = "memory://bucket/photos"
_PAGES = {
    "/evil": ["/evil/%2e%2e%2f%2e%2e%2fstolen.png"],
    "/apache": ["?C=N;O=D", "../", "./", "#top", "/icons/a.png", "cat/", "red%20one.png"],
    "/apache/cat": ["?C=N;O=D", "/apache/", "./", "b.png", "//elsewhere.org/c.png"],
}


@pytest.fixture
def memory(source):
    """fsspec's file system in memory, with the pictures of `source`."""
    system = fsspec.filesystem("memory")
    system.put(str(source), "/bucket/photos", recursive=True)
    yield system
    system.rm("/bucket", recursive=True)


@pytest.fixture
def web(tmp_path):
    """A folder that a web server serves, and its address."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def do_GET(self):
            if "forbidden" in self.path:
                self.send_error(403)
            elif "closed" in self.path and self.path.endswith("/"):
                self.send_error(404)
            elif self.path in _PAGES:
                self.send_response(200)
                self.end_headers()
                links = (f'<a href="{link}">a</a>' for link in _PAGES[self.path])
                self.wfile.write("".join(links).encode())
            else:
                super().do_GET()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def described(examples):
    return sorted((row.name, row.label, row.split, row.reason) for row in examples.rows)


def copied(caplog, address=PHOTOS):
    """A folder of copies, and the number of files that were copied anew."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        folder = copies.of_folder(address, silent)
    found = [int(each.getMessage().split()[1]) for each in caplog.records]
    return folder, sum(found)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def picture(path, number=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    square(COLOURS["red"], number).save(path)
    return path


def test_addresses_are_no_paths():
    for text in ("s3://b/a", "S3://b", "hf://datasets/a/b", "zip://a::https://h.org/b.zip"):
        assert addresses.is_address(text)
    for text in ("photos", "hf:beans", "tfds:cifar10", r"C:\photos", "/a://b", "a/b://c", "://x"):
        assert not addresses.is_address(text)


def test_what_follows_a_question_mark_is_shown_to_nobody():
    assert addresses.plain("https://h.org/a.zip?key=secret") == "https://h.org/a.zip"
    assert addresses.plain("photos?") == "photos?"
    assert addresses.plain("s3://bucket/what?/a") == "s3://bucket/what?/a"


def test_names_of_files_may_have_what_addresses_of_the_web_may_not(memory, source):
    archive = shutil.make_archive(str(own_cache_folder() / "photos"), "zip", source)
    memory.put(archive, "/bucket/no 1 #1/what?/photos.zip")
    found = discovery.find("memory://bucket/no 1 #1/what?/photos.zip")
    assert described(found) == described(discovery.find(source))


def test_an_address_is_read_like_a_folder(memory, source):
    wanted = described(discovery.find(source))
    assert described(discovery.find(PHOTOS)) == wanted
    assert described(discovery.find(PHOTOS.replace("memory", "Memory"))) == wanted


def test_what_has_not_changed_is_not_copied_again(memory, source, caplog):
    count = sum(path.is_file() for path in source.rglob("*"))
    assert copied(caplog)[1] == count
    folder, again = copied(caplog, f"{PHOTOS}/")
    assert again == 0
    assert contents(folder) == contents(source)


def test_what_has_changed_is_copied_again(memory, source, caplog):
    folder, _ = copied(caplog)
    first, second, third, *_ = sorted(path for path in folder.rglob("*") if path.is_file())
    changed = b"x" * first.stat().st_size
    memory.pipe(f"/bucket/photos/{first.relative_to(folder).as_posix()}", changed)
    second.write_bytes(b"damaged")
    third.unlink()
    memory.rm("/bucket/photos/" + next(iter(contents(source))))
    (folder / "stranger.png").write_bytes(b"stranger")
    assert copied(caplog)[1] in (2, 3)  # one of them may be the one that was removed
    wanted = {
        path.removeprefix("/bucket/photos/"): memory.cat(path)
        for path in memory.find("/bucket/photos")
    }
    assert contents(folder) == wanted


def test_a_damaged_index_costs_the_copies_only(memory, source, caplog):
    folder, count = copied(caplog)
    index = folder.parent / "index.sqlite"
    for ending in ("", "-wal", "-shm"):  # SQLite leaves these beside it when it is killed
        Path(f"{index}{ending}").write_bytes(b"damaged" * 1000)
    assert copied(caplog) == (folder, count)
    assert copied(caplog) == (folder, 0)


def test_the_same_content_written_again_is_not_copied_again():
    infos = [{"ETag": '"5d41"', "LastModified": day, "type": "file"} for day in ("1", "2")]
    assert len({storage._version(info) for info in infos}) == 1
    assert storage._version({"LastModified": "1"}) != storage._version({"LastModified": "2"})


def test_progress_is_in_bytes(memory, source):
    reported = []
    copies.of_folder(PHOTOS, lambda *each: reported.append(each))
    total = sum(map(len, contents(source).values()))
    assert ("list", len(contents(source)), 0) in reported
    assert reported[-1] == ("copy", total, total)
    assert all(done <= total for phase, done, _ in reported if phase == "copy")


def test_pictures_of_an_archive_can_be_removed_at_the_end(source, own_cache, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", source)
    script = """
import sys
from efftune.data.sources import discovery, table_columns
found = discovery.find(sys.argv[1], columns=table_columns.Columns(keeps_copies=False))
print(sum(row.usable and row.path.is_file() for row in found.rows))
"""
    command = [sys.executable, "-c", script, f"file://{archive}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(found.stdout) == len(discovery.find(source).rows)
    assert not contents(own_cache)


def test_copies_can_be_removed_at_the_end(source, own_cache, tmp_path):
    script = """
import fsspec, sys
from efftune.data import packing
from efftune.data.sources import discovery, storage, table_columns
system = fsspec.filesystem("memory")
system.put(sys.argv[1], "/bucket/photos", recursive=True)
columns = table_columns.Columns(keeps_copies=False)
for _ in range(2):
    found = discovery.find("memory://bucket/photos", columns=columns)
print(sum(row.usable and row.path.is_file() for row in found.rows))
"""
    command = [sys.executable, "-c", script, source]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(found.stdout) == len(discovery.find(source).rows)
    assert not contents(own_cache / "addresses")


def test_folders_that_are_gone_are_gone_here(memory, caplog):
    for name in ("train/cat/a.png", "train/dog/b.png", "test/cat/c.png"):
        memory.pipe(f"/bucket/set/{name}", b"1")
    folder, _ = copied(caplog, "memory://bucket/set")
    memory.rm("/bucket/set/train", recursive=True)
    memory.rm("/bucket/set/test", recursive=True)
    memory.pipe({"/bucket/set/cat/a.png": b"1", "/bucket/set/test": b"a file now"})
    copied(caplog, "memory://bucket/set")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == {
        *("cat", "cat/a.png", "test")
    }


def test_an_index_that_cannot_be_opened_is_left_alone(memory, caplog):
    folder, _ = copied(caplog)
    index = folder.parent / "index.sqlite"
    index.rename(folder.parent / "other")
    index.mkdir()
    with pytest.raises(DataError, match="cannot be used"):
        copied(caplog)
    assert index.is_dir()


def test_what_is_copied_is_noted_at_once(memory, source):
    noted = []

    def on_progress(phase, done, total):
        if phase == "copy" and done < total:
            (index,) = (own_cache_folder() / "addresses").glob("*/index.sqlite")
            with closing(sqlite3.connect(index)) as other:
                noted.append(other.execute("SELECT COUNT(*) FROM copies").fetchone()[0])

    copies.of_folder(PHOTOS, on_progress)
    assert noted[-1] > 1


def test_pages_that_list_files_are_read_as_far_as_they_do(web):
    folder, address = web
    picture(folder / "apache" / "red one.png")
    picture(folder / "apache" / "cat" / "b.png")
    found = copies.of_folder(f"{address}/apache", silent)
    assert set(contents(found)) == {"red one.png", "cat/b.png"}


def test_a_name_that_leads_out_of_the_folder_is_refused(web):
    with pytest.raises(DataError, match="outside its folder"):
        copies.of_folder(f"{web[1]}/evil", silent)


def test_room_is_looked_at_before(memory, monkeypatch):
    monkeypatch.setattr(copy_folder, "_ROOM_BYTES", 2**60)
    with pytest.raises(DiskFull, match="Set EFFTUNE_CACHE to a folder on a larger disk"):
        copies.of_folder(PHOTOS, silent)


def test_copies_not_used_for_longest_make_room(memory, source, monkeypatch, caplog):
    folder, _ = copied(caplog)
    monkeypatch.setattr(copy_folder, "_CACHE_SHARE", 0)
    monkeypatch.setattr("efftune.system.pruning._IN_USE_SECONDS", -1)
    memory.cp("/bucket/photos", "/bucket/others", recursive=True)
    copies.of_folder("memory://bucket/others", silent)
    assert not folder.exists()


@pytest.mark.parametrize("above", ["", "photos/"])
def test_of_the_files_beside_a_table_those_are_copied_that_it_lists(memory, above):
    names = [path.removeprefix("/bucket/") for path in memory.find("/bucket/photos")][:5]
    place = "bucket" if not above else "bucket/photos"
    lines = ["path,label", *(f"{name.removeprefix(above)},{name[-5]}" for name in names)]
    memory.pipe(f"/{place}/labels.csv", "\n".join(lines).encode())
    found = discovery.find(f"memory://{place}/labels.csv")
    assert [row.usable for row in found.rows] == [True] * 5
    folder = found.rows[0].path
    while folder.name != place.rpartition("/")[2]:
        folder = folder.parent
    listed = {name.rpartition("/")[2] for name in names}
    assert {name.rpartition("/")[2] for name in contents(folder)} == {"labels.csv", *listed}


def test_the_root_of_a_table_may_be_an_address(memory, tmp_path):
    names = [path.removeprefix("/bucket/photos/") for path in memory.find("/bucket/photos")][:4]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label", *(f"{name},{name[-5]}" for name in names)]))
    found = discovery.find(table, columns=table_columns.Columns(root=PHOTOS))
    assert [row.usable for row in found.rows] == [True] * 4


def test_a_table_may_list_addresses(web, tmp_path):
    folder, address = web
    for number in range(3):
        picture(folder / f"{number}.png", number)
    (folder / "page.png").write_text("<html>")
    rows = [f"{address}/{name}" for name in ("0.png", "1.png?size=2", "page.png", "none.png")]
    rows += [f"{address}/forbidden.png", f" {address}/0.png ", "2.png"]
    picture(tmp_path / "2.png")
    with (tmp_path / "photos.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("photo", "class"), *((row, "cat") for row in rows)])
    for _ in range(2):
        found = discovery.find(tmp_path / "photos.csv")
        reasons = [row.reason.split(" (")[0] for row in found.rows]
        assert reasons[:2] == ["", ""]
        assert reasons[2].startswith("not an image")
        assert reasons[3:5] == ["no such file"] * 2
        assert reasons[5].startswith("listed before")
        assert reasons[6] == ""
        assert [row.name for row in found.rows] == rows


def test_pictures_of_several_servers_are_copied_at_once(web, own_cache):
    folder, address = web
    picture(folder / "a.png")
    wanted = [f"{address}/a.png", f"{address.replace('127.0.0.1', 'localhost')}/a.png"]
    reported = []
    found = copies.of_files(wanted, lambda *each: reported.append(each))
    assert reported == [("copy", 1, 2), ("copy", 2, 2)]
    assert [addresses.shown(found[each]) for each in wanted] == wanted
    assert len(list((own_cache / "addresses").iterdir())) == 1


def test_a_table_on_a_server_that_lists_nothing(web):
    folder, address = web
    place = folder / "closed"
    picture(place / "some photos" / "a b.png")
    lines = "path,label\nsome photos/a b.png,cat\n../none.png,cat\n"
    (place / "labels.csv").write_text(lines)
    found = discovery.find(f"{address}/closed/labels.csv")
    assert [row.reason for row in found.rows] == ["", "no such file"]


def test_shards_on_a_server_that_lists_nothing(web, source):
    folder, address = web
    packing.pack(source, folder / "closed", on_progress=None)
    found = discovery.find(f"{address}/closed/photos-{{000000..000000}}.tar")
    assert described(found) == described(discovery.find(source))


def test_columns_of_local_files_come_before_those_of_addresses(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("file,class,url\na.png,cat,http://127.0.0.1:1/a.png\n")
    (row,) = discovery.find(tmp_path / "t.csv").rows
    assert row.name == "a.png"


def test_archives_and_folders_of_web_servers(web, source, tmp_path):
    folder, address = web
    shutil.make_archive(str(folder / "photos"), "zip", source)
    shutil.copytree(source, folder / "some photos")
    wanted = described(discovery.find(source))
    assert described(discovery.find(f"{address}/photos.zip?download=1")) == wanted
    assert described(discovery.find(f"{address}/some%20photos/")) == wanted


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("memory://nowhere", "There is no"),
        ("memory://nowhere/photos.zip", "There is nothing at memory://"),
        ("memory://", "names no place"),
        ("https://[x/photos.zip", "There is no file"),
        ("github://anna/photos", "is no address that can be read"),
        ("nonsense://bucket", "Protocol not known"),
        ("oss://bucket/photos", "ossfs"),
        ("s3://me:secret@bucket/photos", "An address with a password is not read"),
        ("http://127.0.0.1:1/photos.zip", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(address, text, efftune_command, monkeypatch):
    monkeypatch.setattr(storage, "_PAUSE_SECONDS", 0.001)
    result = efftune_command("check", address)
    assert result.returncode in (1, 2)
    assert text in result.stderr
    assert "secret" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 3


def test_paths_of_pathlib_are_no_addresses(tmp_path):
    from pathlib import Path

    with pytest.raises(UsageError, match="give an address as text"):
        discovery.find(Path("s3://bucket/photos"))


def test_held_out_pictures_may_be_at_an_address(memory, source):
    found = discovery.find(source, held_out={"test": PHOTOS})
    names = {row.name for row in found.rows if row.split == "test"}
    assert names == {f"{PHOTOS}/{row.name}" for row in discovery.find(source).rows}
    assert urllib.parse.urlsplit(next(iter(names))).scheme == "memory"


def test_pictures_at_addresses_are_predicted_under_them(
    web, memory, source, finished_run, efftune_command
):
    folder, address = web
    picture(folder / "a b.png")
    (folder / "page.png").write_text("<html>")
    names = [f"{address}/a%20b.png", "memory://bucket/photos/red/", f"{address}/page.png"]
    found = efftune_command("predict", finished_run.folder, *names, "--json")
    assert found.returncode == 1
    shown = [json.loads(line)["path"] for line in found.stdout.splitlines()]
    red = sorted(path.name for path in (source / "red").iterdir())
    assert shown == [names[0], *(f"memory://bucket/photos/red/{name}" for name in red)]
    assert f"{address}/page.png: not an image" in found.stderr
    table = efftune_command("predict", finished_run.folder, names[0], "--csv")
    assert table.stdout.splitlines()[1].startswith(f"{names[0]},1,")
