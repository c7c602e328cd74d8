"""How Keras starts in the command line's own process."""

import os
import sys

from efftune.recipe.recipe import Recipe
from efftune.system.progress import Progress


def reported(recipe: Recipe, report: Progress) -> Progress:
    """Let Keras start as lightly and quietly as the work allows.

    TensorFlow costs 4 seconds and, from a cold disk, 10. `quick` only builds and saves Keras
    models, and Keras' OpenVINO backend can do that. This is for a process of our own: in anybody
    else's, Keras runs as its owner has set it.

    Returns:
        `report`, which also imports Keras when a run comes to that.
    """
    if not recipe.tunes:
        keep_tensorflow_out()
        return report

    def starting(phase: str, done: int, total: int) -> None:
        report(phase, done, total)
        if phase == "start" and "keras" not in sys.modules:
            _import_keras()

    return starting


def keep_tensorflow_out() -> None:
    """Let Keras start with OpenVINO, unless it has been told otherwise."""
    if "KERAS_BACKEND" not in os.environ:
        os.environ["KERAS_BACKEND"] = "openvino"
        sys.modules["tensorflow"] = None  # type: ignore[assignment]  # Keras looks for it


def _import_keras() -> None:
    """TensorFlow greets on file descriptor 2 whatever its log level; errors are raised anyway."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # It takes its memory from the system anew in each operation, which can cost as much as the
    # operation itself. With this it keeps what it has.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    heard, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    try:
        from efftune.model import lite  # noqa: F401
    finally:
        os.dup2(heard, 2)
        os.close(heard)
        os.close(silent)
