"""Run folders from others: what is checked before anything is made of their files.

A checksum in a run tells damage, not malice: who makes a run also makes its checksums.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from efftune.data.bit_depth import BitDepth
from efftune.data.relabelling import LABELS_FILE
from efftune.errors import DataError
from efftune.evaluation import predictions, suspects
from efftune.model import saving
from efftune.model.engines import keras_check, openvino_check
from efftune.model.engines.engine import KERAS_FILE, OPENVINO_FILE
from efftune.recipe.inputs import Fit
from efftune.report import thumbnails
from efftune.system import files
from efftune.system.journal import RECORD

_MODEL_BYTES = 2**31
_TABLE_BYTES = 2**30
_PREDICTIONS_BYTES = 2**36  # 8 million pictures of 1,000 classes; few of its columns are kept
_EVALUATION_BYTES = 2**30  # four confusion matrices of 10,000 classes; read whole
_MOST: Mapping[str, int] = {  # bytes of the files that are read, if they are there
    RECORD: 2**24,
    "recipe.toml": 2**20,
    "evaluation.json": _EVALUATION_BYTES,
    saving.CLASSES_FILE: 2**24,
    KERAS_FILE: _MODEL_BYTES,
    OPENVINO_FILE: openvino_check.MOST_BYTES,
    str(Path(OPENVINO_FILE).with_suffix(".bin")): _MODEL_BYTES,
    saving.UNCERTAINTY_FILE: _MODEL_BYTES,
    saving.UNCERTAINTY_FILE_BEFORE: _MODEL_BYTES,
    thumbnails.FILE: 2**26,
    thumbnails.OLD_FILE: 2**26,
    "history.csv": _TABLE_BYTES,
    "findings.csv": _TABLE_BYTES,
    "examples.csv": _TABLE_BYTES,
    predictions.FILE: _PREDICTIONS_BYTES,
    suspects.FILE: _TABLE_BYTES,
    LABELS_FILE: _TABLE_BYTES,
}


def require_sound(folder: Path) -> None:
    """Check the files of a run without reading most of them.

    Raises:
        DataError: one is no file, lies outside of the folder or is too large, or a model is more
            than a network.
    """
    for name, most in _MOST.items():
        if os.path.lexists(folder / name):
            files.inside(folder, name, most=most)
    if (folder / KERAS_FILE).exists():
        keras_check.require_plain(folder / KERAS_FILE)


def checked(folder: Path, name: str) -> Path:
    """A file that a run names as its own.

    Raises:
        DataError: it is none, or lies outside of the folder.
    """
    return files.inside(folder, name, most=_MOST.get(name, _MODEL_BYTES))


def require_usable(record: Mapping[str, Any], folder: Path) -> None:
    """Check those values of `run.json` that classifiers are made with.

    Raises:
        DataError: one is of another type, or out of its range.
    """
    model, named = record["model"], record["files"]
    checksums = [*named, *named.values()] if isinstance(named, dict) else [None]
    try:
        BitDepth.from_dict(model.get("depth", {}))
        side = model["image_size"]
        is_usable = (
            all(isinstance(each, str) for each in checksums)
            and type(side) is int
            and 1 <= side <= openvino_check.MOST_SIDE
            and model["fit"] in get_args(Fit)
            and isinstance(model["name"], str)
            and isinstance(record["source"], str)
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        is_usable = False
    if not is_usable:
        raise DataError(f"{folder / RECORD} is damaged. Restore it, or train again.")


def classes(path: Path) -> list[str]:
    """The class names of a run.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        is_list = isinstance(names, list) and 1 <= len(names) <= openvino_check.MOST_CLASSES
        if is_list and all(isinstance(each, str) for each in names):
            return list(names)
    except (OSError, ValueError, RecursionError):
        pass
    raise DataError(f"{path} is damaged: it is no list of names. Restore it, or train again.")
