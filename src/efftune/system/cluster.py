"""The cluster that helps this process: joined for a block of work, by Ray."""

import importlib
import importlib.util
import logging
import os
import re
import socket
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

from efftune.errors import EfftuneError, EfftuneWarning, UsageError
from efftune.system import packages
from efftune.system.worker import Shared
from efftune.system.workers import Costs, Workers

_AUTO = "auto"
_LOCAL = re.compile(r"local:([1-9]\d{0,3})")
_ADDRESS = re.compile(r"(?!local:)(?:ray://)?([^:/]+|\[[0-9a-f:]+\]):(\d{1,5})")
_SECONDS = 10.0  # for an answer
_LONGEST_SECONDS = 60.0  # for a connection
_STORE_BYTES = 512 * 2**20  # what waits to be sent or taken, on this machine
# Ports on this machine are for this machine only; Ray has this for other systems than Linux.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}

Value = TypeVar("Value")
Job = TypeVar("Job")
Result = TypeVar("Result")

_TOKEN = "If it asks for a token, copy it to ~/.ray/auth_token, and set RAY_AUTH_MODE=token."  # noqa: S105
_joined: list["_Connection"] = []


def current() -> Workers | None:
    """The workers that help this process; None until one has started, if there is a cluster.

    Raises:
        UsageError: it cannot be used.
    """
    return _joined[-1].workers if _joined else None


def trainers() -> Workers | None:
    """Workers that have all processors of their nodes that help; None if there is only one node.

    They do what takes long and cannot be divided, while the others rest. They must not be at work
    when this is called.
    """
    return _joined[-1].trainers() if _joined else None


@contextmanager
def cluster(where: str) -> Iterator[None]:
    """Let the workers of a cluster help with whatever is called in the block.

    They decode pictures and compute frozen networks, on their processors; the results are the same.

    Args:
        where: `local:N`, N workers on this machine, which help once they have started;
            `ray://HOST:PORT`, a Ray cluster's client server; `HOST:PORT`, the head of a Ray cluster
            that this machine is part of; or `auto`, the cluster that the environment variable
            RAY_ADDRESS names, and without it none.

    Raises:
        UsageError: there is no such cluster, or Ray is not installed.
    """
    address = _of_environment() if where == _AUTO else where
    if not address:
        yield
        return
    if _joined:
        raise UsageError("This process has joined a cluster already. Leave that first.")
    connection = _Connection(address)
    _joined.append(connection)
    try:
        yield
    finally:
        _joined.remove(connection)
        connection.end()


def _of_environment() -> str:
    """The cluster that RAY_ADDRESS names, if this process can join it."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        return ""
    if importlib.util.find_spec("ray") is not None and _ADDRESS.fullmatch(address):
        return address
    why = "Ray is not installed" if _ADDRESS.fullmatch(address) else "it is no HOST:PORT"
    warnings.warn(
        f"RAY_ADDRESS is {address}, but {why}: efftune computes on this machine alone.",
        EfftuneWarning,
        stacklevel=4,
    )
    return ""


def is_starting() -> bool:
    """Whether workers are to help and none has started yet: others may use all processors."""
    return bool(_joined) and _joined[-1].workers is None


class _Connection:
    """A connection of this process to a cluster.

    Attributes:
        costs: what the cluster has computed.
    """

    def __init__(self, address: str):
        """Connect to a cluster; one on this machine begins to start.

        Raises:
            UsageError: there is no such cluster, or Ray is not installed.
        """
        match = _LOCAL.fullmatch(address)
        if match is None:
            _require_answer(address)
        if importlib.util.find_spec("ray") is None:
            raise UsageError(f"A cluster needs Ray. Run: {packages.install('efftune[ray]')}")
        self._workers: Workers | None = None
        self._trainers: Workers | None = None
        self._problem: EfftuneError | None = None
        self._is_known, self._ended = threading.Event(), threading.Event()
        arguments = address, int(match[1]) if match else 0
        self._thread = threading.Thread(target=self._serve, args=arguments, daemon=True)
        self._thread.start()
        if not match:
            if not self._is_known.wait(_LONGEST_SECONDS):
                self._ended.set()
                raise UsageError(
                    f"What answers at {address} is no Ray cluster, or is overloaded. {_TOKEN}"
                )
            self.workers  # noqa: B018  (raises what is wrong)

    @property
    def workers(self) -> Workers | None:
        """The workers, once there are some."""
        problem = self._problem or (self._workers and self._workers.problem)
        if problem:
            raise problem
        return self._workers if self._workers and self._workers.count else None

    @property
    def costs(self) -> Costs:
        """What the cluster has computed so far."""
        return self._workers.costs if self._workers else Costs()

    def begin_run(self) -> None:
        """See the function."""
        if self._workers is not None:
            self._workers.costs = Costs(self._workers.count)
            if self._trainers is not None:
                self._trainers.costs = self._workers.costs

    def trainers(self) -> Workers | None:
        """See the function. They are others once there are other nodes, or more processors."""
        workers = self.workers
        nodes = workers.by_node if workers else {}
        if self._trainers is not None and not self._trainers.are_all_of(nodes):
            self._trainers.end()
            self._trainers = None
        if self._trainers is None and workers is not None and len(nodes) > 1:
            self._trainers = Workers(nodes, workers.costs)
        return self._trainers

    def _serve(self, address: str, count: int) -> None:
        """Be connected until the end. What Ray starts ends with the thread that started it."""
        is_ours = False
        try:
            is_ours = _connect(address, count)
            self._workers = Workers()
            self._is_known.set()
            self._ended.wait()
            for each in filter(None, (self._trainers, self._workers)):
                with suppress(Exception):  # such as that the connection is lost
                    each.end()
        except Exception as error:  # noqa: BLE001  (Ray raises many kinds)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            advice = "" if count else f" {_TOKEN}"
            self._problem = UsageError(
                f"No Ray cluster can be used at {address}: {reason.rstrip('.')}.{advice}"
            )
        finally:
            if is_ours:
                import ray

                ray.shutdown()
            self._is_known.set()

    def end(self) -> None:
        """Let the workers go, and disconnect if nobody was connected before."""
        self._ended.set()
        self._thread.join()


def _require_answer(address: str) -> None:
    """Check that something answers at an address, for which Ray would wait for minutes.

    Raises:
        UsageError: nothing does, or it is no address.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(
            f"{address} is no cluster. Use local:N, N workers on this machine; ray://HOST:PORT; or "
            "HOST:PORT."
        )
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), _SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"No Ray cluster answers at {address}: {reason}.") from None


def _connect(address: str, count: int) -> bool:
    """Connect this process to a cluster, or start one with so many workers.

    Returns:
        Whether it was not connected before.
    """
    with _on_loopback() if count else nullcontext():
        import ray

        if ray.is_initialized():
            return False
        choices: dict[str, Any] = {"address": address}
        if count:
            choices = {"address": "local", "num_cpus": count, "include_dashboard": False}
            choices["object_store_memory"] = _STORE_BYTES
        ray.init(**choices, logging_level=logging.CRITICAL, log_to_driver=False)
    internals: Any = importlib.import_module("ray._private.worker")
    if hasattr(internals, "_worker_logs_enabled"):  # Ray's own debugger sets it, too
        internals._worker_logs_enabled = False  # or Ray prints to stdout what we say ourselves
    return True


@contextmanager
def _on_loopback() -> Iterator[None]:
    """What starts in the block listens to this machine only."""
    constants: Any = importlib.import_module("ray._private.ray_constants")
    enabled, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False  # here
    # Ray leaves the mode set, and would show later clusters a token that they do not want.
    before = {name: os.environ.get(name) for name in (*LOOPBACK, "RAY_AUTH_MODE")}
    os.environ.update(LOOPBACK)  # and in the processes that start
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = enabled
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def each(
    function: Callable[[Value, Job], Result], value: Value, jobs: Iterable[Job]
) -> Generator[tuple[Job, Result], None, None]:
    """Each job, in order, with the result of a function of a value and it; by workers, if possible.

    Args:
        function: one that a module of efftune defines.
        value: what all jobs need; it is sent once.
        jobs: what differs.
    """
    workers = current()
    if workers is None:
        yield from ((job, function(value, job)) for job in jobs)
        return
    shared = workers.share(value)

    def computed(job: Job) -> tuple[Job, Result]:
        return job, workers.call(_with_value, function, shared, job)

    yield from workers.map(computed, jobs)


def _with_value(
    function: Callable[[Value, Job], Result], shared: Shared[Value], job: Job
) -> Result:
    """In a worker: the function's result."""
    return function(shared.value, job)


def costs() -> Costs | None:
    """What the cluster has computed for the present run; None if this process has joined none."""
    return _joined[-1].costs if _joined else None


def begin_run() -> None:
    """Count what the cluster computes from now on."""
    if _joined:
        _joined[-1].begin_run()
