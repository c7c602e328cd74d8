"""Converters of other projects, each in a process of its own.

They take long to import, keep much memory, print what they like, and Keras may run on another
backend in this process.
"""

import errno
import os
import subprocess
from pathlib import Path

from efftune.errors import DataError
from efftune.system import machine

_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CI": "true",  # else NNCF may report its use to Intel
}


def convert(program: str, run: Path, path: Path, *words: str) -> None:
    """Convert the classifier of a run by one of the programs beside this module.

    Args:
        program: the name of its module.
        run: the run folder.
        path: what it is to write.
        words: its further arguments.

    Raises:
        DataError: the conversion failed.
        OSError: the disk is full.
    """
    name = f"efftune.delivery.{program}"
    command, environment = machine.own_program(name, str(run), str(path), *words)
    done = subprocess.run(  # noqa: S603  (our own module)
        command,
        env=environment | _ENVIRONMENT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not path.exists():
        reason = (done.stderr.strip().splitlines() or ["unknown error"])[-1]
        if f"[Errno {errno.ENOSPC}]" in reason:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if done.returncode < 0:
            reason = f"it was ended by signal {-done.returncode}; it may need more memory"
        raise DataError(f"The model of {run} could not be converted ({program}): {reason}")
