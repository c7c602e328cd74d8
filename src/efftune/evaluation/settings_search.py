"""Search of settings of fine-tuning by successive halving, judged on the validation pictures.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization" (2016), https://arxiv.org/abs/1502.07943. Each rung trains what is left for twice as
many epochs, with a schedule of its own; the last one for as many as the recipe says, and one of its
networks is the result, so that nothing is trained again. All trials read the same cached
activations.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efftune.errors import UsageError
from efftune.evaluation import cross_validation, out_of_fold
from efftune.evaluation.settings_trials import Outcome, SettingsTrial, candidates, kept_notes
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model.backbone import Backbone
from efftune.model.tensors import set_weights
from efftune.system.progress import Timer
from efftune.training import ahead, fine_tuning, history, planning
from efftune.training.fine_tuning import TrainingResult
from efftune.training.planning import Plan
from efftune.training.regression_head import Head
from efftune.training.stage_result import LeftOut, NetworkState, StageResult, TrainingDiverged
from efftune.training.training_data import TrainingData

_SHARES = (0.25, 0.5, 1.0)  # of the epochs, by rung
_KEPT = 1 / 3  # of the trials of a rung
_TIME = (0.45, 0.7, 1.0)  # share of the time that has passed when a rung ends
_ALIKE = 1.0  # standard errors


@dataclass
class _Attempt:
    """A trial, and what it left behind when it was last trained."""

    trial: SettingsTrial
    losses: NDArray[np.float64]
    plan: Plan
    weights: list[NDArray[np.float32]]
    network: NetworkState
    result: StageResult


def search(
    head: Head, data: TrainingData, backbone: Backbone, plan: Plan, timer: Timer, deadline: float
) -> tuple[Plan, TrainingResult, tuple[SettingsTrial, ...]]:
    """Fine-tune with several settings, and keep the network of the best.

    The recipe's own settings are always tried, and kept unless others are better by more than one
    standard error. If the run is finished early, the best of those trained longest is taken, or the
    head alone if none is trained yet.

    Args:
        head: fitted on the frozen features of the training data.
        data: training and validation data.
        backbone: its Keras weights are trained in place.
        plan: the plan of the run, with its views chosen; stage `upper` is the only one that trains
            the network.
        timer: measures the phases.
        deadline: when the last trial should be finished, as `time.perf_counter` counts.

    Returns:
        The plan with the settings chosen, the network trained with them, and all trials.

    Raises:
        TrainingDiverged: training diverges with all settings.
    """
    return _Search(head, data, backbone, plan, timer, deadline).run()


def preferred(
    attempts: list[_Attempt], gains: Callable[[_Attempt], bool] = lambda _: True
) -> tuple[_Attempt, list[_Attempt]]:
    """The one with the fewest changes of those that cannot be told apart from the best; and all.

    Args:
        attempts: compared with each other.
        gains: whether one is better than the head alone; others are preferred only if none is.
    """
    alike = [each for each in attempts if each.trial.excess <= _ALIKE * each.trial.error]
    gaining = [each for each in alike if gains(each)] or alike
    return min(gaining, key=lambda each: (len(each.trial.settings), each.trial.excess)), alike


def _name(number: int, trials: list[SettingsTrial], epochs: int) -> str:
    return f"way {number + 1} of {len(trials)}, {epochs} epochs"


class _Search:
    """Trials of settings on one network."""

    def __init__(
        self,
        head: Head,
        data: TrainingData,
        backbone: Backbone,
        plan: Plan,
        timer: Timer,
        deadline: float,
    ):
        self.head = head
        self.first_head = fine_tuning.starting(head, data, backbone, plan, timer)
        self.data = data
        self.backbone = backbone
        self.plan = plan
        self.timer = timer
        spent = sum(timer.seconds.values())
        began = timer.journal.decided("search began", lambda: spent)
        self.start, self.deadline = time.perf_counter() - (spent - began), deadline
        self.trials: list[SettingsTrial] = []
        self._plans: dict[str, tuple[Plan, TrainingData]] = {}
        self._epoch_seconds: dict[str, float] = {}
        self._waited = 0.0  # seconds, for the trials that were trained at the same time

    def run(self) -> tuple[Plan, TrainingResult, tuple[SettingsTrial, ...]]:
        """See `search`."""
        epochs = int(self.plan.recipe.tuning.epochs)
        rungs = sorted({max(1, round(share * epochs)) for share in _SHARES})
        trials = [SettingsTrial(each) for each in candidates(self.plan.recipe, self.backbone)]
        attempts: list[_Attempt] = []
        settled: list[SettingsTrial] = []
        for rung, share_of_time in zip(rungs, _TIME[-len(rungs) :], strict=True):
            trained = list(self._rung(trials, rung, share_of_time))
            if not trained:
                if not self._finishes:
                    raise TrainingDiverged(self.trials[-1].reason)
                if attempts:  # of the rung before, which decides
                    self.trials = settled
                break
            attempts = trained
            self._compare(attempts)
            ranked = sorted(attempts, key=lambda each: each.trial.excess)
            count = max(2, round(_KEPT * len(ranked)))
            settled = list(self.trials)
            kept = [each for each in ranked if not each.trial.settings]  # first, for lack of time
            kept += [each for each in ranked[:count] if each.trial.settings]
            if rung < rungs[-1]:
                trials = [each.trial for each in kept]
                self.trials += [each.trial for each in ranked if each not in kept]
        return self._result(attempts)

    def _rung(
        self, trials: list[SettingsTrial], epochs: int, share_of_time: float
    ) -> Iterator[_Attempt]:
        """Train with all settings, as far as there is time; the first in any case."""
        until = self.start + share_of_time * (self.deadline - self.start)
        first, following = True, 0  # the first trial that no node has been asked to train
        trained: set[int] = set()
        for number, trial in enumerate(trials):
            name = _name(number, trials, epochs)
            if self._finishes and not self.timer.journal.recalled(name):
                self.trials.append(replace(trial, outcome="no time"))
                continue
            left = math.inf if first else until - time.perf_counter()
            if number == following:
                size = self._train_ahead(trials, number, epochs, left, trained)
                following += size
            left = math.inf if number in trained else left
            # Decided once, so that a search that was stopped goes on with the same trials.
            if not self.timer.journal.decided(name, partial(self._fits, trial, epochs, left)):
                self.trials.append(replace(trial, outcome="no time"))
                continue
            try:
                with self.timer.part(name):
                    attempt = self._train(trial, epochs)
                    if self._finishes and attempt.trial.epochs <= trial.epochs:
                        raise LeftOut("it was trained for longer in the rung before")
            except LeftOut:
                self.trials.append(replace(trial, outcome="no time"))
                continue
            except (TrainingDiverged, UsageError) as error:
                self.trials.append(replace(trial, outcome="failed", reason=str(error)))
                continue
            first = False
            yield attempt

    def _train_ahead(
        self, trials: list[SettingsTrial], first: int, epochs: int, left: float, trained: set[int]
    ) -> int:
        """Let the nodes of a cluster train some trials at the same time, if there are any nodes.

        Args:
            trials: of a rung.
            first: number of the first of them.
            epochs: of each.
            left: seconds.
            trained: takes the numbers of those that are trained then.

        Returns:
            The number of trials that were looked at.
        """
        self._waited, began = 0.0, time.perf_counter()
        size = ahead.group_size(len(trials) - first, self.backbone, self.timer)
        if size == 1:
            return 1
        works: dict[int, list[ahead.Work]] = {}
        for number in range(first, first + size):
            trial, name = trials[number], _name(number, trials, epochs)
            is_left_out = self.timer.journal.recalled(name) is False  # before the run was stopped
            if self._fits(trial, epochs, left) and not is_left_out:
                with suppress(UsageError, LeftOut), self.timer.part(name):  # told at its turn
                    plan, data = self._prepared(trial.settings, epochs)
                    given = self.backbone, self.first_head, data, plan, self.timer
                    works[number] = ahead.networks(*given)
        ahead.train([work for some in works.values() for work in some], self.timer)
        trained |= {
            number
            for number, some in works.items()
            if some and all(ahead.is_trained(work, self.timer) for work in some)
        }
        self._waited = time.perf_counter() - began
        return size

    @property
    def _finishes(self) -> bool:
        """Whether the run is finished early: what has not begun is left out."""
        return self.timer.journal.leaves_out_the_rest

    def _fits(self, trial: SettingsTrial, epochs: int, seconds: float) -> bool:
        """Whether a trial is likely to end within some seconds."""
        block = trial.settings.get("unfreeze", self.plan.recipe.tuning.unfreeze)
        usual = max(self._epoch_seconds.values(), default=0.0)
        return epochs * self._epoch_seconds.get(block, 2 * usual) <= seconds

    def _train(self, trial: SettingsTrial, epochs: int) -> _Attempt:
        """Fine-tune with other settings for some epochs."""
        started = time.perf_counter()
        plan, data = self._prepared(trial.settings, epochs)
        with cross_validation.restored(self.backbone):
            stages = fine_tuning.run_stages(self.backbone, self.first_head, data, plan, self.timer)
            network, result = next(reversed(list(stages)), (None, None))
            if network is None or result is None:
                raise LeftOut(self.timer.left_out)
            features = extraction.extract_pooled(
                self.backbone,
                data.paths["val"],
                ExtractionSettings(plan.recipe.backbone.fit, "f32", depth=plan.depth),
                lambda: None,
            )
            is_last = epochs == int(self.plan.recipe.tuning.epochs)
            may_be_chosen = is_last or self._finishes
            weights = self.backbone.keras_model.get_weights() if may_be_chosen else []
        losses = out_of_fold.losses(network.head.logits(features), data.labels["val"])
        elapsed = time.perf_counter() - started
        # On a node, or before the run was stopped, the epochs took longer than to get them here.
        seconds = max(elapsed, sum(epoch.seconds for epoch in result.epochs))
        waited = elapsed + self._waited if self._waited else seconds
        self._epoch_seconds[plan.recipe.tuning.unfreeze] = waited / epochs
        trial = replace(
            trial,
            epochs=len(result.epochs),  # fewer than asked if the run is finished early
            accuracy=result.selected.val_accuracy,
            loss=float(losses.mean()),
            seconds=round(trial.seconds + seconds, 1),
        )
        return _Attempt(trial, losses, plan, weights, network, result)

    def _prepared(self, settings: dict[str, Any], epochs: int) -> tuple[Plan, TrainingData]:
        """The plan for a trial, and the data with the activations that it trains on."""
        plan, data = self._from(settings)
        views = min(int(plan.recipe.augmentation.views), max(0, epochs - 1))
        others = {key: value for key, value in settings.items() if key != "unfreeze"}
        recipe = plan.recipe.changed(**others, epochs=epochs, views=views)
        return replace(plan, recipe=recipe), data

    def _from(self, settings: dict[str, Any]) -> tuple[Plan, TrainingData]:
        """The plan for training from a block, and the data with the activations at its input."""
        block = settings.get("unfreeze", self.plan.recipe.tuning.unfreeze)
        if block not in self._plans:
            plan, data = self.plan, self.data
            if block != plan.recipe.tuning.unfreeze:
                recipe = plan.recipe.changed(unfreeze=block)
                made = Plan.from_state(
                    self.timer.journal.decided(
                        f"plan from {block}",
                        lambda: planning.plan(recipe, self.backbone, plan.pictures).to_state(),
                    )
                )
                if made.recipe.tuning.unfreeze != block:
                    raise UsageError(f"not enough disk space for activations at {block}")
                notes = kept_notes(plan.notes, made.notes)
                plan = replace(made, depth=plan.depth, notes=notes)
                data = self._from_block(plan)
            data = fine_tuning.with_views(data, self.backbone, plan, self.timer)
            self._plans[block] = plan, data
        return self._plans[block]

    def _from_block(self, plan: Plan) -> TrainingData:
        """The same data with the activations of the unaugmented pictures at a block's input."""
        block = self.backbone.block(plan.recipe.tuning.unfreeze)
        features = dict(self.data.features)
        for split in ("train", "val"):
            with self.timer.phase("features"):
                found = extraction.extract(
                    self.data.paths[split],
                    self.backbone,
                    planning.settings(plan, exact=split != "train"),
                    outputs=[block],
                )
            rows = features[split].rows | found.rows
            features[split] = replace(features[split], rows=rows)
        return replace(self.data, features=features)

    def _compare(self, attempts: list[_Attempt]) -> None:
        """Measure how far each is behind the best."""
        best = min(attempts, key=lambda each: each.trial.loss)
        for each in attempts:
            behind = each.losses - best.losses
            error = 0.0 if each is best else out_of_fold.noise(behind)
            each.trial = replace(each.trial, excess=float(behind.mean()), error=error)

    def _gains(self, attempt: _Attempt) -> bool:
        return fine_tuning.gains(attempt.result, self.head, self.data)

    def _result(
        self, attempts: list[_Attempt]
    ) -> tuple[Plan, TrainingResult, tuple[SettingsTrial, ...]]:
        """The simplest of the attempts that cannot be told apart from the best."""
        frozen = NetworkState(self.backbone, self.head.kernel, self.head.bias)
        seconds = self.timer.seconds.get("head", 0.0)
        if not attempts:
            epochs = history.history(self.head, self.data, seconds, [])
            training = TrainingResult(frozen, self.head, (), tuple(epochs))
            return self.plan, training, tuple(reversed(self.trials))
        chosen, alike = preferred(attempts, self._gains)
        for each in attempts:
            outcome: Outcome = "as good" if each in alike else "worse"
            outcome = "chosen" if each is chosen else outcome
            self.trials.append(replace(each.trial, outcome=outcome))
        network, result = chosen.network, chosen.result
        if self._gains(chosen):
            set_weights(self.backbone.keras_model, chosen.weights)
            self.backbone.weights_changed |= result.best > 0
        else:
            network, result = frozen, fine_tuning.not_taken(result)
        epochs = history.history(self.head, self.data, seconds, [result])
        training = TrainingResult(network, self.head, (result,), tuple(epochs))
        return chosen.plan, training, tuple(reversed(self.trials))
