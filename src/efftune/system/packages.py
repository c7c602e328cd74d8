"""Packages of the Python that runs this program."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from efftune.system import shell


def install(*requirements: str) -> str:
    """The command that installs packages where this program runs.

    The plain `pip install` if that is this Python's own. The shell's may be another's, since
    programs in environments of their own are called by path, or by pipx's and uv's links.

    Args:
        requirements: such as `efftune[serve]`.
    """
    listed = " ".join(f'"{each}"' if "[" in each else each for each in requirements)
    return f"{_installer()} {listed}"


def _installer() -> str:
    pip, python = shutil.which("pip"), Path(sys.executable)
    if not sys.executable or (
        pip and Path(pip).parent in (python.parent, python.parent / "Scripts")
    ):
        return "pip install"
    if find_spec("pip") is None:  # as in uv's environments
        return shell.quoted("uv", "pip", "install", "--python", python)
    return shell.quoted(python, "-m", "pip", "install")
