"""Arguments and options of the commands, other than those of settings."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from efftune.cli import completion

Source = Annotated[
    str,
    typer.Argument(
        help="A folder with one folder per class; a folder with train, val and test folders that "
        "contain class folders; a .zip, .tar, .tar.gz or .tgz archive of either; a .csv, .tsv or "
        ".parquet table of paths and labels; the address of any of these, such as "
        "s3://bucket/photos; shards that efftune pack has written, such as shards/ or "
        "shards/train-{000..099}.tar; sample:digits; tfds:NAME, such as tfds:stanford_dogs; "
        "hf:NAME, such as hf:beans; or hf:FOLDER.",
        metavar="SOURCE",
    ),
]

ShardsFolder = Annotated[
    str,
    typer.Option("--into", help="A new folder for the shards, or an address.", show_default=False),
]

ShardsForm = Annotated[
    Literal["tar", "parquet"],
    typer.Option(
        "--format", help="The layout: tar is that of WebDataset, parquet that of Hugging Face."
    ),
]

ShardMegabytes = Annotated[
    int, typer.Option("--megabytes", help="The most that a shard may have.", min=1)
]

RunArgument = Annotated[Path, typer.Argument(help="A run folder created by train.", metavar="RUN")]

RunOrExport = Annotated[
    Path,
    typer.Argument(
        help="A run folder created by train; or a file created by export, or its folder.",
        metavar="RUN",
    ),
]

ServedRun = Annotated[
    Path | None,
    typer.Argument(
        help="A run folder created by train; or a file created by export, or its folder. Leave it "
        "out with --latest.",
        metavar="RUN",
        show_default=False,
    ),
]

UnfinishedRun = Annotated[
    Path, typer.Argument(help="The folder of an unfinished run.", metavar="RUN")
]

RunsFolder = Annotated[
    Path, typer.Argument(help="The folder that holds the runs.", metavar="FOLDER")
]

RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run", help="The run folder to create. (default: the next free runs/SOURCE-MODEL-N)"
    ),
]

Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with the run that the same command has begun, if there is one."
    ),
]

Images = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders, globs or addresses such as s3://bucket/new; - reads them from "
        "standard input, one per line.",
        metavar="IMAGES",
    ),
]

Top = Annotated[
    int, typer.Option(help="Number of most probable classes to print for each picture.", min=1)
]

CheckFolder = Annotated[
    Path | None,
    typer.Option("--out", help="A folder to write for the table of findings and plots."),
]

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan and its estimated duration, without training."),
]

Budget = Annotated[
    str, typer.Option(help="Time for all of it, such as 90s, 20m or 1h30m, by an estimate.")
]

SplitName = Annotated[
    str | None,
    typer.Option(
        help="train, val or test. (default: test if SOURCE has one, otherwise all pictures)",
        autocompletion=completion.words("train", "val", "test"),
    ),
]

Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]

Accept = Annotated[
    int | None,
    typer.Option(
        help="Instead of writing a page, accept the suggested labels of this many of the most "
        "suspect pictures.",
        min=1,
    ),
]

Label = Annotated[
    str | None, typer.Option(help="The class to explain. (default: the predicted class)")
]

ExplanationFolder = Annotated[Path, typer.Option("--out", help="A folder for the heatmaps.")]

Runs = Annotated[
    list[Path],
    typer.Argument(
        help="Two or more run folders; the first is the baseline for the others.",
        metavar="RUN RUN...",
    ),
]

ComparedSplit = Annotated[
    str, typer.Option(help="test or val.", autocompletion=completion.words("test", "val"))
]

PlotFile = Annotated[
    Path | None,
    typer.Option("--out", help="A PNG file to write: accuracy against training seconds."),
]

Formats = Annotated[
    str,
    typer.Option(
        "--format",
        help="One or several, separated by commas: onnx, openvino, openvino-f16, openvino-int8, "
        "litert, litert-f16, litert-int8, savedmodel.",
        metavar="FORMATS",
    ),
]

Targets = Annotated[
    str,
    typer.Option(
        "--for",
        help="What the files are for; one or several, separated by commas: mediapipe, android, "
        "raspberry-pi, frigate, photoprism, ovms, triton, browser, python.",
        metavar="TARGETS",
    ),
]

MaxDrop = Annotated[
    float,
    typer.Option(
        help="By how many points files of 8 bits may lower the accuracy on the validation "
        "pictures.",
        min=0,
        max=100,
    ),
]

BrowserRuntime = Annotated[
    Path | None,
    typer.Option(
        "--runtime", help="For browser: the archive that `npm pack onnxruntime-web` writes."
    ),
]

FetchRuntime = Annotated[
    bool,
    typer.Option("--fetch", help="For browser: download ONNX Runtime Web, once."),
]

ExportFolder = Annotated[
    Path | None,
    typer.Option(
        "--into", help="A folder for a folder of each format or target. (default: RUN/exports)"
    ),
]

RunPhotos = Annotated[
    str | None,
    typer.Option("--photos", help="The source that RUN was trained from, if it has moved."),
]

Batch = Annotated[
    int | None,
    typer.Option(
        help="1 for files that take one picture in each call. (default: any number)",
        min=1,
        max=1,
    ),
]

EXPORTING = {
    "into": (ExportFolder, None),
    "photos": (RunPhotos, None),
    "batch": (Batch, None),
    "max_drop": (MaxDrop, 0.5),
    "runtime": (BrowserRuntime, None),
    "fetch": (FetchRuntime, False),
}
Repository = Annotated[
    str,
    typer.Argument(
        help="A repository of the Hugging Face Hub: hf:USER/NAME.", metavar="REPOSITORY"
    ),
]

Private = Annotated[
    bool, typer.Option("--private", help="Only those may see it whom its owner allows.")
]

WithReport = Annotated[
    bool,
    typer.Option(
        "--with-report",
        help="Also what the report shows: names of pictures, small pictures, predictions.",
    ),
]

LoadedFolder = Annotated[
    Path | None, typer.Option("--into", help="The run folder to create. (default: runs/NAME)")
]

SortedFolder = Annotated[
    Path, typer.Option("--into", help="The folder for a folder of each class.")
]

PRECISION = {
    "precision": (
        Annotated[
            Literal["f32", "bf16", "auto"],
            typer.Option(
                help="Type of the computation: f32, as the classifier was judged; bf16, which is "
                "faster on processors that have it, and changes probabilities a little; or auto: "
                "bf16 where it is faster."
            ),
        ],
        "f32",
    ),
}

PREDICTING = {
    "top": (Top, 1),
    "raw": (
        Annotated[
            bool,
            typer.Option(
                "--raw", help="Print uncalibrated probabilities, as the network computes them."
            ),
        ],
        False,
    ),
    **PRECISION,
}

PARTS = {
    "into": (
        Annotated[
            Path | None,
            typer.Option(
                "--into",
                help="A folder for the predictions, in files of 10,000 pictures; those that are "
                "there already are kept, so that a stopped command can be given again.",
                show_default=False,
            ),
        ],
        None,
    ),
    "form": (
        Annotated[
            Literal["csv", "parquet"], typer.Option("--format", help="Of the files of --into.")
        ],
        "csv",
    ),
}

SORTING = {
    "copy": (
        Annotated[bool, typer.Option("--copy", help="Place copies. (default: hard links)")],
        False,
    ),
    "xmp": (
        Annotated[
            bool,
            typer.Option(
                "--xmp", help="Place the class as a keyword beside each, for photo libraries."
            ),
        ],
        False,
    ),
}

Sorted = Annotated[
    Path, typer.Argument(help="A folder that photos were sorted into.", metavar="FOLDER")
]

# For classify and models.
PublishedModel = Annotated[
    str,
    typer.Option(help="A model, as listed by `efftune models`.", autocompletion=completion.models),
]
PublishedWeights = Annotated[
    str,
    typer.Option(
        "--weights",
        help="Which of the model's published weights: imagenet, noisy-student, advprop, "
        "autoaugment, imagenet21k or timm, as listed by `efftune models`.",
    ),
]
Fetch = Annotated[
    str | None,
    typer.Option(
        help="Download the weights of this model for offline use.",
        autocompletion=completion.models,
    ),
]
