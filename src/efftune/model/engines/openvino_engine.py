"""Fast forward passes on the CPU: OpenVINO networks, fed by decoding threads.

Needs no training framework.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops
from openvino.preprocess import PrePostProcessor

from efftune.data.images import Pixels
from efftune.system.machine import usable_processors

Precision = Literal["f32", "bf16"]
Item = TypeVar("Item")

_TYPES = {"float32": ov.Type.f32, "float16": ov.Type.f16, "bfloat16": ov.Type.bf16}
_BATCH_SIZES: dict[Precision, int] = {"bf16": 4, "f32": 1}  # measured; larger ones lose
WINDOW_BYTES = 256 * 2**20  # decoded pictures waiting for the network, at most


def fastest_precision() -> Precision:
    """The precision in which this machine's CPU computes fastest: bf16 where it has it."""
    return "bf16" if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def read(path: Path) -> ov.Model:
    """Read an OpenVINO model, weights and all: its files may change or go afterwards."""
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})
    return core.read_model(path)


def write(model: ov.Model, path: Path) -> None:
    """Write a model as `path` (.xml) and its weights, in float32, beside it (.bin)."""
    ov.save_model(model, path, compress_to_fp16=False)


def with_head(
    backbone: ov.Model, kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> ov.Model:
    """The backbone carried on to probabilities, as `backbone.classifier` does for Keras.

    Args:
        backbone: from `conversion.convert`, with features (batch, features) as its output.
        kernel: shape (features, classes).
        bias: shape (classes,).

    Returns:
        A model with two outputs: `probabilities`, then `features`.
    """
    copy = backbone.clone()
    features = copy.output(0).get_node().input_value(0)
    features.tensor.set_names({"features"})
    logits = ops.add(ops.matmul(features, kernel, False, False), bias[None])
    probabilities = ops.softmax(logits, 1)
    probabilities.output(0).tensor.set_names({"probabilities"})
    name = backbone.get_friendly_name()
    return ov.Model([probabilities, ops.result(features)], copy.get_parameters(), name)


class Network:
    """An OpenVINO model compiled for this machine's CPU, taking uint8 pixels.

    The model is made and compiled when the first picture is there to be run, while threads go on
    decoding the next ones: a run that finds everything on disk never needs it.

    Attributes:
        size: side of the input square, in pixels.
        precision: in which it computes; weights are float32 either way.
        batch_size: views run in one request.
    """

    def __init__(
        self,
        load_model: Callable[[], ov.Model],
        *,
        size: int,
        precision: Precision = "f32",
        dtypes: Sequence[str] = ("float32",),
    ):
        """Describe a network.

        Args:
            load_model: gives the model, whose input is a batch of float32 squares.
            size: side of the input square, in pixels.
            precision: in which it computes.
            dtypes: of its outputs; bfloat16 comes as uint16.
        """
        self.size = size
        self.precision = precision
        self.batch_size = _BATCH_SIZES[precision]
        self._load_model = load_model
        self._dtypes = dtypes

    @cached_property
    def compiled(self) -> ov.CompiledModel:
        """The compiled model."""
        steps = PrePostProcessor(self._load_model().clone())
        steps.input().tensor().set_element_type(ov.Type.u8)
        for i, dtype in enumerate(self._dtypes):
            steps.output(i).tensor().set_element_type(_TYPES[dtype])
        model = steps.build()
        model.reshape([self.batch_size, self.size, self.size, 3])
        return ov.Core().compile_model(
            model,
            "CPU",
            {"NUM_STREAMS": usable_processors(), "INFERENCE_PRECISION_HINT": self.precision},
        )

    def run(
        self,
        items: Sequence[Item],
        load: Callable[[Item], Pixels | None],
        deliver: Callable[[Item, int, list[Any]], None],
        *,
        views: int = 1,
    ) -> None:
        """Run the network over many items while threads load the next ones.

        Args:
            items: what to run over.
            load: gives an item's pixels, uint8 (views, size, size, 3), or None to leave it out.
                Called in several threads at once.
            deliver: takes an item, the number of its view, and the network's outputs for it, arrays
                without batch axis, valid during the call only. Called in any order and in several
                threads.
            views: how many views an item has at most; bounds what waits in memory.

        Raises:
            Exception: whatever `load` or `deliver` raises; no item is started after that.
        """
        ahead = max(2 * usable_processors(), WINDOW_BYTES // (views * self.size**2 * 3))
        waiting: deque[tuple[Item, Future[Pixels | None]]] = deque()
        pool = ThreadPoolExecutor(usable_processors(), thread_name_prefix="decode")
        requests = _Requests(self, deliver)
        try:
            for item in items:
                waiting.append((item, pool.submit(load, item)))
                if len(waiting) >= ahead:
                    requests.add(*waiting.popleft())
            while waiting:
                requests.add(*waiting.popleft())
            requests.start()
        finally:
            pool.shutdown(cancel_futures=True)
            requests.wait()
        requests.raise_failure()


class _Requests(Generic[Item]):
    """Inference requests under way; the network is compiled when the first one starts."""

    def __init__(self, network: Network, deliver: Callable[[Item, int, list[Any]], None]):
        self.network = network
        self.deliver = deliver
        self.queue: Any = None
        self.failure: Exception | None = None
        self.pending: list[tuple[Item, int, Pixels]] = []

    def add(self, item: Item, loaded: "Future[Pixels | None]") -> None:
        pixels = loaded.result()
        if pixels is None:
            return
        for number, view in enumerate(pixels):
            self.pending.append((item, number, view))
            if len(self.pending) == self.network.batch_size:
                self.start()

    def start(self) -> None:
        """Start a request with what is pending, padded with its last view if need be."""
        if not self.pending:
            return
        if self.queue is None:
            self.queue = ov.AsyncInferQueue(self.network.compiled, 2 * usable_processors())
            self.queue.set_callback(self.on_finished)
        places = [(item, number) for item, number, _ in self.pending]
        views = [view for _, _, view in self.pending]
        views += views[-1:] * (self.network.batch_size - len(views))
        self.pending = []
        self.queue.start_async({0: np.stack(views)}, places)
        self.raise_failure()

    def on_finished(self, request: Any, places: list[tuple[Item, int]]) -> None:
        outputs = [tensor.data for tensor in request.output_tensors]
        # An exception that leaves this callback would end the process: it is raised later.
        try:
            for i, (item, number) in enumerate(places):
                self.deliver(item, number, [output[i] for output in outputs])
        except Exception as error:  # noqa: BLE001
            self.failure = self.failure or error

    def raise_failure(self) -> None:
        if self.failure:
            raise self.failure

    def wait(self) -> None:
        if self.queue is not None:
            self.queue.wait_all()
