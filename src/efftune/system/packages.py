"""Packages of the Python that runs this program."""

import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path


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
    pip, python = shutil.which("pip"), sys.executable
    if not python or (pip and Path(pip).parent == Path(python).parent):
        return "pip install"
    if find_spec("pip") is None:  # as in uv's environments
        return f"uv pip install --python {shlex.quote(python)}"
    return f"{shlex.quote(python)} -m pip install"
