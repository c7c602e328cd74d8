"""One stage of training: attempts at it, after failures with other settings, and their result."""

import gc
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from efftune.errors import DataError
from efftune.model.tensors import set_weights
from efftune.recipe.recipe import Recipe, Stage
from efftune.system.journal import Checkpoints
from efftune.system.progress import Timer
from efftune.training.attempt import AT_RATE, Attempt, AttemptState, Diverged
from efftune.training.batches import LabelledInputs
from efftune.training.deadline import Deadline
from efftune.training.stage_result import LeftOut, NetworkState, StageResult, TrainingDiverged

RATE_AFTER_FAILURE = 0.1  # factor of the learning rate when a stage is restarted
NO_TIME = "there is no time for it"


def fit(
    network: NetworkState,
    stage: Stage,
    train: LabelledInputs,
    val: LabelledInputs | None,
    recipe: Recipe,
    timer: Timer | None = None,
) -> tuple[NetworkState, StageResult]:
    """Run one stage, or what is left of it.

    Args:
        network: the network as the previous stage left it.
        stage: what to train, and for how long.
        train: training data at the input of the stage's first block.
        val: the same for the validation split; None to keep the last epoch, whatever it is like.
        recipe: the settings of the run.
        timer: reports progress; its journal keeps the stage by the name of the phase under way.

    Returns:
        The network with the weights of its best epoch (see `validation.is_better`), or with its
        initial weights if no epoch improved on them; and the result of the stage.

    Raises:
        LeftOut: the run is to be finished, and nothing is trained yet that could be judged; or
            there is no time for the stage.
        TrainingDiverged: the loss diverges even at a lower learning rate.
        DataError: not even a single picture fits into memory.
    """
    timer = timer or Timer()
    seconds = timer.budget.share(stage.name)
    checkpoints = timer.journal.checkpoints(timer.place)
    state, arrays = checkpoints.latest() or ({}, {})
    if "diverged" in state:
        raise TrainingDiverged(state["diverged"])
    if "result" in state:
        return _finished(network, StageResult.from_state(state["result"]), arrays)
    size = min(int(recipe.optimization.batch_size), len(train.labels))
    attempted = AttemptState.of(state) if state else AttemptState(stage.learning_rate, size)
    is_last = timer.journal.leaves_out_the_rest
    if is_last and (val is None or not attempted.epochs):
        raise LeftOut("the run was finished early, as asked")
    deadline = _deadline(stage, seconds, timer)
    kept = (attempted, arrays, deadline)
    tuned, result = _attempts(network, stage, recipe, (train, val), kept, timer)
    if not is_last:  # a run that is finished early may still go on, should it be stopped again
        checkpoints.save(*last_checkpoint(tuned, result), last=True)
    return tuned, result


def last_checkpoint(
    network: NetworkState, result: StageResult
) -> tuple[dict[str, Any], dict[str, list[NDArray[Any]]]]:
    """State and arrays that are kept of a stage that is done, from which `fit` goes on."""
    weights = network.backbone.keras_model.get_weights() if result.best else []
    arrays = {"head": [network.kernel, network.bias], "weights": weights}
    return {"result": result.to_state()}, arrays


def _attempts(
    network: NetworkState,
    stage: Stage,
    recipe: Recipe,
    data: tuple[LabelledInputs, LabelledInputs | None],
    kept: tuple[AttemptState, dict[str, list[NDArray[Any]]], Deadline],
    timer: Timer,
) -> tuple[NetworkState, StageResult]:
    """Go on with an attempt, and make others until one succeeds; see `fit`."""
    checkpoints, (state, arrays, deadline) = timer.journal.checkpoints(timer.place), kept
    while True:
        attempt = Attempt(network, stage, recipe, data, state)
        attempt.restore(arrays)
        if timer.journal.leaves_out_the_rest:
            attempt.stop_here()
        try:
            return attempt.run(checkpoints, deadline, timer.count)
        except Diverged as error:
            attempt.undo()
            state = _slower(attempt, str(error), checkpoints)
        except Exception as error:
            if not _out_of_memory(error):
                raise
            attempt.undo()
            state = _smaller(attempt)
        checkpoints.save(asdict(state), {})
        arrays = {}
        del attempt  # and what it holds of the device's memory, before the next one is made
        gc.collect()


def _deadline(stage: Stage, seconds: float, timer: Timer) -> Deadline:
    """When a stage has to end that begins or goes on now, and has some seconds.

    Raises:
        LeftOut: there is not enough time for it; decided once.
    """
    if not timer.budget.is_limited:
        return Deadline()
    # What is trained from scratch is not left out: there may be nothing else.
    begins = stage.name == "scratch" or timer.budget.is_worthwhile(stage.name, seconds)
    if not timer.journal.decided(f"{timer.place} begins", lambda: begins):
        raise LeftOut(NO_TIME)
    return Deadline(seconds, timer.journal, timer.place)


def _finished(
    network: NetworkState, result: StageResult, arrays: dict[str, list[NDArray[Any]]]
) -> tuple[NetworkState, StageResult]:
    """What a stage had come to before the run was stopped."""
    if result.best:
        set_weights(network.backbone.keras_model, arrays["weights"])
        network.backbone.weights_changed = True
    kernel, bias = arrays["head"]
    return NetworkState(network.backbone, kernel, bias), result


def _slower(attempt: Attempt, failure: str, checkpoints: Checkpoints) -> AttemptState:
    """Where the next attempt starts after one that diverged.

    Raises:
        TrainingDiverged: the learning rate was lowered before.
    """
    state = attempt.state
    failures = [*state.failures, f"{failure} {AT_RATE} {state.learning_rate:g}"]
    if len([each for each in failures if AT_RATE in each]) > 1:
        message = (
            f"Training diverged in stage {attempt.stage.name}: {'; '.join(failures)}. Set a lower "
            "--learning-rate, and check for wrong labels or damaged pictures."
        )
        checkpoints.save({"diverged": message}, {}, last=True)
        raise TrainingDiverged(message)
    rate = RATE_AFTER_FAILURE * state.learning_rate
    return AttemptState(rate, state.batch_size, state.parts, failures)


def _smaller(attempt: Attempt) -> AttemptState:
    """Where the next attempt starts after one that did not fit into memory.

    Raises:
        DataError: not even a single picture does.
    """
    state = attempt.state
    if state.batch_size == 1:
        raise DataError(
            f"Stage {attempt.stage.name} does not fit into memory, even at a batch size of 1. "
            "Choose a smaller --image-size or --model, or a higher block with --unfreeze, "
            "or close other programs that use the device's memory."
        )
    failures = [*state.failures, f"out of memory at a batch size of {state.batch_size}"]
    size, parts = -(-state.batch_size // 2), 2 * state.parts
    return AttemptState(state.learning_rate, size, parts, failures)


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, TensorFlow or JAX ran out of memory; each raises an error of its own."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "RESOURCE_EXHAUSTED" in str(error) or bool(
        names & {"MemoryError", "ResourceExhaustedError"}
    )
