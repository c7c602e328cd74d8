"""Commands as this system's shell takes them."""

import os
import shlex
from subprocess import list2cmdline

_SPECIAL = frozenset(" &|<>^()%!,;='`")  # to `cmd`; a path holds no double quotes


def quoted(*words: str | os.PathLike[str]) -> str:
    """Words of a command, quoted where they have to be: for `cmd` under Windows, else for `sh`."""
    texts = [os.fspath(word) for word in words]
    if os.name != "nt":
        return shlex.join(texts)
    return " ".join(f'"{each}"' if _SPECIAL & {*each} else list2cmdline([each]) for each in texts)
