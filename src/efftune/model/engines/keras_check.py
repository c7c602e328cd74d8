"""Keras files from others, checked before Keras reads them.

Keras makes objects of the classes that a file names, and HDF5 files may refer to other files. A
classifier consists of a few kinds of layers, and holds all of its weights.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from efftune.errors import DataError

_WEIGHTS = "model.weights.h5"
_MEMBERS = {"config.json", "metadata.json", _WEIGHTS}
_MOST_CONFIG = 2**26  # bytes of a text in it
_LAYER_NAMES = (
    "Activation Add Average BatchNormalization Concatenate Conv2D Dense DepthwiseConv2D Dropout "
    "GlobalAveragePooling2D GlobalMaxPooling2D InputLayer Multiply Normalization ReLU Rescaling "
    "Reshape Softmax ZeroPadding2D"
)
_LAYERS = frozenset(_LAYER_NAMES.split())
_CLASSES = {
    None: re.compile("__keras_tensor__"),
    "keras": re.compile("DTypePolicy"),
    "keras.initializers": re.compile("[A-Z][A-Za-z]+"),
    "keras.layers": re.compile("|".join(_LAYERS)),
    "keras.regularizers": re.compile("L1|L2|L1L2"),
    "keras.src.models.functional": re.compile("Functional"),
    "keras.src.ops.numpy": re.compile("Flip"),
}
_DEEPEST = 100  # objects within objects


def require_plain(path: Path, *, weights: bool = False) -> None:
    """Check that a file holds a network of plain layers, and nothing else.

    Args:
        path: of the file.
        weights: check these, too, which takes longer; Keras alone reads them.

    Raises:
        DataError: it is damaged, or has other parts.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _require_members(archive)
            _require_objects(json.loads(archive.read("config.json")))
            if weights:
                _require_own_weights(archive)
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{path} cannot be used: {reason}. Restore it, or train again.") from None
    except (NotImplementedError, RuntimeError, EOFError, MemoryError):  # of zipfile: encrypted, say
        raise DataError(f"{path} is damaged. Restore it, or train again.") from None


def _require_members(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    names = [each.filename for each in members]
    if set(names) != _MEMBERS or len(names) != len(_MEMBERS):
        raise ValueError("it has other parts than a network")
    for each in members:
        if each.filename == _WEIGHTS:
            if each.file_size != each.compress_size:
                raise ValueError("its weights are compressed")
        elif each.file_size > _MOST_CONFIG:
            raise ValueError(f"{each.filename} in it is too large")


def _require_objects(config: Any) -> None:
    """Check the classes that a description of a network names."""
    for each in _objects(config, 0):
        name, module, registered = (
            each.get(key) for key in ("class_name", "module", "registered_name")
        )
        pattern = _CLASSES.get(module) if module is None or isinstance(module, str) else None
        if not (isinstance(name, str) and pattern and pattern.fullmatch(name)):
            raise ValueError(f"it has {str(name)[:40]!r}, which is no layer of a classifier")
        if registered not in (None, name):
            raise ValueError(f"it has {str(registered)[:40]!r}, which is no layer of a classifier")


def _objects(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Everything in a description that Keras makes an object of."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        if value.keys() & {"class_name", "module", "registered_name"}:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _objects(each, depth + 1)


def _require_own_weights(archive: zipfile.ZipFile) -> None:
    """Check that weights are plain arrays in the file itself."""
    import h5py

    def check(group: Any) -> None:
        for name in group:
            if type(group.get(name, getlink=True)) is not h5py.HardLink:
                raise ValueError("its weights are links")
            part = group[name]
            if isinstance(part, h5py.Group):
                check(part)
            elif part.external or part.is_virtual or part.compression or part.dtype.hasobject:
                raise ValueError("its weights are no plain arrays")

    size = archive.getinfo(_WEIGHTS).file_size
    with archive.open(_WEIGHTS) as stream, h5py.File(stream, "r") as weights:
        check(weights)
        if sum(_sizes(weights)) > size:
            raise ValueError("its weights are not whole")


def _sizes(weights: Any) -> list[int]:
    import h5py

    found: list[int] = []

    def visit(_name: str, part: Any) -> None:
        if isinstance(part, h5py.Dataset):
            found.append(part.nbytes)

    weights.visititems(visit)
    return found
