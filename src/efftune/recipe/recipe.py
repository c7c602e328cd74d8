"""All settings of a run as one immutable value, and its conversion from and to TOML."""

import math
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from efftune.errors import UsageError, unknown_name
from efftune.recipe.inputs import (
    AUTO_MODEL,
    BackboneSettings,
    DataSettings,
    DeviceChoice,
    General,
    RecipeName,
)
from efftune.recipe.parsing import Phase, limits
from efftune.recipe.schema import SECTIONS, SETTINGS, flat, validated
from efftune.recipe.training import (
    AugmentationSettings,
    EvaluationSettings,
    Flip,
    HeadSettings,
    OptimizationSettings,
    ScratchSettings,
    Strength,
    TuningSettings,
)

StageName = Literal["head", "upper", "whole", "scratch"]

LEAST_EPOCHS = 3  # minimum of automatic epochs of fine-tuning, for large datasets
MOST_EPOCHS = 30  # maximum, for small ones
MOST_VIEWS = 15  # maximum of automatic cached views per picture

# Settings of what is named at once: `epochs` of training from random weights are others.
_INSTEAD = {"epochs": "scratch_epochs", "learning_rate": "scratch_learning_rate"}
# Settings that have no effect if only the head is fitted.
_FINE_TUNING = {
    key
    for key, place in SETTINGS.items()
    if place.section in ("augmentation", "tuning", "optimization")
} - {"unfreeze", "class_weights"} | {"head_start", "test_flip"}


@dataclass(frozen=True)
class Stage:
    """A stage of training; it starts from the best state of the previous stage.

    Attributes:
        name: `head` fits the head on cached features. `upper` trains from a block up, on cached
            activations. `whole` trains all blocks on pictures. `scratch` trains all blocks from
            random weights.
        block: the first block that is trained; `pixels` for all blocks, empty for none.
        epochs: passes over the training pictures.
        learning_rate: the peak learning rate of the schedule.
    """

    name: StageName
    block: str = ""
    epochs: int = 1
    learning_rate: float = 0.0


@dataclass(frozen=True, init=False)
class Recipe:
    """All settings of a training run, in sections.

    Settings are passed by name (`Recipe(unfreeze="block6", head_epochs=5)`) or by section
    (`Recipe(head={"epochs": 5})`), and read by section (`recipe.head.epochs`). Text is converted if
    needed (`"3"` to 3).

    Raises:
        UsageError: an unknown setting, or a value out of its range.
    """

    name: RecipeName
    seed: int
    device: DeviceChoice
    phases: tuple[Phase, ...]
    budget: float
    goal: str
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    data: DataSettings = field(default_factory=DataSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    scratch: ScratchSettings = field(default_factory=ScratchSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __init__(self, **choices: Any):
        values = validated(flat(choices))
        parts: dict[str, dict[str, Any]] = {section: {} for section in ("", *SECTIONS)}
        for key, value in values.items():
            parts[SETTINGS[key].section][SETTINGS[key].name] = value
        sections = {section: kind(**parts[section]) for section, kind in SECTIONS.items()}
        for name, value in (vars(General(**parts[""])) | sections).items():
            object.__setattr__(self, name, value)

    @classmethod
    def named(cls, name: str, /, **choices: Any) -> "Recipe":
        """A named recipe with some of its settings changed.

        Args:
            name: one of `RECIPES`.
            **choices: the changed settings, as for `Recipe`.

        Raises:
            UsageError: an unknown recipe or setting, or a value out of its range.
        """
        if not isinstance(name, str) or name not in RECIPES:
            raise unknown_name("recipe", str(name), RECIPES)
        return cls(name=name, **RECIPES[name]).changed(**choices)

    def changed(self, **choices: Any) -> "Recipe":
        """The same recipe with some of its settings changed; see `Recipe`."""
        return Recipe(**(self.settings | flat(choices)))

    @property
    def settings(self) -> dict[str, Any]:
        """All settings by name, without sections."""
        return {
            key: getattr(getattr(self, place.section) if place.section else self, place.name)
            for key, place in SETTINGS.items()
        }

    def head_only(self) -> "Recipe":
        """The same recipe without fine-tuning, and without settings of it."""
        settings = Recipe.named(self.name).settings
        usual = {key: settings[key] for key in _FINE_TUNING}
        return self.changed(**(usual | {"unfreeze": "none"}))

    def without_tuning(self) -> "Recipe":
        """The same recipe without the stages of fine-tuning, and without settings of them."""
        settings = Recipe.named(self.name).settings
        usual = {key: settings[key] for key, place in SETTINGS.items() if place.section == "tuning"}
        return self.changed(**(usual | {"unfreeze": "none"}))

    def to_toml(self) -> str:
        """The recipe as TOML with a table per section; `Recipe(**values)` accepts the values."""
        import tomli_w

        return tomli_w.dumps(asdict(self))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of training, in order."""
        tuning = self.tuning
        scratch = Stage("scratch", "pixels", self.scratch.epochs, self.scratch.learning_rate)
        stages = [scratch] if "scratch" in self.phases else []
        if "head" in self.phases:
            rate = self.head.learning_rate if self.head.epochs else 0.0
            stages.append(Stage("head", "", self.head.epochs or 1, rate))
        if "tune" not in self.phases:
            return tuple(stages)
        epochs = LEAST_EPOCHS if tuning.epochs == "auto" else tuning.epochs
        upper = Stage("upper", tuning.unfreeze, epochs, tuning.learning_rate)
        whole_epochs = tuning.whole_epochs or (epochs if tuning.unfreeze == "all" else 0)
        whole = Stage("whole", "pixels", whole_epochs, tuning.whole_learning_rate)
        wanted = {"none": (), "all": (whole,)}.get(tuning.unfreeze, (upper, whole))
        return (*stages, *(stage for stage in wanted if stage.epochs))

    def resolved(self, pictures: int) -> "Recipe":
        """The same recipe with automatic `epochs` and `views` replaced by numbers.

        `batch_size` must be a number already.

        Args:
            pictures: number of training pictures.
        """
        if not self.trains_by_gradient_descent:
            return self
        tuning, augmentation = self.tuning, self.augmentation
        batch_size = int(self.optimization.batch_size)
        enough = math.ceil(tuning.steps / max(1, pictures // batch_size))
        automatic = min(max(LEAST_EPOCHS, enough), MOST_EPOCHS)
        epochs = automatic if tuning.epochs == "auto" else tuning.epochs
        new = max(0, epochs - augmentation.plain_view)
        views = min(MOST_VIEWS, new) if augmentation.views == "auto" else augmentation.views
        recipe = self.changed(views=0 if augmentation.augment == "none" else views)
        return recipe.changed(epochs=epochs) if self.fine_tunes else recipe

    @property
    def averages_mirror_images(self) -> bool:
        """Whether predictions are the mean over a picture and its mirror image.

        Only if mirrored pictures are trained on: fine-tuning forgets what it does not see.
        """
        has_views = self.augmentation.augment != "none" and self.trains_by_gradient_descent
        if [stage.name for stage in self.stages] == ["head", "upper"] and not self.head.epochs:
            has_views &= self.augmentation.views != 0
        return self.evaluation.test_flip and has_views and self.augmentation.flip in {"yes", "both"}

    @property
    def view_settings(self) -> tuple[Strength, Flip]:
        """Strength and flip of the augmented views; defaults where they are still `auto`.

        `auto` is resolved before a network is trained.
        """
        flip = "yes" if self.augmentation.flip == "auto" else self.augmentation.flip
        match self.augmentation.augment:
            case "auto" | "none":
                return "standard", flip
            case strength:
                return strength, flip

    @property
    def limits(self) -> tuple[float, float]:
        """Most milliseconds for a picture and megabytes of the network; infinite without limit."""
        return limits(self.goal)

    @property
    def members(self) -> int:
        """How many networks are trained from the tuned block up."""
        return 1 if self.tuning.members == "auto" else self.tuning.members

    @property
    def trains_by_gradient_descent(self) -> bool:
        """Whether anything is trained by gradient descent, not only the head by regression."""
        return self.head.epochs > 0 or self.stages[-1].name != "head"

    @property
    def fine_tunes(self) -> bool:
        """Whether blocks of a pretrained network are trained."""
        return any(stage.name in ("upper", "whole") for stage in self.stages)

    @property
    def draws_example_plots(self) -> bool:
        """Whether the run also writes the plots of the public Keras example."""
        return "scratch" in self.phases or self.head.epochs > 0

    @property
    def can_cross_validate(self) -> bool:
        """Whether cross-validation can judge: the head is fitted by regression."""
        return "scratch" not in self.phases and "head" in self.phases and not self.head.epochs

    def require_effect(self) -> None:
        """Check that every changed setting has an effect.

        Raises:
            UsageError: a setting was changed of what the recipe does not do; the weights are random
                but not all of them are trained; a required phase is missing; or folds cannot judge
                such a run.
        """
        if self.backbone.weights == "none" and self.phases != ("scratch",):
            raise UsageError("Random weights must be trained from scratch: use --recipe scratch.")
        if self.data.folds not in ("auto", 0):
            if self.data.chooses_held_out:
                raise UsageError(
                    "--folds judges by all pictures, --val and --test by some: give one or the "
                    "other."
                )
            if not self.can_cross_validate:
                raise UsageError(
                    "--folds needs a head that is fitted by regression: use --recipe quick, "
                    "balanced or thorough, without --head-epochs."
                )
        if self.members > 1 and [each.block for each in self.stages[-1:]] == ["pixels"]:
            raise UsageError(
                "An ensemble shares the blocks that are not trained, and here all are: use --set "
                "members=1, or neither --unfreeze all nor whole_epochs."
            )
        if self.backbone.model != AUTO_MODEL and self.backbone.fetch:
            raise UsageError("--fetch has an effect with --model auto only.")
        if "tune" in self.phases and "head" not in self.phases:
            raise UsageError("Phase tune requires the head from phase head: add head to --phases.")
        defaults, settings = Recipe.named(self.name).settings, self.settings
        for keys, why in self._idle():
            idle = sorted(key for key in keys if settings[key] != defaults[key])
            if idle:
                raise UsageError(f"{idle[0]} would have no effect: {why}.")

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Notes on changed settings of what the recipe does not do, as in a file for several."""
        defaults, settings = Recipe.named(self.name).settings, self.settings
        names = {stage.name for stage in self.stages}
        parts = [
            *([] if "scratch" in names else [("scratch", "nothing is trained from scratch")]),
            *([] if "head" in names else [("head", "no head is fitted before all is trained")]),
            *([] if self.fine_tunes else [("tuning", "nothing is fine-tuned")]),
        ]
        idle = {
            key: why
            for section, why in parts
            for key, place in SETTINGS.items()
            if place.section == section
        }
        idle.pop("unfreeze", None)
        if "scratch" in names:
            idle.pop("layer_decay", None)
        if self.head.epochs:
            idle.pop("memory", None)
        if "whole" not in names:
            idle["whole_learning_rate"] = "whole_epochs is 0"
        if not self.head.epochs:
            idle["head_learning_rate"] = "the head is fitted by regression"
        if self.augmentation.mix == "none":
            idle["mix_alpha"] = "mix is none"
        if self.optimization.optimizer != "adamw":
            idle["weight_decay"] = "the optimizer is not adamw"
        return tuple(
            f"{key} has no effect: {why}"
            for key, why in idle.items()
            if settings[key] != defaults[key]
        )

    def _idle(self) -> Iterator[tuple[Collection[str], str]]:
        """Settings that are refused if they are changed, and what to do about that."""
        if "tune" not in self.phases and self.tuning.unfreeze != "none":
            yield {"unfreeze"}, "nothing is fine-tuned. Omit it, or add tune to --phases"
        if not self.trains_by_gradient_descent:
            how = "Omit it, or fine-tune more, for example with --unfreeze block5"
            yield _FINE_TUNING, f"only the head is trained. {how}"
        if not self.fine_tunes:
            is_scratch = "scratch" in self.phases
            for key, instead in _INSTEAD.items():
                if key == "epochs" and self.augmentation.views != "auto":
                    continue  # recipes of older runs had numbers for both
                how = f"Use --set {instead}" if is_scratch else "Omit it"
                yield {key}, f"it is of fine-tuning, and there is none. {how}"


RECIPES: dict[str, dict[str, Any]] = {
    "quick": {"unfreeze": "none"},
    "balanced": {},
    "thorough": {"members": 3, "test_flip": True},
    "scratch": {"phases": ("scratch",), "drop_connect_rate": 0.2, "ema": 0.99},
    "keras-example": {
        "phases": ("scratch", "head", "tune"),
        "fit": "stretch",
        "val_from": "test",
        "augment": "keras-example",
        "flip": "both",
        "plain_view": False,
        "scratch_learning_rate": 1e-3,
        "head_epochs": 25,
        "unfreeze": "last",
        "epochs": 4,
        "learning_rate": 1e-5,
        "batch_size": 64,
        "optimizer": "adam",
        "schedule": "constant",
        "label_smoothing": 0.0,
        "drop_connect_rate": 0.2,
        "train_depthwise": True,
    },
}
