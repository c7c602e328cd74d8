"""Thousands of odd files as people have them among their pictures, and what is true of each."""

import csv
import io
import os
import re
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms

from .odd_contents import NO_PICTURES, UNREAD, VIDEOS_AND_RAW
from .planted import SAMPLES, encoded, png, tiff
from .profiles import ADOBE_RGB, DISPLAY_P3, printer, profile

COLOURS = {"blue": (70, 90, 190), "green": (80, 170, 90), "red": (190, 90, 80)}
SIZE = (40, 34)
_MANY = ("1", "L", "LA", "P", "RGB", "RGBA")
_DEEP = ("I;16", "I;16B", "I;16L", "I", "F")
_ALL = (*_MANY, "PA", "RGBX", "CMYK", "YCbCr", "LAB", *_DEEP)
MODES = {  # that Pillow writes, by format: first those that are read
    **{"JPEG": ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr"), "MPO": ("L", "RGB", "CMYK")},
    **{"PNG": (*_MANY, "I;16", "I;16B"), "WEBP": (*_ALL, "RGBa", "HSV"), "GIF": (*_MANY, *_DEEP)},
    **{"AVIF": (*_ALL, "RGBa", "HSV"), "TIFF": _ALL, "BMP": ("1", "L", "P", "RGB", "RGBA")},
    **{"JPEG2000": ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B"), "TGA": _MANY},
    **{"PPM": ("1", "L", "RGB", "RGBA", "I;16", "I", "F"), "ICO": (*_MANY, "I;16", "I;16B")},
    **{"BLP": ("P",), "DDS": ("L", "LA", "RGB", "RGBA"), "EPS": ("L", "RGB", "CMYK")},
    **{"ICNS": (*_MANY, "I;16"), "IM": (*_MANY, "PA", "RGBX", "CMYK", "YCbCr", *_DEEP)},
    **{"MSP": ("1",), "PALM": ("1", "P"), "PCX": ("1", "L", "P", "RGB"), "QOI": ("RGB", "RGBA")},
    **{"PDF": (*_MANY, "CMYK"), "SGI": ("L", "RGB", "RGBA"), "XBM": ("1",)},
    **{"SPIDER": (*_MANY, "PA", "CMYK", "HSV", *_DEEP), "DIB": ("1", "L", "P", "RGB", "RGBA")},
}
GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I", "F")
SUFFIXES = {  # of the formats that are read, the usual one of each
    **{"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif"},
    **{"AVIF": ".avif", "TIFF": ".tif", "BMP": ".bmp", "JPEG2000": ".jp2", "PPM": ".ppm"},
    **{"ICO": ".ico", "TGA": ".tga"},
}
SIGNATURES = {  # first bytes by which a format is known
    **{"JPEG": 3, "MPO": 3, "PNG": 8, "WEBP": 12, "GIF": 6, "AVIF": 32, "TIFF": 4, "BMP": 18},
    **{"JPEG2000": 12, "PPM": 12, "ICO": 6, "TGA": 18, "HEIC": 32},
}
WITH_EXIF = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF")
WITH_PROFILE = (*WITH_EXIF, "JPEG2000")
FRAMES = {"GIF": "animated", "PNG": "animated", "WEBP": "animated", "AVIF": "animated"}
FRAMES |= {"TIFF": "pages", "MPO": ""}
_PACKED = (*_MANY, "CMYK", "YCbCr", "LAB", "I;16", "I", "F")
COMPRESSIONS = {  # of TIFF, and the modes that they take
    **dict.fromkeys(("packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"), _PACKED),
    **dict.fromkeys(("zstd", "lzma"), _PACKED),
    **{"jpeg": ("L", "RGB", "CMYK"), "group3": ("1",), "group4": ("1",), "tiff_ccitt": ("1",)},
}
DEEP = "more-than-8-bits"
FACTS = {"wrong-suffix", "rotated", "animated", "pages", "tiny", "long", "greyscale", DEEP}
MOST_PIXELS = 89_000_000  # that are read, as documented

# Reasons that are true of files, as regular expressions; of a usable picture it is the empty one.
USED = ""
DAMAGED = r"truncated|damaged( \(\w+\))?"
NO_PICTURE = r"not an image(: an? .+)?"
NOT_READ = r"unsupported format: .+"
ANYTHING = rf"|{DAMAGED}|{NO_PICTURE}|{NOT_READ}|empty file|too large"

Write = Callable[[Path], object]


@dataclass(frozen=True)
class OddFile:
    """A file, and what is true of it.

    Attributes:
        name: below the source.
        kind: of oddity.
        reasons: a regular expression for the reasons why it may be set aside.
        facts: those of `FACTS` that are true of the picture; None if that is not known.
    """

    name: str
    kind: str
    reasons: str
    facts: frozenset[str] | None


@dataclass(frozen=True)
class Sketch:
    """A file to be made.

    Attributes:
        name: of the file.
        content: the bytes of the file with a picture in it, or what writes the file.
        reasons: see `OddFile`; may depend on the content.
        facts: see `OddFile`.
    """

    name: str
    content: Callable[[Image.Image], bytes | Write]
    reasons: str | Callable[[bytes], str] = USED
    facts: frozenset[str] | None = field(default=None)


def make(root: Path, every: int = 1) -> list[OddFile]:
    """Write odd files into the folders of three classes; the same ones each time.

    Args:
        root: the source, a folder that is made.
        every: of the files of a kind, only each of so many is made.

    Returns:
        The files.
    """
    made: list[OddFile] = []
    for kind, sketches in KINDS.items():
        for i, sketch in enumerate(sketches()):
            if i % every == 0:
                made.append(_made(root, kind, sketch, len(made)))
    return made


def _made(root: Path, kind: str, sketch: Sketch, number: int) -> OddFile:
    place = f"{list(COLOURS)[number % 3]}/{kind}"
    name = f"{place}/{sketch.name}" if kind == "names" else f"{place}/{number:04} {sketch.name}"
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = sketch.content(picture(number))
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    reasons = sketch.reasons
    if not isinstance(reasons, str):
        assert isinstance(content, bytes)
        reasons = reasons(content)
    return OddFile(name, kind, reasons, sketch.facts)


@lru_cache(maxsize=64)
def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A small picture in the colour of its class, with coarse and fine details."""
    random = np.random.default_rng(seed)
    colour = list(COLOURS.values())[seed % 3]
    coarse = random.normal(colour, 50, (6, 5, 3)).clip(0, 255).astype(np.uint8)
    pixels = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(float)
    pixels += random.normal(0, 12, (size[1], size[0], 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """A picture in any of Pillow's modes, of 16 bits with all of their range."""
    if mode in ("LA", "RGBA", "PA"):
        through = {"LA": "L", "RGBA": "RGB", "PA": "P"}[mode]
        faded = image.convert(through).convert(mode)
        faded.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda v: 128 + v // 2))
        return faded
    if mode in ("La", "RGBa"):
        return in_mode(image, mode.upper()).convert(mode)
    if mode == "LAB":
        return _to_lab().apply(image)
    if mode[0] not in "IF":
        return image.convert(mode)
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
    if mode == "F":
        return Image.fromarray(deep.astype(np.float32) / 65_535)
    return Image.fromarray(deep.astype(np.int32) if mode == "I" else deep).convert(mode)


@cache
def _to_lab() -> ImageCms.ImageCmsTransform:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.buildTransform(srgb, lab, "RGB", "LAB")


def readable(content: bytes) -> bool:
    """Whether Pillow reads all of the first picture in a file: what is true of a spoilt file."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height <= MOST_PIXELS:
                image.load()
            return image.width * image.height <= MOST_PIXELS
    except Exception:  # noqa: BLE001  (decoders raise many)
        return False


def facts(mode: str = "RGB", *more: str) -> frozenset[str]:
    """What is true of a picture of this mode, and more, of which empty texts do not count."""
    return frozenset((*(["greyscale"] if mode in GREY else []), *filter(None, more)))


def _encode(image: Image.Image, form: str, mode: str, **options: Any) -> bytes:
    if form == "ICO":
        options |= {"sizes": [image.size]}
    return encoded(in_mode(image, mode), form, **options)


def _sketch(form: str, mode: str, what: str, *more: str, **options: Any) -> Sketch:
    name = f"{mode.replace(';', ' ')}{what}{SUFFIXES[form]}"
    content = partial(_encode, form=form, mode=mode, **options)
    return Sketch(name, content, USED, facts(mode, _deep(form, mode), *more))


def _deep(form: str, mode: str) -> str:
    """The fact that a file has more than 8 bits; other formats cut values off at 255."""
    keeps = form in ("PNG", "TIFF", "JPEG2000", "PPM", "ICO")
    return DEEP if keeps and mode[0] in "IF" else ""


def modes() -> Iterator[Sketch]:
    """Every format that is read, in every mode that it has."""
    for form in SUFFIXES:
        for mode in MODES[form]:
            yield _sketch(form, mode, "")


def exif_data() -> Iterator[Sketch]:
    """EXIF data: every orientation, in every mode one; others that are none; damaged ones."""
    for form in WITH_EXIF:
        for number in (*range(1, 9), 0, 9, 77):
            exif = Image.Exif()
            exif[0x0112] = number
            turned = "rotated" if 1 < number < 9 else ""
            yield _sketch(form, "RGB", f" turned {number}", turned, exif=exif.tobytes())
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "what it shows " * 3000
        for mode in MODES[form]:
            yield _sketch(form, mode, " described", "rotated", exif=exif.tobytes())
    for form in ("JPEG", "PNG", "WEBP"):
        for name, content in {
            "of nothing": b"",
            "of text": b"Exif\0\0no such thing",
            "cut": b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12",
            "pointing out": b"Exif\0\0MM\0*\xff\xff\xff\xff",
        }.items():
            yield _sketch(form, "RGB", f" exif {name}", exif=content)


def profiles() -> Iterator[Sketch]:
    """Colour profiles: usual ones, those of other kinds of pictures, damaged ones."""
    p3 = profile(b"RGB ", 2.2, DISPLAY_P3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    contents = {
        **{"sRGB": srgb, "P3": p3, "Adobe": profile(b"RGB ", 2.2, ADOBE_RGB)},
        **{"grey": profile(b"GRAY", 1.8), "CMYK": printer(), "nothing": b"", "zeros": bytes(200)},
        **{"text": b"sRGB" * 40, "cut": p3[:150], "head": p3[:128], "large": p3 + bytes(200_000)},
        "other version": p3[:8] + b"\x09\x99" + p3[10:],
    }
    for form in WITH_PROFILE:
        for mode in ("RGB", "L", "RGBA", "CMYK", "P", "1", "LAB", "I;16"):
            for name, content in contents.items():
                if mode in MODES[form] and (mode in ("RGB", "CMYK") or name in ("P3", "grey")):
                    yield _sketch(form, mode, f" profile {name}", icc_profile=content)


def _moving(image: Image.Image, form: str, mode: str, count: int) -> bytes:
    others = [in_mode(picture(97 + i), mode) for i in range(count - 1)]
    return _encode(image, form, mode, save_all=True, append_images=others)


def frames() -> Iterator[Sketch]:
    """Several frames or pages, of one size and others."""
    for form, fact in FRAMES.items():
        for mode in MODES[form]:
            for count in (1, 2, 4):
                content = partial(_moving, form=form, mode=mode, count=count)
                # These cut off values at 255, and then all frames are the same.
                is_unknown = form in ("GIF", "WEBP") and mode[0] in "IF"
                known = (
                    None
                    if is_unknown
                    else facts(mode, _deep(form, mode), fact if count > 1 else "")
                )
                name = f"{mode.replace(';', ' ')} {count} frames{SUFFIXES[form]}"
                yield Sketch(name, content, USED, known)
    other = [picture(98, (60, 20))]
    for form in ("TIFF", "GIF", "MPO"):
        options = {"save_all": True, "append_images": other}
        yield _sketch(form, "RGB", " frames of two sizes", FRAMES[form], **options)


def options() -> Iterator[Sketch]:
    """What the writers of formats may choose."""
    choices: tuple[tuple[str, str, dict[str, Any]], ...] = (
        *(("JPEG", mode, {"quality": q}) for mode in ("RGB", "L", "CMYK") for q in (1, 50, 100)),
        *(("JPEG", mode, {"progressive": True}) for mode in ("RGB", "L", "CMYK")),
        *(("JPEG", "RGB", {"subsampling": s}) for s in (0, 1, 2)),
        *(("JPEG", "RGB", {"restart_marker_blocks": n}) for n in (1, 7)),
        ("JPEG", "RGB", {"comment": b"about " * 10_000}),
        ("JPEG", "RGB", {"xmp": b"<x:xmpmeta/>" * 5000}),
        ("JPEG", "RGB", {"keep_rgb": True}),
        ("JPEG", "RGB", {"dpi": (0, 0)}),
        *(("PNG", "P", {"bits": bits}) for bits in (1, 2, 4, 8)),
        *(("PNG", "P", {"transparency": t}) for t in (0, bytes(range(256)))),
        ("PNG", "L", {"transparency": 7}),
        ("PNG", "RGB", {"transparency": (1, 2, 3)}),
        *(("PNG", mode, {"compress_level": 0}) for mode in ("1", "RGB", "RGBA")),
        *(("WEBP", mode, {"lossless": True}) for mode in ("L", "RGB", "RGBA", "P")),
        *(("WEBP", "RGBA", {"quality": q, "method": 0}) for q in (0, 100)),
        *(("GIF", "P", {"interlace": i, "transparency": 0}) for i in (0, 1)),
        *(("AVIF", "RGB", {"subsampling": s}) for s in ("4:4:4", "4:2:2", "4:2:0", "4:0:0")),
        *(("AVIF", "RGB", {"quality": q, "speed": 10}) for q in (0, 100)),
        ("JPEG2000", "RGB", {"no_jp2": True}),
        *(("JPEG2000", m, {"irreversible": i}) for m in ("RGB", "L") for i in (False, True)),
        ("JPEG2000", "RGB", {"tile_size": (16, 16)}),
        ("JPEG2000", "RGBA", {"num_resolutions": 1}),
        *(("TGA", mode, {"compression": "tga_rle"}) for mode in ("L", "LA", "RGB", "RGBA", "P")),
        *(("TGA", mode, {"orientation": 1}) for mode in ("L", "RGB")),
        ("TGA", "RGB", {"id_section": b"made by " * 20}),
        *(("ICO", mode, {"bitmap_format": "bmp"}) for mode in ("RGB", "RGBA", "L", "P")),
        ("BMP", "RGB", {"dpi": (300, 300)}),
    )
    for form, mode, chosen in choices:
        grey = {"greyscale"} if chosen.get("subsampling") == "4:0:0" else set()
        what = " ".join(f"{key} {str(value)[:20]}" for key, value in chosen.items())
        name = "".join(char if char.isalnum() else " " for char in what)
        sketch = _sketch(form, mode, f" {name}", *grey, **chosen)
        # The nearest few colours may all be grey.
        yield replace(sketch, facts=None) if chosen.get("bits", 8) < 8 else sketch
    for compression, compressed_modes in COMPRESSIONS.items():
        for mode in compressed_modes:
            yield _sketch("TIFF", mode, f" {compression}", compression=compression)
    for name, content in _by_others().items():
        grey = ["greyscale"] if "grey" in name else []
        # Colours of other formats are scaled to 8 bits by their decoders, which know the depth.
        kept = "grey" in name or name.endswith((".png", ".tiff"))
        deep = [DEEP] if kept and ("16 bits" in name or "float" in name) else []
        yield Sketch(name, content, USED, facts("RGB", *grey, *deep))


def _by_others() -> dict[str, Callable[[Image.Image], bytes]]:
    """Pictures that other programs write, and Pillow does not."""

    def by_opencv(image: Image.Image, suffix: str, kind: str = "u1", channels: int = 3) -> bytes:
        pixels = np.asarray(image).astype(kind)
        pixels = pixels * (257 if kind == "u2" else 1)
        if channels == 4:
            pixels = np.dstack(
                [pixels, np.full_like(pixels[..., 0], 220 * (257 if kind == "u2" else 1))]
            )
        return cv2.imencode(suffix, pixels if channels > 1 else pixels[..., 1])[1].tobytes()

    def plain(image: Image.Image) -> bytes:
        numbers = " ".join(map(str, np.asarray(image).ravel()))
        return f"P3\n# by hand\n{image.width} {image.height}\n255\n{numbers}\n".encode()

    def plain_bits(image: Image.Image) -> bytes:
        bits = " ".join(str(int(value > 128)) for value in np.asarray(image.convert("L")).ravel())
        return f"P1 {image.width} {image.height}\n{bits}\n".encode()

    def interlaced(image: Image.Image) -> bytes:
        """By Adam's seven passes (PNG specification, section 8.2)."""
        pixels, data = np.asarray(image.convert("L")), b""
        starts = ((0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (0, 1), (1, 0))
        steps = ((8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1))
        for (top, left), (down, right) in zip(starts, steps, strict=True):
            data += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::right])
        content = png(image.width, image.height, zlib.compress(data))
        header = b"IHDR" + content[16:28] + b"\1"
        return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]

    def upside_down(image: Image.Image) -> bytes:
        content = bytearray(encoded(image, "BMP"))
        content[22:26] = struct.pack("<i", -image.height)
        return bytes(content)

    def many_segments(image: Image.Image) -> bytes:
        """A header of two megabytes, as of photos with much written by a camera's maker."""
        content, segment = encoded(image), b"\xff\xe5\xff\xff" + bytes(65_533)
        return content[:2] + 32 * segment + content[2:]

    def texts(image: Image.Image, chunk: bytes) -> bytes:
        content = encoded(image, "PNG")
        packed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return content[:33] + packed + content[33:]

    long_text = b"how it was made " * 200_000
    return {
        **{f"opencv {s[1:]}{s}": partial(by_opencv, suffix=s) for s in (".png", ".tiff", ".webp")},
        "opencv 16 bits.png": partial(by_opencv, suffix=".png", kind="u2"),
        "opencv 16 bits rgba.png": partial(by_opencv, suffix=".png", kind="u2", channels=4),
        "opencv 16 bits grey.png": partial(by_opencv, suffix=".png", kind="u2", channels=1),
        "opencv 16 bits.jp2": partial(by_opencv, suffix=".jp2", kind="u2"),
        "opencv 16 bits grey.tiff": partial(by_opencv, suffix=".tiff", kind="u2", channels=1),
        "opencv 16 bits.tiff": partial(by_opencv, suffix=".tiff", kind="u2"),
        "opencv 16 bits grey.pgm": partial(by_opencv, suffix=".pgm", kind="u2", channels=1),
        "opencv 16 bits.ppm": partial(by_opencv, suffix=".ppm", kind="u2"),
        "opencv float grey.tiff": partial(by_opencv, suffix=".tiff", kind="f4", channels=1),
        **{
            "plain.ppm": plain,
            "plain bits grey.pbm": plain_bits,
            "interlaced grey.png": interlaced,
        },
        **{"upside down.bmp": upside_down, "many segments.jpg": many_segments},
        "long text.png": partial(texts, chunk=b"tEXtprompt\0" + long_text),
        "long packed text.png": partial(
            texts, chunk=b"zTXtRaw profile\0\0" + zlib.compress(long_text)
        ),
        "long international text.png": partial(
            texts, chunk=b"iTXtXML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(long_text)
        ),
        "more after the end.jpg": lambda image: encoded(image) + bytes(5000),
        "two in one.jpg": lambda image: encoded(image) + encoded(image),
        "video after it.jpg": lambda image: encoded(image) + b"\0\0\0\x18ftypmp42" + bytes(900),
        "more after the end.png": lambda image: encoded(image, "PNG") + b"<html>" * 9,
        "more after the end.gif": lambda image: encoded(image, "GIF") + bytes(99),
    }


def shapes() -> Iterator[Sketch]:
    """One pixel, lines, and other forms, in each format."""
    sizes = {(1, 1), (1, 5000), (5000, 1), (2, 2), (31, 40), (32, 32), (33, 290), (700, 70), (7, 3)}
    for size in sorted(sizes):
        for form, suffix in SUFFIXES.items():
            if form == "ICO" and max(size) > 256:
                continue
            tiny = "tiny" if min(size) < 32 else ""
            long = "long" if max(size) > 8 * min(size) else ""
            seed = sum(size)

            def content(_: Image.Image, form: str = form, seed: int = seed, size=size) -> bytes:
                return _encode(picture(seed, size), form, "RGB")

            # JPEG's chroma of a single pixel may be lost, and with it all colour.
            known = None if min(size) < 3 else facts("RGB", tiny, long)
            yield Sketch(f"{size[0]} by {size[1]}{suffix}", content, USED, known)


def suffixes() -> Iterator[Sketch]:
    """Names that say another format, or none, or the right one in an unusual way."""
    right = {"JPEG": (".JPG", ".jpeg", ".jfif"), "MPO": (".mpo",), "TIFF": (".TIFF",)}
    right |= {"PNG": (".PnG", ".apng"), "BMP": (".dib",), "PPM": (".pnm",), "JPEG2000": (".j2k",)}
    others = (".jpg", ".png", ".gif", ".webp", ".txt", "", ".jpg.bak", ".", ".jpg ", ".JPG?size=9")
    for form, usual in SUFFIXES.items():
        known = {*right.get(form, ()), usual, *((".mpo",) if form == "JPEG" else ())}
        content = partial(_encode, form=form, mode="RGB")
        for suffix in (*right.get(form, ()), *others):
            wrong = "" if suffix in known else "wrong-suffix"
            yield Sketch(f"in truth {form}{suffix}", content, USED, facts("RGB", wrong))


def _bases(image: Image.Image) -> dict[str, Callable[[], bytes]]:
    """A file of each format, and of some forms of it."""
    exif = Image.Exif()
    exif[0x0112] = 3
    two = {"save_all": True, "append_images": [picture(97)]}
    chosen: dict[str, tuple[str, str, dict[str, Any]]] = {
        **{form: (form, "RGB", {}) for form in SUFFIXES},
        "JPEG progressive": ("JPEG", "RGB", {"progressive": True, "exif": exif.tobytes()}),
        "PNG palette": ("PNG", "P", {"exif": exif.tobytes(), "icc_profile": printer()}),
        "GIF two": ("GIF", "P", two),
        "WEBP two": ("WEBP", "RGB", two),
        "TIFF lzw": ("TIFF", "RGB", {"compression": "tiff_lzw", **two}),
        "TIFF jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
        "TGA packed": ("TGA", "RGBA", {"compression": "tga_rle"}),
    }
    return {
        name: partial(_encode, image, form, mode, **options)
        for name, (form, mode, options) in chosen.items()
    }


def _truth_of_spoilt(content: bytes, form: str, first: int) -> str:
    """The reasons that are true of a file of a format whose bytes from `first` are not its own."""
    if not content:
        return "empty file"
    if first < SIGNATURES[form]:
        return ANYTHING
    return USED if readable(content) else f"{DAMAGED}|too large"


def cut() -> Iterator[Sketch]:
    """Files that end too early: at every fortieth of them, and shortly before their end."""
    ends = [*(i / 26 for i in range(26)), *range(-4, 0)]
    for name in _bases(picture(0)):
        form = name.split()[0]
        for end in ends:

            def content(image: Image.Image, name: str = name, end: float = end) -> bytes:
                whole = _bases(image)[name]()
                return whole[: int(end * len(whole)) if end >= 0 else int(end)]

            def truth(content: bytes, form: str = form) -> str:
                return _truth_of_spoilt(content, form, len(content))

            yield Sketch(f"{name} cut at {end:.3f}{SUFFIXES[form]}", content, truth)


def altered() -> Iterator[Sketch]:
    """Files of which some bytes are others: flipped bits, or blocks of zeros or of noise."""
    for name in _bases(picture(0)):
        form = name.split()[0]
        for seed in range(26):
            firsts: list[int] = []

            def content(image: Image.Image, name=name, seed=seed, firsts=firsts) -> bytes:
                changed = bytearray(_bases(image)[name]())
                random = np.random.default_rng((seed, len(changed)))
                size = int(random.integers(8, 200))
                at = int(random.integers(len(changed) - size))
                match seed % 4:
                    case 0:
                        changed[at : at + size] = bytes(size)
                    case 1:
                        changed[at : at + size] = random.bytes(size)
                    case _:
                        places = random.integers(len(changed), size=random.integers(1, 20))
                        at = int(places.min())
                        for place in places:
                            changed[place] ^= 1 << int(random.integers(8))
                firsts.append(at)
                return bytes(changed)

            def truth(content: bytes, form=form, firsts=firsts) -> str:
                return _truth_of_spoilt(content, form, firsts[0])

            yield Sketch(f"{name} altered {seed}{SUFFIXES[form]}", content, truth)


def heic() -> Iterator[Sketch]:
    """HEIC files, whole and spoilt. Nothing but the decoder itself reads them."""
    for path in sorted(SAMPLES.glob("*.heic")):
        whole = path.read_bytes()
        yield Sketch(path.name, lambda _, whole=whole: whole, USED, facts())
        yield Sketch(
            f"{path.stem}.jpg", lambda _, whole=whole: whole, USED, facts("RGB", "wrong-suffix")
        )
        for seed in range(30):
            random = np.random.default_rng(seed)
            end = int(random.integers(len(whole)))
            changed = bytearray(whole)
            for place in random.integers(len(whole), size=random.integers(1, 9)):
                changed[place] ^= 1 << int(random.integers(8))
            cut_off = bytes(whole[:end])
            reasons = DAMAGED if end > SIGNATURES["HEIC"] else ANYTHING
            yield Sketch(f"{path.stem} cut {seed}.heic", lambda _, c=cut_off: c, rf"|{reasons}")
            yield Sketch(
                f"{path.stem} altered {seed}.heic", lambda _, c=bytes(changed): c, ANYTHING
            )


def no_pictures() -> Iterator[Sketch]:
    """Files that are no pictures, under the names of pictures and their own."""
    for name, content in NO_PICTURES.items():
        reasons = NO_PICTURE if content else "empty file"
        for suffix in (".jpg", ".png", "", ".JPEG"):
            yield Sketch(f"{name}{suffix}", lambda _, content=content: content, reasons)


def not_read() -> Iterator[Sketch]:
    """Pictures in formats that are not read."""
    for form, suffix in {
        **{"BLP": "blp", "DDS": "dds", "EPS": "eps", "ICNS": "icns", "IM": "im", "MSP": "msp"},
        **{"PCX": "pcx", "QOI": "qoi", "SGI": "sgi", "SPIDER": "spi", "XBM": "xbm", "DIB": "dib"},
        **{"PDF": "pdf", "PALM": "palm"},
    }.items():
        # A document of pictures is no picture; nothing tells a picture of Palm from any bytes.
        reasons = {"PDF": NO_PICTURE, "PALM": NO_PICTURE}.get(form, NOT_READ)
        for mode in MODES[form]:
            content = partial(_encode, form=form, mode=mode)
            name = f"{form} {mode.replace(';', ' ')}"
            yield Sketch(f"{name}.{suffix}", content, reasons)
            yield Sketch(f"{name}.jpg", content, reasons)
    for suffix, kind in ((".hdr", "f4"), (".sr", "u1"), (".pam", "u1"), (".pfm", "f4")):

        def by_opencv(image: Image.Image, suffix: str = suffix, kind: str = kind) -> bytes:
            return cv2.imencode(suffix, np.asarray(image).astype(kind))[1].tobytes()

        yield Sketch(f"opencv{suffix}", by_opencv, NOT_READ)
    for name, content in UNREAD.items():
        for suffix in (".jpg", "", ".tif"):
            yield Sketch(f"{name}{suffix}", lambda _, content=content: content, NOT_READ)


def videos_and_raw() -> Iterator[Sketch]:
    """First bytes of videos, sounds and camera raw files."""
    for name, (content, reasons) in VIDEOS_AND_RAW.items():
        for suffix in (".jpg", ".dng", ".mp4"):
            for more in (0, 100, 60_000):
                whole = content + bytes(more)
                yield Sketch(f"{name} {more}{suffix}", lambda _, whole=whole: whole, reasons)


def bombs() -> Iterator[Sketch]:
    """Files that claim to be, or are, far larger than they look."""
    for side in (9_500, 20_000, 65_000):
        for name, content in _headers(side).items():
            # A JPEG may be decoded at an eighth of its size, and what is missing is grey.
            reasons = "|too large" if name.endswith("jpg") and side == 9_500 else "too large"
            yield Sketch(f"{side} in {name}", content, reasons)

    def black(_: Image.Image, depth: int) -> bytes:
        data = zlib.compress(bytes((20_000 * depth // 8 + 1) * 20_000), 1)
        return png(20_000, 20_000, data, depth=depth)

    def packed(_: Image.Image, form: str, **options: str) -> bytes:
        return encoded(Image.new("1", (20_000, 20_000)), form, **options)

    yield Sketch("black, 8 bits.png", partial(black, depth=8), "too large")
    yield Sketch("black, 1 bit.png", partial(black, depth=1), "too large")
    group4 = partial(packed, form="TIFF", compression="group4")
    yield Sketch("black.tif", group4, "too large")
    yield Sketch("black.gif", partial(packed, form="GIF"), "too large")


def _headers(side: int) -> dict[str, Callable[[Image.Image], bytes]]:
    """Small files whose headers say that they are squares of this side."""

    def changed(image: Image.Image, form: str, size: bytes, **options: Any) -> bytes:
        content = bytearray(encoded(image, form, **options))
        places = {"JPEG": (content.find(b"\xff\xc0") + 5,), "GIF": (6,), "BMP": (18,)}
        places |= {"TGA": (12,), "JPEG2000": (8, 24)}
        for place in places[form]:
            content[place : place + len(size)] = size
        return bytes(content)

    def plain(start: bytes, rest: bytes) -> Callable[[Image.Image], bytes]:
        return lambda _: start % (side, side) + rest

    return {
        "header.jpg": partial(changed, form="JPEG", size=struct.pack(">HH", side, side)),
        "header.gif": partial(changed, form="GIF", size=struct.pack("<HH", side, side)),
        "header.bmp": partial(changed, form="BMP", size=struct.pack("<ii", side, side)),
        "header.tga": partial(changed, form="TGA", size=struct.pack("<HH", side, side)),
        "header.j2k": partial(
            changed, form="JPEG2000", size=struct.pack(">II", side, side), no_jp2=True
        ),
        "header.tif": lambda _: tiff(side, side),
        "header.png": lambda _: png(side, side, zlib.compress(bytes(100))),
        "header.ppm": plain(b"P6 %d %d 255\n", bytes(300)),
        "plain header.ppm": plain(b"P3 %d %d 255\n", b"0 " * 300),
        "header.pfm": plain(b"Pf\n%d %d\n-1.0\n", bytes(300)),
    }


def names() -> Iterator[Sketch]:
    """Names that programs may stumble over, of pictures in order."""
    for name in (
        *("caf\u00e9.png", "cafe\u0301.png", "line\nbreak.png", "tab\there.png", "\r.png"),
        *("<script>alert(1)<.png", "<img src=x onerror=alert(1)>.png", "&lt;b&gt;.png"),
        *('"double".png', "'single'.png", "com,ma.png", "semi;colon.png", "back\\slash.png"),
        *("=1+1.png", "@sum.png", "-rf.png", "--help.png", "-.png", "+1.png", "~.png", "~root.png"),
        *("%s{0}$HOME.png", "100%.png", "%2e%2e%2f.png", "#anchor.png", "a?b=c.png", "*.png"),
        *("[a-z].png", "{a,b}.png", "`id`.png", "$(id).png", "a|b.png", "a&b.png", "!.png"),
        *(" blank .png", "  .png", "dots...png", "a.png.", ":stream.png", "C:.png"),
        *("\u202egnp.exe.png", "\u200f\u0635\u0648\u0631\u0629.png", "\u5199\u771f.png"),
        *("\U0001f431\u200d\U0001f464.png", "\ufeffmark.png", "\u2028separator.png", "\x85.png"),
        *("\x1b[31mred.png", "\x07bell.png", "\x7f.png", "nul.png", "CON.png", "Thumbs.db.png"),
        *("x" * 251 + ".png", "\u00e9" * 125 + ".png", "a/" * 60 + "deep.png"),
        *(("y" * 200 + "/") * 15 + "far.png", "folder.jpg/in it.png", "<b>/#/%41/in it.png"),
        *map(os.fsdecode, (b"latin \xe9.png", b"\xff\xfe.png", b"\xed\xa0\x80.png", b"\xc3.png")),
        *(os.fsdecode(b"\xe9t\xe9/in it.png"), " /in it.png", "new\nline/in it.png", "\\n.png"),
    ):
        wrong = "" if name.endswith("g") else "wrong-suffix"
        yield Sketch(name, partial(_encode, form="PNG", mode="RGB"), USED, facts("RGB", wrong))
    for name in (
        ".hidden.png",
        "..png.png",
        "._twin.png",
        ".ipynb_checkpoints",
        "Thumbs.db",
        "desktop.ini",
    ):
        leftover = "left over from Windows" if name[0] != "." else "hidden"
        yield Sketch(name, partial(_encode, form="PNG", mode="RGB"), leftover)


def _outside(path: Path) -> Path:
    """A path beside the source of this file."""
    root = path.parents[2].resolve()
    outside = root.with_name(f"{root.name}, outside")
    outside.mkdir(exist_ok=True)
    return outside / path.name


def no_files() -> Iterator[Sketch]:
    """What is in a folder and is no file, or leads elsewhere."""

    def link(_: Image.Image, to: str) -> Write:
        return lambda path: path.symlink_to(to)

    def good_link(image: Image.Image) -> Write:
        def write(path: Path) -> None:
            other = _outside(path)
            other.write_bytes(encoded(image, "PNG"))
            path.symlink_to(other)

        return write

    def locked(image: Image.Image) -> Write:
        def write(path: Path) -> None:
            path.write_bytes(encoded(image, "PNG"))
            path.chmod(0)

        return write

    def listening(_: Image.Image) -> Write:
        def write(path: Path) -> None:
            folder = os.open(path.parent, os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as own:  # whose names may have 107 bytes only
                own.bind(f"/proc/self/fd/{folder}/{path.name}")
            os.close(folder)

        return write

    # Root may read everything.
    yield Sketch("locked.png", locked, USED if os.geteuid() == 0 else "no permission to read")
    for suffix in (".jpg", ".png", ""):
        yield Sketch(f"pipe{suffix}", lambda _: os.mkfifo, "not a regular file")
        yield Sketch(f"socket{suffix}", listening, "not a regular file")
        for device in ("zero", "null"):
            to = partial(link, to=f"/dev/{device}")
            yield Sketch(f"{device}{suffix}", to, "not a regular file")
        yield Sketch(f"gone{suffix}", partial(link, to="nowhere.jpg"), "broken link")
        yield Sketch(f"gone far{suffix}", partial(link, to="/nowhere/at/all"), "broken link")
        yield Sketch(
            f"through a file{suffix}", partial(link, to="/etc/passwd/x.jpg"), "broken link"
        )
        yield Sketch(f"round{suffix}", partial(link, to="."), "folder links back to itself")
        yield Sketch(
            f"good link{suffix}",
            good_link,
            USED,
            facts("RGB", "" if suffix == ".png" else "wrong-suffix"),
        )

    def to_itself(_: Image.Image) -> Write:
        return lambda path: path.symlink_to(path.name)

    def to_each_other(_: Image.Image) -> Write:
        def write(path: Path) -> None:
            _outside(path).symlink_to(path)
            path.symlink_to(_outside(path))

        return write

    yield Sketch("to itself.jpg", to_itself, "broken link")
    yield Sketch("to each other.jpg", to_each_other, "broken link")


KINDS: dict[str, Callable[[], Iterator[Sketch]]] = {
    **{"modes": modes, "exif": exif_data, "profiles": profiles, "frames": frames},
    **{"options": options, "shapes": shapes, "suffixes": suffixes, "cut": cut, "altered": altered},
    **{"heic": heic, "no pictures": no_pictures, "not read": not_read},
    **{"videos and raw": videos_and_raw, "bombs": bombs, "names": names, "no files": no_files},
}


def untrue(files: list[OddFile], listed: list[tuple[str, str]]) -> list[str]:
    """What is wrong with a list of files and the reasons why they are set aside, in words.

    Args:
        files: those that were made.
        listed: names and reasons, of which the empty one means that the picture is used.
    """
    counts, given = Counter(name for name, _ in listed), dict(listed)
    wrong = [
        f"{name!r} is not there" for name in given if name not in {each.name for each in files}
    ]
    for each in files:
        if counts[each.name] != 1:
            wrong.append(f"{each.name!r} is listed {counts[each.name]} times")
        elif not re.fullmatch(each.reasons, given[each.name]):
            reason = given[each.name] or "used"
            wrong.append(f"{each.name!r} is {reason}; true is {each.reasons or 'used'}")
    return wrong


def wrong_facts(files: list[OddFile], found: Mapping[str, set[str]]) -> list[str]:
    """What is wrong with the kinds of findings by name of a picture, in words."""
    return [
        f"{each.name!r}: {sorted(found[each.name] & FACTS)}; true is {sorted(each.facts)}"
        for each in files
        if each.facts is not None and found[each.name] & FACTS != each.facts
    ]


def examples(run: Path) -> list[tuple[str, str]]:
    """Names and reasons in the table of a run."""
    with (run / "examples.csv").open(newline="", encoding="utf-8") as stream:
        return [(row["path"], row["reason"]) for row in csv.DictReader(stream)]


def as_text(name: str) -> str:
    """A name of any bytes as it is written into tables."""
    return name.encode(errors="backslashreplace").decode()


def as_written(files: list[OddFile]) -> list[OddFile]:
    """The files by their names as they are in tables."""
    return [replace(each, name=as_text(each.name)) for each in files]
