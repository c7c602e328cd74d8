"""What a field of a recipe says about itself, beside its type, range and default."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """What is said about a field beside its type and range.

    Attributes:
        help: what it sets, in a sentence or two.
        flag: its option on the command line; without one it is set with `--set` only.
        default: what the default means, where the value itself does not tell.
        key: its name outside of its section, where that is another: for Python's keyword
            arguments, `--set`, and settings files without sections.
        parse: turns what a user may write into a value; raises ValueError with a remedy.
        head_only: whether it matters even if only the head is fitted.
    """

    help: str
    flag: str = ""
    default: str = ""
    key: str = ""
    parse: Callable[[Any], Any] | None = None
    head_only: bool = False
