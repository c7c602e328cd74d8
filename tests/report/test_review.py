import html
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from efftune.errors import DataError
from efftune.report import review
from report import made_run

HEADER = "path,label,decision,new_label\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run.write(tmp_path_factory.mktemp("made") / "run", names=made_run.ODD_NAMES)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "a run")


def data(folder: Path) -> dict:
    text = review.write(folder).read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_page_holds_all_suspects_in_their_order(run):
    found = data(run)
    rows = made_run.read(run, "suspects.csv")
    assert [each["path"] for each in found["suspects"]] == [row["path"] for row in rows]
    assert found["suspects"][0]["suggested"] == rows[0]["suggested"]
    assert found["suspects"][0]["p_suggested"] == 0.9
    assert all(each["thumbnail"] for each in found["suspects"])
    assert [name for name, _ in found["classes"]] == list(made_run.CLASSES)


def test_paths_stay_exact_though_odd_ones_are_shown_readably(run):
    by_path = {
        each["path"].partition("/")[2].partition("/")[2]: each["shown"]
        for each in data(run)["suspects"]
    }
    assert by_path["line\nbreak.jpg"].endswith("line\\nbreak.jpg")
    assert by_path["turned \u202egpj.exe"].endswith("turned \\u202egpj.exe")


def test_names_cannot_end_the_script(run):
    text = review.write(run).read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script") == 2
    assert "<!--" not in text


def test_existing_decisions_are_preset_and_others_passed_through(run):
    path = made_run.read(run, "suspects.csv")[0]["path"]
    (run / "labels.csv").write_text(
        f'\ufeff{HEADER}"{path}",hat,relabel,shoes\nelsewhere.jpg,hat,drop,\n', encoding="utf-8"
    )
    found = data(run)
    assert set(found["decided"]) == {path}
    assert found["decided"][path]["new_label"] == "shoes"
    assert found["others"] == [
        {"path": "elsewhere.jpg", "label": "hat", "decision": "drop", "new_label": ""}
    ]


def test_progress_belongs_to_these_suspects_and_that_table(run):
    before = data(run)
    (run / "labels.csv").write_text(HEADER)
    with_table = data(run)
    assert with_table["key"] == before["key"] and with_table["labels"] != before["labels"]
    rows = made_run.read(run, "suspects.csv")
    made_run.write_table(run / "suspects.csv", rows[1:])
    assert data(run)["key"] != before["key"]


def test_page_shows_where_to_put_the_table_and_what_to_run(run):
    text = html.unescape(review.write(run).read_text(encoding="utf-8"))
    place = str(run / "labels.csv")
    assert f"<code>{place}</code>" in text
    command = re.search(r"<code>(efftune train .*)</code>", text)[1]
    settings = ["--config", str(run / "recipe.toml")]
    assert shlex.split(command) == ["efftune", "train", "my photos", "--labels", place, *settings]


def test_a_source_that_is_here_is_named_in_full(run, monkeypatch):
    (run.parent / "my photos").mkdir()
    monkeypatch.chdir(run.parent)
    text = html.unescape(review.write(run).read_text(encoding="utf-8"))
    command = re.search(r"<code>(efftune train .*)</code>", text)[1]
    assert shlex.split(command)[2] == str(run.parent / "my photos")


def test_page_of_a_run_without_suspects_gives_the_reason(run):
    (run / "suspects.csv").unlink()
    made_run.change(run, "run.json", not_available={"suspects": "there are too few pictures"})
    with pytest.raises(DataError, match=r"no suspects\.csv to review: there are too few pictures"):
        review.write(run)
    assert not (run / review.FILE).exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("suspects.csv", "path\na\n"),
        ("thumbnails.json", '{"thumbnails": 7}'),
        ("classes.json", "["),
        ("run.json", "{}"),
    ],
)
def test_damaged_files_are_named_with_a_remedy(run, file, content):
    (run / file).write_text(content)
    with pytest.raises(DataError, match=rf"{file} is damaged: .*Restore it, or train again"):
        review.write(run)


def test_a_damaged_table_of_decisions_is_an_error(run):
    (run / "labels.csv").write_text(HEADER + "a,b,perhaps,\n")
    with pytest.raises(DataError, match=r"labels\.csv.*perhaps"):
        review.write(run)


def test_suspects_without_pictures_are_reviewed_by_name(run):
    (run / "thumbnails.json").unlink()
    assert not any(each["thumbnail"] for each in data(run)["suspects"])
