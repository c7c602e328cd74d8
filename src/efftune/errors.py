"""The exceptions that efftune raises for mistakes a user can fix.

EfftuneError
├── DiskFull     what must be written cannot be; an unfinished run can go on (exit code 1)
├── UsageError   the command or call is invalid (exit code 2)
└── DataError    the files it refers to are invalid (exit code 1)
    └── BadImage     one image file cannot be decoded
"""

import difflib
from collections.abc import Iterable

_MAX_LISTED = 40  # valid names in a message that suggests one of them


class EfftuneError(Exception):
    """A mistake that the user can fix. The message says what is wrong and what to do."""

    exit_code = 1


class EfftuneWarning(UserWarning):
    """Something that the user should know and that does not keep efftune from going on."""


class UsageError(EfftuneError):
    """The command or call is invalid: an unknown name, a missing path, an existing run folder."""

    exit_code = 2


class DiskFull(EfftuneError):
    """A disk is full, or what a user may take of it. Nothing that was written before is lost."""


class DataError(EfftuneError):
    """The files are invalid: no pictures, too few of a class, a run that was modified."""


class BadImage(DataError):
    """An image file cannot be decoded. `reason` is short enough for a table cell."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def unknown_name(
    kind: str, name: str, valid: Iterable[str], other: Iterable[str] = ()
) -> UsageError:
    """A UsageError for an unknown name, with the closest match, and the valid names if few.

    Args:
        kind: of name.
        name: the unknown one.
        valid: names, which may be listed.
        other: names that are valid, too, and may be the closest, but are not listed.
    """
    names = list(valid)
    matches = difflib.get_close_matches(name, dict.fromkeys([*names, *other]), n=1)
    suggestion = f" Did you mean {matches[0]!r}?" if matches else ""
    listed = "" if matches and len(names) > _MAX_LISTED else f" Choose from: {', '.join(names)}."
    return UsageError(f"Unknown {kind} {name!r}.{suggestion}{listed}")
