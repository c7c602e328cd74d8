"""Where networks are computed: the choice between a GPU and the CPU, and of the engine for it."""

import importlib
import os
import sys
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from efftune.errors import EfftuneWarning, UsageError, unknown_name
from efftune.model.engines.engine import Engine
from efftune.recipe.inputs import DeviceChoice
from efftune.system import files, machine, packages

Device = Literal["cpu", "gpu"]

_PROGRAM_BYTES = 2**30  # of compiled programs that are kept
# NVIDIA's driver on Linux, in containers, and under WSL.
_DRIVERS = tuple(
    map(Path, ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1"))
)


def chosen(wanted: str) -> Device:
    """The device to use; Keras is told to run on it, unless it runs already.

    With `auto`, it is a GPU if JAX sees one and neither the environment variable KERAS_BACKEND nor
    the program has chosen another backend for Keras.

    Raises:
        UsageError: `wanted` is not auto, cpu or gpu; a GPU is wanted, and there is none, it cannot
            be used, or Keras runs on another backend; or the CPU is wanted after a GPU was used.
    """
    if wanted not in get_args(DeviceChoice):
        raise unknown_name("device", str(wanted), get_args(DeviceChoice))
    device: Device = "cpu" if wanted == "cpu" else _gpu_or_cpu(wanted == "gpu")
    backend = keras_backend()
    needs_jax = device == "gpu" or not (_is_installed("tensorflow") and has_openvino())
    if backend is None and needs_jax and _is_installed("jax"):
        os.environ["KERAS_BACKEND"] = backend = "jax"
    if device == "gpu":
        _keep_programs()
    elif wanted == "cpu" and backend == "jax" and _keep_off_gpu() != "cpu":
        raise UsageError(
            "JAX has begun with a GPU in this process, so that it cannot be kept off it any more: "
            "start another process, or use device='gpu'."
        )
    return device


def for_prediction(wanted: str) -> Device:
    """The device to use for a saved classifier: like `chosen`, but `cpu` asks for nothing.

    Raises:
        UsageError: see `chosen`.
    """
    return "cpu" if wanted == "cpu" else chosen(wanted)


def engine(device: Device) -> Engine:
    """What computes frozen networks: JAX on a GPU, OpenVINO on the CPU, or JAX if that is missing.

    Raises:
        UsageError: neither is installed.
    """
    name = "openvino" if device == "cpu" and has_openvino() else "jax"
    if not _is_installed(name):
        raise UsageError(f"Neither OpenVINO nor JAX is installed: {packages.install('openvino')}.")
    if name == "jax":
        backend = keras_backend()
        if backend is None:
            os.environ["KERAS_BACKEND"] = "jax"
        elif backend != "jax":
            raise UsageError(
                f"Without OpenVINO, networks are run by JAX, and Keras runs on {backend} in this "
                "process: unset KERAS_BACKEND, or install openvino."
            )
        if device == "cpu":  # where JAX has begun with a GPU, it goes on with that
            _keep_off_gpu()
    found: Engine = importlib.import_module(f"efftune.model.engines.{name}_engine")
    return found


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return _is_installed("openvino")


def memory_bytes(device: Device) -> int:
    """The memory of the device: of a GPU, what JAX may use."""
    if device == "gpu":
        import jax

        stats = jax.local_devices()[0].memory_stats() or {}
        if "bytes_limit" in stats:
            return int(stats["bytes_limit"])
    return machine.memory_bytes()


def name(device: Device) -> str:
    """What the device is called, such as `NVIDIA H100 80GB HBM3`; empty for the CPU."""
    if device == "cpu":
        return ""
    import jax

    kinds = [each.device_kind for each in jax.local_devices()]
    return kinds[0] if len(kinds) == 1 else f"{len(kinds)} × {kinds[0]}"


def _gpu_or_cpu(is_wanted: bool) -> Device:
    backend = keras_backend()
    if backend in (None, "jax"):
        problem = _gpu_problem(is_wanted)
    elif "KERAS_BACKEND" in os.environ and not is_wanted:
        return "cpu"  # as the user has chosen
    else:
        problem = (
            f"it is used through JAX, and Keras runs on {backend} in this process; unset "
            "KERAS_BACKEND, or set it to jax before Keras is imported"
        )
    if not problem:
        return "gpu"
    if is_wanted:
        raise UsageError(f"--device gpu: {problem}.")
    if _has_driver():
        _warn_once(f"The GPU is not used: {problem}.")
    return "cpu"


def _has_driver() -> bool:
    return any(driver.exists() for driver in _DRIVERS)


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, EfftuneWarning, stacklevel=4)


@cache
def _gpu_problem(is_wanted: bool) -> str:
    """Why no GPU can be used; empty if one can be."""
    if not _has_driver() and not is_wanted and "jax" not in sys.modules:
        return "no NVIDIA driver was found"  # importing JAX would take a second
    if not _is_installed("jax"):
        return f"JAX is not installed; install it with: {packages.install('efftune[gpu]')}"
    import jax

    try:
        devices = jax.local_devices(backend="gpu")
    except RuntimeError as error:
        return _why_unusable(error)
    if jax.default_backend() != "gpu":
        return "JAX uses another device in this process"
    return "" if devices else "JAX sees no GPU"


def _why_unusable(error: RuntimeError) -> str:
    import jax

    config: Any = jax.config
    if config.jax_platforms:
        return (
            f"JAX may use {config.jax_platforms} only in this process, because of JAX_PLATFORMS or "
            "of device='cpu' before"
        )
    if not _has_driver():
        return "no NVIDIA driver was found; nvidia-smi should list the GPU"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown error"
    return (
        f"JAX cannot use it ({reason.removesuffix('.')}); install it with: "
        f"{packages.install('efftune[gpu]')}, and if it is installed, update NVIDIA's driver, or "
        "close other programs that fill its memory"
    )


def keras_backend() -> str | None:
    """The backend that Keras runs on or has been told to; None if that is open."""
    if "keras" in sys.modules:
        import keras

        return str(keras.config.backend())
    return os.environ.get("KERAS_BACKEND")


def _is_installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None
    return find_spec(package) is not None


@cache
def _keep_programs() -> None:
    """Let JAX keep compiled programs in efftune's cache folder, if it keeps them nowhere else."""
    import jax

    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        config.update("jax_compilation_cache_dir", str(files.cache_folder() / "jax"))
        config.update("jax_compilation_cache_max_size", _PROGRAM_BYTES)


def _keep_off_gpu() -> str:
    """Let JAX use the CPU, if it has not begun yet; returns the device that it uses."""
    import jax

    config: Any = jax.config
    config.update("jax_platforms", "cpu")  # has no effect on what has begun
    return str(jax.default_backend())
