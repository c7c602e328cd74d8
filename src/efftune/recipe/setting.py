"""Metadata of a recipe's field, in addition to its type, range and default."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """Metadata of a field, in addition to its type and range.

    Attributes:
        help: a description in one or two sentences.
        flag: the command-line option; settings without one can only be set with `--set`.
        default: description of the default, where the value is not self-explanatory.
        key: name of the setting without its section, if different from the field: for keyword
            arguments, `--set`, and settings files without sections.
        parse: converts user input to a value; raises ValueError with a remedy.
    """

    help: str
    flag: str = ""
    default: str = ""
    key: str = ""
    parse: Callable[[Any], Any] | None = None
