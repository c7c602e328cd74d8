"""How settings are written: text, as from the command line, converted to values.

Each function raises ValueError, with a remedy, for text that has no meaning; a value of another
kind is left to the setting's type.
"""

import math
import re
from typing import Any, Literal, get_args

Phase = Literal["scratch", "head", "tune"]
MOST_FOLDS = 20
_NUMBER = r"(\d+(?:\.\d+)?)"
_UNITS = {  # of a goal: what it limits, and how many milliseconds or megabytes it is
    "us": ("time", 0.001),
    "µs": ("time", 0.001),
    "μs": ("time", 0.001),
    "ms": ("time", 1.0),
    "s": ("time", 1000.0),
    "kb": ("size", 0.001),
    "mb": ("size", 1.0),
    "gb": ("size", 1000.0),
}
_HOW = "give a time, a size or both, such as 20 ms, or 20 ms, 15 MB"
_SMALLEST = 1e-6  # of either, as it is written down


def held_out(value: Any) -> Any:
    """A share, also as text or in percent; any other text is a path."""
    if not isinstance(value, str):
        return value
    number = value.strip().removesuffix("%")
    try:
        share = float(number) / (100 if number != value.strip() else 1)
    except ValueError:
        return value
    if not 0.01 <= share <= 0.5:
        raise ValueError("give a share from 0.01 to 0.5, or the path of a source")
    return share


def folds(value: Any) -> Any:
    """A number of folds, also as text; other text is left to the type."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return value
    if number == 1:
        raise ValueError("give 2 folds or more, or 0 for separate validation and test pictures")
    if number > MOST_FOLDS:
        raise ValueError(f"give {MOST_FOLDS} folds or fewer")
    return int(number) if number.is_integer() else value


def phases(value: Any) -> Any:
    """Phases in order, from a sequence or comma-separated text."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or any(not isinstance(name, str) for name in names):
        return names
    if len(set(names)) < len(names):
        raise ValueError("each phase may appear only once")
    order = get_args(Phase)
    known = [name for name in order if name in names]
    return tuple(known) if len(known) == len(names) else tuple(names)


def names(value: Any) -> Any:
    """Names, from a sequence or comma-separated text."""
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def seconds(value: Any) -> Any:
    """Seconds, from text such as `90s`, `10m` or `1h30m`; other text is left to the type."""
    if not isinstance(value, str):
        return value
    text = value.lower().replace(" ", "")
    parts = re.fullmatch(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s?)?", text)
    if not text or parts is None:
        raise ValueError("give a time, such as 90s, 10m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return 3600 * hours + 60 * minutes + seconds


def limits(text: str) -> tuple[float, float]:
    """The milliseconds and the megabytes of a goal; infinite where it sets no limit.

    Raises:
        ValueError: it is none; says how to write it.
    """
    found = {"time": math.inf, "size": math.inf}
    for part in filter(None, re.split(r"[,;+&]|\band\b", text.lower())):
        match = re.fullmatch(rf"\s*{_NUMBER}\s*([a-zµμ]+)\s*", part)
        kind, factor = _UNITS.get(match[2] if match else "", ("", 0.0))
        if match is None or not kind or not float(match[1]) or found[kind] != math.inf:
            raise ValueError(_HOW)
        found[kind] = float(match[1]) * factor
    if min(found.values()) < _SMALLEST or (text and min(found.values()) == math.inf):
        raise ValueError(_HOW)
    return found["time"], found["size"]


def goal(value: Any) -> Any:
    """A goal, written in one way; a number alone does not say of what."""
    milliseconds, megabytes = limits(str(value))
    parts = [(milliseconds, "ms"), (megabytes, "MB")]
    texts = [(f"{limit:.6f}".rstrip("0").rstrip("."), unit) for limit, unit in parts]
    return ", ".join(f"{number} {unit}" for number, unit in texts if number != "inf")
