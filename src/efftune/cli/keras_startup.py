"""Choice of Keras' backend, and its import, in the process of the command line."""

import os
import sys

from efftune.recipe.recipe import Recipe
from efftune.system.progress import Progress


def importing_keras(recipe: Recipe, report: Progress) -> Progress:
    """Avoid TensorFlow if the recipe allows it, or else import it quietly and late.

    Importing TensorFlow takes 4 seconds, or 10 from a cold disk. The `quick` recipe only builds and
    saves Keras models, which Keras' OpenVINO backend can do too. Call this from the command line
    only: in other processes, Keras runs as the user has configured it.

    Args:
        recipe: of the run.
        report: the progress callback to wrap.

    Returns:
        A progress callback that calls `report` and imports Keras in the phase `start`.
    """
    if not recipe.trains_by_gradient_descent:
        avoid_tensorflow()
        return report

    def report_and_import(phase: str, done: int, total: int) -> None:
        report(phase, done, total)
        if phase == "start" and "keras" not in sys.modules:
            _import_keras()

    return report_and_import


def avoid_tensorflow() -> None:
    """Use Keras' OpenVINO backend, unless the user has chosen a backend."""
    if "KERAS_BACKEND" not in os.environ:
        os.environ["KERAS_BACKEND"] = "openvino"
        sys.modules["tensorflow"] = None  # type: ignore[assignment]  # Keras tries to import it


def _import_keras() -> None:
    """Import Keras with stderr silenced; errors are still raised.

    TensorFlow prints to file descriptor 2 on import, whatever its log level.
    """
    # By default TensorFlow allocates and frees memory from the system in each operation, which can
    # take as long as the operation itself. The BFC allocator keeps memory for reuse.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        from efftune.model import lite  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)
