"""Inference of frozen networks with JAX, on GPUs or, where OpenVINO is not installed, on the CPU.

Pictures are computed in batches of few sizes, so that few programs are compiled; with several GPUs,
each computes a part of every batch. Programs are kept in JAX's persistent cache.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Generic

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from efftune.data.images import Pixels
from efftune.errors import DataError, UsageError
from efftune.model import folding
from efftune.model.engines import engine
from efftune.model.engines.engine import Item, Precision
from efftune.model.engines.saved import SavedClassifier
from efftune.model.folded_layers import Arithmetic

NAME = "jax"
# Per device. Smaller ones are for the last batch, or for few pictures.
_BATCH_SIZES = {"gpu": (1, 16, 256), "cpu": (1, 8)}
_building = Lock()  # of Keras' graphs, which share layers
_RUNNING = 2  # batches that are computed while others are decoded

Outputs = list[Any]  # arrays of JAX
Program = Callable[[Any, Any], Outputs]  # of weights and uint8 pixels (batch, size, size, 3)


def version() -> str:
    """The version of JAX."""
    return metadata.version("jax")


def fastest_precision() -> Precision:
    """The fastest precision of the device: bf16 on GPUs."""
    return "bf16" if jax.default_backend() == "gpu" else "f32"


def compiler_options(model: keras.Model) -> dict[str, bool | int]:
    """How XLA is to compile the programs of a network from `folding`.

    On GPUs, it would write and time dozens of kernels for each matrix product, which takes minutes
    for a network; NVIDIA's library chooses one at once, though not for convolutions.
    """
    if jax.default_backend() != "gpu":
        return {}
    level = 1 if folding.has_backend_convolutions(model) else 0
    return {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": level}


def network(
    build: Callable[[], keras.Model],
    *,
    size: int,
    precision: Precision = "f32",
    dtypes: Sequence[str] = ("float32",),
    mirrored: bool = False,
    cached: Path | None = None,  # noqa: ARG001  (JAX caches programs itself)
) -> "Network":
    """See `Engine`."""

    def load() -> tuple[Any, Any]:
        model = build()
        part = folding.folded(model, model.input, model.outputs, _arithmetic(precision))

        def program(weights: Any, pixels: Any) -> Outputs:
            outputs = _outputs(part, weights, pixels)
            if mirrored:
                others = _outputs(part, weights, pixels[:, :, ::-1])
                outputs = [(a + b) * 0.5 for a, b in zip(outputs, others, strict=True)]
            return [each.astype(dtype) for each, dtype in zip(outputs, dtypes, strict=True)]

        return _compiled(program, part), _weights(part)

    return Network(load, size=size)


def classifier(
    folder: Path, *, size: int, has_features: bool, precision: Precision = "f32"
) -> "Network":
    """See `Engine`."""

    def load() -> tuple[Any, Any]:
        (saved, part), run = _saved(folder, precision)

        def program(weights: Any, pixels: Any) -> Outputs:
            features, _activations = run(weights, pixels)
            probabilities = _probabilities(saved, features)
            return [probabilities, features] if has_features else [probabilities]

        return _compiled(program, part), _weights(part)

    return Network(load, size=size)


def explainer(folder: Path, *, size: int) -> tuple["Network", NDArray[np.float32]]:
    """See `Engine`."""
    (saved, part), run = _saved(folder)

    def program(weights: Any, pixels: Any) -> Outputs:
        features, activations = run(weights, pixels)
        channels_first = [each.transpose(0, 3, 1, 2) for each in activations]
        return [_probabilities(saved, features), *channels_first]

    kernel = saved.kernel - saved.kernel.mean(axis=1, keepdims=True)
    loaded = _compiled(program, part), _weights(part)
    return Network(lambda: loaded, size=size), kernel


def _compiled(program: Program, part: keras.Model) -> Any:
    return jax.jit(program, compiler_options=compiler_options(part))


def _saved(
    folder: Path, precision: Precision = "f32"
) -> tuple[tuple[SavedClassifier, keras.Model], Callable[[Any, Any], tuple[Any, Outputs]]]:
    """A saved classifier and its network; a function from weights and pixels to its outputs.

    These are features and activations.
    """
    saved = SavedClassifier.load(folder)
    backbone = saved.backbone
    ends = [backbone.output, *_pooled(backbone)]
    part = folding.folded(backbone, backbone.input, ends, _arithmetic(precision))

    def run(weights: Any, pixels: Any) -> tuple[Any, Outputs]:
        features, *activations = _outputs(part, weights, pixels)
        if saved.mirrored:
            other, *mirrored = _outputs(part, weights, pixels[:, :, ::-1])
            features = (features + other) * 0.5
            pairs = zip(activations, mirrored, strict=True)
            activations = [(one + each[:, :, ::-1]) * 0.5 for one, each in pairs]
        return features, activations

    return (saved, part), run


def _probabilities(saved: SavedClassifier, features: Any) -> Any:
    logits = jnp.matmul(features, saved.kernel, precision="highest") + saved.bias
    return jax.nn.softmax(logits)


def _arithmetic(precision: Precision) -> Arithmetic:
    return folding.arithmetic("gpu" if jax.default_backend() == "gpu" else "cpu", precision)


def _pooled(backbone: keras.Model) -> list[keras.KerasTensor]:
    """The activations whose means are the features: of all stages that they come from, in order."""
    makers = {id(layer.output): layer for layer in backbone.layers}
    last = makers[id(backbone.output)]
    means = last.input if isinstance(last, keras.layers.Concatenate) else [last.output]
    return [makers[id(each)].input for each in means]


def _weights(model: keras.Model) -> tuple[list[Any], list[Any]]:
    parts = (model.trainable_variables, model.non_trainable_variables)
    trained, others = ([variable.value for variable in part] for part in parts)
    return trained, others


def _outputs(model: keras.Model, weights: Any, pixels: Any) -> Outputs:
    """A model's outputs; float32 is computed exactly, which GPUs do only if told so."""
    with jax.default_matmul_precision("highest"):
        outputs, _ = model.stateless_call(*weights, pixels.astype(jnp.float32), training=False)
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


class Network:
    """A network for this machine's GPUs or CPU, compiled for a batch size when that is needed.

    Attributes:
        size: side of the input square, in pixels.
        batch_sizes: pictures per call, ascending; larger ones that do not fit into the device's
            memory are given up.
    """

    can_be_sent = False

    def __init__(self, load: Callable[[], tuple[Any, Any]], *, size: int):
        """Describe a network.

        Args:
            load: returns a function of weights and uint8 pixels (batch, size, size, 3), as
                `jax.jit` makes it, and the weights.
            size: side of the input square, in pixels.
        """
        self.size = size
        self._load = load
        self._lock = Lock()
        self._process = os.getpid()
        self._loaded: tuple[Any, Any] | None = None
        self._compiled: dict[int, Any] = {}
        devices = jax.local_devices()
        spec: Any = PartitionSpec
        mesh = Mesh(np.array(devices), ("batch",), axis_types=(AxisType.Auto,))
        self._batch = NamedSharding(mesh, spec("batch"))
        self._everywhere = NamedSharding(mesh, spec())
        sizes = _BATCH_SIZES.get(jax.default_backend(), _BATCH_SIZES["cpu"])
        self.batch_sizes = [len(devices) * each for each in sizes]

    def run(
        self,
        items: Iterable[Item],
        load: Callable[[Item], Pixels | None],
        deliver: Callable[[Item, int, list[Any]], None],
        *,
        views: int = 1,
    ) -> None:
        """See `engine.Network`."""
        batches = _Batches(self, deliver)
        with closing(engine.loaded(items, load, engine.window(views, self.size))) as pairs:
            for item, pixels in pairs:
                batches.add(item, pixels)
        batches.finish()

    def prepare(self) -> None:
        """See `engine.Network`: a full batch is prepared."""

        def compile_full_batch() -> None:
            with suppress(Exception):  # which `run` will meet, too
                self._program(self.batch_sizes[-1])

        Thread(target=compile_full_batch).start()

    def start(self, pixels: Pixels) -> Outputs:
        """Start to compute the outputs of a batch of one of `batch_sizes`."""
        program, weights = self._program(len(pixels))
        outputs: Outputs = program(weights, jax.device_put(pixels, self._batch))
        return outputs

    def _program(self, batch_size: int) -> tuple[Any, Any]:
        """The compiled program for a batch size, and the weights."""
        if self._process != os.getpid():
            raise UsageError(
                "JAX does not work in a forked process: start workers with multiprocessing's spawn "
                "method, or load the classifier in the worker."
            )
        with self._lock:
            if self._loaded is None:
                with _building:
                    program, weights = self._load()
                self._loaded = program, jax.device_put(weights, self._everywhere)
            program, weights = self._loaded
            if batch_size not in self._compiled:
                shape = (batch_size, self.size, self.size, 3)
                pixels = jax.ShapeDtypeStruct(shape, np.uint8, sharding=self._batch)
                self._compiled[batch_size] = program.lower(weights, pixels).compile()
            return self._compiled[batch_size], weights

    def compute(self, pixels: Pixels) -> list[NDArray[Any]]:
        """The outputs of at most a full batch, in as many parts as the device's memory demands.

        Raises:
            DataError: not even the smallest batch fits into the device's memory.
        """
        largest = self.batch_sizes[-1]
        parts = [pixels[i : i + largest] for i in range(0, len(pixels), largest)]
        try:
            results = [self._padded(part) for part in parts]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            with self._lock:
                if largest == self.batch_sizes[-1] and len(self.batch_sizes) > 1:
                    self._halve()
            if largest == self.batch_sizes[-1]:
                raise DataError(
                    "The GPU has too little free memory for a single picture. Close other programs "
                    "that use it (nvidia-smi lists them), or use --device cpu."
                ) from None
            return self.compute(pixels)
        return [np.concatenate(each) for each in zip(*results, strict=True)]

    def _halve(self) -> None:
        """Give up the largest batch size for half of it, or for the one below."""
        half, below = self.batch_sizes.pop() // 2, self.batch_sizes[-1]
        if half > below and half % below == 0:
            self.batch_sizes.append(half)

    def _padded(self, pixels: Pixels) -> list[NDArray[Any]]:
        outputs = self.start(self.full(pixels))
        return [np.asarray(each)[: len(pixels)] for each in outputs]

    def full(self, pixels: Pixels) -> Pixels:
        """A batch padded to one of `batch_sizes` with its last picture."""
        # A larger program that is there already takes milliseconds more, another one to compile.
        sizes = [each for each in self.batch_sizes if each >= len(pixels)]
        compiled = [each for each in sizes if each in self._compiled]
        size = next(iter(compiled or sizes), len(pixels))
        missing = size - len(pixels)
        return np.concatenate([pixels, np.repeat(pixels[-1:], missing, 0)]) if missing else pixels


class _Batches(Generic[Item]):
    """Batches that are filled, computed and delivered in order."""

    def __init__(self, network: Network, deliver: Callable[[Item, int, list[Any]], None]):
        self.network = network
        self.deliver = deliver
        self.pending: list[tuple[Item, int, Pixels]] = []
        self.running: deque[tuple[list[tuple[Item, int]], Pixels, Outputs | None]] = deque()

    def add(self, item: Item, pixels: Pixels | None) -> None:
        for number, view in enumerate(() if pixels is None else pixels):
            self.pending.append((item, number, view))
            if len(self.pending) >= self.network.batch_sizes[-1]:
                self.start()

    def start(self) -> None:
        """Start a batch with the pending views."""
        pixels = np.stack([view for _, _, view in self.pending])
        owners = [(item, number) for item, number, _ in self.pending]
        try:
            outputs: Outputs | None = self.network.start(self.network.full(pixels))
        except jax.errors.JaxRuntimeError:  # perhaps out of memory: `compute` finds out
            outputs = None
        self.running.append((owners, pixels, outputs))
        self.pending = []
        if len(self.running) > _RUNNING:
            self.deliver_oldest()

    def deliver_oldest(self) -> None:
        owners, pixels, outputs = self.running.popleft()
        try:
            values = None if outputs is None else [np.asarray(each) for each in outputs]
        except jax.errors.JaxRuntimeError:
            values = None
        values = self.network.compute(pixels) if values is None else values
        for i, (item, number) in enumerate(owners):
            self.deliver(item, number, [each[i] for each in values])

    def finish(self) -> None:
        """Start a batch with what is pending, and deliver all that are under way."""
        if self.pending:
            self.start()
        while self.running:
            self.deliver_oldest()
