"""Workers on other machines, or on this one, by Ray: they compute what this process asks for.

Ray places workers, carries what they are given and give, and notices when one is lost. A call whose
worker is lost is made again.
"""

import functools
import os
import pickle
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from efftune.errors import EfftuneError, EfftuneWarning, UsageError
from efftune.system import machine

_ATTEMPTS = 5  # at a call, each by another worker
_PATIENCE_SECONDS = 120.0  # in which no worker is free
_LOOK_SECONDS = 1.0  # between two looks at which workers have started
_GROW_SECONDS = 10.0  # between two looks at how many there may be
_KEPT = 8  # objects in a worker that are shared once
_MOST_THREADS = 4096  # that wait for workers; fewer start if there are fewer workers
_COMPARED = ("efftune", "openvino", "numpy", "pillow", "opencv-python-headless")
_ONE_THREAD = (*("OPENCV_FOR_THREADS_NUM", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lost(EfftuneError):
    """Workers were lost, again and again."""


@dataclass
class Costs:
    """What a cluster has computed.

    Attributes:
        workers: the largest number at once.
        nodes: names of the nodes that they were on; a machine is one, as a rule.
        calls: that were answered.
        worker_seconds: that these took.
        lost: workers that were lost.
    """

    workers: int = 0
    nodes: set[str] = field(default_factory=set)
    calls: int = 0
    worker_seconds: float = 0.0
    lost: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The costs as values for JSON; of the nodes only their number."""
        seconds = round(self.worker_seconds, 1)
        return asdict(self) | {"nodes": len(self.nodes), "worker_seconds": seconds}


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


class Workers:
    """Workers on a cluster, one for each of its processors.

    Attributes:
        costs: what they have computed so far.
        problem: why they cannot be used.
    """

    def __init__(self) -> None:
        """Start workers on the cluster that this process is connected to."""
        import ray

        self._ray = ray
        self.costs = Costs()
        self._actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
        self._free: SimpleQueue[_Handle] = SimpleQueue()
        self._starting: dict[Any, Any] = {}
        self._count = 0
        self._lock, self._sharing = threading.Lock(), threading.Lock()
        self._shared: WeakKeyDictionary[Any, Shared[Any]] = WeakKeyDictionary()
        self.problem: EfftuneError | None = None
        self._ended = threading.Event()
        self._grow()
        self._admitting = threading.Thread(target=self._admit, name="cluster", daemon=True)
        self._admitting.start()

    @property
    def count(self) -> int:
        """The number of workers that have started."""
        return self._count

    @property
    def width(self) -> int:
        """The number of calls at a time that keeps all workers busy: from as many threads."""
        return 2 + self._count + self._count // 2

    def share(self, value: Result) -> Shared[Result]:
        """Put a value where all workers can get it; each keeps the last one that it got."""
        return Shared(self._ray.put(value), is_kept=False)

    def share_once(self, value: Result) -> Shared[Result]:
        """The same for an object that workers keep, such as a network; it is sent once."""
        with self._sharing:
            if value not in self._shared:
                # As bytes: a client's server would make the object, to send it on.
                self._shared[value] = Shared(self._ray.put(pickle.dumps(value)), is_kept=True)
            return self._shared[value]

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The function's result, or what it raises, computed by a worker.

        Args:
            function: one that a module of efftune defines.
            arguments: that can be pickled, as its result can.

        Raises:
            Lost: several workers that were asked were lost, or none is left.
            UsageError: workers cannot be used, as they have another version.
        """
        places = []
        for _ in range(_ATTEMPTS):
            worker = self._next()
            try:
                answer = self._ray.get(worker.actor.call.remote(function, arguments))
            except self._ray.exceptions.RayTaskError:  # such as that it cannot be sent
                self._free.put(worker)
                raise
            except ConnectionError as error:  # of Ray's client
                raise Lost(f"The connection to the Ray cluster was lost: {error}") from None
            except self._ray.exceptions.RayError as error:
                places.append(worker.address)
                self._replace(worker, error)
                continue
            except BaseException:  # such as that what is sent cannot be pickled
                self._free.put(worker)
                raise
            self._free.put(worker)
            succeeded, result, seconds = answer
            with self._lock:
                self.costs.calls += 1
                self.costs.worker_seconds += seconds
                self.costs.nodes.add(worker.node)
            if not succeeded:
                raise result
            return result  # type: ignore[no-any-return]
        raise Lost(
            f"{_ATTEMPTS} workers were lost one after the other at the same task, on "
            f"{', '.join(dict.fromkeys(places))}. Ray's logs there tell why; often, it is memory."
        )

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in order, of a function of this process that calls workers.

        Args:
            function: called from several threads.
            items: taken as they are needed.
        """
        waiting: deque[Future[Result]] = deque()
        pool = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="cluster")
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                while len(waiting) >= self.width:  # which grows as workers start
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def end(self) -> None:
        """Let the workers go. Afterwards, no thread calls Ray, which would end the process."""
        self._ended.set()
        self._admitting.join()

    def _next(self) -> "_Handle":
        """A free worker, once there is one."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            if self.problem is not None:
                raise self.problem
            if self._ended.is_set():
                raise Lost("The cluster has been left.")
            with suppress(Empty):
                return self._free.get(timeout=_LOOK_SECONDS)
            if self.costs.workers and self._count:  # they are at work
                until = time.monotonic() + _PATIENCE_SECONDS
            if time.monotonic() > until:
                raise Lost(
                    f"No worker of the Ray cluster was free for {_PATIENCE_SECONDS:.0f} seconds: "
                    "others may use all of its processors, or none is left."
                )

    def _replace(self, worker: "_Handle", error: Exception) -> None:
        with self._lock:
            self.costs.lost += 1
            self._count -= 1
            actor = self._actor.remote()
            self._starting[actor.ready.remote()] = actor
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"A worker on {worker.address} was lost ({type(error).__name__}: {reason[0][:200]}). "
            "What it had not finished is computed again.",
            EfftuneWarning,
            stacklevel=2,
        )

    def _grow(self) -> None:
        """Ask for a worker on each processor that has none."""
        processors = int(self._ray.cluster_resources().get("CPU", 0))
        with self._lock:
            for _ in range(processors - self._count - len(self._starting)):
                actor = self._actor.remote()
                self._starting[actor.ready.remote()] = actor

    def _admit(self) -> None:
        """Let workers be used once they have started, and ask for more as the cluster grows."""
        grown = time.monotonic()
        while not self._ended.wait(0 if self._starting else _LOOK_SECONDS):
            with self._lock:
                starting = list(self._starting)
            try:
                ready, _ = self._ray.wait(starting, timeout=_LOOK_SECONDS) if starting else ([], [])
                for reference in ready:
                    with self._lock:
                        actor = self._starting.pop(reference)
                    self._greet(actor, reference)
                if time.monotonic() > grown + _GROW_SECONDS:
                    grown = time.monotonic()
                    self._grow()
            except Exception as error:  # noqa: BLE001  (calls raise it)
                if not self._ended.is_set():
                    self.problem = Lost(f"The Ray cluster no longer answers: {error}")
                return

    def _greet(self, actor: Any, reference: Any) -> None:
        try:
            address, node, *versions = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if "No module named 'efftune" in str(error):
                self.problem = UsageError(
                    f"A machine of the Ray cluster cannot import efftune. Install {_versions()[0]} "
                    "on all of them."
                )
            return  # lost before it was used; `_grow` asks for another
        ours = _versions()
        if versions != ours:
            self.problem = UsageError(
                f"The machine {address} of the Ray cluster has {', '.join(versions)}; this one has "
                f"{', '.join(ours)}. Install the same on all."
            )
            return
        with self._lock:
            self._count += 1
            self.costs.workers = max(self.costs.workers, self._count)
        self._free.put(_Handle(actor, address, node))


@dataclass(frozen=True)
class _Handle:
    """A worker, the address of the machine that it is on, and the name of the node there."""

    actor: Any
    address: str
    node: str


class _Worker:
    """A process on a machine of the cluster, which has one processor."""

    def ready(self) -> list[str]:
        """The address of the machine, the name of its node, and its versions."""
        import ray

        machine.use_processors(1)
        # Read when these are imported; Ray sets those of others.
        os.environ |= dict.fromkeys(_ONE_THREAD, "1") | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        return [
            *(ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id()),
            *_versions(),
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


def _versions() -> list[str]:
    """What must be the same everywhere, so that results are."""
    versions = machine.versions()
    return [f"{name} {versions.get(name, 'none')}" for name in _COMPARED]
