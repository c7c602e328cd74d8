"""The arguments and options of the command line: their types and what `--help` says of them."""

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(
        help="A folder with one folder per class; or one with train, val and test folders of "
        "those; or a .zip, .tar, .tar.gz or .tgz of either; or a .csv, .tsv or .parquet table of "
        "paths and labels; or sample:digits; or tfds:NAME, such as tfds:stanford_dogs; or "
        "hf:NAME, such as hf:beans, or hf:FOLDER.",
        metavar="SOURCE",
    ),
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder made by train.", metavar="RUN")]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run", help="The run folder to make. (default: the next free runs/SOURCE-MODEL-N)"
    ),
]
Images = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders or globs; - reads paths from standard input, one a line.",
        metavar="IMAGES",
    ),
]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Raw = Annotated[
    bool, typer.Option("--raw", help="The network's own probabilities, not the calibrated ones.")
]
MaxError = Annotated[
    str | None,
    typer.Option(
        help="Share of the answers given that may be wrong, such as 2%; the others are unsure. "
        "(default: as trained, 2%)"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
Top = Annotated[int, typer.Option(help="How many of the likeliest classes.", min=1)]

# Of a table; an hf: set takes the first two.
PathColumn = Annotated[
    str | None,
    typer.Option(
        help="The column of paths, or of pictures, if SOURCE has columns. (default: path)"
    ),
]
LabelColumn = Annotated[str | None, typer.Option(help="That of classes. (default: label)")]
SplitColumn = Annotated[
    str | None, typer.Option(help="That of splits, which may be missing. (default: split)")
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        help="That of what belongs together, such as a patient, which may be missing. "
        "(default: group)"
    ),
]

# Of check.
Out = Annotated[
    Path | None, typer.Option(help="A folder for the table of findings and for pictures.")
]

# Of train.
Leaks = Annotated[
    str | None,
    typer.Option(
        help="Pictures of val and test with a copy in a split before: report scores with and "
        "without them, drop or keep them. (default: report)"
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(help="A labels.csv of decisions from `efftune review`. SOURCE stays as it is."),
]
Model = Annotated[
    str | None,
    typer.Option(help="As `efftune models` lists it. (default: efficientnet-lite0)"),
]
Named = Annotated[
    str | None,
    typer.Option(help="quick, balanced, thorough, scratch or keras-example. (default: balanced)"),
]
Weights = Annotated[
    str | None,
    typer.Option(help="imagenet, none, or a weights file. (default: imagenet)"),
]
ImageSize = Annotated[
    int | None,
    typer.Option(help="Side of the square the model sees, in pixels. (default: the model's own)"),
]
Fit = Annotated[
    str | None,
    typer.Option(help="How pictures become squares: stretch, crop or pad. (default: crop)"),
]
Val = Annotated[
    float | None,
    typer.Option(help="Share to validate on, if SOURCE has no val split. (default: 0.15)"),
]
Test = Annotated[
    float | None,
    typer.Option(help="Share to test on, if SOURCE has no test split. (default: 0.15)"),
]
Unfreeze = Annotated[
    str | None,
    typer.Option(
        help="First block to train beside the head, such as block6; or last, all or none. "
        "(default: block5)"
    ),
]
Phases = Annotated[
    str | None,
    typer.Option(help="Of scratch, head and tune, with commas. (default: head,tune)"),
]
HeadEpochs = Annotated[
    int | None,
    typer.Option(
        help="Train the head by gradient descent this long, not by regression. (default: 0)"
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(help="Of fine-tuning from that block. (default: enough for 180 steps)"),
]
LearningRate = Annotated[
    float | None, typer.Option(help="The highest of fine-tuning. (default: 0.001)")
]
Optimizer = Annotated[str | None, typer.Option(help="adamw, adam or rmsprop. (default: adamw)")]
BatchSize = Annotated[int | None, typer.Option(help="Pictures in one step. (default: 64)")]
Augment = Annotated[
    str | None,
    typer.Option(
        help="How far training views go from the pictures: none, light, standard, strong or "
        "keras-example. "
        "(default: the furthest, up to standard, that are still recognised)"
    ),
]
LabelSmoothing = Annotated[
    float | None,
    typer.Option(help="Share of a label spread over all classes. (default: 0.1)"),
]
Dropout = Annotated[
    float | None,
    typer.Option(help="Share of features the head does not see in a step. (default: 0.2)"),
]
DropConnectRate = Annotated[
    float | None,
    typer.Option(help="How often the last block is left out in a step. (default: 0)"),
]
ClassWeights = Annotated[
    str | None,
    typer.Option(help="Weigh classes in the loss: none or balanced. (default: none)"),
]
Ema = Annotated[
    float | None,
    typer.Option(help="Decay of the weights' moving average, 0 for none. (default: 0)"),
]
Seed = Annotated[int | None, typer.Option(help="Makes a run repeatable. (default: 0)")]
Config = Annotated[
    Path | None, typer.Option(help="A TOML file of settings, such as a run's recipe.toml.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting of the recipe, as KEY=VALUE. Repeatable."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be done, and how long it takes.")
]

# Of evaluate.
SplitName = Annotated[
    str | None,
    typer.Option(help="train, val or test. (default: test if SOURCE has one, else everything)"),
]

# Of report and review.
Open = Annotated[bool, typer.Option("--open", help="Show it in the browser.")]
Accept = Annotated[
    int | None,
    typer.Option(
        help="Write no page: relabel this many of the most suspect pictures as suggested.", min=1
    ),
]

# Of explain.
Label = Annotated[
    str | None, typer.Option(help="The class to explain. (default: the one answered)")
]
ExplanationFile = Annotated[Path, typer.Option("--out", help="A folder for the pictures.")]

# Of compare.
Runs = Annotated[
    list[Path],
    typer.Argument(
        help="Two or more run folders; the first is what the others are compared with.",
        metavar="RUN RUN...",
    ),
]
ComparedSplit = Annotated[str, typer.Option(help="test or val.")]
Drawing = Annotated[
    Path | None, typer.Option("--out", help="A PNG of accuracy against seconds to write.")
]
