"""Pictures as programs have them: paths, bytes, file objects, Pillow pictures and arrays."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from efftune.data import bit_depth, formats, images, picture_bytes
from efftune.data.bit_depth import BitDepth
from efftune.data.images import Pixels
from efftune.data.resizing import Framing
from efftune.errors import BadImage, UsageError
from efftune.system import files

_QUALITY = 60  # of WebP, 1 to 100

Picture: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | NDArray[np.uint8]


def listed(pictures: "Picture | Iterable[Picture]") -> "Iterable[Picture]":
    """The pictures, if one or several are given. An array of four dimensions is several."""
    several = isinstance(pictures, np.ndarray) and pictures.ndim == 4
    one = str | Path | bytes | bytearray | memoryview | io.IOBase | Image.Image | np.ndarray
    if not several and (isinstance(pictures, one) or hasattr(pictures, "read")):
        return [pictures]  # type: ignore[list-item]
    if not isinstance(pictures, Iterable):
        raise UsageError(f"{_KINDS} Received: {type(pictures).__name__}.")
    return pictures  # type: ignore[return-value]


def path_of(picture: Picture) -> Path | None:
    """The path, if the picture is given as one; an empty one is no picture, and ends nothing."""
    return files.user_path(picture or ".") if isinstance(picture, str | Path) else None


def sendable(picture: Picture) -> bytes | Image.Image | NDArray[np.uint8]:
    """The picture as another process can decode it: the bytes of a file instead of its path.

    Raises:
        BadImage: it cannot be read.
        UsageError: it is of another kind; see `decode`.
    """
    path = path_of(picture)
    if path is not None:
        return picture_bytes.read(path)
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, Image.Image):
        with images.errors_of_decoders():  # it may read its file only now
            picture.load()
        return picture
    if isinstance(picture, np.ndarray):
        return picture
    if isinstance(picture, str | Path) or not hasattr(picture, "read"):
        raise UsageError(f"{_KINDS} Received: {type(picture).__name__}.")
    content = picture.read()
    if not isinstance(content, bytes):
        raise UsageError("The file object returns text. Open the file with mode 'rb'.")
    return content


def decoded_alone(
    picture: Picture, size: int, fit: Framing, depth: BitDepth = bit_depth.UNKNOWN
) -> Pixels:
    """The pixels of a picture as the only view of it, uint8 (1, size, size, 3); see `decode`."""
    return decode(picture, size, fit, depth)[None]


def decode(
    picture: Picture, size: int, fit: Framing, depth: BitDepth = bit_depth.UNKNOWN
) -> Pixels:
    """Decode a picture to the pixels of the model input, as `images.decode` does for a file.

    Args:
        picture: a path; the bytes of a file, or a file object opened for reading bytes, from its
            current position; a Pillow picture; or an array, uint8 (height, width) or (height,
            width, channels) with 1 channel (grey), 3 (red, green, blue) or 4 (with opacity).
        size: side of the output, in pixels.
        fit: see `images.decoded`.
        depth: see `images.decoded`.

    Returns:
        uint8 (size, size, 3).

    Raises:
        BadImage: the picture cannot be decoded.
        UsageError: it is none of these.
    """
    content = sendable(picture)
    if isinstance(content, Image.Image):
        return images.of_image(content, size, fit, depth)
    if isinstance(content, np.ndarray):
        return images.of_image(_from_array(content), size, fit, depth)
    return images.decode(content, size, fit, depth)


def require_pixels(picture: bytes | Pixels, most: int) -> None:
    """Check the number of pixels of an array, or that the header of a file announces.

    Those of DICOM and floating-point TIFF files have the decoder's own limit.

    Raises:
        BadImage: there are more than `most`, or the header is damaged.
    """
    if isinstance(picture, np.ndarray):
        if picture.shape[0] * picture.shape[1] > most:
            raise BadImage(formats.TOO_LARGE)
        return
    with images.errors_of_decoders():
        form = formats.detect(picture[: formats.HEAD])
        if form == "DICOM":
            return
        try:
            image = images.opened(picture, form)
        except UnidentifiedImageError:
            return  # which the decoder says, or reads otherwise
        with image:
            if image.width * image.height > most:
                raise BadImage(formats.TOO_LARGE)


def thumbnail(picture: Path | bytes, side: int) -> str:
    """A picture in its own proportions, as WebP in base64.

    Args:
        picture: the file, or its content.
        side: of the square that it fits in, in pixels.

    Raises:
        BadImage: the picture cannot be decoded.
    """
    content = picture if isinstance(picture, bytes) else picture_bytes.read(picture)
    square = images.decoded(content, side, "pad")
    scale = side / max(square.width, square.height)
    width, height = (max(1, round(scale * each)) for each in (square.width, square.height))
    left, top = (side - width) // 2, (side - height) // 2
    return webp(square.pixels[top : top + height, left : left + width])


def webp(pixels: Pixels) -> str:
    """Encode pixels, uint8 (height, width, 3), as WebP in base64."""
    _, content = cv2.imencode(
        ".webp", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, _QUALITY]
    )
    return base64.b64encode(content.tobytes()).decode()


_KINDS = (
    "A picture is a path, bytes, a file object, a Pillow picture, or an array, uint8 (height, "
    "width) or (height, width, 1, 3 or 4)."
)


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    shape = pixels.shape
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,), (4,)) or 0 in shape:
        raise UsageError(f"{_KINDS} Received an array of shape {shape}.")
    if pixels.dtype != np.uint8:
        raise UsageError(
            f"{_KINDS} Received {pixels.dtype}: its range is unknown. Convert it, for example with "
            "(255 * pixels).round().astype('uint8') if its values are 0 to 1."
        )
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if shape[2:] == (1,) else pixels))
