"""Commands as this system's shell takes them."""

import os
import shlex
from subprocess import list2cmdline


def quoted(*words: str | os.PathLike[str]) -> str:
    """Words of a command, quoted where they have to be: for `cmd` under Windows, else for `sh`."""
    texts = [os.fspath(word) for word in words]
    return list2cmdline(texts) if os.name == "nt" else shlex.join(texts)
