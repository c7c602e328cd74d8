"""The image decoder: from the bytes of a file to RGB pixels of a given size.

Training, prediction and evaluation all use `decode`, so the model always gets the same pixels for a
picture. The format is detected from the content, never from the file name.
"""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from efftune.data import bit_depth, colour, dicom, formats, heic, picture_bytes
from efftune.data.bit_depth import BitDepth, Kind, Range, Values
from efftune.data.formats import FORMATS, MOST_PIXELS, TOO_LARGE
from efftune.data.resizing import Framing, Resizing, fitted
from efftune.errors import BadImage
from efftune.recipe.inputs import Fit
from efftune.system import files
from efftune.system.machine import usable_processors

Pixels = NDArray[np.uint8]

VERSION = 4  # part of every cache key: increase it when the output of `decode` changes

# Reasons why a file is set aside, beside those of `formats` and `picture_bytes`.
TRUNCATED = "truncated"
DAMAGED = "damaged"
_BATCH = 1000  # pictures that wait for a thread at a time: each takes memory
_ORIENTATION = 0x0112  # EXIF tag number
_SUBFILE_TYPE, _REDUCED, _DNG_VERSION = 254, 1, 50706  # TIFF tags, and a value of the first
# Of a packed text in a PNG file; with Pillow's limit, photos with a long history look damaged.
PngImagePlugin.MAX_TEXT_CHUNK = 2**24


@dataclass(frozen=True, slots=True)
class Decoded:
    """The pixels of a decoded picture, and properties of its file.

    Attributes:
        pixels: uint8 array of shape (size, size, 3): red, green, blue, 0 to 255.
        format: a key of `FORMATS`.
        width: of the original picture, in pixels, after EXIF orientation.
        height: of the original picture, in pixels, after EXIF orientation.
        mode: Pillow's name for the pixel format: `RGB`, `L`, `P`, `CMYK` and so on.
        several: whether the file has more frames or pages, which are not used.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        inner_range: of its values (see `bit_depth`), if it has more than 8 bits a channel and
            `depth` did not say what is black and white.
        kind: of these values.
    """

    pixels: Pixels
    format: str
    width: int
    height: int
    mode: str
    several: bool
    orientation: int
    inner_range: Range | None = None
    kind: Kind | None = None


@functools.cache
def versions() -> tuple[str, ...]:
    """Versions of what decodes, as part of cache keys: others may give other pixels."""
    found = [f"decode {VERSION}", f"opencv {cv2.__version__}"]
    for name in ("pillow", "pi-heif", "pydicom"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return tuple(found)


def decode(content: bytes, size: int, fit: Framing, depth: BitDepth = bit_depth.UNKNOWN) -> Pixels:
    """Decode a picture to the pixels of the model input; see `decoded`."""
    return decoded(content, size, fit, depth).pixels


def decoded(
    content: bytes, size: int, fit: Framing, depth: BitDepth = bit_depth.UNKNOWN
) -> Decoded:
    """Decode a picture to the square model input.

    EXIF orientation is applied; only the first frame or page is used; transparent areas become
    white; values of more than 8 bits are scaled to 8; colours are converted to sRGB from the
    profile that the file carries. A JPEG much larger than `size` is decoded at a reduced scale,
    which is several times faster.

    Args:
        content: the bytes of a file in one of `FORMATS`.
        size: side of the output, in pixels.
        fit: `stretch`, `crop` or `pad`; see `Recipe`. Or the resizing of a published evaluation.
        depth: which values of more than 8 bits become black and white.

    Raises:
        BadImage: the content has another format, or is damaged, truncated or too large.
    """
    with errors_of_decoders():
        form = formats.detect(content[: formats.HEAD])
        if form == "DICOM":
            frame, several = dicom.opened(content)
            return _of_values(frame, form, size, fit, depth, several=several)
        try:
            image = opened(content, form)
        except UnidentifiedImageError:
            values = bit_depth.float_tiff_values(content) if form == "TIFF" else None
            if values is None:
                raise
            return _of_values(values, form, size, fit, depth)
        with image:
            may_be_deep = form in ("PNG", "TIFF") and bit_depth.is_deep_colour(image)
            deep_colour = content if may_be_deep else b""
            original_size, mode = image.size, image.mode
            if form != "TIFF":  # which Pillow turns while it loads them
                _load(image, size, fit)
            orientation = _orientation(image)
            pixels, deep = _pixels(image, size, fit, depth, deep_colour)
            several = bool(FORMATS[form].several) and _has_several(image)
            swapped = orientation >= 5 and form != "TIFF"  # Pillow reports its rotated size
            width, height = original_size[::-1] if swapped else original_size
            return Decoded(pixels, form, width, height, mode, several, orientation, *deep)


def of_image(
    image: Image.Image, size: int, fit: Framing, depth: BitDepth = bit_depth.UNKNOWN
) -> Pixels:
    """Like `decode`, for a Pillow picture, which is not changed."""
    with errors_of_decoders():
        return _pixels(image.copy(), size, fit, depth)[0]


_Deep: TypeAlias = tuple[Range, Kind] | tuple[()]  # the last fields of `Decoded`


def _pixels(
    image: Image.Image, size: int, fit: Framing, depth: BitDepth, deep_colour: bytes = b""
) -> tuple[Pixels, _Deep]:
    """The pixels of a picture; `deep_colour` is its file, if it has colours of 16 bits."""
    profile = image.info.get("icc_profile") or b""
    orientation = _orientation(image) if deep_colour and image.format != "TIFF" else 1
    _load(image, size, fit)
    values = bit_depth.colour_values(deep_colour) if deep_colour else None
    deep: _Deep = ()
    if values is not None:
        image, deep = _of_8_bits(values, depth)
        image.getexif()[_ORIENTATION] = orientation  # OpenCV turns TIFF files itself
    _apply_orientation(image)
    values = bit_depth.grey_values(image)
    if values is not None:
        image, deep = _of_8_bits(values, depth)
    return colour.to_srgb(fitted(_rgb(image, profile), size, fit), profile), deep


def _load(image: Image.Image, size: int, fit: Framing) -> None:
    # Affects JPEG only. Both sides stay at least `size`, so that the final resampling never
    # enlarges. A published evaluation decodes at the full scale; of twice the size that it resizes
    # to, nothing differs that counts.
    scaled = 2 * min(fit.scaled(*image.size, size)) if isinstance(fit, Resizing) else size
    image.draft("RGB", (scaled, scaled))
    if image.width * image.height > MOST_PIXELS:
        raise BadImage(TOO_LARGE)
    image.load()


def _of_values(
    values: Values, form: str, size: int, fit: Framing, depth: BitDepth, *, several: bool = False
) -> Decoded:
    """A picture that Pillow does not read, from its values."""
    height, width = values.shape[:2]
    if width * height > MOST_PIXELS:
        raise BadImage(TOO_LARGE)
    image, deep = _of_8_bits(values, depth)
    mode = f"{image.mode} of {values.dtype}"
    pixels = fitted(_rgb(image, b""), size, fit)
    return Decoded(pixels, form, width, height, mode, several, 1, *deep)


def _of_8_bits(values: Values, depth: BitDepth) -> tuple[Image.Image, _Deep]:
    """A picture of 8 bits; and, if `depth` does not know their range, that of the values."""
    has_opacity = values.ndim == 3 and values.shape[2] == 4
    colours = values[..., :3] if has_opacity else values
    limits = (0, 255) if values.dtype == np.uint8 else depth.range_for(colours)
    deep: _Deep = ()
    if limits is None:
        inner_range = bit_depth.inner_range(colours)
        limits = bit_depth.usual_range(*inner_range)
        deep = inner_range, bit_depth.kind_of(values)
    pixels = bit_depth.to_8_bits(colours, limits)
    if has_opacity:
        opaque = 1 if bit_depth.kind_of(values) == "floats" else np.iinfo(values.dtype).max
        pixels = np.dstack((pixels, bit_depth.to_8_bits(values[..., 3], (0, opaque))))
    return Image.fromarray(pixels), deep


@contextmanager
def errors_of_decoders() -> Iterator[None]:
    """Convert whatever a decoder raises to `BadImage`."""
    try:
        yield
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(DAMAGED) from None  # its first bytes are those of the format
    except Image.DecompressionBombError:
        raise BadImage(TOO_LARGE) from None
    # The decoders raise many exceptions for damaged files: OSError, SyntaxError, struct.error,
    # ValueError, EOFError, IndexError and more. All mean the same to the user.
    except Exception as error:  # noqa: BLE001
        raise BadImage(damage(error)) from None


def opened(content: bytes, form: str) -> Image.Image:
    """The picture in a file, not decoded yet."""
    if form == "HEIC":
        return heic.opened(content)
    image = Image.open(io.BytesIO(content), formats=FORMATS[form].plugins or (form,))
    if isinstance(image, TiffImagePlugin.TiffImageFile) and (
        _DNG_VERSION in image.tag_v2 or image.tag_v2.get(_SUBFILE_TYPE) == _REDUCED
    ):
        raise BadImage(formats.CAMERA_RAW)  # such as NEF and DNG: the first picture is a thumbnail
    if form == "JPEG":
        formats.require_few_scans(content, image.width * image.height)
    return image


def decode_all(
    paths: Sequence[Path],
    size: int,
    fit: Fit,
    depth: BitDepth = bit_depth.UNKNOWN,
    on_done: Callable[[], None] = lambda: None,
) -> Pixels:
    """Decode many pictures in parallel into an array on disk.

    Args:
        paths: the pictures.
        size: side of the outputs, in pixels.
        fit: see `decode`.
        depth: see `decoded`.
        on_done: called after each picture, from several threads.

    Returns:
        uint8 array of shape (pictures, size, size, 3), memory-mapped from a temporary file: 150 kB
        per picture at 224 pixels.

    Raises:
        BadImage: a picture cannot be decoded.
    """
    pixels: Pixels = files.temporary_array((len(paths), size, size, 3), np.uint8)

    def decode_one(i: int) -> None:
        pixels[i] = decode(picture_bytes.read(paths[i]), size, fit, depth)
        on_done()

    with ThreadPoolExecutor(usable_processors(), thread_name_prefix="decode") as pool:
        for start in range(0, len(paths), _BATCH):
            for _ in pool.map(decode_one, range(start, min(start + _BATCH, len(paths)))):
                pass
    return pixels


def _apply_orientation(image: Image.Image) -> None:
    """Apply the EXIF orientation in place.

    Call this after loading: Pillow itself rotates TIFF files while loading them.
    """
    # Damaged EXIF data is no reason to reject the pixels.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation. Load PNG files before: Pillow would do it here, and errors be lost."""
    with suppress(Exception):
        value = int(image.getexif().get(_ORIENTATION, 1))
        return value if 1 <= value <= 8 else 1
    return 1


def _has_several(image: Image.Image) -> bool:
    """Whether there is a second frame or page. Call this after loading the first."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001
        return True  # which is damaged, and not used


def _rgb(image: Image.Image, profile: bytes) -> Image.Image:
    if image.mode == "CMYK":
        return colour.cmyk_to_srgb(image, profile)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def damage(error: Exception) -> str:
    """The reason why a picture that raised an exception is set aside."""
    if "truncated" in str(error).lower():
        return TRUNCATED
    if isinstance(error, MemoryError):
        return TOO_LARGE
    return f"{DAMAGED} ({type(error).__name__})"
