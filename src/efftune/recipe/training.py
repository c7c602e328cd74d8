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
    """Convert text such as `2%` or `0.02` to a number."""
    if not isinstance(value, str):
        return value
    number = value.strip()
    try:
        return float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        raise ValueError("expected a share, such as 2% or 0.02") from None


def _block(name: Any) -> Any:
    if not isinstance(name, str) or re.fullmatch(r"none|all|last|block\d+[a-z]?", name):
        return name
    raise ValueError("expected a block, such as block5 or block6b, or last, all or none")


@dataclass(frozen=True)
class HeadSettings:
    """The head: logistic regression, or gradient descent."""

    features: Annotated[
        Literal["auto", "last"],
        Setting(
            "What the head is fitted on: the features of the last stage; or, with auto, beside "
            "them the mean activations at the end of the other stages, unless there are few "
            "pictures and it does not help. Fine-tuning starts from a head on the last stage.",
            key="head_features",
        ),
    ] = "auto"
    strengths: Annotated[
        tuple[Annotated[float, Gt(0)], ...],
        Len(1, 20),
        Setting(
            "Candidate strengths of the L2 penalty, as scikit-learn's C: larger is weaker.",
            key="head_strengths",
        ),
    ] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    folds: Annotated[
        int,
        Ge(2),
        Le(20),
        Setting("Folds of the cross-validation that selects among them.", key="head_folds"),
    ] = 3
    epochs: Annotated[
        _Epochs,
        Setting(
            "Epochs of training the head by gradient descent, each on a different view of every "
            "picture; 0 fits a logistic regression instead, which is better and faster.",
            "--head-epochs",
            key="head_epochs",
        ),
    ] = 0
    learning_rate: Annotated[
        _Rate,
        Setting("Learning rate of the head's gradient descent.", key="head_learning_rate"),
    ] = 1e-2
    start: Annotated[
        Literal["regression", "random"],
        Setting("Head that the following stage starts from.", key="head_start"),
    ] = "regression"


@dataclass(frozen=True)
class AugmentationSettings:
    """Augmented views of the training pictures."""

    views: Annotated[
        Literal["auto"] | Annotated[int, Ge(0), Le(64)],
        Setting(
            "Augmented views to cache per training picture, in addition to the picture itself. "
            "Each epoch uses one of them; auto caches one less than the number of epochs, up to 15."
        ),
    ] = "auto"
    plain_view: Annotated[
        bool, Setting("Whether the unaugmented picture is also used as a view.")
    ] = True
    augment: Annotated[
        Literal["auto"] | Augment,
        Setting(
            "Strength of the augmentation.",
            "--augment",
            "the strongest, up to standard, that the head still recognises",
        ),
    ] = "auto"
    flip: Annotated[
        Literal["auto"] | Flip,
        Setting(
            "Whether half the views are mirrored. auto tests whether the head recognises mirrored "
            "pictures; if not, as with letters, none are. both also flips vertically."
        ),
    ] = "auto"
    mix: Annotated[
        Literal["none", "mixup", "cutmix"],
        Setting("Blends pairs of pictures (mixup), or pastes a part of one into another (cutmix)."),
    ] = "none"
    mix_alpha: Annotated[
        float,
        Gt(0),
        Le(10),
        Setting("Parameter of the Beta distribution of the mixing ratio; smaller mixes less."),
    ] = 0.2


@dataclass(frozen=True)
class TuningSettings:
    """The stages of fine-tuning, and the cached activations that they train on."""

    unfreeze: Annotated[
        str,
        Setting(
            "First block to train in addition to the head, such as block6; or last (the first "
            "block of the last stage), all or none.",
            "--unfreeze",
            parse=_block,
        ),
    ] = "block5"
    epochs: Annotated[
        Literal["auto"] | _Epochs,
        Setting("Epochs of fine-tuning from that block.", "--epochs", "enough for 180 steps"),
    ] = "auto"
    steps: Annotated[
        int, Ge(1), Setting("Minimum number of steps of that stage, if its epochs are auto.")
    ] = 180
    learning_rate: Annotated[
        _Rate, Setting("Peak learning rate of fine-tuning.", "--learning-rate")
    ] = 1e-3
    whole_epochs: Annotated[
        _Epochs,
        Setting(
            "Epochs of training all blocks after that; 0 skips it or, with --unfreeze all, means "
            "--epochs."
        ),
    ] = 0
    whole_learning_rate: Annotated[_Rate, Setting("Peak learning rate of that stage.")] = 3e-5
    members: Annotated[
        Literal["auto"] | Annotated[int, Ge(1), Le(10)],
        Setting(
            "Networks trained from that block up with different seeds; their logits are averaged. "
            "They share the blocks below, which are not trained. More make training and prediction "
            "slower, and the classifier larger; auto trains one, or up to three if a --budget "
            "allows it."
        ),
    ] = "auto"
    train_depthwise: Annotated[
        bool, Setting("Whether depthwise kernels are trained with their blocks.")
    ] = False
    layer_decay: Annotated[
        float,
        Gt(0),
        Le(1),
        Setting("Factor of the learning rate from each block to the one below."),
    ] = 1.0
    activations: Annotated[
        Literal["float16", "bfloat16"], Setting("Data type of the cached activations.")
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
        Setting("Epochs of training from random weights.", key="scratch_epochs"),
    ] = 40
    learning_rate: Annotated[
        _Rate,
        Setting("Peak learning rate of that stage.", key="scratch_learning_rate"),
    ] = 2e-3


@dataclass(frozen=True)
class OptimizationSettings:
    """Gradient descent, in every stage."""

    batch_size: Annotated[
        Annotated[int, Ge(1), Le(4096)] | Literal["auto"],
        Setting(
            "Pictures per step. auto takes 64, or fewer if an epoch would have few steps or memory "
            "is short.",
            "--batch-size",
        ),
    ] = "auto"
    divide_steps: Annotated[
        bool,
        Setting(
            "Divide each step among the workers of --cluster, if there are any: pays with few "
            "processors here and many there. On GPUs, it has no effect."
        ),
    ] = False
    optimizer: Annotated[
        Literal["adamw", "adam", "rmsprop"],
        Setting("The optimizer; adam is adamw without weight decay.", "--optimizer"),
    ] = "adamw"
    schedule: Annotated[
        Literal["cosine", "constant"],
        Setting("Schedule of the learning rate: warm-up and cosine decay, or constant."),
    ] = "cosine"
    warmup: Annotated[_Share, Setting("Share of a stage's steps for learning-rate warm-up.")] = 0.1
    weight_decay: Annotated[
        float, Ge(0), Le(10), Setting("Decoupled weight decay of kernels; adamw only.")
    ] = 0.02
    label_smoothing: Annotated[
        _Share,
        Setting("Label smoothing: the share spread over all classes.", "--label-smoothing"),
    ] = 0.1
    dropout: Annotated[_Share, Setting("Dropout rate of the head's input.", "--dropout")] = 0.2
    drop_connect_rate: Annotated[
        _Share,
        Setting(
            "Probability of skipping a residual block in a step (stochastic depth), for the top "
            "block; lower blocks in proportion to their depth.",
            "--drop-connect-rate",
        ),
    ] = 0.0
    class_weights: Annotated[
        Literal["none", "balanced"],
        Setting(
            "Class weights in the loss; balanced gives all classes the same total weight.",
            "--class-weights",
        ),
    ] = "none"
    ema: Annotated[
        float,
        Ge(0),
        Lt(1),
        Setting(
            "Decay per step of an exponential moving average of the weights, which replaces them; "
            "lower in stages of few steps, so that it spans a tenth of them at most; 0 for none.",
            "--ema",
        ),
    ] = 0.0
    patience: Annotated[
        int,
        Ge(0),
        Setting(
            "Epochs without improvement on validation before a stage stops; 0 for never. Without "
            "effect if --folds judges."
        ),
    ] = 0


@dataclass(frozen=True)
class EvaluationSettings:
    """How the classifier predicts, and when predictions are flagged."""

    test_flip: Annotated[
        bool,
        Setting(
            "Whether to average predictions over each picture and its mirror image, if training "
            "sees mirrored pictures; predictions take twice as long."
        ),
    ] = False
    max_error: Annotated[
        float,
        Ge(0),
        Le(0.5),
        Setting(
            "Largest share of errors among the predictions not flagged, such as 2%; the least "
            "confident ones are flagged unsure.",
            "--max-error",
            parse=_share,
        ),
    ] = 0.02
