"""Entry point of the command line: signals, output streams, and error messages."""

import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from efftune.cli import commands, model_commands, serve_command  # noqa: F401  (which register themselves)
from efftune.cli.app import app
from efftune.errors import EfftuneError, EfftuneWarning, UsageError
from efftune.system import budget, stopping


def main() -> None:
    """Run the command line; user errors are printed as one line, without a traceback."""
    if sys.stdout is None:  # closed by the parent process; what is printed then goes nowhere
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (kept open)
    with _silent_libraries():
        _run()


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Silence file descriptor 2, to which libtiff, libjpeg and TensorFlow write; we use a copy."""
    if sys.stderr is None:  # closed by the parent process
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (kept open)
        yield
        return
    copy, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    sys.stderr = os.fdopen(copy, "w", buffering=1)
    os.dup2(devnull, 2)
    os.close(devnull)
    try:
        yield
    finally:
        os.dup2(copy, 2)


def _run() -> None:
    # Raise on SIGTERM, so that partial files are removed as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything else sets it
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # folds are traced again on purpose
    if not sys.warnoptions:  # those of dependencies mean nothing to the user
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", EfftuneWarning)
    warnings.formatwarning = lambda message, *_: f"efftune: {message}\n"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may contain any bytes
    try:
        _require_no_empty_argument(sys.argv[1:])
        with budget.beginning_with_process(), stopping.ended_in_time():
            app(prog_name="efftune")  # also for `python -m efftune`
    except EfftuneError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(f"{error.filename or 'The system'}: {error.strerror or error}.", 1)
    except SystemExit as stop:
        if stop.code == 130:
            typer.echo(
                "Stopped. What was computed or copied so far is in the cache.",
                err=True,
            )
        raise


def _require_no_empty_argument(arguments: Sequence[str]) -> None:
    """Check that no argument is empty: as a path, it would mean the current folder.

    Raises:
        UsageError: one is.
    """
    for number, argument in enumerate(arguments, 1):
        if not argument or re.fullmatch(r"--[\w-]+=", argument):
            raise UsageError(
                f"Argument {number} of the command is empty{f' ({argument})' * bool(argument)}, as "
                "that of a variable that is not set is. Give it a value, or leave it out."
            )


def _fail(message: str, exit_code: int) -> None:
    typer.echo(f"efftune: {message}", err=True)
    sys.exit(exit_code)
