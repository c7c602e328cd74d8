"""Lines and tables on the terminal."""

import sys
from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_MAY_BREAK = {
    "picture",
    "run",
    "to the first",
    "for example",
    "split",
    "weights",
}  # as long as paths or commands


def say(text: str = "") -> None:
    """Print a line of result."""
    _console().print(harmless(text, but="\n"), markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a line beside the result, to stderr."""
    Console(stderr=True).print(
        harmless(text, but="\n"), markup=False, highlight=False, soft_wrap=True
    )


def harmless(text: str, but: str = "") -> str:
    """Text with what would drive a terminal written out: file names may hold anything."""
    return "".join(
        each if each.isprintable() or each in but else each.encode("unicode_escape").decode()
        for each in text
    )


def show_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()
) -> None:
    """Print a table; the first column and those named in `left` are aligned left."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for i, heading in enumerate(headings):
        justify: Literal["left", "right"] = "left" if not i or heading in left else "right"
        whole = heading not in _MAY_BREAK
        table.add_column(heading, justify=justify, no_wrap=whole, overflow="fold")
    for row in rows:
        table.add_row(*(escape(harmless(cell)) for cell in row))
    _console().print(table)


def _console() -> Console:
    # Elsewhere than in a terminal nothing may be cut to a width that nobody has.
    return Console() if sys.stdout.isatty() else Console(width=10_000)


def percent(share: float) -> str:
    """A share, 0 to 1, in percent with one digit."""
    return f"{100 * share:.1f} %"
