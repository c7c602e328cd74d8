"""What sets of records have in common: their pictures are written out into class folders."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_WORDNET = re.compile(r"^n\d{8}-")  # before the names of ImageNet's classes
_LONGEST = 200  # bytes of a folder's name; systems take 255
_SUFFIXES = {
    **{b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp", b"BM": ".bmp"},
    **{b"II": ".tif", b"MM": ".tif"},
}


def write(folder: Path, number: int, content: bytes) -> None:
    """Write a record's picture as it is, for example to `000017.jpg`.

    Args:
        folder: of its class.
        number: of the record.
        content: the encoded picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{number:06}{_SUFFIXES.get(content[:2], '')}"
    (folder / name).write_bytes(content)


def class_folders(names: Sequence[str]) -> list[str]:
    """Names as people say them, fit for folders, and still different from each other."""
    for told in ([_WORDNET.sub("", name) for name in names], names):
        fit = [_fit(name) for name in told]
        if len(set(fit)) == len(names):
            return fit
    return [f"{name} {i}" for i, name in enumerate(fit)]


def _fit(name: str) -> str:
    """A name that no file system reads as a path, hides or finds too long."""
    name = re.sub(r"^\.|[/\0]", "-", unicodedata.normalize("NFC", name))
    return name.encode(errors="replace")[:_LONGEST].decode(errors="ignore") or "-"
