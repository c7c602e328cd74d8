"""Settings from TOML files and from KEY=VALUE arguments."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from efftune.errors import UsageError
from efftune.recipe.schema import SETTINGS, flat


def read_choices(path: Path) -> Mapping[str, Any]:
    """The settings in a TOML file.

    Raises:
        UsageError: the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the settings file {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not a TOML file: {error}.") from None


def merged_choices(
    config: Path | None, settings: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge settings from a file, `KEY=VALUE` arguments and options; later sources take precedence.

    Args:
        config: a TOML file, or None.
        settings: arguments such as `views=2` or `head_strengths=[0.01, 0.1]`.
        options: values by name of the setting; None means not given.

    Raises:
        UsageError: the file is invalid or of another recipe than an option, an argument does not
            have that form, or a setting does not exist.
    """
    choices = flat(read_choices(config)) if config else {}
    kept = choices.get("name") if 2 * len(choices) > len(SETTINGS) else None  # of a whole recipe
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE, for example views=2. Received: {setting!r}.")
        choices |= flat({key.strip(): _value(text.strip())})
    choices |= {key: value for key, value in options.items() if value is not None}
    if kept and choices["name"] != kept:
        raise UsageError(
            f"{config} holds all settings of a recipe {kept}, so --recipe {choices['name']} would "
            "have no effect: omit it, or take what should not count out of a copy of the file."
        )
    return choices


def _value(text: str) -> Any:
    """A TOML value, or the text itself, so that strings need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
