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
from efftune import options
from efftune.errors import EfftuneError
from efftune.progress import Progress

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
def check(
    source: options.Source,
    out: options.Out = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    split_column: options.SplitColumn = None,
    group_column: options.GroupColumn = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Look at everything in SOURCE and say what is wrong. Exits with 1 if something is."""
    from efftune import console
    from efftune.data.tables import Columns

    named = _columns(path_column, label_column, split_column, group_column)
    columns = Columns.of(efftune.Recipe().changed(**named))
    with console.progress(quiet=quiet) as on_progress:
        checked = efftune.check(source, out=out, columns=columns, on_progress=on_progress)
    if json_:
        typer.echo(json.dumps(checked.to_dict()))
    else:
        console.show_check(checked, out)
    if checked.problems:
        raise typer.Exit(1)


@app.command()
def train(
    source: options.Source,
    model: options.Model = None,
    recipe: options.Named = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    fit: options.Fit = None,
    val: options.Val = None,
    test: options.Test = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    split_column: options.SplitColumn = None,
    group_column: options.GroupColumn = None,
    leaks: options.Leaks = None,
    unfreeze: options.Unfreeze = None,
    phases: options.Phases = None,
    head_epochs: options.HeadEpochs = None,
    epochs: options.Epochs = None,
    learning_rate: options.LearningRate = None,
    optimizer: options.Optimizer = None,
    batch_size: options.BatchSize = None,
    augment: options.Augment = None,
    label_smoothing: options.LabelSmoothing = None,
    dropout: options.Dropout = None,
    drop_connect_rate: options.DropConnectRate = None,
    class_weights: options.ClassWeights = None,
    ema: options.Ema = None,
    seed: options.Seed = None,
    config: options.Config = None,
    settings: options.Settings = None,
    run: options.RunOption = None,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a classifier on the pictures in SOURCE; leave it in a run folder."""
    from efftune.recipe import gathered

    given: dict[str, Any] = {"model": model, "image_size": image_size, "fit": fit, "seed": seed}
    given |= {"name": recipe, "val_fraction": val, "test_fraction": test, "unfreeze": unfreeze}
    given |= {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    given |= {"augment": augment, "label_smoothing": label_smoothing, "dropout": dropout}
    given |= {"class_weights": class_weights, "ema": ema, "weights": weights}
    given |= {"leaks": leaks}
    given |= {"drop_connect_rate": drop_connect_rate, "optimizer": optimizer}
    given |= {"phases": phases and phases.split(","), "head_epochs": head_epochs}
    given |= _columns(path_column, label_column, split_column, group_column)
    choices = gathered(config, settings or [], given)
    if dry_run:
        _plan(source, choices, json_=json_, quiet=quiet)
    else:
        _train(source, choices, run, json_=json_, quiet=quiet)


@app.command()
def demo(
    run: options.RunOption = None, json_: options.Json = False, quiet: options.Quiet = False
) -> None:
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


def _columns(
    path: str | None, label: str | None, split: str | None, group: str | None
) -> dict[str, str]:
    """The choices of a recipe that options for columns make."""
    named = {"path": path, "label": label, "split": split, "group": group}
    return {f"{role}_column": name for role, name in named.items() if name is not None}


@app.command()
def evaluate(
    run: options.RunArgument,
    source: options.Source,
    split: options.SplitName = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    split_column: options.SplitColumn = None,
    group_column: options.GroupColumn = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score a run on other pictures.

    Columns that are not named are called as in training.
    """
    from efftune import console
    from efftune.data.tables import Columns

    finished = efftune.Run.load(run)
    named = _columns(path_column, label_column, split_column, group_column)
    columns = Columns.of(finished.recipe.changed(**named))
    with console.progress(quiet=quiet) as on_progress:
        score, examples = finished.evaluate(source, split, columns=columns, on_progress=on_progress)
    if json_:
        typer.echo(json.dumps(score.to_dict()))
    else:
        console.show_evaluation(score, examples)


@app.command()
def predict(
    run: options.RunArgument,
    images: options.Images,
    top: options.Top = 1,
    json_: options.JsonLines = False,
    csv: options.Csv = False,
    quiet: options.Quiet = False,
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
    images: options.Images,
    model: Annotated[
        str, typer.Option(help="As `efftune models` lists it.")
    ] = "efficientnet-lite0",
    top: options.Top = 5,
    json_: options.JsonLines = False,
    csv: options.Csv = False,
    quiet: options.Quiet = False,
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
    json_: options.Json = False,
    quiet: options.Quiet = False,
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
