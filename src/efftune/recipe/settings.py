"""Choices of a recipe from TOML files and from KEY=VALUE texts."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efftune.errors import UsageError
from efftune.recipe.recipe import flat


def choices_in(path: Path) -> Mapping[str, Any]:
    """The choices written in a TOML file.

    Raises:
        UsageError: the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the settings file {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a TOML file: {error}.") from None


def gathered(
    config: Path | None, settings: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Choices from a settings file, `KEY=VALUE` texts and options; the later win.

    Args:
        config: a TOML file, or None.
        settings: texts such as `views=2` or `head_strengths=[0.01, 0.1]`.
        options: choices by name; those that are None are left out.

    Raises:
        UsageError: the file cannot be used, a text is not of that form, or there is no such
            setting.
    """
    choices = flat(choices_in(config)) if config else {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE, for example views=2. Received: {setting!r}.")
        choices |= flat({key.strip(): _value(text.strip())})
    return choices | {key: value for key, value in options.items() if value is not None}


def _value(text: str) -> Any:
    """A TOML value, or the text itself: quotes around words are not asked for."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
