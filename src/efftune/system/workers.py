"""Workers on other machines, or on this one, by Ray: they compute what this process asks for.

Ray places workers, carries what they are given and give, and notices when one is lost. A call whose
worker is lost is made again.
"""

import pickle
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from efftune.errors import EfftuneError, EfftuneWarning, UsageError
from efftune.system.worker import Shared, Worker, versions

_ATTEMPTS = 5  # at a call, each by another worker
_PATIENCE_SECONDS = 120.0  # in which no worker is free
_LOOK_SECONDS = 1.0  # between two looks at which workers have started
_GROW_SECONDS = 10.0  # between two looks at how many there may be
_MOST_THREADS = 4096  # that wait for workers; fewer start if there are fewer workers
_LEFT = "The cluster has been left."

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


class Workers:
    """Workers on a cluster: one for each of its processors, or one for each of some nodes.

    Attributes:
        costs: what they have computed so far.
        nodes: as given.
        problem: why they cannot be used.
    """

    def __init__(self, nodes: Mapping[str, int] | None = None, costs: Costs | None = None):
        """Start workers on the cluster that this process is connected to.

        Args:
            nodes: by their names, how many processors the only worker on each of them uses, while
                those that have them rest; None for a worker on each processor.
            costs: to be added to.
        """
        import ray

        self._ray = ray
        self.nodes = nodes
        self.costs = costs or Costs()
        self._actor = ray.remote(max_restarts=0, max_task_retries=0)(Worker)
        self._free: SimpleQueue[_Handle] = SimpleQueue()
        self._starting: dict[Any, tuple[Any, str]] = {}
        self._actors: set[Any] = set()
        self._on: Counter[str] = Counter()
        self._lock, self._sharing = threading.Lock(), threading.Lock()
        self._shared: WeakKeyDictionary[Any, Shared[Any]] = WeakKeyDictionary()
        self.problem: EfftuneError | None = None
        self._ended = threading.Event()
        self._grow()
        self._admitting = threading.Thread(target=self._admit, name="cluster", daemon=True)
        self._admitting.start()

    def are_all_of(self, nodes: Mapping[str, int]) -> bool:
        """Whether they are there, on these nodes, with so many processors or more."""
        own = self.nodes or {}
        are_there = not self.has_ended and own.keys() == nodes.keys()
        return are_there and all(count <= own[node] for node, count in nodes.items())

    @property
    def has_ended(self) -> bool:
        """Whether they have been let go."""
        return self._ended.is_set()

    @property
    def count(self) -> int:
        """The number of workers that have started."""
        return self._on.total()

    @property
    def by_node(self) -> dict[str, int]:
        """The number of workers that have started, by the name of the node, which is there."""
        there = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        with self._lock:
            return {node: count for node, count in self._on.items() if count and node in there}

    @property
    def width(self) -> int:
        """The number of calls at a time that keeps all workers busy: from as many threads."""
        return 2 + self.count + self.count // 2

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
                if self._ended.is_set():
                    raise Lost(_LEFT) from None
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
        with self._lock:
            while self._actors:
                self._ray.kill(self._actors.pop())

    def _next(self) -> "_Handle":
        """A free worker, once there is one."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            if self.problem is not None:
                raise self.problem
            if self._ended.is_set():
                raise Lost(_LEFT)
            with suppress(Empty):
                return self._free.get(timeout=_LOOK_SECONDS)
            if self.costs.workers and self.count:  # they are at work
                until = time.monotonic() + _PATIENCE_SECONDS
            if time.monotonic() > until:
                raise Lost(
                    f"No worker of the Ray cluster was free for {_PATIENCE_SECONDS:.0f} seconds: "
                    "others may use all of its processors, or none is left."
                )

    def _replace(self, worker: "_Handle", error: Exception) -> None:
        with self._lock:
            self.costs.lost += 1
            self._on[worker.node] -= 1
            self._actors.discard(worker.actor)
            if self._ended.is_set():
                return
            self._start(worker.node)
        reason = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"A worker on {worker.address} was lost ({type(error).__name__}: {reason[0][:200]}). "
            "What it had not finished is computed again.",
            EfftuneWarning,
            stacklevel=2,
        )

    def _grow(self) -> None:
        """Ask for workers on processors, or nodes, that have none."""
        count = int(self._ray.cluster_resources().get("CPU", 0))
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        with self._lock:
            starting = [node for _, node in self._starting.values()]
            missing = [""] * (count - self.count - len(starting))
            if self.nodes is not None:
                lacking = alive - {*(+self._on), *starting}
                missing = [node for node in self.nodes if node in lacking]
            for node in missing:
                self._start(node)

    def _start(self, node: str) -> None:
        """Ask for a worker: on a node, if each has one, or wherever a processor is free."""
        if self.nodes is None:
            processors, options = 1, {"num_cpus": 1}
        else:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            place = NodeAffinitySchedulingStrategy(node, soft=False)
            processors, options = self.nodes[node], {"num_cpus": 0, "scheduling_strategy": place}
        actor = self._actor.options(**options).remote()
        self._actors.add(actor)
        self._starting[actor.ready.remote(processors)] = actor, node

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
                        actor, _ = self._starting.pop(reference)
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
            address, node, *theirs = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if "No module named 'efftune" in str(error):
                self.problem = UsageError(
                    f"A machine of the Ray cluster cannot import efftune. Install {versions()[0]} "
                    "on all of them."
                )
            with self._lock:  # lost before it was used; `_grow` asks for another
                self._actors.discard(actor)
            return
        ours = versions()
        if theirs != ours:
            self.problem = UsageError(
                f"The machine {address} of the Ray cluster has {', '.join(theirs)}; this one has "
                f"{', '.join(ours)}. Install the same on all."
            )
            return
        with self._lock:
            self._on[node] += 1
            self.costs.workers = max(self.costs.workers, self.count)
        self._free.put(_Handle(actor, address, node))


@dataclass(frozen=True)
class _Handle:
    """A worker, the address of the machine that it is on, and the name of the node there."""

    actor: Any
    address: str
    node: str
