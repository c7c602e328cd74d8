import json

import pytest
from PIL import Image

import efftune
from conftest import fill


def test_clean_source_has_no_problems(source, efftune_command):
    result = efftune.check(source)
    assert result.problems == ()
    assert result.numbers["pictures"] == 30
    assert result.numbers["classes"]["red"] == {"undecided": 10}
    done = efftune_command("check", source)
    assert done.returncode == 0, done.stderr
    assert "No problems found" in done.stdout


@pytest.mark.ci
def test_problems_are_reported_with_exit_code_1(broken_source, efftune_command, tmp_path):
    done = efftune_command("check", broken_source, "--json", "--out", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["kinds"]["truncated"] == 1
    assert {each["name"] for each in report["findings"] if each["kind"] == "empty"} == {
        "red/empty.png"
    }
    assert "red/cut.jpg" in (tmp_path / "out" / "findings.csv").read_text()
    table = efftune_command("check", broken_source)
    assert table.returncode == 1
    assert "red/cut.jpg: truncated" in table.stdout


@pytest.mark.ci
def test_pictures_are_drawn(source, tmp_path):
    folder = fill(tmp_path / "photos")
    (folder / "red" / "copy.png").write_bytes((folder / "red" / "01.png").read_bytes())
    efftune.check(folder, out=tmp_path / "out")
    drawn = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert drawn == {"samples", "augmented", "sizes", "classes", "duplicates"}
    for name in drawn:
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert min(picture.size) > 150


def test_nothing_is_changed(broken_source):
    def state():
        return {
            path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
            for path in broken_source.rglob("*")
        }

    before = state()
    efftune.check(broken_source)
    assert state() == before


def test_mistakes_get_one_clear_message(efftune_command, tmp_path):
    missing = efftune_command("check", "nowhere", "--quiet")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    (tmp_path / "empty").mkdir()
    empty = efftune_command("check", "empty")
    assert empty.returncode == 1
    assert "empty is empty" in empty.stderr
    (tmp_path / "file").touch()
    taken = efftune_command("check", "empty", "--out", "file")
    assert taken.returncode == 2
    assert "Cannot create the folder file" in taken.stderr


def test_what_a_check_draws_in_its_source_is_no_finding(tmp_path):
    folder = fill(tmp_path / "photos", count=3)
    before = efftune.check(folder).findings
    for _ in range(2):
        assert efftune.check(folder, out=folder / "checked").findings == before
    assert (folder / "checked" / "findings.csv").exists()
