"""The pages on applications: each command runs, as written, on a few squares."""

import re
import shutil
from pathlib import Path

import pytest

from conftest import fill
from efftune.delivery.targets import TARGETS

PAGES = Path(__file__).parents[2] / "docs" / "targets"


def test_every_target_has_a_page_that_is_listed():
    assert {page.stem for page in PAGES.glob("*.md")} == set(TARGETS)
    index = (PAGES.parent / "index.md").read_text(encoding="utf-8")
    exports = (PAGES.parent / "exports.md").read_text(encoding="utf-8")
    for name in TARGETS:
        assert f"\ntargets/{name}\n" in index
        assert f"[`{name}`](targets/{name}.md)" in exports


def page_with_its_length(name):
    marks = {"browser": [pytest.mark.exports], "python": []}.get(name, [pytest.mark.long])
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [*map(page_with_its_length, TARGETS)])
def test_every_command_of_a_page_runs(name, finished_run, efftune_command, tmp_path):
    fill(tmp_path / "photos", count=24)
    run = shutil.copytree(finished_run.folder, tmp_path / "runs" / "photos")
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert commands
    small = ["--recipe", "quick", "--test", "0.2", "--set", "head_strengths=[0.01]"]
    if TARGETS[name].size is None:
        small += ["--image-size", "32"]
    for command in commands:
        program, *arguments = command.split()
        assert program == "efftune"
        done = efftune_command(*arguments, *(small if arguments[0] == "train" else ()))
        assert done.returncode == 0, done.stderr
    folders = [Path(path) for path in tmp_path.glob(f"runs/*/exports/{name}")]
    assert len(folders) == 1
    listed = set(re.findall(r"(?<!\[)`([\w-]+\.(?:tflite|txt|py|yml|json|kt|js|pbtxt))`", text))
    written = {each.name for each in folders[0].rglob("*")}
    assert listed <= written
    assert len(listed) >= 2
    for script in folders[0].rglob("predict.py"):
        assert (script.parent / "labels.txt").is_file()
    assert run.exists()
