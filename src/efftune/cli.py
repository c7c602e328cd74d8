"""The command `efftune`: parse, call, print."""

import io
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

import efftune
from efftune.errors import EfftuneError
from efftune.progress import Progress

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[
    str,
    typer.Argument(
        help="A folder with one folder per class; or one with train, val and test folders of "
        "those; or sample:digits; or tfds:NAME, such as tfds:stanford_dogs.",
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
Images = Annotated[list[str], typer.Argument(help="Files, folders or globs.", metavar="IMAGES")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"efftune {efftune.__version__}")
        raise typer.Exit


@app.callback()
def efftune_command(
    _version_wanted: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Turn a folder of labelled pictures into an honestly judged EfficientNet classifier."""


@app.command()
def train(
    source: Source,
    model: Annotated[
        str | None,
        typer.Option(help="As `efftune models` lists it. (default: efficientnet-lite0)"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="quick, balanced, thorough, scratch or keras-example. (default: balanced)"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet, none, or a weights file. (default: imagenet)"),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the square the model sees, in pixels. (default: the model's own)"
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="How pictures become squares: stretch, crop or pad. (default: crop)"),
    ] = None,
    val: Annotated[
        float | None,
        typer.Option(help="Share to validate on, if SOURCE has no val split. (default: 0.15)"),
    ] = None,
    test: Annotated[
        float | None,
        typer.Option(help="Share to test on, if SOURCE has no test split. (default: 0.15)"),
    ] = None,
    unfreeze: Annotated[
        str | None,
        typer.Option(
            help="First block to train beside the head, such as block6; or last, all or none. "
            "(default: block5)"
        ),
    ] = None,
    phases: Annotated[
        str | None,
        typer.Option(help="Of scratch, head and tune, with commas. (default: head,tune)"),
    ] = None,
    head_epochs: Annotated[
        int | None,
        typer.Option(
            help="Train the head by gradient descent this long, not by regression. (default: 0)"
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Of fine-tuning from that block. (default: enough for 180 steps)"),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest of fine-tuning. (default: 0.001)")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adamw, adam or rmsprop. (default: adamw)")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures in one step. (default: 64)")
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="How far training views go from the pictures: none, light, standard, strong or "
            "keras-example. "
            "(default: the furthest, up to standard, that are still recognised)"
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(help="Share of a label spread over all classes. (default: 0.1)"),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(help="Share of features the head does not see in a step. (default: 0.2)"),
    ] = None,
    drop_connect_rate: Annotated[
        float | None,
        typer.Option(help="How often the last block is left out in a step. (default: 0)"),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(help="Weigh classes in the loss: none or balanced. (default: none)"),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(help="Decay of the weights' moving average, 0 for none. (default: 0)"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes a run repeatable. (default: 0)")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file of settings, such as a run's recipe.toml.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any setting of the recipe, as KEY=VALUE. Repeatable."),
    ] = None,
    run: RunOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and how long it takes.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on the pictures in SOURCE; leave it in a run folder."""
    from efftune.recipe import gathered

    options: dict[str, Any] = {"model": model, "image_size": image_size, "fit": fit, "seed": seed}
    options |= {"name": recipe, "val_fraction": val, "test_fraction": test, "unfreeze": unfreeze}
    options |= {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    options |= {"augment": augment, "label_smoothing": label_smoothing, "dropout": dropout}
    options |= {"class_weights": class_weights, "ema": ema, "weights": weights}
    options |= {"drop_connect_rate": drop_connect_rate, "optimizer": optimizer}
    options |= {"phases": phases and phases.split(","), "head_epochs": head_epochs}
    choices = gathered(config, settings or [], options)
    if dry_run:
        _plan(source, choices, json_=json_, quiet=quiet)
    else:
        _train(source, choices, run, json_=json_, quiet=quiet)


@app.command()
def demo(run: RunOption = None, json_: Json = False, quiet: Quiet = False) -> None:
    """Train the head on the built-in sample, 1,797 scanned digits, in seconds."""
    _train("sample:digits", {"name": "quick"}, run, json_=json_, quiet=quiet)


def _train(
    source: str, choices: dict[str, Any], run: Path | None, *, json_: bool, quiet: bool
) -> None:
    from efftune import console

    recipe = _recipe(choices)
    with console.progress(quiet=quiet) as on_progress:
        finished = efftune.train(
            source, recipe=recipe, run=run, on_progress=_starting_keras(recipe, on_progress)
        )
    if json_:
        typer.echo(json.dumps(finished.summary))
    else:
        console.show_run(finished)


def _plan(source: str, choices: dict[str, Any], *, json_: bool, quiet: bool) -> None:
    from efftune import console

    recipe = _recipe(choices)
    with console.progress(quiet=quiet) as on_progress:
        plan = efftune.plan(source, recipe=recipe, on_progress=_starting_keras(recipe, on_progress))
    if json_:
        typer.echo(json.dumps(plan.to_dict()))
    else:
        console.show_plan(plan)


def _recipe(choices: dict[str, Any]) -> efftune.Recipe:
    return efftune.Recipe.named(choices.pop("name", "balanced"), **choices)


@app.command()
def evaluate(
    run: RunArgument,
    source: Source,
    split: Annotated[
        str | None,
        typer.Option(help="train, val or test. (default: test if SOURCE has one, else everything)"),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a run on other pictures."""
    from efftune import console

    with console.progress(quiet=quiet) as on_progress:
        score, examples = efftune.Run.load(run).evaluate(source, split, on_progress=on_progress)
    if json_:
        typer.echo(json.dumps(score.to_dict()))
    else:
        console.show_evaluation(score, examples)


@app.command()
def predict(
    run: RunArgument,
    images: Images,
    top: Annotated[int, typer.Option(help="How many of the likeliest classes.", min=1)] = 1,
    json_: JsonLines = False,
    csv: Csv = False,
    quiet: Quiet = False,
) -> None:
    """Predict the classes of pictures. Exits with 1 if one of them cannot be decoded."""
    from efftune import console
    from efftune.data import sources

    classifier = efftune.load(run)
    paths, failures = sources.pictures(images)
    with console.progress(quiet=quiet) as on_progress:
        predictions = classifier.predict(
            paths,
            top,
            on_unreadable=failures.__setitem__,
            on_progress=lambda done, total: on_progress("predict", done, total),
        )
    _show_predictions(predictions, failures, form="json" if json_ else "csv" if csv else "table")


@app.command()
def classify(
    images: Images,
    model: Annotated[
        str, typer.Option(help="As `efftune models` lists it.")
    ] = "efficientnet-lite0",
    top: Annotated[int, typer.Option(help="How many of the likeliest classes.", min=1)] = 5,
    json_: JsonLines = False,
    csv: Csv = False,
    quiet: Quiet = False,
) -> None:
    """Tell which of ImageNet's 1000 classes pictures show, without training."""
    from efftune import console
    from efftune.data import sources

    _keep_tensorflow_out()
    paths, failures = sources.pictures(images)
    with console.progress(quiet=quiet) as on_progress:
        predictions = efftune.classify(
            paths, model, top, on_unreadable=failures.__setitem__, on_progress=on_progress
        )
    _show_predictions(predictions, failures, form="json" if json_ else "csv" if csv else "table")


def _show_predictions(
    predictions: list[efftune.Prediction], failures: dict[Path, str], *, form: str
) -> None:
    from efftune import console

    console.show_predictions(predictions, form=form)
    for path, reason in failures.items():
        console.warn(f"{path}: {reason}")
    if failures:
        raise typer.Exit(1)


@app.command()
def models(
    fetch: Annotated[
        str | None,
        typer.Option(help="Download the weights of this model, for use without a network."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the models, what they cost, and whether their weights are here."""
    from efftune import console
    from efftune.model import catalogue, download

    if fetch is not None:
        with console.progress(quiet=quiet) as on_progress:
            download.ready(catalogue.model(fetch), on_progress)
    console.show_models(efftune.models(), as_json=json_)


def main() -> None:
    """Run the command line; foreseeable mistakes end in one clear message."""
    # Being ended by the system cleans up as Ctrl-C does.
    # What we say goes out on a copy of stderr: the original is silenced while TensorFlow starts.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    warnings.filterwarnings("ignore", module="PIL")  # odd files are told of in our own words
    warnings.formatwarning = lambda message, *_: f"efftune: {message}\n"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    try:
        app()
    except EfftuneError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(f"{error.filename or 'The system'}: {error.strerror or error}.", 1)
    except SystemExit as stop:
        if stop.code == 130:
            typer.echo("Stopped. Nothing half-done is left; features so far are kept.", err=True)
        raise


def _fail(message: str, exit_code: int) -> None:
    typer.echo(f"efftune: {message}", err=True)
    sys.exit(exit_code)


def _starting_keras(recipe: efftune.Recipe, report: Progress) -> Progress:
    """Let Keras start as lightly and quietly as the work allows.

    TensorFlow costs 4 seconds and, from a cold disk, 10. `quick` only builds and saves Keras
    models, and Keras' OpenVINO backend can do that. This is for a process of our own: in anybody
    else's, Keras runs as its owner has set it.

    Returns:
        `report`, which also imports Keras when a run comes to that.
    """
    if not recipe.tunes:
        _keep_tensorflow_out()
        return report

    def reported(phase: str, done: int, total: int) -> None:
        report(phase, done, total)
        if phase == "start" and "keras" not in sys.modules:
            _import_keras()

    return reported


def _keep_tensorflow_out() -> None:
    if "KERAS_BACKEND" not in os.environ:
        os.environ["KERAS_BACKEND"] = "openvino"
        sys.modules["tensorflow"] = None  # type: ignore[assignment]  # Keras looks for it


def _import_keras() -> None:
    """TensorFlow greets on file descriptor 2 whatever its log level; errors are raised anyway."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # It takes its memory from the system anew in each operation, which can cost as much as the
    # operation itself. With this it keeps what it has.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    heard, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    try:
        from efftune.model import lite  # noqa: F401
    finally:
        os.dup2(heard, 2)
        os.close(heard)
        os.close(silent)
