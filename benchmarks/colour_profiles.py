"""What converting colours to sRGB costs and changes: photos as phones and cameras store them.

Stores the photos of a folder of class folders again as JPEG in Display P3 and in Adobe RGB, each
with its profile and without it (as a decoder that ignores profiles takes it), and prints the
milliseconds to decode one, how far its pixels are from the photo's own, and a run's accuracy.

    python benchmarks/colour_profiles.py RUN FOLDER
"""

import argparse
import io
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

import efftune
from efftune.data import images
from efftune.data.sources import discovery
from efftune.system import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from data.test_images import DISPLAY_P3, profile

ADOBE_RGB = np.array(
    [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
)
PROFILES = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB}
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    print(machine.machine(), machine.versions(), sep="\n")
    classifier = efftune.load(options.run)
    rows = [row for row in discovery.find(options.folder).rows if row.usable]
    photos = [Image.open(row.path).convert("RGB") for row in rows]
    labels = [row.label for row in rows]
    stored = {"sRGB, no profile": [jpeg(photo) for photo in photos]}
    for name, to_xyz in PROFILES.items():
        icc = profile(b"RGB ", 2.2, to_xyz)
        moved = [converted(photo, icc) for photo in photos]
        stored[name] = [jpeg(photo, icc_profile=icc) for photo in moved]
        stored[f"{name}, ignored"] = [jpeg(photo) for photo in moved]
    size = classifier.image_size
    own = decode(stored["sRGB, no profile"], size)
    taken = {name: [] for name in stored}
    for _ in range(ROUNDS):
        for name, contents in stored.items():
            start = time.process_time()
            decode(contents, size)
            taken[name].append(1000 * (time.process_time() - start) / len(contents))
    print(f"{len(photos):,} photos")
    for name, contents in stored.items():
        difference = np.abs(decode(contents, size).astype(int) - own).mean()
        right = [
            each.label == label
            for each, label in zip(classifier.predict(contents), labels, strict=True)
        ]
        print(
            f"{name:20} {statistics.median(taken[name]):6.2f} ms a photo, "
            f"{difference:5.2f} levels from its own, accuracy {np.mean(right):.4f}"
        )


def converted(photo: Image.Image, icc: bytes) -> Image.Image:
    srgb, other = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc))
    moved = ImageCms.profileToProfile(photo, srgb, other)
    assert moved is not None
    return moved


def jpeg(photo: Image.Image, **options: bytes) -> bytes:
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=95, subsampling=0, **options)
    return stream.getvalue()


def decode(contents: list[bytes], size: int) -> np.ndarray:
    return np.stack([images.decode(content, size, "crop") for content in contents])


if __name__ == "__main__":
    main()
