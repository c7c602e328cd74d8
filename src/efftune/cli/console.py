"""Printing of lines and tables to the terminal."""

import sys
from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from efftune.system.text import escape_control

# Columns with paths or commands, which may be too long for one line.
_WRAPPING_COLUMNS = {"picture", "run", "vs. first", "example", "split", "weights"}


def echo(text: str = "") -> None:
    """Print a line to stdout."""
    _console().print(Text(escape_control(text, keep="\n")), soft_wrap=True)


def warn(text: str) -> None:
    """Print a line to stderr."""
    Console(stderr=True).print(Text(escape_control(text, keep="\n")), soft_wrap=True)


def show_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()
) -> None:
    """Print a table. The first column and those in `left` are left-aligned, others right."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for i, heading in enumerate(headings):
        justify: Literal["left", "right"] = "left" if not i or heading in left else "right"
        no_wrap = heading not in _WRAPPING_COLUMNS
        table.add_column(heading, justify=justify, no_wrap=no_wrap, overflow="fold")
    for row in rows:
        table.add_row(*(Text(escape_control(cell)) for cell in row))
    _console().print(table)


def _console() -> Console:
    # Output to a file or pipe must not be wrapped to a terminal's width.
    return Console() if sys.stdout.isatty() else Console(width=10_000)


def percent(share: float) -> str:
    """Format a share, 0 to 1, as a percentage with one decimal."""
    return f"{100 * share:.1f} %"
