"""What the shell's completion offers for the values of arguments and options."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from efftune.recipe.schema import SETTINGS

Complete = Callable[[str], list[str]]  # from the beginning of a word to words


def models(incomplete: str) -> list[str]:
    """Names of models."""
    from efftune.model import catalogue

    return [each.name for each in catalogue.models() if each.name.startswith(incomplete)]


def words(*offered: str) -> Complete:
    """The completion of an option that takes one of a few words."""
    return lambda incomplete: [word for word in offered if word.startswith(incomplete)]


def assignments(incomplete: str) -> list[str]:
    """`KEY=VALUE` of `--set`: keys, or the values of the only key left."""
    key, equals, value = incomplete.partition("=")
    keys = [name for name in SETTINGS if name == key or (name.startswith(key) and not equals)]
    complete = of_setting(keys[0]) if len(keys) == 1 else None
    if complete is None:
        return [] if equals else [f"{name}=" for name in keys]
    return [f"{keys[0]}={each}" for each in complete(value)]


def of_setting(key: str) -> Complete | None:
    """The completion of a setting; None if its values are not a few words."""
    if key == "model":
        return lambda incomplete: [*words("auto")(incomplete), *models(incomplete)]
    found = dict.fromkeys(_words(SETTINGS[key].annotation))
    return words(*found) if found else None


def _words(annotation: Any) -> Iterator[str]:
    """The words among the values of a type."""
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) is Annotated:
        yield from _words(get_args(annotation)[0])
    else:
        for part in get_args(annotation):
            yield from _words(part)
