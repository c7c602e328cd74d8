"""Choice of Keras' backend, and its import, in the process of the command line."""

import math
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from efftune.recipe.recipe import Recipe
from efftune.system.budget import Budget
from efftune.system.progress import Progress


def importing_keras(recipe: Recipe, report: Progress) -> Progress:
    """Choose Keras' backend: JAX for GPUs; without them, import TensorFlow late or not at all.

    Importing TensorFlow takes 4 seconds, or 10 from a cold disk. The `quick` recipe only builds and
    saves Keras models, which Keras' OpenVINO backend can do too. Call this from the command line
    only: in other processes, Keras runs as the user has configured it.

    Args:
        recipe: of the run.
        report: the progress callback to wrap.

    Returns:
        A progress callback that calls `report` and imports Keras before a network is built.
    """
    from efftune.model.engines import devices
    from efftune.training import budgeting

    if devices.chosen(recipe.device) == "gpu":
        return report
    planned = budgeting.affordable(recipe, None, Budget(recipe.budget or math.inf))
    if not planned.trains_by_gradient_descent:
        use_openvino()
        return report

    def report_and_import(phase: str, done: int, total: int) -> None:
        report(phase, done, total)
        if phase in ("choose", "measure", "start") and "keras" not in sys.modules:
            _import_keras()
        elif phase == "plan" and "keras" not in sys.modules:  # only the head is trained
            use_openvino()

    return report_and_import


def use_openvino() -> None:
    """Use Keras' OpenVINO backend, unless that is missing or another backend has been chosen."""
    if "KERAS_BACKEND" not in os.environ and find_spec("openvino"):
        os.environ["KERAS_BACKEND"] = "openvino"
        sys.meta_path.insert(0, _Unused())


class _Unused(MetaPathFinder, Loader):
    """Lets imports of other backends fail, which Keras tries whichever it uses, for seconds.

    To programs that only ask whether they are installed, they are.
    """

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        return ModuleSpec(fullname, self) if fullname in ("tensorflow", "jax") else None

    def create_module(self, spec: ModuleSpec) -> None:
        """See `Loader`."""
        raise ModuleNotFoundError(f"{spec.name} is not used in this process", name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """See `Loader`. Nothing gets here, but a loader without it is of an old kind."""


def _import_keras() -> None:
    # By default TensorFlow allocates and frees memory from the system in each operation, which can
    # take as long as the operation itself. The BFC allocator keeps memory for reuse.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    from efftune.model import lite  # noqa: F401
