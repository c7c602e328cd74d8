"""Photos for benchmarks: as many, as large and in as many classes as Stanford Dogs.

    python benchmarks/made_photos.py FOLDER [--from PHOTOS] [--count 12000 8580]

Each is a collage of crops of real photos, those below PHOTOS or the two of scikit-learn,
in the tint of its class. No two are copies of each other.
"""

import argparse
import colorsys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)  # the median of Stanford Dogs
QUALITY = 85


def make(
    folder: Path,
    photos: Path | None = None,
    counts: Sequence[int] = (12_000, 8_580),
    classes: int = 120,
) -> None:
    """Write `train/` and `test/` with class folders."""
    for split, count in zip(("train", "test"), counts, strict=True):
        for number in range(classes):
            (folder / split / f"class{number:03}").mkdir(parents=True)
        write = partial(picture, folder / split, photos, classes, 0 if split == "train" else 1)
        with ProcessPoolExecutor() as pool:
            list(pool.map(write, range(count), chunksize=50))


def picture(folder: Path, photos: Path | None, classes: int, split: int, number: int) -> None:
    random = np.random.default_rng([split, number])
    sources, label = loaded(photos), number % classes
    collage = Image.new("RGB", SIZE)
    middle = [int(side * random.uniform(0.35, 0.65)) for side in SIZE]
    for left, right in ((0, middle[0]), (middle[0], SIZE[0])):
        for top, bottom in ((0, middle[1]), (middle[1], SIZE[1])):
            part = crop(
                sources[random.integers(len(sources))], (right - left, bottom - top), random
            )
            collage.paste(part, (left, top))
    hue = np.array(colorsys.hsv_to_rgb(label / classes, 0.6, 1.0))
    pixels = np.asarray(collage, np.float32) * (0.5 + 0.5 * hue)
    name = folder / f"class{label:03}" / f"{number:05}.jpg"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(name, quality=QUALITY)


def crop(photo: Image.Image, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    width, height = (side * random.uniform(0.3, 0.9) for side in photo.size)
    left = random.uniform(0, photo.size[0] - width)
    top = random.uniform(0, photo.size[1] - height)
    return photo.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))


@cache
def loaded(photos: Path | None) -> list[Image.Image]:
    """The photos that crops are taken from, at most 1,000 pixels wide and high."""
    if photos is None:
        from sklearn.datasets import load_sample_images

        return [Image.fromarray(each) for each in load_sample_images().images]
    found = []
    for path in sorted(photos.rglob("*.jpg")):
        with Image.open(path) as image:
            image.draft("RGB", (1000, 1000))
            found.append(image.convert("RGB"))
    if not found:
        raise SystemExit(f"There is no .jpg below {photos}.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--from", dest="photos", type=Path)
    parser.add_argument("--count", nargs=2, type=int, default=(12_000, 8_580))
    parser.add_argument("--classes", type=int, default=120)
    options = parser.parse_args()
    make(options.folder, options.photos, options.count, options.classes)


if __name__ == "__main__":
    main()
