"""Frozen networks run over many items: by this process, or by the workers of a cluster."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.errors import BadImage
from efftune.model.engines.engine import Item, Network
from efftune.system import cluster, helpers
from efftune.system.worker import Shared
from efftune.system.workers import Workers

_TOGETHER = 32  # views that a worker computes before it answers
_UNTIL_STARTED = 256  # items between two looks at whether workers have started
_Deliver = Callable[[Item, int, list[Any]], None]


@dataclass(frozen=True)
class Loading(Generic[Item]):
    """How items become pixels; called from several threads.

    Attributes:
        read: what `decode` is called with, of an item; None to skip it. May raise BadImage. In
            this process.
        decode: returns pixels, uint8 (views, size, size, 3), or raises BadImage. Defined by a
            module, so that other processes can call it, with what can be pickled.
        failed: told an item that cannot be decoded, and the reason.
        call: what calls `decode`; see `helpers.caller`.
    """

    read: Callable[[Item], tuple[Any, ...] | None]
    decode: Callable[..., Pixels]
    failed: Callable[[Item, str], None]
    call: helpers.Call = helpers.called

    def arguments(self, item: Item) -> tuple[Any, ...] | None:
        """What `decode` is called with; None if the item is skipped or cannot be read."""
        try:
            return self.read(item)
        except BadImage as error:
            self.failed(item, error.reason)
            return None

    def pixels(self, item: Item) -> Pixels | None:
        """An item's pixels; None if it is skipped, or cannot be read or decoded."""
        arguments = self.arguments(item)
        if arguments is None:
            return None
        try:
            found: Pixels = self.call(self.decode, *arguments)
        except BadImage as error:
            self.failed(item, error.reason)
            return None
        return found


def run(
    network: Network,
    items: Iterable[Item],
    loading: Loading[Item],
    deliver: _Deliver[Item],
    *,
    views: int = 1,
) -> None:
    """Run a network on many items; see `Network.run`.

    Args:
        network: computed by the cluster that this process has joined, if it can be sent there.
        items: the items.
        loading: how they become pixels.
        deliver: see `Network.run`.
        views: number of views of each item.
    """
    left = iter(items)
    while network.can_be_sent and cluster.is_starting():
        some = list(itertools.islice(left, _UNTIL_STARTED))
        if not some:
            return
        network.run(some, loading.pixels, deliver, views=views)
    workers = cluster.current() if network.can_be_sent else None
    if workers is None:
        network.run(left, loading.pixels, deliver, views=views)
    else:
        _by_workers(workers, network, left, loading, deliver, views)


def _by_workers(
    workers: Workers,
    network: Network,
    items: Iterable[Item],
    loading: Loading[Item],
    deliver: _Deliver[Item],
    views: int,
) -> None:
    def computed(some: Sequence[Item]) -> tuple[list[Item], list[str], list[NDArray[Any]]]:
        read = [(item, loading.arguments(item)) for item in some]
        asked = [(item, arguments) for item, arguments in read if arguments is not None]
        if not asked:
            return [], [], []
        arguments = [each for _, each in asked]
        shared = workers.share_once(network)  # made only now: it may never be needed
        found = workers.call(_computed, shared, loading.decode, arguments, views)
        return [item for item, _ in asked], *found

    for some, reasons, outputs in workers.map(computed, _batches(items, _TOGETHER // views or 1)):
        for i, (item, reason) in enumerate(zip(some, reasons, strict=True)):
            if reason:
                loading.failed(item, reason)
            for view in range(0 if reason else views):
                deliver(item, view, [output[i, view] for output in outputs])


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while some := list(itertools.islice(iterator, size)):
        yield some


def _computed(
    shared: Shared[Network],
    decode: Callable[..., Pixels],
    arguments: Sequence[tuple[Any, ...]],
    views: int,
) -> tuple[list[str], list[NDArray[Any]]]:
    """In a worker: of each item why it cannot be decoded; and outputs (items, views, …)."""
    network = shared.value
    reasons, outputs = [""] * len(arguments), list[NDArray[Any]]()

    def load(i: int) -> Pixels | None:
        try:
            return decode(*arguments[i])
        except BadImage as error:
            reasons[i] = error.reason
            return None

    def deliver(i: int, view: int, values: list[NDArray[Any]]) -> None:
        if not outputs:
            outputs.extend(np.zeros((len(arguments), views, *x.shape), x.dtype) for x in values)
        for output, value in zip(outputs, values, strict=True):
            output[i, view] = value

    network.run(range(len(arguments)), load, deliver, views=views)
    return reasons, outputs
