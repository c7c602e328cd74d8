"""The command `efftune` itself, which the others hang on."""

from typing import Annotated

import typer

import efftune

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"efftune {efftune.__version__}")
        raise typer.Exit


@app.callback()
def efftune_command(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Train an EfficientNet classifier on a folder of labelled pictures and evaluate it."""
