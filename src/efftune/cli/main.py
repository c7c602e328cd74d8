"""The process: signals, streams, and errors as one clear line."""

import io
import os
import signal
import sys
import warnings

import typer

from efftune.cli.commands import app
from efftune.errors import EfftuneError


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
