"""The command that installs packages, by what really is on the path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from efftune.system import packages


def test_plain_pip_only_if_it_is_this_pythons(monkeypatch, tmp_path):
    beside = Path(sys.executable).parent
    monkeypatch.setenv("PATH", os.pathsep.join([str(beside), os.environ["PATH"]]))
    assert packages.install("efftune[serve]") == 'pip install "efftune[serve]"'
    other = tmp_path / "pip"
    other.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    command = packages.install("onnx", "efftune[serve]")
    assert command == f'{sys.executable} -m pip install onnx "efftune[serve]"'


def test_environment_without_pip_names_uv(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "my env"], check=True)
    python = tmp_path / "my env" / "bin" / "python"
    done = subprocess.run(
        [python, "-c", "from efftune.system import packages; print(packages.install('openvino'))"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONPATH": str(Path(packages.__file__).parents[2])},
    )
    assert done.stdout.strip() == f"uv pip install --python '{python}' openvino"


@pytest.mark.parametrize("extra", ["serve", "hub"])
def test_extra_can_be_resolved_where_this_runs(extra):
    """That is, the name in the messages is that of the installed distribution."""
    from importlib.metadata import metadata

    assert extra in metadata("efftune").get_all("Provides-Extra")
