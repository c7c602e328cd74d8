"""What the pages of a run have in common: files read with care, and templates filled."""

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

_FAULTS = (OSError, ValueError, LookupError, TypeError, AttributeError)  # of files read
_NO_BREAK = "\N{NO-BREAK SPACE}"
# Control characters, and those that turn the direction of all text after them. Letters written from
# right to left need none of these, nor do joined emoji.
_HIDDEN = (
    *(range(0x20), range(0x7F, 0xA0), (0x61C, 0x200E, 0x200F, 0x2028, 0x2029)),
    *(range(0x202A, 0x202F), range(0x2066, 0x206A)),
)
_WRITTEN_OUT = {
    code: chr(code).encode("unicode_escape").decode() for codes in _HIDDEN for code in codes
}


def render(page: str, **values: Any) -> str:
    """A page from its template, with its style and its script inside it."""
    beside = resources.files("efftune.report") / "templates"
    style = (beside / "report.css").read_text(encoding="utf-8")
    script = (beside / f"{page}.js").read_text(encoding="utf-8")
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
    """Whatever goes wrong in the block is due to this file, or to one in this folder.

    Raises:
        DataError: something did.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is missing. Restore it, or train again.") from None
    except (*_FAULTS, csv.Error, UndefinedError) as error:
        told = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path} is damaged: {told}. Restore it, or train again.") from None


def read_json(path: Path) -> Any:
    """A JSON file, file names in it written as tables write them, without lone surrogates.

    Raises:
        DataError: it is missing or damaged.
    """
    with reading(path):
        return _as_in_tables(json.loads(path.read_text(encoding="utf-8")))


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file by the names of their columns.

    Raises:
        DataError: it is missing or damaged.
    """
    # Tables may have been through a spreadsheet, which puts a mark before the first column's name.
    with reading(path), path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                raise ValueError(f"row {number} has not as many cells as there are columns")
        return rows


def percent(share: float) -> str:
    """A share in percent with one digit; 100 only if it is all, 0 only if it is none."""
    digits = f"{100 * share:.1f}"
    if digits == "100.0":
        digits = "100" if share > 1 - 1e-9 else "over 99.9"
    elif digits in ("0.0", "-0.0"):
        digits = "0" if share < 1e-9 else "under 0.1"
    return f"{digits}{_NO_BREAK}%"


def interval(low: float, high: float) -> str:
    """Two shares, as "91.2 to 96.1 %"."""
    return f"{percent(low).removesuffix(f'{_NO_BREAK}%')} to {percent(high)}"


def counted(number: int, what: str, more: str = "") -> str:
    """A number of things: "1 picture", "2,000 pictures"; `more` where an s does not do."""
    return f"{number:,} {what if number == 1 else more or f'{what}s'}"


def seconds(value: float) -> str:
    """A time as one says it."""
    whole = round(value)
    if value < 10:
        text = f"{value:.1f} s"
    else:
        text = f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"
    return text.replace(" ", _NO_BREAK)


def shown(text: str) -> str:
    """A name with what cannot be seen in it written out."""
    return text.translate(_WRITTEN_OUT)


def name(text: str) -> Markup:
    """A name within a text, whichever way its letters run."""
    return Markup("<bdi>{}</bdi>").format(shown(text))


def _as_in_tables(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_as_in_tables(each) for each in value]
    if isinstance(value, dict):
        return {_as_in_tables(key): _as_in_tables(each) for key, each in value.items()}
    return value
