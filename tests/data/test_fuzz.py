import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efftune.data import formats, images, inspection
from efftune.data.sources import discovery

from .planted import textured

KINDS: tuple[tuple[str, dict[str, object]], ...] = (
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("GIF", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
    ("MPO", {}),
    ("AVIF", {}),
    ("JPEG2000", {}),
    ("PPM", {}),
    ("TGA", {}),
    ("ICO", {"sizes": [(90, 70)]}),
)
Change = Callable[[bytes, bytes, np.random.Generator], bytes]


def whole_files(folder: int) -> list[bytes]:
    """A file of each format, with EXIF data, and an animated one where there may be one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    contents = []
    for (form, options), picture in zip(KINDS, textured(folder), strict=False):
        stream = io.BytesIO()
        small = picture.resize((90, 70))
        frames = {"save_all": True, "append_images": [small.rotate(180)]}
        moving = frames if form in {"GIF", "PNG"} else {}
        marked = {"exif": exif} if form in {"JPEG", "PNG", "WEBP", "TIFF", "MPO", "AVIF"} else {}
        small.save(stream, form, **options, **moving, **marked)
        contents.append(stream.getvalue())
    return contents


def flipped_bits(content: bytes, _other: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(random.integers(1, 30)):
        changed[random.integers(len(changed))] ^= 1 << random.integers(8)
    return bytes(changed)


def flipped_header_bits(content: bytes, _other: bytes, random: np.random.Generator) -> bytes:
    return flipped_bits(content[:200], b"", random) + content[200:]


def cut(content: bytes, _other: bytes, random: np.random.Generator) -> bytes:
    return content[: random.integers(len(content))]


def spliced(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """The beginning of one file and the end of another."""
    return cut(content, b"", random) + other[random.integers(len(other)) :]


def pasted(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """A piece of another file, or of nothing but zeros or ones, over a piece of one."""
    size = int(random.integers(1, 400))
    at, of = random.integers(len(content)), random.integers(len(other))
    piece = (other[of : of + size], bytes(size), b"\xff" * size)[random.integers(3)]
    return content[:at] + piece + content[at + size :]


CHANGES: tuple[Change, ...] = (flipped_bits, flipped_header_bits, cut, spliced, pasted)


def fuzzed(root: Path, count: int, seed: int) -> set[str]:
    """Fill a source with spoilt files; gives their names."""
    random = np.random.default_rng(seed)
    contents = whole_files(seed)
    names = set()
    (root / "spoilt").mkdir(parents=True)
    for i in range(count):
        one, other = random.integers(len(contents), size=2)
        change = CHANGES[i % len(CHANGES)]
        name = f"spoilt/{i:04} {change.__name__}.{KINDS[one][0].lower()}"
        (root / name).write_bytes(change(contents[one], contents[other], random))
        names.add(name)
    return names


def assert_each_is_listed_once(root: Path, names: set[str]) -> None:
    examples, measurements, _ = inspection.inspect(discovery.find(root))
    listed = [row.name for row in examples.rows]
    assert len(listed) == len(names)
    assert set(listed) == names
    assert len(measurements) == sum(row.usable for row in examples.rows)
    reasons = {row.reason for row in examples.rows if not row.usable}
    kinds = {inspection._DETAILS.split(reason)[0].strip() for reason in reasons}
    known = {formats.EMPTY, formats.NOT_AN_IMAGE, formats.UNSUPPORTED}
    assert kinds <= known | {images.TRUNCATED, images.DAMAGED, formats.TOO_LARGE}
    assert len(list(inspection.unusable(examples))) == len(examples.set_aside)


def test_the_files_are_pictures_before_they_are_spoilt():
    for content in whole_files(0):
        assert {int(inspection.measure(content)[side]) for side in ("width", "height")} == {70, 90}


def test_spoilt_files_are_used_or_set_aside_for_a_known_reason(tmp_path):
    assert_each_is_listed_once(tmp_path, fuzzed(tmp_path, 200, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_thousands_of_spoilt_files_are_used_or_set_aside(seed, tmp_path):
    assert_each_is_listed_once(tmp_path, fuzzed(tmp_path, 200, seed))
