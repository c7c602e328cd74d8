"""Every choice of a run as one frozen value, TOML in and out."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_type_hints

from efftune.errors import UsageError, unknown_name
from efftune.recipe.inputs import BackboneSettings, DataSettings, General, Phase, RecipeName
from efftune.recipe.setting import Setting
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

if TYPE_CHECKING:
    from pydantic import TypeAdapter

StageName = Literal["head", "upper", "whole", "scratch"]

LEAST_EPOCHS = 3  # of fine-tuning, however many pictures there are
MOST_EPOCHS = 30  # however few
MOST_VIEWS = 15  # cached of a picture, unless more are asked for

SECTIONS: dict[str, type[Any]] = {
    "": General,
    "backbone": BackboneSettings,
    "data": DataSettings,
    "head": HeadSettings,
    "augmentation": AugmentationSettings,
    "tuning": TuningSettings,
    "scratch": ScratchSettings,
    "optimization": OptimizationSettings,
    "evaluation": EvaluationSettings,
}


class Place(NamedTuple):
    """Where a setting is in a recipe, and what it is."""

    section: str  # empty for the top level
    name: str
    annotation: Any
    default: Any
    setting: Setting


def _places() -> Iterator[tuple[str, Place]]:
    for section, kind in SECTIONS.items():
        hints = get_type_hints(kind, include_extras=True)
        for each in fields(kind):
            (setting,) = (x for x in hints[each.name].__metadata__ if isinstance(x, Setting))
            place = Place(section, each.name, hints[each.name], each.default, setting)
            yield setting.key or each.name, place


SETTINGS: dict[str, Place] = dict(_places())


@dataclass(frozen=True)
class Stage:
    """One leg of training; it starts from the best state of the stage before it.

    Attributes:
        name: `head` fits the head on cached features. `upper` trains from a block up, on cached
            activations. `whole` trains all blocks on pictures. `scratch` does that from random
            weights.
        block: the first block that is trained; `pixels` for all of them, empty for none.
        epochs: passes over the training pictures.
        learning_rate: the highest of the schedule.
    """

    name: StageName
    block: str = ""
    epochs: int = 1
    learning_rate: float = 0.0


@dataclass(frozen=True, init=False)
class Recipe:
    """All settings of a training run, in sections.

    Settings are given by name (`Recipe(unfreeze="block6", head_epochs=5)`) or by section
    (`Recipe(head={"epochs": 5})`), and read by section (`recipe.head.epochs`). Text is converted as
    needed (`"3"` to 3).

    Raises:
        UsageError: an unknown setting, or a value out of its range.
    """

    name: RecipeName
    seed: int
    phases: tuple[Phase, ...]
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    data: DataSettings = field(default_factory=DataSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    scratch: ScratchSettings = field(default_factory=ScratchSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __init__(self, **choices: Any):
        values = _validated(flat(choices))
        for section, kind in SECTIONS.items():
            made = kind(
                **{
                    place.name: values[key]
                    for key, place in SETTINGS.items()
                    if place.section == section and key in values
                }
            )
            parts = {section: made} if section else vars(made)
            for name, value in parts.items():
                object.__setattr__(self, name, value)

    @classmethod
    def named(cls, name: str, /, **choices: Any) -> "Recipe":
        """A named recipe with some of its settings changed.

        Args:
            name: one of `RECIPES`.
            **choices: as for `Recipe`.

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

    def to_toml(self) -> str:
        """The recipe as TOML, a table per section; `Recipe(**values)` takes its values back."""
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

    def decided(self, pictures: int) -> "Recipe":
        """The same recipe with `epochs` and `views` as numbers.

        Args:
            pictures: number of training pictures.
        """
        if not self.tunes:
            return self
        tuning, augmentation = self.tuning, self.augmentation
        enough = math.ceil(tuning.steps / max(1, pictures // self.optimization.batch_size))
        automatic = min(max(LEAST_EPOCHS, enough), MOST_EPOCHS)
        epochs = automatic if tuning.epochs == "auto" else tuning.epochs
        new = max(0, epochs - augmentation.plain_view)
        views = min(MOST_VIEWS, new) if augmentation.views == "auto" else augmentation.views
        return self.changed(epochs=epochs, views=0 if augmentation.augment == "none" else views)

    @property
    def mirrors_answers(self) -> bool:
        """Whether predictions are the mean over a picture and its mirror image."""
        return (
            self.evaluation.test_flip and self.tunes and self.augmentation.flip in {"yes", "both"}
        )

    @property
    def views_shown(self) -> tuple[Strength, Flip]:
        """Strength and flip of the views; the defaults as long as they are `auto`.

        What is `auto` is decided before a network is trained.
        """
        flip = "yes" if self.augmentation.flip == "auto" else self.augmentation.flip
        match self.augmentation.augment:
            case "auto" | "none":
                return "standard", flip
            case strength:
                return strength, flip

    @property
    def tunes(self) -> bool:
        """Whether anything is trained by gradient descent, and not the head alone by regression."""
        return self.head.epochs > 0 or self.stages[-1].name != "head"

    @property
    def draws(self) -> bool:
        """Whether the run shows what the public example shows, in pictures."""
        return "scratch" in self.phases or self.head.epochs > 0

    def require_effect(self) -> None:
        """Make sure that no setting was changed in vain.

        Raises:
            UsageError: a setting of fine-tuning, where only the head is to be trained; random
                weights, where not all of them are; or a phase that another one must precede.
        """
        if self.backbone.weights == "none" and self.phases != ("scratch",):
            raise UsageError(
                "Random weights have to be trained from the ground up: take --recipe scratch."
            )
        if "tune" in self.phases and "head" not in self.phases:
            raise UsageError(
                "Phase tune needs the head that phase head fits: add head to --phases."
            )
        usual, mine = Recipe.named(self.name).settings, self.settings
        idle = sorted(
            key
            for key, place in SETTINGS.items()
            if not place.setting.head_only and mine[key] != usual[key]
        )
        if idle and not self.tunes:
            raise UsageError(
                f"{idle[0]} would change nothing: only the head is to be trained. Leave it out, "
                "or train more, for example with --unfreeze block5."
            )


RECIPES: dict[str, dict[str, Any]] = {
    "quick": {"unfreeze": "none"},
    "balanced": {},
    "thorough": {"whole_epochs": 6, "test_flip": True},
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
        "optimizer": "adam",
        "schedule": "constant",
        "label_smoothing": 0.0,
        "drop_connect_rate": 0.2,
        "train_depthwise": True,
    },
}


def flat(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Choices by the names of settings.

    Args:
        choices: by name, by section (a mapping each), or as `section.name`; the later win.

    Raises:
        UsageError: there is no such setting.
    """
    by_place = {(place.section, place.name): key for key, place in SETTINGS.items()}
    found: dict[str, Any] = {}
    for name, value in choices.items():
        section, _, rest = name.rpartition(".")
        if name in SECTIONS and isinstance(value, Mapping):
            parts = {(name, key): each for key, each in value.items()}
        elif section or name not in SETTINGS:
            parts = {(section, rest): value}
        else:
            found[name] = value
            continue
        for (of, key), each in parts.items():
            if (of, key) not in by_place:
                known = [*SETTINGS, *(f"{a}.{b}" for a, b in by_place if a)]
                raise unknown_name("recipe setting", f"{of}.{key}" if of else key, known)
            found[by_place[of, key]] = each
    return found


def _validated(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Choices converted to the types of their settings.

    Raises:
        UsageError: one is of another type, or out of its range; the message names all of them.
    """
    values, problems = {}, []
    for key, value in choices.items():
        place = SETTINGS[key]
        if value == place.default and type(value) is type(place.default):
            values[key] = value  # needs no validation, and so not the time to import pydantic
            continue
        try:
            parsed = place.setting.parse(value) if place.setting.parse else value
            values[key] = _adapter(key).validate_python(parsed)
        except ValueError as error:  # pydantic's errors are ValueErrors, too
            told = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
            problems.append(f"{key} = {value!r}: {told}")
    if problems:
        raise UsageError("This recipe cannot be used. " + "; ".join(problems) + ".")
    return values


@cache
def _adapter(key: str) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(SETTINGS[key].annotation)
