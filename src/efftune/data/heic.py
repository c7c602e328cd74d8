"""Opens HEIC pictures, as phones write them, with libheif."""

import io
from collections.abc import Iterator

from PIL import Image

from efftune.errors import BadImage


def opened(content: bytes) -> Image.Image:
    """A HEIC picture, not decoded yet.

    Raises:
        BadImage: an item of the file has a name that is no text. pi-heif would crash on it.
    """
    from pi_heif import HeifImageFile

    for name, box in _boxes(content):
        if name == b"meta" and not all(map(_is_text, _item_names(box))):
            raise BadImage("damaged (UnicodeDecodeError)")
    image: Image.Image = HeifImageFile(io.BytesIO(content))
    return image


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the outermost boxes of a file (ISO/IEC 14496-12, section 4.2)."""
    start = 0
    while start + 8 <= len(content):
        size, name, header = int.from_bytes(content[start : start + 4]), content[start + 4 :][:4], 8
        if size == 1:
            size, header = int.from_bytes(content[start + 8 : start + 16]), 16
        elif size == 0:
            size = len(content) - start
        if size < header:
            return
        yield name, content[start + header : start + size]
        start += size


def _item_names(meta: bytes) -> Iterator[bytes]:
    """Types, names and content types of the items in a `meta` box (section 8.11.6)."""
    for entry in meta.split(b"infe")[1:]:
        version = entry[:1]
        if version in (b"\2", b"\3"):
            start = 4 + (2 if version == b"\2" else 4) + 2  # after version, item ID and protection
            yield entry[start : start + 4]
            yield from entry[start + 4 :].split(b"\0")[:2]


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
