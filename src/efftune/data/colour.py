"""Conversion to sRGB from the colour profiles that files carry, with LittleCMS."""

import io
import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_SRGB = ImageCms.createProfile("sRGB")
_SAME = 2  # of 255: profiles that change colours by no more are sRGB under another name
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # in a profile's header, and in Pillow


def to_srgb(pixels: NDArray[np.uint8], profile: bytes) -> NDArray[np.uint8]:
    """Convert pixels to sRGB.

    Args:
        pixels: uint8 (height, width, 3). Greyscale pictures have three equal channels.
        profile: the file's ICC profile; empty if there is none.

    Returns:
        The converted pixels, uint8 (height, width, 3); the same if the profile is that of sRGB, of
        another kind of picture, or damaged.
    """
    mode = _SPACES.get(profile[16:20], "")
    if mode == "L" and (pixels != pixels[..., :1]).any():
        return pixels
    transform = _transform(profile, mode) if mode in ("RGB", "L") else None
    if transform is None:
        return pixels
    image = Image.fromarray(pixels if mode == "RGB" else np.ascontiguousarray(pixels[..., 0]))
    return np.asarray(transform.apply(image))


def cmyk_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert a CMYK picture to sRGB, by its profile where it has one."""
    is_cmyk = profile[16:20] == b"CMYK"
    transform = _transform(profile, "CMYK") if is_cmyk else None
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion from a profile to sRGB; None if it changes nothing or cannot be made."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            _SRGB,
            mode,
            "RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None  # damaged profiles are no reason to reject the pixels
    if mode == "CMYK":
        return transform
    levels = range(0, 256, 51)
    colours = list(itertools.product(levels, repeat=3)) if mode == "RGB" else [(i,) for i in levels]
    probe = np.array(colours, np.uint8)[None]
    image = Image.fromarray(probe if mode == "RGB" else probe[..., 0])
    change = np.asarray(transform.apply(image)).astype(int) - probe
    return transform if np.abs(change).max() > _SAME else None
