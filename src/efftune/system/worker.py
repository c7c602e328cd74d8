"""A process on a machine of a cluster, which computes what it is asked for."""

import functools
import os
import pickle
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from efftune.system import machine

_KEPT = 8  # objects in a worker that are shared once
_COMPARED = ("efftune", "openvino", "keras", "numpy", "pillow", "opencv-python-headless")
_THREADS = ("OPENCV_FOR_THREADS_NUM", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

Result = TypeVar("Result")


class Shared(Generic[Result]):
    """A value that many calls are given: it is sent to each machine once, and kept by workers."""

    def __init__(self, reference: Any, *, is_kept: bool):
        self._reference, self._is_kept = reference, is_kept

    @property
    def value(self) -> Result:
        """The value, in a worker."""
        found: Result = (_kept if self._is_kept else _last)(self._reference)
        return found


def _received(reference: Any) -> Any:
    import ray

    return ray.get(reference)


@functools.lru_cache(maxsize=_KEPT)
def _kept(reference: Any) -> Any:
    return pickle.loads(_received(reference))  # noqa: S301  (from the command's own process)


_last = functools.lru_cache(maxsize=1)(_received)  # those before may be large


class Worker:
    """A process on a machine of the cluster."""

    def ready(self, processors: int) -> list[str]:
        """The address of the machine, the name of its node, and its versions.

        Args:
            processors: number of them that it uses.
        """
        import ray

        machine.use_processors(processors)
        # Read when these are imported; Ray sets those of others.
        os.environ |= dict.fromkeys(_THREADS, str(processors)) | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        return [
            *(ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id()),
            *versions(),
        ]

    def call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> tuple[bool, Any, float]:
        """Whether a call succeeds; its result, or what it raises; and the seconds that it took."""
        start = time.perf_counter()
        try:
            answer = True, function(*arguments)
        except Exception as error:  # noqa: BLE001  (whoever asked raises it)
            answer = False, error
        return *answer, time.perf_counter() - start


def versions() -> list[str]:
    """What must be the same everywhere, so that results are."""
    found = machine.versions()
    return [f"{name} {found.get(name, 'none')}" for name in _COMPARED]
