"""A source full of odd files, and the findings expected for each."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

SAMPLES = Path(__file__).parent / "samples"
CLASSES = ("coat", "shirt")  # those that are in order
CUTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)  # share of a file that is left
Write = Callable[[Path], object]
Pictures = Iterator[Image.Image]


@dataclass(frozen=True)
class Oddity:
    """A file, and what must be found of it.

    Attributes:
        name: below the source.
        write: makes it.
        kinds: of its findings, no more and no fewer.
        other: the file that it is a copy of.
    """

    name: str
    write: Write = field(repr=False)
    kinds: frozenset[str] = frozenset()
    other: str = ""


def textured(seed: int = 0) -> Pictures:
    """Endless colourful pictures, no two alike, with details of every size as photos have."""
    for i in count():
        random = np.random.default_rng((seed, i))
        shape = (int(random.integers(280, 420)), int(random.integers(280, 420)))
        waves = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
        coarseness = 1 / np.maximum(np.hypot(*waves), 2 / max(shape)) ** 1.3
        spectrum = np.fft.rfft2(random.normal(size=(3, *shape))) * coarseness
        layers = np.fft.irfft2(spectrum, shape)
        layers /= layers.std(axis=(1, 2), keepdims=True)
        mixed = np.einsum("ij,jyx->yxi", [[1, 0.3, 0], [1, 0, 0.3], [1, -0.3, -0.3]], layers)
        yield Image.fromarray((125 + 50 * mixed).clip(0, 255).astype(np.uint8))


def photos(folder: Path, seed: int = 0) -> Pictures:
    """Different photos of a folder, in a random order, at most 600 pixels wide and high."""
    paths = sorted(folder.glob("*/*.jpg"))
    for i in np.random.default_rng(seed).permutation(len(paths)):
        with Image.open(paths[i]) as image:
            photo = ImageOps.exif_transpose(image).convert("RGB")
        photo.thumbnail((600, 600))
        yield photo


def plant(root: Path, pictures: Pictures) -> tuple[Oddity, ...]:
    """Make the source.

    Args:
        root: a folder that is made.
        pictures: a hundred and more; each is used once.
    """
    planted = (
        *_ordinary(pictures),
        *_damaged(pictures),
        *_no_pictures(),
        *_bombs(),
        *_formats(pictures),
        *_shapes(pictures),
        *_looks(pictures),
        *_copies(pictures),
        *_names(pictures),
        *_no_files(root, pictures),
        *_out_of_place(pictures),
    )
    for each in planted:
        path = root / each.name
        path.parent.mkdir(parents=True, exist_ok=True)
        each.write(path)
    return planted


def encoded(picture: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def _odd(name: str, content: bytes | Write, *kinds: str, other: str = "") -> Oddity:
    write = partial(_write, content=content) if isinstance(content, bytes) else content
    return Oddity(name, write, frozenset(kinds), other)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _ordinary(pictures: Pictures) -> Iterator[Oddity]:
    for name in CLASSES:
        for i in range(12):
            yield _odd(f"train/{name}/ordinary {i:02}.jpg", encoded(next(pictures)))
        yield _odd(f"test/{name}/ordinary.jpg", encoded(next(pictures)))


def _damaged(pictures: Pictures) -> Iterator[Oddity]:
    for share in CUTS:
        whole = encoded(next(pictures), quality=90)
        cut = whole[: int(share * len(whole))]
        yield _odd(f"train/coat/cut at {share}.jpg", cut, "truncated")
    for form in ("PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encoded(next(pictures), form)
        kind = "damaged" if form == "WEBP" else "truncated"
        yield _odd(f"train/coat/half.{form.lower()}", whole[: len(whole) // 2], kind)
    yield _odd("train/all broken/cut.jpg", encoded(next(pictures))[:3000], "truncated")


def _no_pictures() -> Iterator[Oddity]:
    no = "not-an-image"
    yield _odd("train/coat/nothing.jpg", b"", "empty")
    yield _odd("train/coat/text.jpg", b"This is no picture.\n" * 50, no)
    yield _odd("train/coat/page.png", b"<!doctype html><title>404 Not Found</title>", no)
    yield _odd("train/coat/paper.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", no)
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    yield _odd("train/coat/drawing.svg", drawing, "unsupported")
    yield _odd("train/coat/layers.psd", b"8BPS\0\1" + bytes(40), "unsupported")
    yield _odd("train/coat/manual.pdf", b"%PDF-1.7\n", "other-file")
    yield _odd("train/coat/live.mov", b"\0\0\0\x14ftypqt  \0\0\0\0", "other-file")
    yield _odd("train/coat/zeros.jpg", bytes(5000), no)
    yield _odd("train/coat/start.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "damaged")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
    yield _odd("train/coat/phone.heic", heic, "damaged")
    yield _odd("train/coat/phone.jpg", heic, "damaged")
    avif = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(500)
    yield _odd("train/coat/modern.avif", avif, "damaged")


def png(width: int, height: int, data: bytes, *extra: bytes, depth: int = 8) -> bytes:
    """A greyscale PNG file with the header, the compressed data and the chunks that are given."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = [b"IHDR" + header, *extra, b"IDAT" + data, b"IEND"]
    packed = (
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _bombs() -> Iterator[Oddity]:
    small = Image.new("RGB", (64, 64), "red")
    jpeg = bytearray(encoded(small))
    sizes = jpeg.index(b"\xff\xc0") + 5
    jpeg[sizes : sizes + 4] = struct.pack(">HH", 60_000, 60_000)
    gif = bytearray(encoded(small, "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    bmp = bytearray(encoded(small, "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    frames = {"save_all": True, "append_images": [Image.new("RGB", (64, 64), "blue")]}
    webp = bytearray(encoded(small, "WEBP", **frames))
    webp[24:30] = (16_382).to_bytes(3, "little") * 2
    contents = {
        "header.png": png(60_000, 60_000, zlib.compress(bytes(100))),
        "black.png": png(20_000, 20_000, zlib.compress(bytes(20_000 * 20_001), 1)),
        "black, 1 bit.png": png(20_000, 20_000, zlib.compress(bytes(2501 * 20_000), 1), depth=1),
        **{"header.jpg": bytes(jpeg), "header.gif": bytes(gif), "header.bmp": bytes(bmp)},
        **{"header.webp": bytes(webp), "header.tif": tiff(60_000, 60_000)},
    }
    for name, content in contents.items():
        yield _odd(f"train/coat/bomb, {name}", content, "too-large")
    for chunk in (b"zTXtComment\0\0", b"iCCPprofile\0\0"):
        content = png(9, 9, zlib.compress(bytes(90)), chunk + zlib.compress(bytes(10**8), 1))
        name = chunk[:4].decode()
        yield _odd(f"train/coat/bomb, {name}.png", content, "damaged")


def tiff(width: int, height: int) -> bytes:
    """A TIFF file with this size in its header."""
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 200), (277, 1)]
    entries += [(278, height), (279, width * height)]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + bytes(200)


def _formats(pictures: Pictures) -> Iterator[Oddity]:
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        kinds = ["rotated"] if number > 1 else []
        content = encoded(next(pictures), exif=exif)
        yield _odd(f"train/coat/turned {number}.jpg", content, *kinds)
    for form in ("GIF", "WEBP", "PNG"):
        picture = next(pictures)
        frames = {"save_all": True, "append_images": [ImageOps.invert(picture)]}
        content = encoded(picture, form, **frames)
        yield _odd(f"train/coat/moving.{form.lower()}", content, "animated")
    pages = encoded(next(pictures), "TIFF", save_all=True, append_images=[next(pictures)])
    yield _odd("train/coat/pages.tiff", pages, "pages")
    views = encoded(next(pictures), "MPO", save_all=True, append_images=[next(pictures)])
    yield _odd("train/coat/portrait.jpg", views)
    for form, suffix in (("AVIF", "avif"), ("JPEG2000", "jp2"), ("PPM", "ppm"), ("TGA", "tga")):
        yield _odd(f"train/coat/whole.{suffix}", encoded(next(pictures), form))
    yield _odd("train/coat/icon.ico", encoded(next(pictures).resize((200, 180)), "ICO"))
    for name in ("halves", "turned"):
        yield _odd(f"train/coat/{name}.heic", (SAMPLES / f"{name}.heic").read_bytes())
    yield _odd("train/coat/progressive.jpg", encoded(next(pictures), progressive=True))
    yield _odd("train/coat/print.jpg", encoded(next(pictures).convert("CMYK")))
    yield _odd("train/coat/lossless.webp", encoded(next(pictures), "WEBP", lossless=True))
    yield _odd("train/coat/windows.bmp", encoded(next(pictures), "BMP"))
    grey = {"grey": "L", "grey with alpha": "LA", "black and white": "1"}
    for name, mode in grey.items():
        content = encoded(next(pictures).convert(mode), "PNG")
        yield _odd(f"train/coat/{name}.png", content, "greyscale")
    ramp = np.linspace(0, 65535, 300).astype(np.uint16)[None].repeat(300, 0)
    kinds = ("greyscale", "blurry", "more-than-8-bits")
    yield _odd("train/coat/ramp.png", encoded(Image.fromarray(ramp), "PNG"), *kinds)
    yield _odd("train/coat/few colours.png", encoded(next(pictures).quantize(64), "PNG"))
    clear = encoded(next(pictures).quantize(64), "PNG", transparency=0)
    yield _odd("train/coat/few colours, one clear.png", clear)
    layer = next(pictures).convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(layer.size))
    yield _odd("train/coat/fading.png", encoded(layer, "PNG"))
    yield _odd("train/coat/in truth png.jpg", encoded(next(pictures), "PNG"), "wrong-suffix")
    yield _odd("train/coat/in truth jpeg.png", encoded(next(pictures)), "wrong-suffix")
    yield _odd("train/coat/no suffix", encoded(next(pictures)), "wrong-suffix")
    yield _odd("train/coat/CAMERA.JPG", encoded(next(pictures)))
    yield _odd("train/coat/more after the end.jpg", encoded(next(pictures)) + bytes(3000))
    yield _odd("train/coat/bad exif.jpg", encoded(next(pictures), exif=b"Exif\0\0MM\0*garbage"))


def _shapes(pictures: Pictures) -> Iterator[Oddity]:
    dot = encoded(Image.new("RGB", (1, 1), "orange"), "PNG")
    yield _odd("train/coat/dot.png", dot, "tiny", "uniform")
    colours = next(pictures)
    thread = encoded(colours.resize((1, 10_000)), "PNG")
    yield _odd("train/coat/thread.png", thread, "tiny", "long")
    ribbon = next(pictures).resize((2000, 100))
    yield _odd("train/coat/ribbon.jpg", encoded(ribbon), "long")
    small = next(pictures).resize((31, 40), Image.Resampling.BOX)
    yield _odd("train/coat/stamp.png", encoded(small, "PNG"), "tiny")


def _looks(pictures: Pictures) -> Iterator[Oddity]:
    one = encoded(Image.new("RGB", (300, 300), (90, 140, 200)))
    yield _odd("train/coat/one colour.jpg", one, "uniform")
    picture = next(pictures)
    soft = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 40))
    yield _odd("train/coat/blurry.jpg", encoded(soft, quality=95), "blurry")
    night = ImageEnhance.Brightness(next(pictures)).enhance(0.2)
    yield _odd("train/coat/night.jpg", encoded(night, quality=95), "dark")
    snow = Image.new("RGB", (300, 300), (251, 251, 251))
    snow.paste(next(pictures).resize((60, 50)), (120, 120))
    yield _odd("train/coat/snow.jpg", encoded(snow, quality=95), "blown-out")
    grey = ImageOps.grayscale(next(pictures)).convert("RGB")
    yield _odd("train/coat/grey rgb.jpg", encoded(grey), "greyscale")


def altered(picture: Image.Image) -> dict[str, bytes]:
    """Near-copies of a picture, by what was done to it."""
    width, height = picture.size
    left, top = round(width / 20), round(height / 20)
    smaller = picture.resize((round(0.55 * width), round(0.55 * height)))
    return {
        "resized": encoded(smaller, quality=90),
        "enlarged": encoded(picture.resize((round(1.7 * width), round(1.7 * height)))),
        "stretched": encoded(picture.resize((width, round(0.9 * height)))),
        "encoded again": encoded(picture, quality=40),
        "as webp": encoded(picture, "WEBP", quality=60),
        "flipped": encoded(ImageOps.mirror(picture)),
        "cropped": encoded(picture.crop((left, top, width - left, height - top))),
        "cropped at a side": encoded(picture.crop((left, 0, width, height))),
        "brighter": encoded(ImageEnhance.Brightness(picture).enhance(1.1)),
        "darker": encoded(ImageEnhance.Brightness(picture).enhance(0.9)),
    }


def _copies(pictures: Pictures) -> Iterator[Oddity]:
    for what in altered(Image.new("RGB", (100, 100))):
        original = next(pictures)
        first = f"train/coat/{what} a.jpg"
        suffix = "webp" if what == "as webp" else "jpg"
        yield _odd(first, encoded(original, quality=92))
        yield _odd(
            f"train/coat/{what} b.{suffix}", altered(original)[what], "near-copy", other=first
        )
    same = encoded(next(pictures))
    yield _odd("train/coat/twin a.jpg", same)
    yield _odd("train/coat/twin b.jpg", same, "exact-copy", other="train/coat/twin a.jpg")
    original = next(pictures)
    first = "train/coat/same pixels a.png"
    yield _odd(first, encoded(original, "PNG"))
    again = encoded(original, "BMP")
    yield _odd("train/coat/same pixels b.bmp", again, "exact-copy", other=first)
    for name, change in (("contrary", lambda content, _: content), ("at odds", _resized)):
        original = next(pictures)
        first = f"train/coat/{name}.jpg"
        kind = "exact-copy" if name == "contrary" else "near-copy"
        yield _odd(first, encoded(original))
        content = change(encoded(original), original)
        yield _odd(f"train/shirt/{name}.jpg", content, kind, "contradiction", other=first)
    for name, change in (("leak", lambda content, _: content), ("seep", _resized)):
        original = next(pictures)
        first = f"train/shirt/{name}.jpg"
        kind = "exact-copy" if name == "leak" else "near-copy"
        yield _odd(first, encoded(original))
        content = change(encoded(original), original)
        yield _odd(f"test/shirt/{name}.jpg", content, kind, "leak", other=first)


def _resized(_: bytes, picture: Image.Image) -> bytes:
    return encoded(picture.resize((round(0.7 * picture.width), round(0.7 * picture.height))))


def _names(pictures: Pictures) -> Iterator[Oddity]:
    names = (
        "caf\u00e9.jpg",
        "cafe\u0301.jpg",
        "line\nbreak.jpg",
        "<script>alert(1)<.jpg",
        '"quotes", commas; and \\.jpg',
        os.fsdecode(b"latin \xe9.jpg"),
        "=1+1.jpg",
        "\x1b[31mred.jpg",
        " blank .jpg",
        "a" * 240 + ".jpg",
        "-rf.jpg",
        "%s{0}$HOME.jpg",
        "\u202egpj.exe.jpg",
    )
    for name in names:  # grey, so that there is a finding for each
        grey = next(pictures).convert("L")
        yield _odd(f"train/coat/{name}", encoded(grey), "greyscale")
    yield _odd("train/coat/below/deeper/still.jpg", encoded(next(pictures)))
    yield _odd("train/Shirt/one.jpg", encoded(next(pictures)))
    yield _odd("train/shirt /one.jpg", encoded(next(pictures)))
    yield _odd("train/robe d'\u00e9t\u00e9/one.jpg", encoded(next(pictures)))
    yield _odd("train/robe d'e\u0301te\u0301/two.jpg", encoded(next(pictures)))


def _no_files(root: Path, pictures: Pictures) -> Iterator[Oddity]:
    outside = root.parent / f"{root.name}, outside.jpg"
    outside.write_bytes(encoded(next(pictures)))
    yield _odd("train/coat/folder.jpg/inside.jpg", encoded(next(pictures)))
    yield _odd("train/coat/pipe.jpg", os.mkfifo, "not-a-file")
    yield _odd("train/coat/endless.jpg", _link("/dev/zero"), "not-a-file")
    yield _odd("train/coat/to itself.jpg", _link("to itself.jpg"), "broken-link")
    yield _odd("train/coat/round and round", _link("."), "link-loop")
    yield _odd("train/coat/gone.jpg", _link("nowhere.jpg"), "broken-link")
    yield _odd("train/coat/link out.jpg", _link(outside))
    yield _odd("train/no picture in here", Path.mkdir, "empty-folder")
    # Root may read everything.
    kinds = [] if os.geteuid() == 0 else ["no-permission"]
    yield _odd("train/coat/locked.jpg", partial(_lock, content=encoded(next(pictures))), *kinds)


def _link(to: str | Path) -> Write:
    return lambda path: path.symlink_to(to)


def _lock(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0)


def _out_of_place(pictures: Pictures) -> Iterator[Oddity]:
    yield _odd("train/stray.jpg", encoded(next(pictures)), "not-in-a-class-folder")
    yield _odd("README.md", b"About these pictures.\n", "other-file")
    for name in ("train/coat/Thumbs.db", "train/coat/.DS_Store", "__MACOSX/._a.jpg"):
        yield _odd(name, b"left behind")
