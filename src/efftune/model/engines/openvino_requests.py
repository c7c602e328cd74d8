"""Inference requests of OpenVINO, of which several are under way."""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic

import numpy as np
import openvino as ov

from efftune.data.images import Pixels
from efftune.model.engines.engine import Item
from efftune.system.machine import usable_processors


class Requests(Generic[Item]):
    """Inference requests under way; the network is compiled when the first one starts.

    OpenVINO computes them in its own threads. All calls of it are made from the caller's thread:
    `AsyncInferQueue` calls back from others, and holds its callback for good, so that each run
    would leak its compiled network.
    """

    def __init__(
        self,
        batch_size: int,
        idle_request: Callable[[], ov.InferRequest],
        give_back: Callable[[ov.InferRequest], None],
        deliver: Callable[[Item, int, list[Any]], None],
    ):
        """Begin without requests.

        Args:
            batch_size: views of each request.
            idle_request: returns one that is not under way.
            give_back: is given those that are not under way any more.
            deliver: see `engine.Network`.
        """
        self.batch_size = batch_size
        self.idle_request = idle_request
        self.give_back = give_back
        self.deliver = deliver
        # Twice as many requests as streams: while one is delivered, others are computed.
        self.count = 2 * usable_processors()
        self.running: deque[tuple[ov.InferRequest, list[tuple[Item, int, Pixels]]]] = deque()
        self.pending: list[tuple[Item, int, Pixels]] = []

    def add(self, item: Item, pixels: Pixels | None) -> None:
        """Add the views of an item; a request starts when there are enough of them."""
        if pixels is None:
            return
        for number, view in enumerate(pixels):
            self.pending.append((item, number, view))
            if len(self.pending) == self.batch_size:
                self.start()

    def start(self) -> None:
        """Start a request with the pending views, padded to a full batch with the last one."""
        views = [view for _, _, view in self.pending]
        views += views[-1:] * (self.batch_size - len(views))
        if len(self.running) == self.count:
            self.deliver_oldest()
        request = self.idle_request()
        request.start_async({0: np.stack(views)})
        self.running.append((request, self.pending))
        self.pending = []

    def deliver_oldest(self) -> None:
        """Wait for the request that was started first, and deliver its outputs."""
        request, views = self.running[0]
        request.wait()
        outputs = [tensor.data for tensor in request.output_tensors]
        for i, (item, number, _) in enumerate(views):
            self.deliver(item, number, [output[i] for output in outputs])
        self.running.popleft()
        self.give_back(request)

    def finish(self) -> None:
        """Start a request with what is pending, and deliver all that are under way."""
        if self.pending:
            self.start()
        while self.running:
            self.deliver_oldest()

    def release(self) -> None:
        """Wait for what is still under way after an exception, without delivering it."""
        for request, _ in self.running:
            request.wait()
            self.give_back(request)
        self.running.clear()
