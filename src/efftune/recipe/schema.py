"""The table of all settings, made of the fields of their sections; and how texts become values."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from efftune.errors import UsageError, unknown_name
from efftune.recipe.inputs import BackboneSettings, DataSettings, General
from efftune.recipe.setting import Setting
from efftune.recipe.training import (
    AugmentationSettings,
    EvaluationSettings,
    HeadSettings,
    OptimizationSettings,
    ScratchSettings,
    TuningSettings,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SECTIONS: dict[str, type[Any]] = {
    "backbone": BackboneSettings,
    "data": DataSettings,
    "head": HeadSettings,
    "augmentation": AugmentationSettings,
    "tuning": TuningSettings,
    "scratch": ScratchSettings,
    "optimization": OptimizationSettings,
    "evaluation": EvaluationSettings,
}


class Place(NamedTuple):
    """The definition of a setting and its position in a recipe."""

    section: str  # empty for the top level
    name: str
    annotation: Any
    default: Any
    setting: Setting


def _places() -> Iterator[tuple[str, Place]]:
    for section, kind in [("", General), *SECTIONS.items()]:
        hints = get_type_hints(kind, include_extras=True)
        for each in fields(kind):
            (setting,) = (x for x in hints[each.name].__metadata__ if isinstance(x, Setting))
            place = Place(section, each.name, hints[each.name], each.default, setting)
            yield setting.key or each.name, place


SETTINGS: dict[str, Place] = dict(_places())
_KEYS = {key: key for key in SETTINGS} | {
    f"{place.section}.{place.name}": key for key, place in SETTINGS.items() if place.section
}
for split in ("val", "test"):  # names in recipes of earlier versions
    _KEYS |= {f"{split}_fraction": split, f"data.{split}_fraction": split}


def flat(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, without sections.

    Args:
        choices: settings by name, by section (a mapping or the section itself), or as
            `section.name`; later ones take precedence.

    Raises:
        UsageError: there is no such setting.
    """
    found: dict[str, Any] = {}
    for name, given in choices.items():
        value = os.fspath(given) if isinstance(given, os.PathLike) else given
        fields = vars(value) if name in SECTIONS and is_dataclass(value) else value
        inside = name in SECTIONS and isinstance(fields, Mapping)
        parts = {f"{name}.{key}": each for key, each in fields.items()} if inside else {name: value}
        for part, each in parts.items():
            if part in SECTIONS:
                raise UsageError(
                    f"{part} is a section of settings, not a setting: set one of it, such as "
                    f"{next(key for key in _KEYS if key.startswith(f'{part}.'))}."
                )
            if part not in _KEYS:
                raise unknown_name("recipe setting", part, [*SETTINGS, *SECTIONS], other=_KEYS)
            found[_KEYS[part]] = each
    return found


def validated(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Settings converted to their types.

    Raises:
        UsageError: a value has the wrong type or is out of range; the message lists all of them.
    """
    values, problems = {}, []
    for key, value in choices.items():
        place = SETTINGS[key]
        if value == place.default and type(value) is type(place.default):
            values[key] = value  # valid as it is; importing pydantic is slow
            continue
        try:
            parsed = place.setting.parse(value) if place.setting.parse else value
            _require_text(parsed)
            values[key] = _adapter(key).validate_python(parsed)
        except ValueError as error:  # includes pydantic's ValidationError
            problems.append(f"{key} = {value!r}: {_reason(error)}")
    if problems:
        raise UsageError("The recipe is invalid. " + "; ".join(problems) + ".")
    return values


def _reason(error: ValueError) -> str:
    """Why a value is refused; of several types, what each of them wants."""
    if not hasattr(error, "errors"):
        return str(error)
    first, *others = dict.fromkeys(each["msg"] for each in error.errors())
    return ", or ".join([first, *(each.removeprefix("Input should be ") for each in others)])


def _require_text(value: Any) -> None:
    """Check that a setting can be written down.

    Raises:
        ValueError: it is a path with bytes that are no UTF-8.
    """
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise ValueError("not UTF-8: rename it, or give a link to it") from None


@cache
def _adapter(key: str) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(SETTINGS[key].annotation)
