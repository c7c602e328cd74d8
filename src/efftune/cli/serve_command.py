"""`efftune serve`, with its options."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import efftune
from efftune.cli import options
from efftune.cli.app import app
from efftune.cli.setting_options import Output, command

_SERVING = options.PRECISION | {
    "host": (
        Annotated[
            str,
            typer.Option(
                help="The address to listen at. Others can only use the server "
                "if it is not of this machine alone, and need the token."
            ),
        ],
        "127.0.0.1",
    ),
    "port": (Annotated[int, typer.Option(help="The port; 0 for a free one.")], 8000),
    "token": (
        Annotated[
            str | None,
            typer.Option(
                help="What clients have to send. Safer as EFFTUNE_TOKEN than as an "
                "option, which others on this machine see.",
                envvar="EFFTUNE_TOKEN",
                show_envvar=False,
            ),
        ],
        None,
    ),
    "allow_host": (
        Annotated[
            list[str] | None, typer.Option(help="Another name of this server; may be repeated.")
        ],
        None,
    ),
    "allow_origin": (
        Annotated[
            list[str] | None,
            typer.Option(
                help="A site whose pages may use the server, such as "
                "https://photos.example; may be repeated."
            ),
        ],
        None,
    ),
    "max_body": (Annotated[int, typer.Option(help="Most bytes of a request.")], 20_000_000),
    "max_pixels": (
        Annotated[
            int,
            typer.Option(
                help="Most pixels of a picture, by its header. DICOM and floating-point TIFF files "
                "have the decoder's own limit."
            ),
        ],
        50_000_000,
    ),
    "receive_seconds": (
        Annotated[float, typer.Option(help="Seconds within which a request has to come.")],
        15.0,
    ),
    "max_waiting": (
        Annotated[int, typer.Option(help="Most pictures that wait; more are refused.")],
        64,
    ),
    "at_work": (
        Annotated[
            int | None,
            typer.Option(help="Pictures at work at the same time. (default: twice the processors)"),
        ],
        None,
    ),
    "drain_seconds": (
        Annotated[float, typer.Option(help="Seconds to answer what was received, at the end.")],
        30.0,
    ),
    "latest": (
        Annotated[
            Path | None,
            typer.Option(
                help="Instead of RUN: serve the newest finished run in a folder of runs, and every "
                "newer one from when it is finished.",
                metavar="FOLDER",
            ),
        ],
        None,
    ),
    "reload": (
        Annotated[
            bool,
            typer.Option(
                "--reload", help="Read RUN again on SIGHUP. Requests under way are answered first."
            ),
        ],
        False,
    ),
    "feedback": (
        Annotated[
            Path | None,
            typer.Option(
                help="A folder where pictures that people correct are kept, for the next "
                "`efftune train SOURCE --labels FOLDER/labels.csv`.",
                metavar="FOLDER",
            ),
        ],
        None,
    ),
    "show_training": (
        Annotated[
            bool,
            typer.Option(
                "--show-training",
                help="Show the training pictures nearest to a picture, as small ones, if they are "
                "where RUN was trained from.",
            ),
        ],
        False,
    ),
    "watch": (
        Annotated[
            Path | None,
            typer.Option(
                help="A folder whose photos, and those that come, are sorted by class; they stay "
                "as they are.",
                metavar="FOLDER",
            ),
        ],
        None,
    ),
    "sort_into": (
        Annotated[
            Path | None,
            typer.Option(
                help="Where the photos of --watch are sorted into, as `efftune sort` does; "
                "`efftune unsort` undoes it.",
                metavar="FOLDER",
            ),
        ],
        None,
    ),
}
_TOLD = {
    "ready": "Ready: {}. Stop with Ctrl-C.",
    "reloaded": "Now serving {}.",
    "sorted": "Sorted: {}",
    "progress": "{}",
}


@command(app, settings=("max_error",), default="as in training", more=_SERVING)
def serve(
    choices: dict[str, Any],
    output: Output,
    more: dict[str, Any],
    run: options.ServedRun = None,
) -> None:
    """Serve a classifier on this machine: a page for people, HTTP for programs."""
    from efftune.errors import UsageError

    place = run if more["latest"] is None else more["latest"]
    if place is None or (run is not None and more["latest"] is not None):
        raise UsageError("Give a RUN to serve, or --latest FOLDER, and not both.")
    efftune.serve(
        place,
        max_error=choices.get("max_error"),
        precision=more["precision"],
        on_event=lambda event, value: _tell(event, value, str(place), output),
        **_settings(more),
    )


def _settings(more: dict[str, Any]) -> dict[str, Any]:
    """The settings of the server, from the options."""
    from efftune.system import files

    folders: dict[str, Any] = {
        key: more[key] and files.output_path(more[key])
        for key in ("feedback", "watch", "sort_into")
    }
    at_work = {} if more["at_work"] is None else {"at_work": more["at_work"]}
    same = ("host", "port", "token", "receive_seconds", "drain_seconds")
    return {
        **{key: more[key] for key in same},
        "hosts": tuple(more["allow_host"] or ()),
        "origins": tuple(more["allow_origin"] or ()),
        "most_bytes": more["max_body"],
        "most_pixels": more["max_pixels"],
        "most_waiting": more["max_waiting"],
        "reloads": more["reload"],
        "shows_training": more["show_training"],
        "serves_latest": more["latest"] is not None,
        **at_work,
        **folders,
    }


def _tell(event: str, value: str, place: str, output: Output) -> None:
    """Print what has happened, as one line; problems even if that is to be quiet."""
    from efftune.cli import console
    from efftune.system.text import escape_control

    if output.json:
        typer.echo(json.dumps({"event": event, "value": value}))
        return
    value = escape_control(value)  # the name of a photo may have line breaks
    if event == "problem":
        console.warn(value)
    elif event == "listening":
        console.echo(f"Loading {place}, to serve it at {value}")
    elif not output.quiet:
        console.echo(_TOLD[event].format(value))
