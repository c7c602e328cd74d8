"""A twentieth of `benchmarks/odd_files.py`, which takes all odd files and layouts."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

import efftune
from efftune.data.sources.table_columns import Columns

from . import odd_files, odd_layouts
from .odd_layouts import Layout

SMALL = ("--recipe", "quick", "--set", "image_size=32")
EVERY = 20


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd") / "files"
    return root, odd_files.make(root, EVERY)


@pytest.mark.ci
def test_odd_files_go_through_all_commands(odd, efftune_command, tmp_path):
    root, made = odd
    done = efftune_command("check", root, "--json", "-q")
    assert (done.returncode, done.stderr) == (1, "")
    found = defaultdict(set)
    for each in json.loads(done.stdout)["findings"]:
        found[each["name"]].add(each["kind"])
    run = tmp_path / "run"
    done = efftune_command("train", root, *SMALL, "-q", "--run", run)
    assert (done.returncode, run.exists()) == (1, False)
    assert "--set damaged_files=allow" in done.stderr
    done = efftune_command(
        "train", root, *SMALL, "-q", "--run", run, "--set", "damaged_files=allow"
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = odd_files.examples(run)
    assert odd_files.untrue(odd_files.as_written(made), rows) == []
    reasons = dict(rows)
    used = [each for each in made if not reasons[odd_files.as_text(each.name)]]
    assert odd_files.wrong_facts(used, found) == []
    done = efftune_command("predict", run, root, "--json", "-q")
    assert done.returncode == 1
    predicted = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert sorted(predicted) == sorted(str(root / each.name) for each in used)


LAYOUTS = [
    pytest.param(each, id=each.name, marks=[pytest.mark.variant] if i % EVERY else [])
    for i, each in enumerate(odd_layouts.layouts())
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_taken_for_what_it_is(layout, tmp_path, monkeypatch, caplog):
    source = made(layout, tmp_path, monkeypatch)
    chosen = dict(zip(layout.options[::2], layout.options[1::2], strict=True))
    columns = Columns(
        root=chosen.get("--root", ""),
        labels=tuple(filter(None, chosen.get("--label-columns", "").split(","))),
        splits="none" if "--splits" in chosen else "auto",
    )
    with caplog.at_level("INFO", logger="efftune"):
        if not layout.taken:
            with pytest.raises(efftune.EfftuneError) as caught:
                efftune.check(source, columns=columns)
            assert layout.refused in str(caught.value)
            assert caught.value.exit_code == layout.code
            return
        checked = efftune.check(source, columns=columns)
    assert layout.taken in caplog.messages[-1]
    assert odd_layouts.counted(checked.numbers["classes"]) == layout.pictures
    assert {each.kind for each in checked.problems} == layout.problems


def made(layout: Layout, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = place / "source"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return layout.make(folder)


@pytest.mark.ci
@pytest.mark.parametrize("layout", [LAYOUTS[2 * EVERY], LAYOUTS[4 * EVERY]])
def test_layout_goes_through_the_commands(layout, tmp_path, monkeypatch, efftune_command):
    source = made(layout, tmp_path, monkeypatch)
    arguments = (source, *layout.options, *SMALL, "--run", tmp_path / "run")
    done = efftune_command("train", *arguments, cwd=Path.cwd())
    assert done.returncode == layout.code, done.stderr
    assert (tmp_path / "run" / "report.html").exists() == (not layout.refused)
    assert layout.refused in done.stderr
    assert layout.taken in done.stderr
