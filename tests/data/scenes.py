"""Made-up pictures with large and small things in them, and copies of them."""

import io

import numpy as np
from PIL import Image, ImageEnhance, ImageOps


def scene(seed: int, side: int = 240) -> Image.Image:
    """A picture with large and small things in it."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((side, side, 3))
    for cells in (4, 9, 30):
        coarse = random.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        pixels += np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    return Image.fromarray((pixels / 3).astype(np.uint8))


def encoded(picture: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def crop(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((10, 5, width - 4, height - 12))


COPIES = {
    "resized": lambda picture: picture.resize((130, 130)),
    "encoded again": lambda picture: encoded(picture, 50),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.1),
    "darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.9),
    "cropped": crop,
    "mirrored": ImageOps.mirror,
    "all of it": lambda picture: encoded(crop(picture).resize((150, 150)), 60),
}
