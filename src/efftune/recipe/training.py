"""Settings of training and evaluation; see `setting.Setting` and `inputs.py`."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt

from efftune.recipe.setting import Setting

Strength = Literal["light", "standard", "strong", "keras-example"]
Augment = Literal["none"] | Strength
Flip = Literal["no", "yes", "both"]
_Share = Annotated[float, Ge(0), Le(0.9)]
_Rate = Annotated[float, Gt(0), Le(10)]
_Epochs = Annotated[int, Ge(0), Le(10_000)]


def _share(value: Any) -> Any:
    """Text such as `2%` or `0.02` as a number."""
    if not isinstance(value, str):
        return value
    number = value.strip()
    try:
        return float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        raise ValueError("give a share, such as 2% or 0.02") from None


def _block(name: Any) -> Any:
    if not isinstance(name, str) or re.fullmatch(r"none|all|last|block\d+[a-z]?", name):
        return name
    raise ValueError("name a block, such as block5 or block6b, or last, all or none")


@dataclass(frozen=True)
class HeadSettings:
    """The head: logistic regression, or gradient descent."""

    strengths: Annotated[
        tuple[Annotated[float, Gt(0)], ...],
        Len(1, 20),
        Setting(
            "Strengths of the L2 penalty to choose from, as scikit-learn's C: larger is weaker.",
            key="head_strengths",
            head_only=True,
        ),
    ] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    folds: Annotated[
        int,
        Ge(2),
        Le(20),
        Setting(
            "Folds of the cross-validation that chooses among them.",
            key="head_folds",
            head_only=True,
        ),
    ] = 3
    epochs: Annotated[
        _Epochs,
        Setting(
            "Epochs of training the head by gradient descent, each on another view of every "
            "picture; 0 fits a logistic regression instead, which is better and quicker.",
            "--head-epochs",
            key="head_epochs",
            head_only=True,
        ),
    ] = 0
    learning_rate: Annotated[
        _Rate,
        Setting(
            "Learning rate of gradient descent.",
            key="head_learning_rate",
            head_only=True,
        ),
    ] = 1e-2
    start: Annotated[
        Literal["regression", "random"],
        Setting("Where the first stage after it starts its head from.", key="head_start"),
    ] = "regression"


@dataclass(frozen=True)
class AugmentationSettings:
    """Augmented views of the training pictures."""

    views: Annotated[
        Literal["auto"] | Annotated[int, Ge(0), Le(64)],
        Setting(
            "Augmented views of each training picture to cache, beside the picture itself. An "
            "epoch sees one of them; auto caches one less than there are epochs."
        ),
    ] = "auto"
    plain_view: Annotated[
        bool, Setting("Whether an epoch may also see the unaugmented picture.")
    ] = True
    augment: Annotated[
        Literal["auto"] | Augment,
        Setting(
            "How far views go from the picture.",
            "--augment",
            "the furthest, up to standard, that the head still recognises",
        ),
    ] = "auto"
    flip: Annotated[
        Literal["auto"] | Flip,
        Setting(
            "Whether half the views are mirrored. auto asks the head whether it recognises "
            "mirrored pictures; if not, as with letters, nothing is. both also swaps top and "
            "bottom."
        ),
    ] = "auto"
    mix: Annotated[
        Literal["none", "mixup", "cutmix"],
        Setting("Blends pairs of pictures (mixup), or pastes a part of one into the other."),
    ] = "none"
    mix_alpha: Annotated[
        float,
        Gt(0),
        Le(10),
        Setting("Parameter of the Beta distribution of the mixing ratio; small mixes little."),
    ] = 0.2


@dataclass(frozen=True)
class TuningSettings:
    """The stages of fine-tuning, and the cached activations that they start from."""

    unfreeze: Annotated[
        str,
        Setting(
            "First block to train beside the head, such as block6; or last (where the last stage "
            "of blocks begins), all or none.",
            "--unfreeze",
            parse=_block,
            head_only=True,
        ),
    ] = "block5"
    epochs: Annotated[
        Literal["auto"] | _Epochs,
        Setting("Epochs of fine-tuning from that block.", "--epochs", "enough for 180 steps"),
    ] = "auto"
    steps: Annotated[
        int, Ge(1), Setting("Steps of that stage, at least, where its epochs are auto.")
    ] = 180
    learning_rate: Annotated[
        _Rate, Setting("Highest learning rate of fine-tuning.", "--learning-rate")
    ] = 1e-3
    whole_epochs: Annotated[
        _Epochs,
        Setting(
            "Epochs of training all blocks after that; 0 leaves it out, or, with --unfreeze all, "
            "takes --epochs."
        ),
    ] = 0
    whole_learning_rate: Annotated[_Rate, Setting("Highest learning rate of that stage.")] = 3e-5
    train_depthwise: Annotated[
        bool, Setting("Whether depthwise kernels are trained with their blocks.")
    ] = False
    layer_decay: Annotated[
        float,
        Gt(0),
        Le(1),
        Setting("Factor of the learning rate from one block to the next lower one."),
    ] = 1.0
    activations: Annotated[
        Literal["float16", "bfloat16"], Setting("Type of the cached activations.")
    ] = "float16"
    memory: Annotated[
        float,
        Ge(0),
        Setting("Memory for cached activations, in GiB; 0 means a quarter of the free memory."),
    ] = 0.0


@dataclass(frozen=True)
class ScratchSettings:
    """Training from random weights."""

    epochs: Annotated[
        int,
        Ge(1),
        Le(10_000),
        Setting("Epochs of training from random weights.", key="scratch_epochs", head_only=True),
    ] = 40
    learning_rate: Annotated[
        _Rate,
        Setting("Highest learning rate of it.", key="scratch_learning_rate", head_only=True),
    ] = 2e-3


@dataclass(frozen=True)
class OptimizationSettings:
    """Gradient descent, in every stage."""

    batch_size: Annotated[
        int, Ge(1), Le(4096), Setting("Pictures in one step.", "--batch-size")
    ] = 64
    optimizer: Annotated[
        Literal["adamw", "adam", "rmsprop"],
        Setting("The optimizer; adam is adamw without weight decay.", "--optimizer"),
    ] = "adamw"
    schedule: Annotated[
        Literal["cosine", "constant"],
        Setting("Schedule of the learning rate: warm-up and cosine decay, or constant."),
    ] = "cosine"
    warmup: Annotated[
        _Share, Setting("Share of a stage's steps in which the learning rate rises.")
    ] = 0.1
    weight_decay: Annotated[
        float, Ge(0), Le(10), Setting("Decoupled weight decay of kernels; adamw only.")
    ] = 0.02
    label_smoothing: Annotated[
        _Share,
        Setting("Share of each label that is spread over all classes.", "--label-smoothing"),
    ] = 0.1
    dropout: Annotated[
        _Share, Setting("Share of features that the head does not see in a step.", "--dropout")
    ] = 0.2
    drop_connect_rate: Annotated[
        _Share,
        Setting(
            "How often the last residual block is left out in a step; lower blocks less, in "
            "proportion to their depth.",
            "--drop-connect-rate",
        ),
    ] = 0.0
    class_weights: Annotated[
        Literal["none", "balanced"],
        Setting(
            "Weights of the classes in the loss; balanced gives all the same total.",
            "--class-weights",
            head_only=True,
        ),
    ] = "none"
    ema: Annotated[
        float,
        Ge(0),
        Lt(1),
        Setting(
            "Decay per step of the weights' moving average, which is kept; 0 for none.", "--ema"
        ),
    ] = 0.0
    patience: Annotated[
        int,
        Ge(0),
        Setting("Epochs without progress on validation after which a stage stops; 0 for never."),
    ] = 0


@dataclass(frozen=True)
class EvaluationSettings:
    """How the classifier predicts, and what is said of its predictions."""

    test_flip: Annotated[
        bool,
        Setting(
            "Whether to predict by the mean over a picture and its mirror image, where mirroring "
            "changes nothing; predictions take twice as long."
        ),
    ] = False
    max_error: Annotated[
        float,
        Ge(0),
        Le(0.5),
        Setting(
            "Share of the predictions given that may be wrong, such as 2%; the least confident "
            "others are flagged unsure.",
            "--max-error",
            parse=_share,
            head_only=True,
        ),
    ] = 0.02
