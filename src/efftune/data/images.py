"""Bytes to RGB pixels of one size: the only decoder there is.

Training, prediction and evaluation all come through `decode`, so a picture looks the same to the
model everywhere. The content decides the format, never the file's name.
"""

import errno
import io
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from efftune.errors import BadImage
from efftune.recipe.inputs import Fit
from efftune.system import files
from efftune.system.machine import usable_processors

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
VERSION = 1  # part of every cache key: raise it when `decode` gives other pixels than before

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis"}
_ANIMATED = {"GIF", "WEBP", "PNG"}
_ORIENTATION = 0x0112  # the tag's number in EXIF
MOST_PIXELS = 89_000_000  # to decode; a larger picture would take more than 350 MB

# Why a file cannot be used. These words are what users and programs see.
NOT_AN_IMAGE = "not an image"
EMPTY = "empty file"
TRUNCATED = "truncated"
DAMAGED = "damaged"
TOO_LARGE = "too large"
UNSUPPORTED = "HEIC or AVIF, which is not supported"
NOT_REGULAR = "not a regular file"
FOLDER = "a folder, not a picture"
NO_PERMISSION = "no permission to read"
BROKEN_LINK = "broken link"
NO_SUCH_FILE = "no such file"
_GREY = 127  # what the models' own preprocessing maps to zero


def sniff(path: Path) -> str:
    """The format a file's first bytes promise, without decoding it.

    Returns:
        One of `FORMATS`.

    Raises:
        BadImage: the file cannot be read, is empty, or starts like none of the formats.
    """
    with _readable(path):
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise BadImage(NOT_REGULAR)  # opening a pipe would wait for ever
        with path.open("rb") as stream:
            head = stream.read(16)
    if not head:
        raise BadImage(EMPTY)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        raise BadImage(UNSUPPORTED)
    raise BadImage(NOT_AN_IMAGE)


def read(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        BadImage: the file cannot be read.
    """
    with _readable(path):
        return path.read_bytes()


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture as the model sees it, and what its file is.

    Attributes:
        pixels: uint8 array of shape (size, size, 3): red, green, blue, 0 to 255.
        format: one of `FORMATS`.
        width: of the whole picture as shown, in pixels.
        height: likewise.
        mode: of its pixels, as Pillow calls it: `RGB`, `L`, `P`, `CMYK` and so on.
        animated: whether it has more than one frame.
        orientation: as EXIF numbers it, 1 to 8; 1 is upright.
    """

    pixels: Pixels
    format: str
    width: int
    height: int
    mode: str
    animated: bool
    orientation: int


def decode(content: bytes, size: int, fit: Fit) -> Pixels:
    """The pixels of a picture, as the model sees them; see `decoded`."""
    return decoded(content, size, fit).pixels


def decoded(content: bytes, size: int, fit: Fit) -> Decoded:
    """Decode a picture to the square the model sees.

    EXIF orientation is honoured; only the first frame of an animation is used; transparency is
    laid on white; 16-bit values are scaled to 8 bits. A JPEG much larger than `size` is decoded
    at a reduced scale, which is several times faster.

    Args:
        content: a whole JPEG, PNG, WebP, GIF, BMP or TIFF file.
        size: side of the square, in pixels.
        fit: `stretch`, `crop` or `pad`; see `Recipe`.

    Raises:
        BadImage: the content is not such a file, or is damaged, truncated or too large.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            whole, mode, form = image.size, image.mode, str(image.format)
            animated = form in _ANIMATED and bool(getattr(image, "is_animated", False))
            # Only JPEG heeds this. It keeps both sides at least `size`, so the final
            # resampling always goes down.
            image.draft("RGB", (size, size))
            if image.width * image.height > MOST_PIXELS:
                raise BadImage(TOO_LARGE)
            orientation = _orientation(image)
            image.load()
            _turn_upright(image)
            turned = orientation >= 5 and form != "TIFF"  # whose size is told as shown
            width, height = whole[::-1] if turned else whole
            pixels = _fitted(_rgb(image), size, fit)
            return Decoded(pixels, form, width, height, mode, animated, orientation)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(EMPTY if not content else NOT_AN_IMAGE) from None
    except Image.DecompressionBombError:
        raise BadImage(TOO_LARGE) from None
    # Decoders of six formats fail in their own ways on damaged files: OSError, SyntaxError,
    # struct.error, ValueError, EOFError, IndexError and more. All mean the same to the user.
    except Exception as error:  # noqa: BLE001
        raise BadImage(_damage(error)) from None


def decode_all(
    paths: Sequence[Path], size: int, fit: Fit, on_done: Callable[[], None] = lambda: None
) -> Pixels:
    """Decode many pictures, several at a time, into an array that lies on disk.

    Args:
        paths: the pictures.
        size: side of the squares, in pixels.
        fit: see `decode`.
        on_done: called after each picture, from several threads.

    Returns:
        uint8 array (pictures, size, size, 3), memory-mapped from a temporary file: 150 kB a
        picture at 224 pixels.

    Raises:
        BadImage: one cannot be decoded.
    """
    pixels: Pixels = files.temporary_array((len(paths), size, size, 3), np.uint8)

    def place(i: int) -> None:
        pixels[i] = decode(read(paths[i]), size, fit)
        on_done()

    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="decode") as pool:
        for _ in pool.map(place, range(len(paths))):
            pass
    return pixels


def _turn_upright(image: Image.Image) -> None:
    """Turn the picture as its EXIF orientation says.

    Must come after loading: Pillow turns TIFF files itself while it loads them.
    """
    # Damaged EXIF data does not spoil the pixels.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):
        told = int(image.getexif().get(_ORIENTATION, 1))
        return told if 1 <= told <= 8 else 1
    return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Pixels:
    """Scale greyscale values of more than 8 bits, integer or float, to 0–255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    peak = values.max(initial=0)
    if image.mode.startswith("I;16") or peak > 255:
        values = values * (255 / max(65535.0, peak))
    elif image.mode == "F" and peak <= 1:
        values = values * 255
    return values.clip(0, 255).round().astype(np.uint8)


def _fitted(image: Image.Image, size: int, fit: Fit) -> Pixels:
    width, height = image.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return _resized(image, (left, top, left + side, top + side), (size, size))
    whole = (0, 0, width, height)
    if fit == "stretch":
        return _resized(image, whole, (size, size))
    share = size / max(width, height)
    shown = (max(1, round(width * share)), max(1, round(height * share)))
    left, top = (size - shown[0]) // 2, (size - shown[1]) // 2
    square = np.full((size, size, 3), _GREY, np.uint8)
    square[top : top + shown[1], left : left + shown[0]] = _resized(image, whole, shown)
    return square


def _resized(image: Image.Image, box: tuple[int, int, int, int], to: tuple[int, int]) -> Pixels:
    """The part `box` of a picture (left, top, right, bottom) at another size (width, height).

    Averages whole pixels down to less than twice the size, then interpolates linearly. That is
    several times faster than a filter over all pixels, and the sharper result is nearer to what
    the backbones were trained on.
    """
    factors = (max(1, (box[2] - box[0]) // to[0]), max(1, (box[3] - box[1]) // to[1]))
    if factors != (1, 1):
        part = np.asarray(image.reduce(factors, box))
    else:
        part = np.asarray(image)[box[1] : box[3], box[0] : box[2]]
    return np.asarray(cv2.resize(part, to, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _damage(error: Exception) -> str:
    words = str(error).lower()
    if "truncated" in words:
        return TRUNCATED
    if isinstance(error, MemoryError):
        return TOO_LARGE
    return DAMAGED


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into reasons a user understands."""
    try:
        yield
    except FileNotFoundError:
        raise BadImage(BROKEN_LINK if path.is_symlink() else NO_SUCH_FILE) from None
    except PermissionError:
        raise BadImage(NO_PERMISSION) from None
    except IsADirectoryError:
        raise BadImage(FOLDER) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BadImage(BROKEN_LINK) from None
        raise BadImage(f"cannot be read: {error.strerror}") from None
