"""The command `efftune`: parse, call, print."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import efftune
from efftune.cli import console, options
from efftune.data.sources import image_paths

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
    from efftune.cli import progress_bars, tables
    from efftune.data.sources.tables import Columns

    named = _columns(path_column, label_column, split_column, group_column)
    columns = Columns.of(efftune.Recipe().changed(**named))
    with progress_bars.progress(quiet=quiet) as on_progress:
        checked = efftune.check(source, out=out, columns=columns, on_progress=on_progress)
    if json_:
        typer.echo(json.dumps(checked.to_dict()))
    else:
        tables.show_check(checked, out)
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
    labels: options.Labels = None,
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
    max_error: options.MaxError = None,
    seed: options.Seed = None,
    config: options.Config = None,
    settings: options.Settings = None,
    run: options.RunOption = None,
    dry_run: options.DryRun = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a classifier on the pictures in SOURCE; leave it in a run folder."""
    from efftune.recipe.settings import gathered

    given: dict[str, Any] = {"model": model, "image_size": image_size, "fit": fit, "seed": seed}
    given |= {"name": recipe, "val_fraction": val, "test_fraction": test, "unfreeze": unfreeze}
    given |= {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    given |= {"augment": augment, "label_smoothing": label_smoothing, "dropout": dropout}
    given |= {"class_weights": class_weights, "ema": ema, "weights": weights}
    given |= {"leaks": leaks, "labels": labels, "max_error": max_error}
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
    from efftune.cli import keras_startup, progress_bars, tables

    recipe = _recipe(choices)
    with progress_bars.progress(quiet=quiet) as on_progress:
        finished = efftune.train(
            source, recipe=recipe, run=run, on_progress=keras_startup.reported(recipe, on_progress)
        )
    if json_:
        typer.echo(json.dumps(finished.summary))
    else:
        tables.show_run(finished)


def _plan(source: str, choices: dict[str, Any], *, json_: bool, quiet: bool) -> None:
    from efftune.cli import keras_startup, progress_bars, tables

    recipe = _recipe(choices)
    with progress_bars.progress(quiet=quiet) as on_progress:
        plan = efftune.plan(
            source, recipe=recipe, on_progress=keras_startup.reported(recipe, on_progress)
        )
    if json_:
        typer.echo(json.dumps(plan.to_dict()))
    else:
        tables.show_plan(plan)


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
    from efftune.cli import progress_bars, tables
    from efftune.data.sources.tables import Columns

    finished = efftune.Run.load(run)
    named = _columns(path_column, label_column, split_column, group_column)
    columns = Columns.of(finished.recipe.changed(**named))
    with progress_bars.progress(quiet=quiet) as on_progress:
        score, examples = finished.evaluate(source, split, columns=columns, on_progress=on_progress)
    if json_:
        typer.echo(json.dumps(score.to_dict()))
    else:
        tables.show_evaluation(score, examples)


@app.command()
def predict(
    run: options.RunArgument,
    images: options.Images,
    top: options.Top = 1,
    max_error: options.MaxError = None,
    raw: options.Raw = False,
    json_: options.JsonLines = False,
    csv: options.Csv = False,
    quiet: options.Quiet = False,
) -> None:
    """Predict the classes of pictures. Exits with 1 if one of them cannot be decoded."""
    from efftune.cli import progress_bars

    classifier = efftune.load(run, max_error)
    paths, failures = image_paths.pictures(images)
    with progress_bars.progress(quiet=quiet) as on_progress:
        predictions = classifier.predict(
            paths,
            top,
            raw=raw,
            on_unreadable=failures.__setitem__,
            on_progress=lambda done, total: on_progress("predict", done, total),
        )
    _show_predictions(predictions, failures, form="json" if json_ else "csv" if csv else "table")


@app.command()
def report(run: options.RunArgument, open_: options.Open = False) -> None:
    """Write RUN's report.html again, from what RUN holds."""
    _show_page(efftune.Run.load(run).report(), open_=open_)


@app.command()
def review(
    run: options.RunArgument, accept: options.Accept = None, open_: options.Open = False
) -> None:
    """Write a page on which RUN's suspect labels are kept, changed or dropped."""
    from efftune.cli import tables

    finished = efftune.Run.load(run)
    if accept is None:
        _show_page(finished.review(), open_=open_)
    else:
        tables.show_labels(finished, finished.accept(accept))


@app.command()
def explain(
    run: options.RunArgument,
    images: options.Images,
    label: options.Label = None,
    out: options.ExplanationFile = Path("explained"),
    quiet: options.Quiet = False,
) -> None:
    """Draw what in pictures speaks for a class. Exits with 1 if one cannot be decoded."""
    from efftune.cli import progress_bars, tables

    finished = efftune.Run.load(run)
    paths, failures = image_paths.pictures(images)
    with progress_bars.progress(quiet=quiet) as on_progress:
        drawn = finished.explain(
            paths, out, label, on_unreadable=failures.__setitem__, on_progress=on_progress
        )
    tables.show_explained(drawn)
    _end_with(failures)


@app.command()
def compare(
    runs: options.Runs,
    split: options.ComparedSplit = "test",
    out: options.Drawing = None,
    json_: options.Json = False,
) -> None:
    """Compare runs on the pictures all of them were judged on, and say what is mere chance."""
    from efftune.cli import tables

    comparison = efftune.compare(runs, split, out=out)
    if json_:
        typer.echo(json.dumps(comparison.to_dict()))
    else:
        tables.show_comparison(comparison, out)


def _show_page(page: Path, *, open_: bool) -> None:
    typer.echo(page)
    if open_:
        typer.launch(page.resolve().as_uri())


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
    from efftune.cli import keras_startup, progress_bars

    keras_startup.keep_tensorflow_out()
    paths, failures = image_paths.pictures(images)
    with progress_bars.progress(quiet=quiet) as on_progress:
        predictions = efftune.classify(
            paths, model, top, on_unreadable=failures.__setitem__, on_progress=on_progress
        )
    _show_predictions(predictions, failures, form="json" if json_ else "csv" if csv else "table")


def _show_predictions(
    predictions: list[efftune.Prediction], failures: dict[Path, str], *, form: str
) -> None:
    from efftune.cli import tables

    tables.show_predictions(predictions, form=form)
    _end_with(failures)


def _end_with(failures: dict[Path, str]) -> None:
    """Tell which pictures could not be used, and exit with 1 if there are any."""
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
    from efftune.cli import progress_bars, tables
    from efftune.model import catalogue
    from efftune.model.weights import download

    if fetch is not None:
        with progress_bars.progress(quiet=quiet) as on_progress:
            download.ready(catalogue.model(fetch), on_progress)
    tables.show_models(efftune.models(), as_json=json_)
