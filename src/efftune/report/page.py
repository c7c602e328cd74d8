"""Helpers shared by the HTML pages of a run: reading its files and rendering templates."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from efftune.errors import DataError

Row = dict[str, str]

_READ_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError)
_NO_BREAK = "\N{NO-BREAK SPACE}"
# Control characters, and those that change the direction of the text after them. Neither
# right-to-left scripts nor joined emoji need any of these.
_INVISIBLE = (
    *(range(0x20), range(0x7F, 0xA0), (0x61C, 0x200E, 0x200F, 0x2028, 0x2029)),
    *(range(0x202A, 0x202F), range(0x2066, 0x206A)),
)
_ESCAPES = {
    code: chr(code).encode("unicode_escape").decode() for codes in _INVISIBLE for code in codes
}


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
    """Attribute errors in the block to this file or folder.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Restore it, or train again.") from None
    except (*_READ_ERRORS, csv.Error, UndefinedError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{path} is damaged: {reason}. Restore it, or train again.") from None


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
    # Spreadsheets may add a byte order mark when they save a table.
    with reading(path), path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                raise ValueError(f"row {number} does not have as many cells as the header")
        return rows


def percent(share: float) -> str:
    """Format a share with one decimal; 100 % and 0 % are reserved for exactly all and none."""
    digits = f"{100 * share:.1f}"
    if digits == "100.0":
        digits = "100" if share > 1 - 1e-9 else "over 99.9"
    elif digits in ("0.0", "-0.0"):
        digits = "0" if share < 1e-9 else "under 0.1"
    return f"{digits}{_NO_BREAK}%"


def interval(low: float, high: float) -> str:
    """Format an interval of two shares: "91.2 to 96.1 %"."""
    return f"{percent(low).removesuffix(f'{_NO_BREAK}%')} to {percent(high)}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Format a count: "1 picture", "2,000 pictures". `plural` is for irregular nouns."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def seconds(value: float) -> str:
    """Format a duration: "9.5 s", "45 s", "2 min 30 s"."""
    whole = round(value)
    if value < 10:
        text = f"{value:.1f} s"
    else:
        text = f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"
    return text.replace(" ", _NO_BREAK)


def shown(text: str) -> str:
    """Escape invisible characters in a name."""
    return text.translate(_ESCAPES)


def name(text: str) -> Markup:
    """Mark up a name, isolated from the direction of the surrounding text."""
    return Markup("<bdi>{}</bdi>").format(shown(text))


def _escape_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_escape_surrogates(each) for each in value]
    if isinstance(value, dict):
        return {_escape_surrogates(key): _escape_surrogates(each) for key, each in value.items()}
    return value
