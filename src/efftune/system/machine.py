"""The environment of a run: package versions, machine and command line."""

import ctypes
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "efftune",
    "keras",
    "jax",
    "tensorflow",
    "tensorflow-cpu",
    "openvino",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "scikit-learn",
)

_most = [2**31]


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that affect results."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def machine() -> dict[str, Any]:
    """Operating system, processor model and number of usable processors."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "processors": usable_processors(),
    }


def command() -> str:
    """The command line of this process."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def own_program(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment to run a module of efftune in a process of its own.

    What lies in the working folder is not imported: that may come from others.
    """
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    place = Path(__file__).parents[2]
    if place.name not in ("site-packages", "dist-packages"):  # which Python knows
        paths.insert(0, str(place))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return [sys.executable, "-P", "-m", module, *arguments], environment


def use_processors(most: int) -> None:
    """Let this process use at most so many processors: the others are for others."""
    _most[0] = most


def uses_all_processors() -> bool:
    """Whether this process may use all processors that it could."""
    return _most[0] >= _available()


def usable_processors() -> int:
    """Number of logical processors available to this process."""
    return min(_most[0], _available())


def _available() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def give_back_memory() -> None:
    """Give the system the memory that this process has freed, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
