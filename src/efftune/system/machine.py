"""The environment of a run: package versions, machine and command line."""

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from functools import cache
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

_ROOT = Path("/")  # of the folders in which Linux describes processes and control groups

_ALL = 2**31
_most = [_ALL]


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
    """Whether this process may use all processors that it may run on, whatever the quota."""
    return usable_processors() >= _processors()


def usable_processors(root: Path = _ROOT) -> int:
    """Number of logical processors available to this process; in a container, of its share.

    Args:
        root: of the folders `proc` and `sys`.
    """
    return max(1, min(_most[0], _processors(), _quota(root)))


def memory_bytes(root: Path = _ROOT) -> int:
    """The memory of this machine, or of the container that this process is in.

    Args:
        root: of the folders `proc` and `sys`.
    """
    import psutil  # heavy for the commands that do not need it

    limits = [limit for limit, _ in _memory_limits(root)]
    return min([int(psutil.virtual_memory().total), *limits])


def free_memory(root: Path = _ROOT) -> int:
    """Bytes of memory that this process can still get, with those of files that are cached there.

    Args:
        root: of the folders `proc` and `sys`.
    """
    import psutil

    free = [limit - used for limit, used in _memory_limits(root)]
    return max(0, min([int(psutil.virtual_memory().available), *free]))


def _processors() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _quota(root: Path) -> int:
    """As many processors as the control groups of this process give it the time of."""
    least = _ALL
    for group in _control_groups("cpu", root):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        quota = quota or _text(group / "cpu.cfs_quota_us")
        period = period or _text(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):  # else without limit
            least = min(least, math.ceil(int(quota) / int(period)))
    return least


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """The limits of the control groups of this process, and how much of each is used."""
    for group in _control_groups("memory", root):
        for names, start in (
            (("memory.max", "memory.current"), ""),
            (("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"),
        ):
            limit, used = (_text(group / name) for name in names)
            if limit.isdecimal() and used.isdecimal():
                lines = map(str.split, _text(group / "memory.stat").splitlines())
                kinds = {f"{start}active_file", f"{start}inactive_file"}
                cached = sum(int(line[1]) for line in lines if line[0] in kinds)
                yield int(limit), int(used) - cached  # which the system gives up when asked to


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control groups, from its own to the outermost that it sees."""
    mount = root / "sys" / "fs" / "cgroup"
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controller if controllers else mount  # version 2 has one tree for all
        group = top if ".." in path.split("/") else top / path.strip("/")
        while group != top:  # in a container, they may be seen as the top itself
            yield group
            group = group.parent
        yield top


def _text(path: Path) -> str:
    """The text of a small file; empty if there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


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
