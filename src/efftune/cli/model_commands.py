"""Commands that use what is trained, runs and published models; see `commands`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import efftune
from efftune.cli import options
from efftune.cli.app import app
from efftune.cli.setting_options import COLUMNS, Output, command
from efftune.errors import UsageError

if TYPE_CHECKING:
    from efftune.delivery import prediction_parts
    from efftune.model.classifier import Classifier


@command(app, settings=(*COLUMNS, "device"), default="as in training", also=["cluster"])
def evaluate(
    run: options.RunOrExport,
    source: options.Source,
    choices: dict[str, Any],
    output: Output,
    split: options.SplitName = None,
) -> None:
    """Evaluate a run, or an exported file, on another set of labelled pictures."""
    from efftune.cli import progress_bars, tables
    from efftune.data.sources.table_columns import Columns
    from efftune.delivery import exported
    from efftune.evaluation import other_pictures

    device, folder, known = choices.get("device", "cpu"), None, None
    if exported.is_export(run):  # which does not know the columns that it was trained with
        classifier, recipe = efftune.load(run, device=device), efftune.Recipe()
    else:
        finished = efftune.Run.load(run, device=device)
        classifier, recipe, folder = finished.classifier, finished.recipe, finished.folder
    columns = Columns.of(recipe, **choices)
    with progress_bars.progress(quiet=output.quiet) as on_progress:
        score, examples = other_pictures.evaluate(
            classifier, source, split, columns=columns, on_progress=on_progress
        )
        if folder is not None:
            known = other_pictures.trained_on(folder, examples, split, on_progress)
    if output.json:
        typer.echo(json.dumps(score.to_dict() | {"trained_on": known}))
    else:
        tables.show_evaluation(score, examples, known)


@command(
    app,
    settings=("max_error", "device"),
    default="as in training",
    lines="csv",
    more=options.PREDICTING | options.PARTS,
    also=["cluster"],
)
def predict(
    run: options.RunOrExport,
    images: options.Images,
    choices: dict[str, Any],
    output: Output,
    more: dict[str, Any],
) -> None:
    """Predict the classes of pictures. Exits with 1 if any of them cannot be decoded."""
    from efftune.cli import progress_bars
    from efftune.data.sources import image_paths
    from efftune.delivery import prediction_parts

    classifier = _loaded(run, choices, more.pop("precision"))
    into, form = more.pop("into"), more.pop("form")
    if into is None and form != "csv":
        raise UsageError("--format is that of the files of --into. Name a folder with --into.")
    if into is not None and output.csv:
        raise UsageError("--into writes files, so --csv has no effect. Omit one of them.")
    if into is not None:
        form = prediction_parts.Form(form, **more)
        _predict_parts(classifier, images, output, into, form)
        return
    with progress_bars.progress(quiet=output.quiet) as on_progress:
        paths, failures = image_paths.pictures(images, on_progress)
        predictions = classifier.predict(
            paths,
            **more,
            on_unreadable=failures.__setitem__,
            on_progress=lambda done, total: on_progress("predict", done, total),
        )
    _show_predictions(predictions, failures, output)


def _predict_parts(
    classifier: "Classifier",
    images: list[str],
    output: Output,
    into: Path,
    form: "prediction_parts.Form",
) -> None:
    from efftune.cli import progress_bars, tables
    from efftune.data.sources import image_paths
    from efftune.delivery import prediction_parts
    from efftune.system import files

    with progress_bars.progress(quiet=output.quiet) as on_progress:
        paths, failures = image_paths.pictures(images, on_progress)
        found = prediction_parts.write(
            *(classifier, paths, failures, files.output_path(into), form),
            on_progress=lambda done, total: on_progress("predict", done, total),
        )
    if output.json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        tables.show_parts(found)
    if found.problems:
        raise typer.Exit(1)


def _loaded(run: Path, choices: dict[str, Any], precision: Any) -> "Classifier":
    device = choices.get("device", "cpu")
    return efftune.load(run, choices.get("max_error"), device=device, precision=precision)


@command(
    app,
    settings=("max_error", "device"),
    default="as in training",
    lines=True,
    more=options.SORTING | options.PRECISION,
    also=["cluster"],
)
def sort(
    run: options.RunOrExport,
    images: options.Images,
    into: options.SortedFolder,
    choices: dict[str, Any],
    output: Output,
    more: dict[str, Any],
) -> None:
    """Sort photos into a folder for each class, as hard links; the photos stay as they are."""
    from efftune.cli import progress_bars, sorting_tables
    from efftune.data.sources import image_paths
    from efftune.delivery import sorting
    from efftune.system import files

    classifier = _loaded(run, choices, more.pop("precision"))
    sorter = sorting.Sorter(files.output_path(into), classifier.class_names, **more)
    with progress_bars.progress(quiet=output.quiet) as on_progress:
        paths, failures = image_paths.pictures(images, on_progress)
        found = sorting.sort(
            *(classifier, paths, sorter, failures.__setitem__),
            lambda done, total: on_progress("sort", done, total),
        )
    sorting_tables.show_sorted(found, sorter.into, as_json=output.json)
    _exit_after(failures)


@command(app)
def unsort(folder: options.Sorted, output: Output) -> None:
    """Take away what `efftune sort` has placed in FOLDER. Exits with 1 if something has to stay."""
    from efftune.cli import sorting_tables
    from efftune.delivery import sorted_files
    from efftune.system import files

    undone = sorted_files.undo(files.user_path(folder))
    sorting_tables.show_undone(undone, as_json=output.json)
    if undone.kept:
        raise typer.Exit(1)


@command(app)
def report(run: options.RunArgument, output: Output, open_: options.Open = False) -> None:
    """Write the report.html of RUN again, from the files in RUN."""
    _show_page("report", efftune.Run.load(run).report(), output, open_=open_)


@command(app)
def review(
    run: options.RunArgument,
    output: Output,
    accept: options.Accept = None,
    open_: options.Open = False,
) -> None:
    """Write a page for reviewing the suspect labels of RUN: keep, change or drop each."""
    from efftune.cli import tables

    finished = efftune.Run.load(run)
    if accept is None:
        _show_page("review", finished.review(), output, open_=open_)
        return
    labels = finished.accept(accept)
    if output.json:
        typer.echo(json.dumps({"labels": str(labels)}))
    else:
        tables.show_labels(finished, labels)


@command(app, settings=("device",), lines=True)
def explain(
    run: options.RunArgument,
    images: options.Images,
    choices: dict[str, Any],
    output: Output,
    label: options.Label = None,
    out: options.ExplanationFolder = Path("explained"),
) -> None:
    """Draw Grad-CAM heatmaps for pictures. Exits with 1 if any of them cannot be decoded."""
    from efftune.cli import progress_bars, tables
    from efftune.data.sources import image_paths

    finished = efftune.Run.load(run, device=choices.get("device", "cpu"))
    with progress_bars.progress(quiet=output.quiet) as on_progress:
        paths, failures = image_paths.pictures(images, on_progress)
        explanations = finished.explain(
            paths, out, label, on_unreadable=failures.__setitem__, on_progress=on_progress
        )
    tables.show_explanations(explanations, as_json=output.json)
    _exit_after(failures)


@command(app)
def compare(
    runs: options.Runs,
    output: Output,
    split: options.ComparedSplit = "test",
    out: options.PlotFile = None,
) -> None:
    """Compare runs on the pictures that all of them were evaluated on, and test significance."""
    from efftune.cli import tables

    comparison = efftune.compare(runs, split, out=out)
    if output.json:
        typer.echo(json.dumps(comparison.to_dict()))
    else:
        tables.show_comparison(comparison, out)


@command(app, more=options.EXPORTING, lines=True)
def export(
    run: options.RunArgument,
    output: Output,
    more: dict[str, Any],
    formats: options.Formats = "",
    targets: options.Targets = "",
) -> None:
    """Write the classifier of RUN for other programs, and prove each file on RUN's own pictures."""
    from efftune.cli import export_tables, progress_bars

    finished = efftune.Run.load(run)
    words = f"{formats},{targets}".split(",")
    names = [word.strip() for word in words if word.strip()]
    more["max_drop"] /= 100  # points
    with progress_bars.progress(quiet=output.quiet) as on_progress:
        exports = finished.export(names, **more, on_progress=on_progress)
    export_tables.show_exports(exports, as_json=output.json)


@command(app)
def push(
    run: options.RunArgument,
    repository: options.Repository,
    output: Output,
    private: options.Private = False,
    with_report: options.WithReport = False,
) -> None:
    """Put RUN on the Hugging Face Hub, without pictures, their names, or paths of this machine."""
    from efftune.cli import hub_tables, progress_bars

    finished = efftune.Run.load(run)
    with progress_bars.progress(quiet=output.quiet) as on_progress:
        pushed = finished.push(
            repository, private=private, with_report=with_report, on_progress=on_progress
        )
    hub_tables.show_pushed(pushed, as_json=output.json)


@command(app)
def load(repository: options.Repository, output: Output, into: options.LoadedFolder = None) -> None:
    """Take a run from the Hugging Face Hub, and verify each of its files."""
    from efftune.cli import hub_tables, progress_bars

    with progress_bars.progress(quiet=output.quiet) as on_progress:
        run = efftune.load_from_hub(repository, into, on_progress=on_progress)
    hub_tables.show_loaded(run, as_json=output.json)


def _show_page(kind: str, page: Path, output: Output, *, open_: bool) -> None:
    typer.echo(json.dumps({kind: str(page)}) if output.json else page)
    if open_:
        typer.launch(page.resolve().as_uri())


@command(app, lines="csv", also=["cluster"])
def classify(
    images: options.Images,
    output: Output,
    model: options.PublishedModel = "efficientnet-lite0",
    weights: options.PublishedWeights = "imagenet",
    top: options.Top = 5,
) -> None:
    """Classify pictures by ImageNet's 1000 classes, without any training."""
    from efftune.cli import keras_startup, progress_bars
    from efftune.data.sources import image_paths

    keras_startup.use_openvino()
    with progress_bars.progress(quiet=output.quiet) as on_progress:
        paths, failures = image_paths.pictures(images, on_progress)
        predictions = efftune.classify(
            *(paths, model, top),
            weights=weights,
            on_unreadable=failures.__setitem__,
            on_progress=on_progress,
        )
    _show_predictions(predictions, failures, output)


def _show_predictions(
    predictions: "list[efftune.Prediction]", failures: dict[Path, str], output: Output
) -> None:
    from efftune.cli import tables

    tables.show_predictions(predictions, output.form)
    _exit_after(failures)


def _exit_after(failures: dict[Path, str]) -> None:
    """Warn about the pictures that could not be decoded; exit with 1 if there are any."""
    from efftune.cli import console
    from efftune.data.sources import addresses

    for path, reason in failures.items():
        console.warn(f"{addresses.shown(path)}: {reason}", keep="")
    if failures:
        raise typer.Exit(1)


@command(app)
def models(
    output: Output, fetch: options.Fetch = None, weights: options.PublishedWeights = "imagenet"
) -> None:
    """List the models and their weights, with size, cost, accuracy, licence and availability."""
    from efftune.cli import model_tables, progress_bars
    from efftune.model import catalogue
    from efftune.model.weights import download

    if fetch is not None:
        with progress_bars.progress(quiet=output.quiet) as on_progress:
            download.ensure_downloaded(catalogue.model(fetch).with_weights(weights), on_progress)
    model_tables.show_models(efftune.models(), as_json=output.json)
