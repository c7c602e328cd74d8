"""Helpers shared by the HTML pages of a run: reading its files and rendering templates."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from efftune.system import stored
from efftune.system.text import counted, interval, name, percent, seconds, shown

Row = stored.Row


def render(page: str, **values: Any) -> str:
    """Render a page from its template, with its style sheet and script inlined."""
    folder = resources.files("efftune.report") / "templates"
    style = (folder / "report.css").read_text(encoding="utf-8")
    script = (folder / f"{page}.js").read_text(encoding="utf-8")
    template = _templates().get_template(f"{page}.html")
    return template.render(style=style, script=script, **values)


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("efftune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    templates.filters |= {"percent": percent, "name": name, "shown": shown}
    templates.filters |= {"counted": counted, "seconds": seconds}
    templates.globals["interval"] = interval
    return templates


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Attribute errors in the block, also those of a template, to this file or folder.

    Raises:
        DataError: the file is missing or damaged.
    """
    with stored.reading(path):
        try:
            yield
        except UndefinedError as error:
            raise ValueError(str(error)) from None


def read_json(path: Path) -> Any:
    """Read a JSON file, with lone surrogates escaped as in the CSV files.

    Raises:
        DataError: the file is missing or damaged.
    """
    with reading(path):
        return _escape_surrogates(json.loads(path.read_text(encoding="utf-8")))


def read_table(path: Path) -> list[Row]:
    """Read the rows of a CSV file as dictionaries.

    Raises:
        DataError: the file is missing or damaged.
    """
    return list(stored.rows(path))


def _escape_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_escape_surrogates(each) for each in value]
    if isinstance(value, dict):
        return {_escape_surrogates(key): _escape_surrogates(each) for key, each in value.items()}
    return value
