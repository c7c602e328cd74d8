"""What runs the training steps of a stage: Keras, batch by batch, or compiled programs of JAX."""

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from efftune.system import cluster
from efftune.training.batches import Array, Mix, StageData

if TYPE_CHECKING:
    import keras


class Trainer(Protocol):
    """Runs the steps of a stage, and inference on its validation split.

    After an epoch, the variables of the Keras model hold what was trained.
    """

    def train(
        self,
        epoch: int,
        order: NDArray[np.int64],
        mixes: Iterable[Mix] | None = None,
        rates: Array | None = None,
    ) -> Generator[tuple[float, float], None, None]:
        """Train one epoch. Several steps may have been run before the first of them is reported.

        Args:
            epoch: its number, from 1.
            order: the pictures of each step, int64 (steps, batch size); no more steps than
                `StageData.steps`.
            mixes: how to blend each step's pictures, if at all; may be consumed in another thread.
            rates: the learning rate of each step, float32 (steps,); by default the optimizer's.

        Yields:
            Loss and accuracy of each step, from before its update of the weights.
        """

    def settle(self) -> bool:
        """Let the variables hold what was trained, in the middle of an epoch.

        Returns:
            Whether they do; not if steps were run that are not reported yet.
        """

    def logits(self) -> Array:
        """The network's logits of the validation pictures, float32 (pictures, classes).

        There must be some.
        """


def trainer_for(
    training_model: "keras.Model",
    inference_model: "keras.Model",
    data: StageData,
    *,
    divided: bool = False,
) -> Trainer:
    """The trainer for the backend that Keras runs on.

    Args:
        training_model: compiled for training. Its inputs are those of `inference_model`, followed
            by partners and mask if it blends pictures.
        inference_model: from inputs to logits, with the same weights.
        data: what they are trained and validated on.
        divided: whether a cluster's workers, if there are any, compute the steps. Under JAX, they
            do not.
    """
    import keras

    if keras.backend.backend() == "jax":
        from efftune.training.jax_trainer import JaxTrainer

        return JaxTrainer(training_model, inference_model, data)
    workers = cluster.current() if divided else None
    if workers is not None:
        from efftune.training.divided_trainer import DividedTrainer

        return DividedTrainer(training_model, inference_model, data, workers)
    return KerasTrainer(training_model, inference_model, data)


class KerasTrainer:
    """Runs each step by `train_on_batch`, on batches that the CPU prepares."""

    def __init__(self, training_model: Any, inference_model: Any, data: StageData):
        """See `trainer_for`."""
        self._training_model = training_model
        self._inference_model = inference_model
        self._data = data

    def train(
        self,
        epoch: int,
        order: NDArray[np.int64],
        mixes: Iterable[Mix] | None = None,
        rates: Array | None = None,
    ) -> Generator[tuple[float, float], None, None]:
        """See `Trainer`."""
        classes = np.arange(self._inference_model.output.shape[-1])
        mixing = iter(mixes) if mixes is not None else None
        for step, pictures in enumerate(order):
            if rates is not None:
                self._training_model.optimizer.learning_rate = rates[step]
            inputs = self._data.train.batch(pictures, epoch)
            labels, blend = self._data.train.labels[pictures], None
            targets = (labels[:, None] == classes).astype(np.float32)
            if mixing is not None:
                partners, mask, ratio = next(mixing)
                targets = ratio * targets + (1 - ratio) * targets[partners]
                blend = partners, mask
            yield self._step(inputs, blend, targets, self._data.weights[pictures])

    def _step(
        self,
        inputs: Any,
        blend: tuple[Any, Any] | None,
        targets: Array,
        weights: Array,
    ) -> tuple[float, float]:
        """Train one step; `blend` has the partners of pictures, and where they are seen."""
        if blend is not None:
            partners, mask = blend
            inputs = [inputs, partners, np.repeat(mask, len(targets), axis=0)]
        loss, accuracy = self._training_model.train_on_batch(inputs, targets, weights)
        return float(loss), float(accuracy)

    def settle(self) -> bool:
        """See `Trainer`: they always do."""
        return True

    def logits(self) -> Array:
        """See `Trainer`."""
        assert self._data.val is not None  # noqa: S101  (see `Trainer`)
        batches = self._data.val.in_order(self._data.val_batch_size)
        return np.concatenate([self._inference_model.predict_on_batch(batch) for batch in batches])
