import re
import runpy
import subprocess
from pathlib import Path

import pytest

import efftune
from conftest import fill

ROOT = Path(__file__).parents[1]


@pytest.mark.ci
@pytest.mark.parametrize("page", ["cli.md", "settings.md"])
def test_written_pages_are_up_to_date(page):
    write = runpy.run_path(str(ROOT / "docs" / "write_pages.py"))
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == write["PAGES"][page](), "run `make docs`"


def test_every_command_is_on_the_cli_page(efftune_command):
    listed = efftune_command("--help").stdout.partition("Commands")[2]
    names = [
        line.split()[1] for line in listed.splitlines() if line.startswith("│ ") and line[2] != " "
    ]
    assert len(names) >= 5
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert all(f"\n## {name}\n" in page for name in names)


@pytest.mark.parametrize("name", efftune.__all__)
def test_every_public_name_is_documented(name):
    assert f"efftune.{name}" in (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    assert getattr(efftune, name).__doc__


def test_readme_begins_with_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.index("make demo") < readme.index("make test") < 400


def test_architecture_page_maps_every_module_and_nothing_else():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = page.partition("## Files")[2].partition("## The way")[0]
    rows = re.findall(r"^\| (`.*?) \|", files, re.MULTILINE)
    listed = [
        name.rpartition("/")[2] for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)
    ]
    modules = [path.name for path in (ROOT / "src" / "efftune").rglob("[a-z]*.py")]
    assert sorted(listed) == sorted([*modules, "__init__.py", "__main__.py"])


def test_tracked_files_name_no_registry_host():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split() or ["requirements.txt", "pyproject.toml", "Makefile"]
    for name in names:
        if name.endswith((".toml", ".txt", "Makefile", ".lock", ".cfg")):
            text = (ROOT / name).read_text(encoding="utf-8")
            assert "://" not in text or name == "pyproject.toml", name
            assert "index-url" not in text.replace("--no-emit-index-url", ""), name


def tutorial_commands():
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    return [
        line
        for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        for line in block.splitlines()
    ]


def each_with_its_length(commands):
    """Those that train more than a head are long; what they show has tests of its own."""
    for command in commands:
        trains = command.startswith("efftune train") and "--recipe quick" not in command
        yield pytest.param(command, marks=[pytest.mark.long] if trains else [])


@pytest.mark.ci
@pytest.mark.parametrize("command", list(each_with_its_length(tutorial_commands())))
def test_every_command_of_the_tutorial_runs(command, efftune_command, tmp_path):
    """As written, but on a few squares in the place of dogs, with epochs few and pictures small."""
    fill(tmp_path / "photos")
    fill(tmp_path / "dogs" / "train", count=8)
    fill(tmp_path / "dogs" / "test", count=4, offset=50)
    (tmp_path / "small.toml").write_text(
        "image_size = 32\nscratch_epochs = 1\nhead_strengths = [0.01]\n"
    )
    program, *arguments = command.replace("tfds:stanford_dogs", "dogs").split()
    assert program == "efftune"
    if arguments[0] == "train":
        arguments += ["--config", "small.toml"]
        arguments += ["--head-epochs", "2"] if "keras-example" in command else []
        arguments += [] if {"quick", "scratch", "head"} & set(arguments) else ["--epochs", "1"]
    done = efftune_command(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout
