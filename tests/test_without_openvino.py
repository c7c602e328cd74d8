"""Training and prediction without OpenVINO and TensorFlow: with JAX, here on the CPU."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import efftune
from conftest import ROOT

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
]
HIDDEN = ("openvino", "tensorflow", "keras_hub")


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """A folder of everything that is installed here but those two."""
    folder = tmp_path_factory.mktemp("packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(HIDDEN) and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def command(packages, tmp_path):
    def run(*arguments: object) -> str:
        words = [sys.executable, "-S", "-m", "efftune", *map(str, arguments), "-q"]
        place = f"{ROOT / 'src'}{os.pathsep}{packages}"
        environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": place},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


def test_nothing_of_them_is_found(packages):
    words = "import importlib.util as u; print(u.find_spec('openvino'), u.find_spec('tensorflow'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", words],
        env={"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["None", "None"], done.stderr


CHOICES = ("--image-size", 32, "--unfreeze", "block7", "--epochs", 2, "--batch-size", 6)


def test_run_is_the_same_as_any_other(command, source, tmp_path):
    command("train", source, *CHOICES, "--set", "views=1", "--run", "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["machine"]["engine"] == "jax"
    assert [stage["name"] for stage in record["stages"]] == ["upper"]
    assert not (tmp_path / "run" / "openvino").exists()
    picture = source / "red" / "01.png"
    there = json.loads(command("predict", "run", picture, "--top", 3, "--json"))
    command("explain", "run", picture, "--out", "explained")
    assert (tmp_path / "explained" / "01-explained.png").exists()
    classifier = efftune.load(tmp_path / "run")
    (here,) = classifier.predict([picture], top=3)  # by OpenVINO, which is installed here
    assert (tmp_path / "run" / "openvino" / "model.xml").exists()
    assert here.label == there["label"]
    for (label, confidence), other in zip(here.top, there["top"], strict=True):
        assert (label, confidence) == (other["label"], pytest.approx(other["confidence"], abs=1e-4))


def test_digits_are_learnt(command, tmp_path):
    printed = command("train", "sample:digits", "--image-size", 64, "--run", "run", "--json")
    assert json.loads(printed)["test"]["accuracy"] >= 0.97
