"""Printing of lines and tables to the terminal."""

import io
import sys
from collections.abc import Sequence
from typing import Literal, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from efftune.system import text as texts
from efftune.system.text import escape_control

# Columns of names and paths to be copied, which are not folded.
_WHOLE_COLUMNS = {"run", "model", "--weights", "export", "picture"}
_LEAST = 12  # of the width of a column that is folded
_GAP = 3  # between columns
_WITHOUT_LIMIT = 10_000


def echo(text: str = "") -> None:
    """Print a line to stdout."""
    _console().print(Text(escape_control(text, keep="\n")), soft_wrap=True)


def warn(text: str, *, keep: str = "\n") -> None:
    """Print a line to stderr, with control characters escaped but those to keep."""
    Console(stderr=True).print(Text(escape_control(text, keep)), soft_wrap=True)


def utf8_stdout() -> TextIO:
    """Stdout for CSV, which is UTF-8 everywhere; a terminal keeps the encoding that it reads."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    return sys.stdout


def show_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()
) -> None:
    """Print a table. The first column and those in `left` are left-aligned, others right.

    On a terminal, columns of text are folded to its width. A table that needs more is printed in
    full, for the terminal to wrap.
    """
    cells = [[escape_control(cell) for cell in row] for row in rows]
    folding = [not i or heading in left for i, heading in enumerate(headings)]
    console = _console()
    widths = _widths(headings, cells, folding, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for heading, is_text, width in zip(headings, folding, widths, strict=True):
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(heading, justify=justify, width=width, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    options = console.options.update(width=max(console.width, _total(widths)))
    for line in console.render_lines(table, options, pad=False):
        shown = Text.assemble(*((part.text, part.style or "") for part in line))
        if sys.stdout.isatty():
            shown.rstrip()  # spaces would be wrapped as well
        console.print(shown, soft_wrap=True)


def _widths(
    headings: Sequence[str], cells: Sequence[Sequence[str]], folding: Sequence[bool], limit: int
) -> list[int]:
    """The widths of the columns of a table.

    Args:
        headings: of the columns.
        cells: the rows.
        folding: whether a column has text, which may be folded.
        limit: the width of the terminal.
    """
    columns = [[row[i] for row in cells] for i in range(len(headings))]
    widest = [max(map(cell_len, column), default=0) for column in columns]
    whole = [max(cell_len(name), width) for name, width in zip(headings, widest, strict=True)]
    narrow = [
        min(width, _LEAST) if is_text and name not in _WHOLE_COLUMNS else width
        for name, is_text, width in zip(headings, folding, widest, strict=True)
    ]
    least = [
        max([width, *map(cell_len, name.split())])
        for name, width in zip(headings, narrow, strict=True)
    ]
    if _total(least) > limit:
        return [min(width, max(low, limit)) for width, low in zip(whole, least, strict=True)]
    while _total(whole) > limit:  # take from the widest of those that may be narrower
        i = max(range(len(whole)), key=lambda i: (whole[i] > least[i], whole[i]))
        whole[i] -= 1
    return whole


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _console() -> Console:
    # Output to a file or pipe must not be wrapped to a terminal's width.
    return Console() if sys.stdout.isatty() else Console(width=_WITHOUT_LIMIT)


def percent(share: float) -> str:
    """Format a share with one decimal, as in reports; see `efftune.system.text.percent`."""
    return texts.percent(share).replace("\N{NO-BREAK SPACE}", " ")


def interval(low: float, high: float) -> str:
    """Format an interval of two shares: "91.2 – 96.1 %"."""
    return f"{percent(low).removesuffix(' %')} – {percent(high)}"
