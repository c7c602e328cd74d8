"""The steps of a stage as one program, compiled by JAX, that runs many of them at a time."""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from efftune.model.engines.jax_engine import compiler_options
from efftune.training import jax_feed
from efftune.training.batches import Array, Mix, StageData
from efftune.training.jax_feed import Arrays, Feed, ahead, devices_for, everywhere

_CALL_SECONDS = 0.5  # of the steps between two reports of progress
_FASTER = 8  # times as many steps as in the call before, at most

exactly = partial(jax.default_matmul_precision, "highest")  # where in float32

State = tuple[list[jax.Array], list[jax.Array], list[jax.Array]]


class JaxTrainer:
    """Runs many steps per call of a compiled program, which leaves the device to itself meanwhile.

    The number of steps is an argument of the program, so it is compiled once. A step's batch is
    divided among the devices; the network is on each of them.
    """

    def __init__(self, training_model: Any, inference_model: Any, data: StageData):
        """See `trainer_for`."""
        self._labels, self._weights = data.train.labels, data.weights
        self._inference_model = inference_model
        self._variables = (
            training_model.trainable_variables,
            training_model.non_trainable_variables,
            training_model.optimizer.variables,
        )
        self._mesh = devices_for(data.batch_size)
        self._feed = Feed(
            data.train.inputs,
            self._mesh,
            (data.steps, data.batch_size),
            len(data.train.labels) * data.epochs,
        )
        self._program = _training_program(training_model, self._mesh, self._feed.block_steps)
        self._state: State = ([], [], [])
        self._unreported = 0  # steps that were run
        self._call_steps = 0  # before the first call, which compiles and so is no measure
        if data.val is None:
            return
        val_count, devices = len(data.val.labels), self._mesh.size
        # The last batch is filled up with pictures, so that one program serves all.
        val_size = -(-min(data.val_batch_size, val_count) // devices) * devices
        steps = -(-val_count // val_size)
        order = np.arange(steps * val_size).clip(max=val_count - 1)
        self._val_order, self._val_count = order.reshape(steps, val_size), val_count
        self._val_feed = Feed(
            data.val.inputs, self._mesh, (steps, val_size), val_count * (data.epochs + 1)
        )
        self._val_program = _inference_program(
            inference_model, self._mesh, (self._val_feed.block_steps, val_size)
        )

    def train(
        self,
        epoch: int,
        order: NDArray[np.int64],
        mixes: Iterable[Mix] | None = None,
        rates: Array | None = None,
    ) -> Generator[tuple[float, float], None, None]:
        """See `Trainer`."""
        state = self._state = self._placed(self._variables)
        with closing(ahead(self._blocks(epoch, order, mixes, rates))) as blocks:
            for data, arrays, steps in blocks:
                first = 0
                while first < steps:
                    count = min(max(1, self._call_steps), steps - first)
                    began = time.perf_counter()
                    state, outcomes = self._program(state, data, arrays, first, count)
                    found = np.asarray(outcomes)[first : first + count].tolist()  # waits for them
                    self._set_pace(count, time.perf_counter() - began)
                    first += count
                    self._state = state
                    for self._unreported, outcome in zip(range(count)[::-1], found, strict=True):
                        yield outcome
        self.settle()

    def settle(self) -> bool:
        """See `Trainer`."""
        if self._unreported:
            return False
        if not self._state[0]:  # nothing was trained yet
            return True
        for variables, values in zip(self._variables, self._state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value.addressable_data(0))
        return True

    def logits(self) -> Array:
        """See `Trainer`."""
        model, feed = self._inference_model, self._val_feed
        state = self._placed((model.trainable_variables, model.non_trainable_variables))
        starts = range(0, len(self._val_order), feed.block_steps)
        orders = (self._val_order[start : start + feed.block_steps] for start in starts)
        with closing(ahead((*feed.block(order, 0), len(order)) for order in orders)) as blocks:
            found = [
                np.asarray(self._val_program(state, data, arrays, steps))[:steps]
                for data, arrays, steps in blocks
            ]
        logits = np.concatenate(found)
        return logits.reshape(-1, logits.shape[-1])[: self._val_count]

    def _blocks(
        self,
        epoch: int,
        order: NDArray[np.int64],
        mixes: Iterable[Mix] | None,
        rates: Array | None,
    ) -> Iterator[tuple[jax.Array, Arrays, int]]:
        """Inputs, arrays and number of steps of each block of an epoch."""
        feed = self._feed
        mixing = iter(mixes) if mixes is not None else None
        for start in range(0, len(order), feed.block_steps):
            pictures = order[start : start + feed.block_steps]
            data, arrays = feed.block(pictures, epoch)
            labels = self._labels[pictures].astype(np.int32)
            arrays |= feed.placed({"labels": labels, "weights": self._weights[pictures]})
            if rates is not None:
                arrays |= feed.placed({"rate": rates[start : start + len(pictures)]}, axis=None)
            if mixing is not None:
                drawn = [next(mixing) for _ in pictures]
                arrays |= feed.placed({"partners": np.array([mix.partners for mix in drawn])})
                masks = np.concatenate([mix.mask for mix in drawn])
                ratios = np.array([mix.ratio for mix in drawn], np.float32)
                arrays |= feed.placed({"mask": masks, "ratio": ratios}, axis=None)
            yield data, arrays, len(pictures)

    def _placed(self, variables: tuple[list[Any], ...]) -> Any:
        """The values of variables of Keras, on all devices."""
        values = tuple([variable.value for variable in each] for each in variables)
        return jax.device_put(values, everywhere(self._mesh))

    def _set_pace(self, steps: int, seconds: float) -> None:
        """Choose the number of steps of the next call."""
        wanted = round(_CALL_SECONDS * steps / seconds)
        self._call_steps = max(1, min(wanted, _FASTER * self._call_steps))


def _training_program(model: Any, mesh: Mesh, block_steps: int) -> Any:
    """The program that runs some steps of a block.

    Its arguments are the state; a block's data and arrays (see `Feed.block`); and the first step
    and the number of steps to run. It returns the state after them; and loss and accuracy of each
    step of the block, float32 (steps, 2), 0 for those that were not run. It takes no argument's
    memory, so that variables of Keras keep their values whatever happens.
    """
    optimizer, loss_of, classes = model.optimizer, model.loss, model.output.shape[-1]
    rate = next(  # where the optimizer keeps it, unless it follows a schedule of its own
        (i for i, each in enumerate(optimizer.variables) if each is optimizer.learning_rate), -1
    )

    def step(state: State, inputs: jax.Array, arrays: Arrays) -> tuple[State, jax.Array]:
        trained, others, optimizer_state = state
        if "rate" in arrays:
            optimizer_state = [*optimizer_state]
            optimizer_state[rate] = arrays["rate"]
        given: Any = inputs.astype(model.inputs[0].dtype)
        targets = jax.nn.one_hot(arrays["labels"], classes)
        if "mask" in arrays:
            partners, ratio = arrays["partners"], arrays["ratio"]
            targets = ratio * targets + (1 - ratio) * targets[partners]
            given = [given, partners, arrays["mask"][None]]

        def loss(trained: list[jax.Array]) -> Any:
            with exactly():
                logits, after = model.stateless_call(trained, others, given, training=True)
            return loss_of(targets, logits, arrays["weights"]), (logits, after)

        (value, (logits, others)), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        trained, optimizer_state = optimizer.stateless_apply(optimizer_state, gradients, trained)
        right = (logits.argmax(axis=-1) == targets.argmax(axis=-1)).mean()
        return (trained, others, optimizer_state), jnp.stack([value, right])

    def run(state: State, data: jax.Array, arrays: Arrays, first: Any, count: Any) -> Any:
        def body(i: Any, carried: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            state, outcomes = carried
            inputs = jax_feed.batch(data, arrays, i, mesh)
            state, outcome = step(state, inputs, {name: each[i] for name, each in arrays.items()})
            return state, outcomes.at[i].set(outcome)

        outcomes = jnp.zeros((block_steps, 2), jnp.float32)
        return jax.lax.fori_loop(first, first + count, body, (state, outcomes))

    return jax.jit(run, out_shardings=everywhere(mesh), compiler_options=compiler_options(model))


def _inference_program(model: Any, mesh: Mesh, shape: tuple[int, int]) -> Any:
    """The program that gives the logits of a block's first steps, float32 (*shape, classes).

    Its arguments are the state, a block's data and arrays, and the number of steps to run.
    """

    def run(state: Any, data: jax.Array, arrays: Arrays, count: Any) -> jax.Array:
        def body(i: Any, logits: jax.Array) -> jax.Array:
            inputs = jax_feed.batch(data, arrays, i, mesh).astype(model.inputs[0].dtype)
            with exactly():
                found, _ = model.stateless_call(*state, inputs, training=False)
            return logits.at[i].set(found.astype(jnp.float32))

        logits = jnp.zeros((*shape, model.output.shape[-1]), jnp.float32)
        return jax.lax.fori_loop(0, count, body, logits)

    return jax.jit(run, out_shardings=everywhere(mesh), compiler_options=compiler_options(model))
