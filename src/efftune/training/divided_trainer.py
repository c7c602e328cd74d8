"""Training steps whose pictures are divided among the workers of a cluster, by TensorFlow.

Each worker computes the gradients of its share with the same weights; their sum is that of the
whole batch, but for random numbers (dropout), which each share draws for itself. Workers keep
nothing between steps, so that one that is lost costs its share of one.

Where BatchNorm is trained, each share is normalized by its own mean and variance, and their means
become the moving averages, as in other libraries' data-parallel training.

Source: synchronous training as in Chen et al., "Revisiting Distributed Synchronous SGD" (2016),
https://arxiv.org/abs/1604.00981, without backup workers.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.system.worker import Shared
from efftune.system.workers import Workers
from efftune.training.batches import StageData
from efftune.training.trainer import KerasTrainer

_LEAST = 8  # pictures of a share: fewer take hardly less time
_LEAST_NORMALIZED = 16  # where each share is normalized by itself

Arrays = list[NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Program:
    """A graph that computes gradients, for processes that have no Keras model.

    Attributes:
        graph: serialized.
        inputs: names of its inputs: trained weights, other variables, pictures, targets, weights.
        outputs: names of its outputs: loss, number of correct answers, gradients, and what becomes
            of random states.
        fixed: values of the other variables, by position among them.
        moving: positions of random states and moving averages, which a step changes.
        dtype: of the pictures, which may be sent as bytes.
        digest: of the graph.
    """

    graph: bytes
    inputs: list[str]
    outputs: list[str]
    fixed: dict[int, NDArray[Any]]
    moving: list[int]
    dtype: str
    digest: str


class DividedTrainer(KerasTrainer):
    """Runs each step by workers, and inference here."""

    def __init__(
        self, training_model: Any, inference_model: Any, data: StageData, workers: Workers
    ):
        """See `trainer_for`.

        Args:
            training_model: its optimizer updates the weights.
            inference_model: is trained, on pictures that were blended before.
            data: as there.
            workers: that compute gradients.
        """
        super().__init__(training_model, inference_model, data)
        self._workers, self._most_shares = workers, max(1, workers.count)
        self._program = _program(inference_model, training_model.loss)
        others = inference_model.non_trainable_variables
        self._averages = {i for i in self._program.moving if "float" in others[i].dtype}
        self._least = _LEAST_NORMALIZED if self._averages else _LEAST
        self._shared = workers.share_once(self._program)
        self._apply = _updating(training_model.optimizer, inference_model.trainable_variables)

    def _step(
        self,
        inputs: NDArray[Any],
        blend: tuple[NDArray[Any], NDArray[Any]] | None,
        targets: NDArray[np.float32],
        weights: NDArray[np.float32],
    ) -> tuple[float, float]:
        if blend is not None:
            partners, mask = blend
            inputs = np.asarray(inputs, np.float32)
            inputs = mask * inputs + (1 - mask) * inputs[partners]
        model, count = self._inference_model, len(targets)
        values = self._workers.share([np.asarray(each) for each in model.trainable_variables])
        others = model.non_trainable_variables
        moving = {i: np.asarray(others[i]) for i in self._program.moving}
        shares = max(1, min(self._most_shares, count // self._least))
        parts = np.array_split(np.arange(count), shares)

        def computed(job: tuple[int, NDArray[np.int64]]) -> tuple[float, float, Arrays, Arrays]:
            number, part = job
            given = inputs[part], targets[part], weights[part]
            before = [  # other random numbers for each share
                value if i in self._averages else value + np.asarray(number, value.dtype)
                for i, value in moving.items()
            ]
            return self._workers.call(_gradients, self._shared, values, before, given)

        found = list(self._workers.map(computed, enumerate(parts)))
        gradients = [
            np.divide(_sum(x), count, dtype=x[0].dtype)
            for x in zip(*(x[2] for x in found), strict=True)
        ]
        self._apply(gradients)
        sizes = [len(part) for part in parts]
        for place, i in enumerate(moving):
            after = [share[3][place] for share in found]
            others[i].assign(np.average(after, 0, sizes) if i in self._averages else after[0])
        return sum(x[0] for x in found) / count, sum(x[1] for x in found) / count


def _sum(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return functools.reduce(np.add, arrays)


def _updating(optimizer: Any, variables: Sequence[Any]) -> Callable[[Arrays], Any]:
    """A function of gradients that updates the variables."""
    import tensorflow as tf

    signature = [tf.TensorSpec(each.shape, each.dtype) for each in variables]

    @tf.function(input_signature=[signature])  # type: ignore[untyped-decorator]
    def update(gradients: Any) -> None:
        optimizer.apply(gradients, variables)

    return lambda arrays: update([tf.constant(each) for each in arrays])


def _step_of(model: Any, loss: Any, moving: list[int]) -> Callable[..., Any]:
    """A share of a step, as a function of tensors; tracing it notes what it changes in `moving`."""
    import tensorflow as tf

    def step(values: Any, rest: Any, inputs: Any, targets: Any, weights: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(values)
            logits, after = model.stateless_call(values, rest, inputs, training=True)
            losses = loss.call(targets, tf.cast(logits, tf.float32)) * weights
            total = tf.reduce_sum(losses)
        pairs = enumerate(zip(rest, after, strict=True))
        moving[:] = [i for i, (old, new) in pairs if new is not old]
        hits = tf.equal(tf.argmax(logits, 1), tf.argmax(targets, 1))
        correct = tf.reduce_sum(tf.cast(hits, tf.float32))
        gradients = tape.gradient(total, values, unconnected_gradients="zero")
        return [total, correct, *gradients, *(tf.identity(after[i]) for i in moving)]

    return step


def _program(model: Any, loss: Any) -> Program:
    """The graph of a share of a step."""
    import tensorflow as tf

    trained, others = model.trainable_variables, model.non_trainable_variables
    moving = list[int]()
    shape, classes = model.input.shape[1:], model.output.shape[-1]
    dtypes = [tf.TensorSpec(each.shape, each.dtype) for each in others]
    concrete = tf.function(_step_of(model, loss, moving)).get_concrete_function(
        [tf.TensorSpec(each.shape, each.dtype) for each in trained],
        dtypes,
        tf.TensorSpec((None, *shape), model.input.dtype),
        tf.TensorSpec((None, classes), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    )
    if concrete.captured_inputs:
        raise AssertionError("a training step depends on more than is sent")
    graph = concrete.graph.as_graph_def().SerializeToString()
    return Program(
        graph,
        [each.name for each in concrete.inputs],
        [each.name for each in concrete.outputs],
        {i: np.asarray(value) for i, value in enumerate(others) if i not in moving},
        moving,
        model.input.dtype,
        hashlib.sha256(graph).hexdigest(),
    )


def _gradients(
    program: Shared[Program], values: Shared[Arrays], moving: Arrays, given: tuple[Any, ...]
) -> tuple[float, float, Arrays, Arrays]:
    """In a worker: summed loss, correct answers, gradients of a share; changed variables."""
    import tensorflow as tf

    found, trained = program.value, values.value
    rest = dict(found.fixed) | dict(zip(found.moving, moving, strict=True))
    pictures, *others = given
    others.insert(0, np.asarray(pictures, found.dtype))
    arrays = itertools.chain(trained, (rest[i] for i in range(len(rest))), others)
    outputs = _function(found.digest, program)(*map(tf.constant, arrays))
    total, correct, *changes = (each.numpy() for each in outputs)
    return float(total), float(correct), changes[: len(trained)], changes[len(trained) :]


_functions: dict[str, Any] = {}  # of a worker: the last program


def _function(digest: str, program: Shared[Program]) -> Any:
    if digest not in _functions:
        import tensorflow as tf

        graph = tf.compat.v1.GraphDef.FromString(program.value.graph)
        wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
        get = wrapped.graph.get_tensor_by_name
        _functions.clear()
        _functions[digest] = wrapped.prune(
            [get(name) for name in program.value.inputs],
            [get(name) for name in program.value.outputs],
        )
    return _functions[digest]
