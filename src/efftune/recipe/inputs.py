"""General settings and settings of the backbone and the data; see `setting.Setting`.

The command line, its help and documentation, `recipe.toml`, `--set` and error messages are derived
from these fields and those in `training.py`. Imports are light, since `efftune --help` reads the
fields.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, Len, Lt

from efftune.recipe import parsing
from efftune.recipe.parsing import Phase
from efftune.recipe.setting import Setting

Fit = Literal["stretch", "crop", "pad"]
DeviceChoice = Literal["auto", "cpu", "gpu"]
RecipeName = Literal["quick", "balanced", "thorough", "scratch", "keras-example"]
_SplitShare = Annotated[float, Ge(0.01), Le(0.5)]
AUTO_MODEL = "auto"  # instead of a model's name
_HELD_OUT_SHARE = 0.15  # of the pictures, for `auto`


@dataclass(frozen=True)
class General:
    """Settings of the run as a whole."""

    name: Annotated[
        RecipeName,
        Setting("The named recipe that all other settings start from.", "--recipe"),
    ] = "balanced"
    seed: Annotated[
        int,
        Ge(0),
        Lt(2**32),
        Setting("Random seed of splits, views, folds and training.", "--seed"),
    ] = 0
    device: Annotated[
        DeviceChoice,
        Setting(
            "Where to compute: on the processor, or on the machine's NVIDIA GPUs through JAX; auto "
            "uses GPUs if JAX sees any.",
            "--device",
        ),
    ] = "auto"
    phases: Annotated[
        tuple[Phase, ...],
        Len(1),
        Setting(
            "The phases of training, separated by commas. scratch trains everything from random "
            "weights, and its network is used only if it is the only phase; head fits a head; tune "
            "fine-tunes from --unfreeze up.",
            "--phases",
            parse=parsing.phases,
        ),
    ] = ("head", "tune")
    budget: Annotated[
        float,
        Ge(0),
        Le(10 * 24 * 3600),
        Setting(
            "Time for the whole run, such as 90s, 10m or 1h30m: less is trained if it is short, on "
            "fewer pictures if it is very short; up to three networks, if it is long.",
            "--budget",
            "no limit",
            parse=parsing.seconds,
        ),
    ] = 0.0
    goal: Annotated[
        str,
        Setting(
            "Limits of the classifier on this machine: the time for one picture, the size of its "
            "network or both, such as '20 ms, 15 MB'. --model auto chooses among the models that "
            "keep them; fewer networks are trained if several do not.",
            "--goal",
            "no limit",
            parse=parsing.goal,
        ),
    ] = ""


@dataclass(frozen=True)
class BackboneSettings:
    """The pretrained network and its input."""

    model: Annotated[
        str,
        Setting(
            "A model, as `efftune models` lists it, with or without efficientnet-; or auto, for "
            "the one that suits the pictures best, of those whose weights are on this machine.",
            "--model",
        ),
    ] = "efficientnet-lite0"
    fetch: Annotated[
        bool, Setting("Whether --model auto may download weights.", "--fetch", key="fetch")
    ] = False
    weights: Annotated[
        str,
        Len(1),
        Setting(
            "Published weights of the model, as `efftune models` lists them: imagenet, "
            "noisy-student, advprop, autoaugment, imagenet21k or timm; a weights file of the same "
            "model; or none for random weights, which require --recipe scratch.",
            "--weights",
        ),
    ] = "imagenet"
    image_size: Annotated[
        int,
        Ge(0),
        Le(1024),
        Setting(
            "Side of the model's input square, in pixels.",
            "--image-size",
            "the model's native size",
        ),
    ] = 0
    fit: Annotated[
        Fit,
        Setting(
            "How pictures are resized to squares: stretch ignores the aspect ratio, crop keeps the "
            "central square, pad adds grey bars.",
            "--fit",
        ),
    ] = "crop"
    precision: Annotated[
        Literal["auto", "f32", "bf16"],
        Setting(
            "Type of matrix products in training and of the frozen network over training pictures: "
            "float32, or bfloat16, which is faster on GPUs and on processors that have it; auto "
            "uses it there. "
            "Validation and test are always computed in float32, and predictions if not told else.",
            "--precision",
        ),
    ] = "auto"


@dataclass(frozen=True)
class DataSettings:
    """How the source is read and split."""

    path_column: Annotated[
        str,
        Setting(
            "The column with the paths or the pictures, if SOURCE has columns.", "--path-column"
        ),
    ] = "path"
    label_column: Annotated[str, Setting("The column with the classes.", "--label-column")] = (
        "label"
    )
    split_column: Annotated[
        str,
        Setting("The column with the splits (optional).", "--split-column"),
    ] = "split"
    group_column: Annotated[
        str,
        Setting(
            "The column with the groups (optional), such as patients or videos. A group is never "
            "divided between splits.",
            "--group-column",
        ),
    ] = "group"
    root: Annotated[
        str,
        Setting(
            "The folder that the paths of a table are relative to.",
            "--root",
            "the table's folder, or one in it",
        ),
    ] = ""
    label_columns: Annotated[
        tuple[str, ...],
        Setting(
            "Columns with 0 and 1, one for each class, separated by commas, instead of a column "
            "with the classes.",
            "--label-columns",
            "found if there are no others",
            parse=parsing.names,
        ),
    ] = ()
    splits: Annotated[
        Literal["auto", "none"],
        Setting(
            "Whether folders called like splits, such as train and test, are splits if there is "
            "one for training; with none, they are classes like any others.",
            "--splits",
        ),
    ] = "auto"
    val_from: Annotated[
        Literal["train", "test"],
        Setting(
            "Where validation pictures come from if SOURCE has no val split: a part of train; or, "
            "as in the public Keras example, all of test, which makes the test score optimistic, "
            "because the best epoch is selected on it."
        ),
    ] = "train"
    val: Annotated[
        _SplitShare | str,
        Setting(
            "Validation pictures, if SOURCE has no val split: their share, or a folder, archive or "
            "table of further ones.",
            "--val",
            "15 %, or none if --folds judges instead",
            parse=parsing.held_out,
        ),
    ] = "auto"
    test: Annotated[
        _SplitShare | str,
        Setting(
            "Test pictures, if SOURCE has no test split: their share, or a folder, archive or "
            "table of further ones.",
            "--test",
            "15 %, or none if --folds judges instead",
            parse=parsing.held_out,
        ),
    ] = "auto"
    folds: Annotated[
        Literal["auto", 0] | Annotated[int, Ge(2), Le(parsing.MOST_FOLDS)],
        Setting(
            "Folds of a cross-validation that judges the classifier, which is then trained on all "
            "pictures; 0 holds out --val and --test instead.",
            "--folds",
            "5 if SOURCE has no splits and few pictures, and neither --val nor --test is given",
            parse=parsing.folds,
        ),
    ] = "auto"
    leaks: Annotated[
        Literal["report", "drop", "keep"],
        Setting(
            "What to do with val and test pictures that have a copy in an earlier split: report "
            "scores with and without them, drop them, or keep them as normal pictures.",
            "--leaks",
        ),
    ] = "report"
    labels: Annotated[
        str,
        Setting(
            "A labels.csv with decisions from `efftune review`, or with the corrections that "
            "`efftune serve --feedback` keeps, whose pictures are for training as well. SOURCE is "
            "not changed.",
            "--labels",
            "none",
        ),
    ] = ""
    copies: Annotated[
        Literal["keep", "remove"],
        Setting(
            "Whether the copies of pictures at an address such as s3://bucket/photos stay in the "
            "cache folder, for the next time, or are removed at the end.",
            "--copies",
        ),
    ] = "keep"
    missing_classes: Annotated[
        Literal["refuse", "allow"],
        Setting(
            "Whether to stop if a class is missing from a split, or to continue as long as every "
            "class has training pictures."
        ),
    ] = "refuse"
    damaged_files: Annotated[
        Literal["refuse", "allow"],
        Setting(
            "Whether to stop if more than one file and more than 5 % of the files of a class are "
            "damaged or truncated, or to continue without them."
        ),
    ] = "refuse"

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of the pictures for validation and testing; 0 where a path is given."""
        val, test = (
            _HELD_OUT_SHARE if each == "auto" else 0.0 if isinstance(each, str) else each
            for each in (self.val, self.test)
        )
        return val, test

    @property
    def chooses_held_out(self) -> bool:
        """Whether it was decided which or how many pictures are held out for val or test."""
        return self.val != "auto" or self.test != "auto"

    @property
    def held_out(self) -> dict[Literal["val", "test"], str]:
        """The paths of further pictures for validation and testing, by split."""
        held_out: dict[Literal["val", "test"], str] = {}
        if isinstance(self.val, str) and self.val != "auto":
            held_out["val"] = self.val
        if isinstance(self.test, str) and self.test != "auto":
            held_out["test"] = self.test
        return held_out
