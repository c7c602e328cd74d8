"""Every choice of a run as one frozen value, TOML in and out."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from efftune.errors import UsageError, unknown_name

Fit = Literal["stretch", "crop", "pad"]
Strength = Literal["light", "standard", "strong", "keras-example"]
Augment = Literal["none"] | Strength
Flip = Literal["no", "yes", "both"]
StageName = Literal["head", "upper", "whole", "scratch"]
Phase = Literal["scratch", "head", "tune"]

LEAST_EPOCHS = 3  # of fine-tuning, however many pictures there are
MOST_EPOCHS = 30  # however few
MOST_VIEWS = 15  # kept of a picture, unless asked for more

# What matters while the head alone is fitted; all else is then idle.
_OF_THE_HEAD = {
    *("name", "model", "weights", "image_size", "fit", "val_from", "val_fraction", "test_fraction"),
    *("leaks", "missing_classes", "seed", "phases", "unfreeze", "class_weights"),
    *("head_strengths", "head_folds", "head_epochs", "head_learning_rate"),
    *("scratch_epochs", "scratch_learning_rate"),
    *("path_column", "label_column", "split_column", "group_column", "labels", "max_error"),
}

_Share = Annotated[float, Field(ge=0, le=0.9)]
_Rate = Annotated[float, Field(gt=0, le=10)]
_Epochs = Annotated[int, Field(ge=0, le=10_000)]


def _in_order(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    if len(set(phases)) < len(phases):
        raise ValueError("name each phase once")
    return tuple(phase for phase in get_args(Phase) if phase in phases)


def _share(value: Any) -> Any:
    """Text such as `2%` or `0.02` as a number."""
    if not isinstance(value, str):
        return value
    number = value.strip()
    try:
        return float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        raise ValueError("give a share, such as 2% or 0.02") from None


def _block(name: str) -> str:
    if re.fullmatch(r"none|all|last|block\d+[a-z]?", name):
        return name
    raise ValueError("name a block, such as block5 or block6b, or last, all or none")


@dataclass(frozen=True)
class Stage:
    """One leg of training; it starts from the best that the one before it came to.

    Attributes:
        name: `head` fits the head on kept features. `upper` trains from a block up, on kept
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


class Recipe(BaseModel):
    """All the choices of a training run.

    Attributes:
        name: the named recipe these choices started from.
        model: the model's name, as `efftune models` lists it.
        weights: what the backbone starts from: `imagenet`, a weights file of the same model, or
            `none` for random ones, which only training from scratch can use.
        image_size: side of the square the model sees, in pixels; 0 means the model's own.
        fit: how a picture becomes a square. `stretch` ignores its proportions, `crop` keeps the
            central square, `pad` adds grey bars.
        path_column: in a table of pictures, the column of their paths.
        label_column: that of their classes.
        split_column: that of their splits, if there is one.
        group_column: that of what belongs together, such as a patient or a video, if there is one.
        val_from: where the pictures to validate on come from if the source has no validation split:
            cut from `train`; or, as in the public example, all of `test`, whose score is then
            that of the epoch that did best on it.
        val_fraction: share of the pictures held out for validation where the source has no
            validation split, 0.01 to 0.5.
        test_fraction: the same for the test split.
        leaks: what to do with pictures of validation and test of which a split before theirs has a
            copy: `report` judges with and without them, `drop` leaves them out, `keep` lets them
            count as any other.
        labels: a file of decisions about labels, from a review; empty for none.
        missing_classes: `refuse` stops when a class is missing from a split; `allow` goes on as
            long as every class can be trained.
        seed: makes splits, views, folds and training repeatable.
        phases: the parts of training. `scratch` trains all from random weights; what comes of it is
            kept if it is the only part. `head` fits a head, `tune` trains from `unfreeze` up.
        head_strengths: strengths of the head's L2 penalty to choose from, as scikit-learn's `C`
            (larger is weaker).
        head_folds: folds of the cross-validation that chooses among them, 2 to 20.
        head_epochs: of training the head by gradient descent, each on another view of each picture,
            under a BatchNorm, with Adam; 0 means regression instead, which is better and quicker.
        head_learning_rate: of that.
        unfreeze: the first block to train beside the head, such as `block5`; `last` is where the
            last stage of blocks begins; `none` or `all`.
        views: augmented views of each training picture to keep, beside the picture itself, 0 to
            64. An epoch sees one of them, so `auto` keeps one less than there are epochs.
        plain_view: whether an epoch may also see the picture itself.
        augment: how far the views go from the picture; `none` trains on the picture alone. `auto`
            is the furthest, up to `standard`, at which the head still knows what it sees.
        flip: whether left and right change places in half the views. `auto` finds out whether the
            head knows mirrored pictures; if not, as with letters, nothing is mirrored. `both` is
            for pictures without an up and down: top and bottom change places too.
        test_flip: whether answers are the mean over a picture and its mirror image, where that is
            known as the same thing; it takes the classifier twice as long.
        activations: type of the kept activations.
        memory: what the kept activations may take, in GiB; 0 means a quarter of the free memory.
        epochs: of the stage that trains from `unfreeze` up; `auto` is as many as `steps` asks for.
        steps: of that stage, at least, where `epochs` is `auto`: few pictures are seen more often.
        learning_rate: the highest of that stage.
        whole_epochs: of the stage that trains everything, after that; 0 leaves it out, or, with
            `unfreeze` at `all`, takes `epochs`.
        whole_learning_rate: the highest of that stage.
        scratch_epochs: of training from random weights.
        scratch_learning_rate: the highest of that stage.
        batch_size: pictures in one step, 1 to 4096.
        optimizer: `adamw`, `adam` (the same without weight decay) or `rmsprop`.
        schedule: of the learning rate: it rises and falls along a `cosine`, or stays `constant`.
        warmup: share of a stage's steps in which the learning rate rises, 0 to 0.9.
        weight_decay: decoupled, of kernels only; times the learning rate each step. `adamw` only.
        label_smoothing: share of each label that is spread over all classes, 0 to 0.9.
        dropout: share of the features that the head does not see in a step, 0 to 0.9.
        drop_connect_rate: how often the last block that adds its input is left out in a step, 0 to
            0.9; lower blocks less, in proportion to their depth.
        layer_decay: factor of the learning rate from one block to the next one below it.
        mix: `mixup` blends pairs of pictures, `cutmix` puts a part of one into the other.
        mix_alpha: of the Beta distribution that says how much; small means little.
        ema: decay of the moving average of the weights, per step, that is judged and kept; 0
            leaves it out.
        class_weights: `balanced` gives each class the same weight in the loss.
        patience: epochs without progress on validation after which a stage stops; 0 never stops.
        head_start: where the head of the first stage after it starts: from the `regression`, or
            at `random`.
        train_depthwise: whether depthwise kernels are trained with the blocks they are in.
        max_error: share of the answers given that may be wrong, 0 to 0.5, or as text, `2%`: the
            answers that make it more are unsure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["quick", "balanced", "thorough", "scratch", "keras-example"] = "balanced"
    model: str = "efficientnet-lite0"
    weights: Annotated[str, Field(min_length=1)] = "imagenet"
    image_size: Annotated[int, Field(ge=0, le=1024)] = 0
    fit: Fit = "crop"
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    group_column: str = "group"
    val_from: Literal["train", "test"] = "train"
    val_fraction: Annotated[float, Field(ge=0.01, le=0.5)] = 0.15
    test_fraction: Annotated[float, Field(ge=0.01, le=0.5)] = 0.15
    leaks: Literal["report", "drop", "keep"] = "report"
    labels: str = ""
    missing_classes: Literal["refuse", "allow"] = "refuse"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    phases: Annotated[tuple[Phase, ...], Field(min_length=1), AfterValidator(_in_order)] = (
        "head",
        "tune",
    )
    head_strengths: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=20)
    ] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    head_folds: Annotated[int, Field(ge=2, le=20)] = 3
    head_epochs: _Epochs = 0
    head_learning_rate: _Rate = 1e-2
    unfreeze: Annotated[str, AfterValidator(_block)] = "block5"
    views: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = "auto"
    plain_view: bool = True
    augment: Literal["auto"] | Augment = "auto"
    flip: Literal["auto"] | Flip = "auto"
    test_flip: bool = False
    activations: Literal["float16", "bfloat16"] = "float16"
    memory: Annotated[float, Field(ge=0)] = 0.0
    epochs: Literal["auto"] | _Epochs = "auto"
    steps: Annotated[int, Field(ge=1)] = 180
    learning_rate: _Rate = 1e-3
    whole_epochs: _Epochs = 0
    whole_learning_rate: _Rate = 3e-5
    scratch_epochs: Annotated[int, Field(ge=1, le=10_000)] = 40
    scratch_learning_rate: _Rate = 2e-3
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 64
    optimizer: Literal["adamw", "adam", "rmsprop"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: _Share = 0.1
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.02
    label_smoothing: _Share = 0.1
    dropout: _Share = 0.2
    drop_connect_rate: _Share = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    mix: Literal["none", "mixup", "cutmix"] = "none"
    mix_alpha: Annotated[float, Field(gt=0, le=10)] = 0.2
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    patience: Annotated[int, Field(ge=0)] = 0
    head_start: Literal["regression", "random"] = "regression"
    train_depthwise: bool = False
    max_error: Annotated[float, BeforeValidator(_share), Field(ge=0, le=0.5)] = 0.02

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of training, in order."""
        scratch = Stage("scratch", "pixels", self.scratch_epochs, self.scratch_learning_rate)
        stages = [scratch] if "scratch" in self.phases else []
        if "head" in self.phases:
            rate = self.head_learning_rate if self.head_epochs else 0.0
            stages.append(Stage("head", "", self.head_epochs or 1, rate))
        if "tune" not in self.phases:
            return tuple(stages)
        epochs = LEAST_EPOCHS if self.epochs == "auto" else self.epochs
        upper = Stage("upper", self.unfreeze, epochs, self.learning_rate)
        whole_epochs = self.whole_epochs or (epochs if self.unfreeze == "all" else 0)
        whole = Stage("whole", "pixels", whole_epochs, self.whole_learning_rate)
        tuning = {"none": (), "all": (whole,)}.get(self.unfreeze, (upper, whole))
        return (*stages, *(stage for stage in tuning if stage.epochs))

    def decided(self, pictures: int) -> "Recipe":
        """The same recipe with `epochs` and `views` as numbers.

        Args:
            pictures: how many there are to train on.
        """
        if not self.tunes:
            return self
        enough = math.ceil(self.steps / max(1, pictures // self.batch_size))
        automatic = min(max(LEAST_EPOCHS, enough), MOST_EPOCHS)
        epochs = automatic if self.epochs == "auto" else self.epochs
        new = max(0, epochs - self.plain_view)
        views = min(MOST_VIEWS, new) if self.views == "auto" else self.views
        return self.changed(epochs=epochs, views=0 if self.augment == "none" else views)

    @property
    def mirrors_answers(self) -> bool:
        """Whether answers are the mean over a picture and its mirror image."""
        return self.test_flip and self.tunes and self.flip in {"yes", "both"}

    @property
    def views_shown(self) -> tuple[Strength, Flip]:
        """Strength and flip of the views, if there are any; the usual ones as long as that is open.

        What is open is decided before a network is trained.
        """
        flip = "yes" if self.flip == "auto" else self.flip
        match self.augment:
            case "auto" | "none":
                return "standard", flip
            case strength:
                return strength, flip

    def require_effect(self) -> None:
        """Make sure that no choice was made in vain.

        Raises:
            UsageError: one of fine-tuning, where only the head is to be trained; random weights,
                where not all of them are; or a phase that another one must precede.
        """
        if self.weights == "none" and self.phases != ("scratch",):
            raise UsageError(
                "Random weights have to be trained from the ground up: take --recipe scratch."
            )
        if "tune" in self.phases and "head" not in self.phases:
            raise UsageError(
                "Phase tune needs the head that phase head fits: add head to --phases."
            )
        usual = RECIPES[self.name]
        tuning = Recipe.model_fields.keys() - _OF_THE_HEAD
        idle = sorted(key for key in tuning if getattr(self, key) != getattr(usual, key))
        if idle and not self.tunes:
            raise UsageError(
                f"{idle[0]} would change nothing: only the head is to be trained. Leave it out, "
                "or train more, for example with --unfreeze block5."
            )

    @property
    def tunes(self) -> bool:
        """Whether anything is trained by gradient descent, and not the head alone by regression."""
        return self.head_epochs > 0 or self.stages[-1].name != "head"

    @property
    def draws(self) -> bool:
        """Whether the run shows what the public example shows, in pictures."""
        return "scratch" in self.phases or self.head_epochs > 0

    def to_toml(self) -> str:
        """The recipe as TOML; `named` with `choices_in` gives back an equal recipe."""
        return tomli_w.dumps(self.model_dump(mode="json"))

    @classmethod
    def named(cls, name: str, /, **choices: Any) -> "Recipe":
        """A named recipe with some of its choices changed.

        Args:
            name: one of `RECIPES`.
            **choices: attributes to change. Text is converted as needed (`"3"` to 3).

        Raises:
            UsageError: an unknown recipe or attribute, or a value out of its range.
        """
        if not isinstance(name, str) or name not in RECIPES:
            raise unknown_name("recipe", str(name), RECIPES)
        return RECIPES[name].changed(**choices)

    def changed(self, **choices: Any) -> "Recipe":
        """The same recipe with some of its choices changed; see `named`."""
        for key in choices:
            if key not in Recipe.model_fields:
                raise unknown_name("recipe setting", key, Recipe.model_fields)
        try:
            return Recipe.model_validate(self.model_dump() | choices)
        except ValidationError as error:
            raise UsageError(_explain(error)) from None


RECIPES = {
    "quick": Recipe(name="quick", unfreeze="none"),
    "balanced": Recipe(),
    "thorough": Recipe(name="thorough", whole_epochs=6, test_flip=True),
    "scratch": Recipe(name="scratch", phases=("scratch",), drop_connect_rate=0.2, ema=0.99),
    "keras-example": Recipe(
        name="keras-example",
        phases=("scratch", "head", "tune"),
        fit="stretch",
        val_from="test",
        augment="keras-example",
        flip="both",
        plain_view=False,
        scratch_learning_rate=1e-3,
        head_epochs=25,
        unfreeze="last",
        epochs=4,
        learning_rate=1e-5,
        optimizer="adam",
        schedule="constant",
        label_smoothing=0.0,
        drop_connect_rate=0.2,
        train_depthwise=True,
    ),
}


def _explain(error: ValidationError) -> str:
    problems = [
        f"{'.'.join(map(str, problem['loc'][:1]))} = {problem['input']!r}: "
        + problem["msg"].removeprefix("Value error, ")
        for problem in error.errors()
    ]
    return "This recipe cannot be used. " + "; ".join(problems) + "."
