"""Printing of runs that went to the Hugging Face Hub, or came from there."""

import json
from dataclasses import asdict

from efftune.cli.console import echo, percent
from efftune.delivery.hub_push import Pushed
from efftune.runs.run import Run
from efftune.system import shell


def show_pushed(pushed: Pushed, *, as_json: bool) -> None:
    """Print where a run is now, and what of it."""
    if as_json:
        print(json.dumps(asdict(pushed)))
        return
    echo(f"Files:    {', '.join(pushed.files)}   ({pushed.bytes / 1e6:.1f} MB)")
    echo(f"Page:     {pushed.url}")
    echo(f"Load it:  efftune load hf:{pushed.repository}")


def show_loaded(run: Run, *, as_json: bool) -> None:
    """Print where a run is now, and how good it is."""
    if as_json:
        print(json.dumps(run.summary))
        return
    test = run.evaluation.test_without_leaks or run.evaluation.test  # as its card says it
    judged_by = run.summary["judged_by"]
    low, high = percent(test.low), percent(test.high)
    echo(f"Classes:     {', '.join(each.name for each in test.per_class)}")
    echo(f"Accuracy:    {percent(test.accuracy)} by {judged_by} (95 % interval {low} to {high})")
    echo(f"Run folder:  {run.folder}")
    echo(f"Use it:      efftune predict {shell.quoted(run.folder)} PHOTO.jpg")
