"""Settings of the run as a whole, of the backbone and of the data; see `setting.Setting`.

The command line, its help and documentation, `recipe.toml`, `--set` and error messages follow from
these fields and those in `training.py`. Nothing heavy is imported, since `efftune --help` reads
them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le, Len, Lt

from efftune.recipe.setting import Setting

Fit = Literal["stretch", "crop", "pad"]
Phase = Literal["scratch", "head", "tune"]
RecipeName = Literal["quick", "balanced", "thorough", "scratch", "keras-example"]
_SplitShare = Annotated[float, Ge(0.01), Le(0.5)]


def _phases(value: Any) -> Any:
    """Phases in their order, of a sequence or of text with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or any(not isinstance(name, str) for name in names):
        return names
    if len(set(names)) < len(names):
        raise ValueError("name each phase once")
    order = get_args(Phase)
    known = [name for name in order if name in names]
    return tuple(known) if len(known) == len(names) else tuple(names)


@dataclass(frozen=True)
class General:
    """What is neither data nor training."""

    name: Annotated[
        RecipeName,
        Setting("The named recipe that all other settings start from.", "--recipe", head_only=True),
    ] = "balanced"
    seed: Annotated[
        int,
        Ge(0),
        Lt(2**32),
        Setting("Makes splits, views, folds and training repeatable.", "--seed", head_only=True),
    ] = 0
    phases: Annotated[
        tuple[Phase, ...],
        Len(1),
        Setting(
            "The parts of training, with commas. scratch trains everything from random weights, "
            "and its result is kept if it is the only part; head fits a head; tune trains from "
            "--unfreeze up.",
            "--phases",
            parse=_phases,
            head_only=True,
        ),
    ] = ("head", "tune")


@dataclass(frozen=True)
class BackboneSettings:
    """The pretrained network and the pixels that it sees."""

    model: Annotated[
        str, Setting("A model, as `efftune models` lists it.", "--model", head_only=True)
    ] = "efficientnet-lite0"
    weights: Annotated[
        str,
        Len(1),
        Setting(
            "imagenet, a weights file of the same model, or none for random weights, which only "
            "--recipe scratch can train.",
            "--weights",
            head_only=True,
        ),
    ] = "imagenet"
    image_size: Annotated[
        int,
        Ge(0),
        Le(1024),
        Setting(
            "Side of the square that the model sees, in pixels.",
            "--image-size",
            "the model's own",
            head_only=True,
        ),
    ] = 0
    fit: Annotated[
        Fit,
        Setting(
            "How pictures become squares: stretch ignores proportions, crop keeps the central "
            "square, pad adds grey bars.",
            "--fit",
            head_only=True,
        ),
    ] = "crop"


@dataclass(frozen=True)
class DataSettings:
    """How the source is read and split."""

    path_column: Annotated[
        str,
        Setting(
            "The column of paths, or of pictures, if SOURCE has columns.",
            "--path-column",
            head_only=True,
        ),
    ] = "path"
    label_column: Annotated[
        str, Setting("The column of classes.", "--label-column", head_only=True)
    ] = "label"
    split_column: Annotated[
        str,
        Setting("The column of splits, which may be missing.", "--split-column", head_only=True),
    ] = "split"
    group_column: Annotated[
        str,
        Setting(
            "The column of groups, such as patients or videos, which may be missing. A group is "
            "never divided between splits.",
            "--group-column",
            head_only=True,
        ),
    ] = "group"
    val_from: Annotated[
        Literal["train", "test"],
        Setting(
            "Where validation pictures come from if SOURCE has no val split: cut from train; or, "
            "as in the public example, all of test, whose score is then that of the epoch that did "
            "best on it.",
            head_only=True,
        ),
    ] = "train"
    val_fraction: Annotated[
        _SplitShare,
        Setting("Share to validate on, if SOURCE has no val split.", "--val", head_only=True),
    ] = 0.15
    test_fraction: Annotated[
        _SplitShare,
        Setting("Share to test on, if SOURCE has no test split.", "--test", head_only=True),
    ] = 0.15
    leaks: Annotated[
        Literal["report", "drop", "keep"],
        Setting(
            "What to do with val and test pictures that have a copy in an earlier split: report "
            "scores with and without them, drop them, or keep them like any other.",
            "--leaks",
            head_only=True,
        ),
    ] = "report"
    labels: Annotated[
        str,
        Setting(
            "A labels.csv of decisions from `efftune review`. SOURCE stays as it is.",
            "--labels",
            "none",
            head_only=True,
        ),
    ] = ""
    missing_classes: Annotated[
        Literal["refuse", "allow"],
        Setting(
            "Whether to stop when a class is missing from a split, or to go on as long as every "
            "class can be trained.",
            head_only=True,
        ),
    ] = "refuse"
