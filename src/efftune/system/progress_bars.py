"""Progress bars by rich: in a terminal, and in the output of a notebook's cell."""

import contextvars
import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from efftune.system.text import escape_control

Report = Callable[[str, int, int], None]

_REFRESH_SECONDS = 0.5  # between two pictures of the bars in a notebook


@contextmanager
def automatic() -> Iterator[Report]:
    """Bars in a notebook or a terminal; nothing elsewhere, such as in a service or a test."""
    if _is_notebook():
        with _in_cell() as report, messages(print):
            yield report
    elif sys.stderr is not None and sys.stderr.isatty():
        with in_terminal() as report:
            yield report
    else:
        yield lambda _phase, _done, _total: None


@contextmanager
def in_terminal() -> Iterator[Report]:
    """Bars on stderr that vanish at the end, and what the package logs above them."""
    with _bars() as bars:
        show = functools.partial(  # names as they are
            bars.console.print, markup=False, highlight=False, emoji=False
        )
        with messages(show):
            yield _on_bars(bars)


@contextmanager
def messages(show: Callable[[str], object]) -> Iterator[None]:
    """Show what the package logs, such as how a source was read.

    A program that has set up logging for such messages sees them already: nothing is done then.
    """

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(escape_control(record.getMessage()))

    logger, handler = logging.getLogger("efftune"), Shown()
    if logger.isEnabledFor(logging.INFO):
        yield
        return
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _is_notebook() -> bool:
    """Whether this process is the kernel of a notebook: Jupyter's, Colab's, an editor's."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


@contextmanager
def _in_cell() -> Iterator[Report]:
    """Bars in the output of the running cell, which are removed at the end.

    rich draws them and Jupyter replaces them. rich itself would need ipywidgets for that.
    """
    from IPython.display import HTML, display

    bars = _bars(auto_refresh=False)
    handle = display(bars, display_id=True)
    stopped = threading.Event()

    def refresh() -> None:
        while not stopped.wait(_REFRESH_SECONDS):
            handle.update(bars)

    # The context says which cell the output belongs to.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(refresh,), name="progress", daemon=True)
    thread.start()
    try:
        yield _on_bars(bars)
    finally:
        stopped.set()
        thread.join()
        handle.update(HTML(""))


def _bars(**options: Any) -> Progress:
    return Progress(
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        **options,
    )


def _on_bars(bars: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            for task in tasks.values():  # finish the previous phases
                if bars.tasks[task].total is None:
                    bars.update(task, total=1, completed=1)
            tasks[phase] = bars.add_task(phase, total=None)
        if total:
            bars.update(tasks[phase], completed=done, total=total)

    return report
