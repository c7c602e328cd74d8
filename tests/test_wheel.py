"""The wheel, installed alone: what it does not bring and does not ask for is not there."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def required(requirements, extras=("",)):
    """The installed packages that these requirements ask for, and those that they ask for."""
    found, seen = {}, set()
    todo = [(Requirement(each), extras) for each in requirements]
    while todo:
        requirement, extras = todo.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        wanted = ("", *requirement.extras)
        if (requirement.name, wanted) not in seen:
            seen.add((requirement.name, wanted))
            package = metadata.distribution(requirement.name)
            assert requirement.specifier.contains(package.version, prereleases=True), requirement
            found[package.name] = package
            todo += [(Requirement(each), wanted) for each in package.requires or ()]
    return found.values()


def install(package, place):
    """Hard links to the files of an installed package, where pip would write them."""
    for file in package.files:
        source, target = Path(file.locate()), place / file
        if ".." not in file.parts and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another file system
                target.symlink_to(source)


@pytest.mark.long
def test_wheel_installed_alone_passes_the_demo(tmp_path):
    source = shutil.copytree(
        ROOT, tmp_path / "source", ignore=lambda *_: {".venv", ".git", "build", "tests", "docs"}
    )
    offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", *offline, "--no-build-isolation", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")

    home = tmp_path / "environment"
    venv.create(home)
    python = home / "bin" / "python"
    (place,) = home.glob("lib/python*/site-packages")
    run(*pip, f"--python={python}", "install", *offline, wheel)
    (brought,) = metadata.distributions(name="efftune", path=[str(place)])
    for package in required(brought.requires):
        install(package, place)
    run(*pip, f"--python={python}", "check")

    left_out = {"PYTHONPATH", "KERAS_BACKEND", "PYTHONWARNINGS", "TF_CPP_MIN_LOG_LEVEL"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    alone = {"cwd": tmp_path, "env": environment | {"EFFTUNE_CACHE": str(tmp_path / "cache")}}
    done = run(home / "bin" / "efftune", "demo", "--json", "--quiet", **alone)
    assert done.stderr == ""
    assert json.loads(done.stdout)["test"]["accuracy"] >= 0.92
    where = run(python, "-c", "import efftune; print(efftune.__file__)", **alone).stdout
    assert Path(where.strip()).is_relative_to(place)
