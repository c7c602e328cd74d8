"""Commands that make runs: each parses its arguments, calls the Python API and prints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

import efftune
from efftune.cli import options
from efftune.cli.app import app
from efftune.cli.setting_options import ALL, COLUMNS, Output, command
from efftune.errors import UsageError


@command(app, settings=COLUMNS, also=["cluster"])
def check(
    source: options.Source, choices: dict[str, Any], output: Output, out: options.CheckFolder = None
) -> None:
    """Check all pictures in SOURCE and list problems. Exits with 1 if there are any."""
    from efftune.cli import progress_bars, source_tables
    from efftune.data.sources.table_columns import Columns

    columns = Columns.of(efftune.Recipe(**choices))
    with progress_bars.progress(quiet=output.quiet) as on_progress:
        result = efftune.check(source, out=out, columns=columns, on_progress=on_progress)
    if output.json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        source_tables.show_check(result, out)
    if result.problems:
        raise typer.Exit(1)


@command(app, settings=COLUMNS)
def pack(
    source: options.Source,
    choices: dict[str, Any],
    output: Output,
    into: options.ShardsFolder,
    form: options.ShardsForm = "tar",
    megabytes: options.ShardMegabytes = 256,
) -> None:
    """Write the pictures in SOURCE into shards: large files that are read in order."""
    from efftune.cli import progress_bars, source_tables
    from efftune.data.sources.table_columns import Columns

    columns = Columns.of(efftune.Recipe(**choices))
    with progress_bars.progress(quiet=output.quiet) as on_progress:
        result = efftune.pack(
            source,
            into,
            form=form,
            megabytes=megabytes,
            columns=columns,
            on_progress=on_progress,
        )
    if output.json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        source_tables.show_shards(result)


@command(app, settings=ALL, also=("for", "cluster"))
def train(
    source: options.Source,
    choices: dict[str, Any],
    output: Output,
    run: options.RunOption = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
) -> None:
    """Train a classifier on the pictures in SOURCE and save it in a run folder."""
    if dry_run:
        _plan(source, choices, output)
    else:
        _train(source, choices, output, run, resume=resume)


@command(
    app,
    settings=tuple(key for key in ALL if key != "budget"),
    default={"model": "auto"},
    also=("for", "cluster"),
)
def search(
    source: options.Source,
    choices: dict[str, Any],
    output: Output,
    budget: options.Budget = "20m",
    run: options.RunOption = None,
    resume: options.Resume = False,
) -> None:
    """Search for the model and settings that suit the pictures in SOURCE, and train with them."""
    from efftune.cli import keras_startup, progress_bars

    if choices.pop("budget", 0):
        raise UsageError("The time of a search is --budget, not a setting. Omit the setting.")
    choices = {"model": "auto"} | choices
    recipe = _recipe(choices)
    with progress_bars.progress(quiet=output.quiet) as report:
        on_progress = keras_startup.importing_keras(recipe, report)
        finished = efftune.search(
            source,
            budget=budget,
            recipe=recipe,
            model=choices["model"],
            run=run,
            resume=resume,
            on_progress=on_progress,
        )
    _show_run(finished, output)


@command(app, also=["cluster"])
def resume(run: options.UnfinishedRun, output: Output) -> None:
    """Go on with a run that was stopped; its result is that of a run that never was."""
    _go_on(run, output, efftune.resume)


@command(app, also=["cluster"])
def finish(run: options.UnfinishedRun, output: Output) -> None:
    """Judge and save what a stopped run has trained so far, and train no more."""
    _go_on(run, output, efftune.finish)


def _go_on(run: Path, output: Output, go_on: "Callable[..., efftune.Run]") -> None:
    from efftune.cli import keras_startup, progress_bars
    from efftune.runs import unfinished

    with progress_bars.progress(quiet=output.quiet) as report:
        on_progress = report
        if unfinished.is_unfinished(run):  # else it has nothing but a report to make, if that
            start, recipe = unfinished.asked_for(run)
            if start["search"]:  # whose recipe has the time for the choice of the model only
                recipe = recipe.changed(budget=0)
            on_progress = keras_startup.importing_keras(recipe, report)
        finished = go_on(run, on_progress=on_progress)
    _show_run(finished, output)


@command(app)
def runs(output: Output, folder: options.RunsFolder = Path("runs")) -> None:
    """List the runs in FOLDER: state, accuracy, age, size."""
    from efftune.cli import run_tables
    from efftune.runs import listing

    run_tables.show_runs(listing.listed(folder), folder, as_json=output.json)


@command(app)
def demo(output: Output, run: options.RunOption = None) -> None:
    """Train a head on the built-in sample, 1,797 scanned digits, within seconds."""
    _train("sample:digits", {"name": "quick"}, output, run)


def _train(
    source: str, choices: dict[str, Any], output: Output, run: Path | None, *, resume: bool = False
) -> None:
    from efftune.cli import keras_startup, progress_bars

    recipe = _recipe(choices)
    with progress_bars.progress(quiet=output.quiet) as report:
        on_progress = keras_startup.importing_keras(recipe, report)
        finished = efftune.train(
            source, recipe=recipe, run=run, resume=resume, on_progress=on_progress
        )
    _show_run(finished, output)


def _show_run(finished: "efftune.Run", output: Output) -> None:
    from efftune.cli import tables

    if output.json:
        typer.echo(json.dumps(finished.summary))
    else:
        tables.show_run(finished)


def _plan(source: str, choices: dict[str, Any], output: Output) -> None:
    from efftune.cli import keras_startup, progress_bars, tables

    recipe = _recipe(choices)
    with progress_bars.progress(quiet=output.quiet) as report:
        on_progress = keras_startup.importing_keras(recipe, report)
        plan = efftune.plan(source, recipe=recipe, on_progress=on_progress)
    if output.json:
        typer.echo(json.dumps(plan.to_dict()))
    else:
        tables.show_plan(plan)


def _recipe(choices: dict[str, Any]) -> efftune.Recipe:
    return efftune.Recipe.named(choices.pop("name", "balanced"), **choices)
