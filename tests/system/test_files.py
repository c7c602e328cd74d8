import csv
import errno
import hashlib
import io
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from efftune.errors import DiskFull, EfftuneWarning, UsageError
from efftune.system import files, machine


def test_write_makes_the_file_and_its_folder(tmp_path):
    files.write(tmp_path / "a" / "b.txt", "Grüße\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "Grüße\n".encode()


@pytest.mark.parametrize("given", [files.user_path, files.output_path])
def test_empty_path_is_not_the_current_folder(given):
    assert given(".") == Path()
    with pytest.raises(UsageError, match="A path is empty"):
        given("")


@pytest.mark.parametrize(
    ("code", "needed", "told"),
    [
        (
            errno.ENOSPC,
            1234,
            r"run cannot be written: 1,234 bytes are needed, [\d,]+ are free. Make",
        ),
        (
            errno.EDQUOT,
            0,
            r"run cannot be written: [\d,]+ bytes are free. Make room and try again.",
        ),
        (errno.EFBIG, 0, r"run cannot be written: a file in it is larger .*ulimit -f"),
    ],
)
def test_lack_of_space_is_told(tmp_path, code, needed, told):
    full = files.disk_full(OSError(code, "no"), tmp_path / "run", needed)
    assert re.search(told, str(full))
    assert files.disk_full(OSError(errno.EACCES, "no"), tmp_path) is None


@pytest.mark.parametrize("cell", ["Icon\r", "a\nb", "a\r\nb", 'a,"b"', "\u2028", ""])
def test_cells_of_tables_come_back(cell):
    stream = io.StringIO()
    files.csv_writer(stream).writerows([["path", "label"], [cell, "x"]])
    text = stream.getvalue()
    assert text.startswith("path,label\n")
    assert text.endswith(",x\n")
    assert list(csv.reader(io.StringIO(text, newline="")))[1] == [cell, "x"]


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with files.written_whole(path) as partial:
            partial.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_are_as_readable_as_any(tmp_path):
    files.write(tmp_path / "ours", "x")
    (tmp_path / "theirs").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_failed_folder_leaves_nothing(tmp_path):
    def fill_half() -> None:
        with files.folder_written_whole(tmp_path / "kept") as partial:
            (partial / "a").touch()
            raise ValueError

    with pytest.raises(ValueError):
        fill_half()
    assert list(tmp_path.iterdir()) == []


def test_folder_finished_first_by_another_process_is_used(tmp_path):
    with files.folder_written_whole(tmp_path / "kept") as partial:
        (partial / "mine").touch()
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "theirs").touch()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_created_folder_takes_the_next_free_name(tmp_path):
    (tmp_path / "1").mkdir()
    assert files.created_folder([tmp_path / "1", tmp_path / "2"]) == tmp_path / "2"
    assert (tmp_path / "2").is_dir()


def test_created_folder_is_never_an_existing_one(tmp_path):
    with pytest.raises(UsageError, match="never overwritten"):
        files.created_folder([tmp_path])


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Cannot create the run folder"):
        files.created_folder([tmp_path / "file" / "run"])


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.symlink_to("gone")])
def test_creating_below_what_is_no_folder_ends(tmp_path, make):
    make(tmp_path / "runs")
    with pytest.raises(UsageError, match="Cannot create the run folder"):
        files.created_folder(tmp_path / "runs" / str(i) for i in range(10**9))


def _created(place):
    return files.created_folder(place / str(i) for i in range(100)).name


def test_two_processes_never_create_the_same_folder(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        names = pool.map(_created, [tmp_path] * 20)
    assert sorted(names, key=int) == [str(i) for i in range(20)]


def test_sha256_is_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("taken", ["file", "file/below"])
def test_useless_cache_folder_is_replaced_for_this_process(tmp_path, monkeypatch, taken):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EFFTUNE_CACHE", str(tmp_path / taken))
    with pytest.warns(UserWarning, match=r"not kept for the next run\. Set EFFTUNE_CACHE"):
        folder = files.cache_folder()
    assert folder.is_dir()
    assert files.cache_folder() == folder  # and nothing is said again
    shutil.rmtree(folder)


def test_replaced_cache_folder_is_removed_at_the_end(tmp_path):
    (tmp_path / "file").touch()
    script = "from efftune.system import files; print(files.cache_folder())"
    environment = os.environ | {"EFFTUNE_CACHE": str(tmp_path / "file")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert "Cannot write to the cache folder" in done.stderr
    assert done.stdout.strip()
    assert not Path(done.stdout.strip()).exists()


def free(monkeypatch, disk, memory):
    """Pretend that so many bytes of the disk and of the memory are free."""
    disks = namedtuple("disk", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: disks(disk))
    monkeypatch.setattr(machine, "free_memory", lambda: memory)


def test_temporary_array_is_in_a_file_where_there_is_room(monkeypatch):
    free(monkeypatch, disk=400 + files._RUN_BYTES, memory=800)
    array = files.temporary_array((10, 10), np.float32)
    assert isinstance(array, np.memmap)
    assert not array.any()


def test_temporary_array_is_in_memory_where_the_disk_has_little_room(monkeypatch):
    free(monkeypatch, disk=399 + files._RUN_BYTES, memory=800)
    with pytest.warns(EfftuneWarning, match="has little room: .* kept in memory"):
        array = files.temporary_array((10, 10), np.float32)
    assert not isinstance(array, np.memmap)
    assert (array.shape, array.dtype, array.any()) == ((10, 10), np.float32, False)


def test_temporary_array_takes_the_last_room_of_a_disk_if_memory_has_none(monkeypatch):
    free(monkeypatch, disk=400, memory=799)
    assert isinstance(files.temporary_array((10, 10), np.float32), np.memmap)


def test_temporary_array_that_fits_nowhere_is_an_error(monkeypatch):
    def is_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    free(monkeypatch, disk=300, memory=799)
    monkeypatch.setattr(os, "posix_fallocate", is_full)
    with pytest.raises(DiskFull, match="400 bytes are needed, 300 are free"):
        files.temporary_array((10, 10), np.float32)


@pytest.mark.parametrize("address", ["s3://bucket/x", Path("gs://bucket/x"), "HTTPS://a.example/b"])
def test_nothing_is_written_to_addresses(address):
    with pytest.raises(UsageError, match=r"://.* is an address, but a path of this machine"):
        files.output_path(address)


def test_the_cache_is_no_address(monkeypatch):
    monkeypatch.setenv("EFFTUNE_CACHE", "s3://bucket/cache")
    with pytest.raises(UsageError, match=r"_CACHE is s3://bucket/cache, .* EFFTUNE_SHARED_CACHE"):
        files.cache_folder()
