"""Writes the pictures of a record-based data set into class folders."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from efftune.data import formats
from efftune.data.formats import FORMATS
from efftune.errors import BadImage

_WORDNET = re.compile(r"^n\d{8}-")  # WordNet ID before ImageNet class names
_MAX_BYTES = 200  # of a folder name; most file systems allow 255


def write(folder: Path, number: int, content: bytes) -> None:
    """Write the encoded picture of a record unchanged, for example to `000017.jpg`.

    Args:
        folder: of the class.
        number: of the record.
        content: the encoded picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        suffix = FORMATS[formats.detect(content[: formats.HEAD])].suffixes[0]
    except BadImage:
        suffix = ""  # it is set aside when the folder is read
    (folder / f"{number:06}{suffix}").write_bytes(content)


def class_folders(names: Sequence[str]) -> list[str]:
    """Unique folder names for classes, without WordNet IDs where names stay unique.

    Names that differ in capitals only are not: many disks do not tell them apart.
    """
    for candidates in ([_WORDNET.sub("", name) for name in names], names):
        safe = [_safe_name(name) for name in candidates]
        if len({each.casefold() for each in safe}) == len(names):
            return safe
    return [f"{name} {i}" for i, name in enumerate(safe)]


def _safe_name(name: str) -> str:
    """Replace or remove what makes a name hidden, a path, or too long."""
    name = re.sub(r"^\.|[/\0]", "-", unicodedata.normalize("NFC", name))
    return name.encode(errors="replace")[:_MAX_BYTES].decode(errors="ignore") or "-"
