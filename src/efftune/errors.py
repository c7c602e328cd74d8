"""The errors a user can meet.

EfftuneError
├── UsageError   the command or call itself is wrong (exit code 2)
└── DataError    the files it points at are wrong (exit code 1)
    └── BadImage     one picture cannot be decoded
"""

import difflib
from collections.abc import Iterable


class EfftuneError(Exception):
    """Something the user can mend. The message says what is wrong and what to do."""

    exit_code = 1


class UsageError(EfftuneError):
    """The command or call is wrong: an unknown name, a missing path, a place taken."""

    exit_code = 2


class DataError(EfftuneError):
    """What the files hold is wrong: no pictures, too few of a class, an altered run."""


class BadImage(DataError):
    """One file cannot be decoded. `reason` is a few words that fit in a table."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A UsageError for `name`, listing what is known and guessing what was meant."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return UsageError(f"Unknown {kind} {name!r}.{guess} Known: {', '.join(known)}.")
