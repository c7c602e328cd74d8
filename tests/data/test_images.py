import gc
import io
import itertools
import struct
import zlib
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from efftune.data import images, picture_bytes
from efftune.errors import BadImage

from .profiles import DISPLAY_P3, SRGB, profile

SAMPLES = Path(__file__).parent / "samples"
FORMATS = [  # those that Pillow writes
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA"),
]


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def halves(size: int = 64) -> Image.Image:
    """Red above, blue below."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[: size // 2] = (255, 0, 0)
    pixels[size // 2 :] = (0, 0, 255)
    return Image.fromarray(pixels)


def is_red(pixel: np.ndarray) -> bool:
    return pixel[0] > 200 and pixel[2] < 60


def futures():
    """How many calls that somebody waits for are kept in memory."""
    return sum(isinstance(each, Future) for each in gc.get_objects())


def test_pictures_wait_for_a_thread_in_small_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_BATCH", 3)
    (tmp_path / "a.png").write_bytes(encoded(halves()))
    waiting, others = [], futures()

    def on_done():
        waiting.append(futures() - others)

    pixels = images.decode_all([tmp_path / "a.png"] * 20, 8, "stretch", on_done=on_done)
    assert len(waiting) == 20
    assert max(waiting) <= 3 + 3  # the last of a batch and the next
    assert (pixels == images.decode(encoded(halves()), 8, "stretch")).all()


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_decoded(form):
    pixels = images.decode(encoded(halves(), form), 32, "stretch")
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert is_red(pixels[4, 16])
    assert not is_red(pixels[28, 16])


@pytest.mark.parametrize("form", FORMATS)
def test_content_decides_the_format_not_the_suffix(form, tmp_path):
    path = tmp_path / "picture.txt"
    path.write_bytes(encoded(halves(), form))
    assert picture_bytes.sniff(path) == form
    assert is_red(images.decode(picture_bytes.read(path), 32, "crop")[4, 16])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "red_at"), [(1, (4, 16)), (3, (28, 16)), (6, (16, 28)), (8, (16, 4))]
)
def test_exif_orientation_is_honoured(form, orientation, red_at):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(halves(), form, exif=exif)
    assert is_red(images.decode(content, 32, "stretch")[red_at])


def test_photo_with_further_views_is_decoded_as_its_first():
    content = encoded(halves(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    decoded = images.decoded(content, 32, "stretch")
    assert (decoded.format, decoded.several) == ("JPEG", False)
    assert is_red(decoded.pixels[4, 16])


@pytest.mark.parametrize(
    ("name", "red_at"), [("halves", (4, 16)), ("several", (4, 16)), ("turned", (16, 28))]
)
def test_heic_is_decoded_upright(name, red_at):
    path = SAMPLES / f"{name}.heic"
    decoded = images.decoded(path.read_bytes(), 32, "stretch")
    assert (picture_bytes.sniff(path), decoded.format, decoded.several) == ("HEIC", "HEIC", False)
    assert is_red(decoded.pixels[red_at])
    assert not is_red(decoded.pixels[28, 4])


def test_png_whose_pixels_are_damaged_is_not_used():
    content = bytearray(encoded(halves(), "PNG"))
    at = content.index(b"IDAT") + 8
    content[at : at + 20] = bytes(20)
    with pytest.raises(BadImage, match="damaged"):
        images.decode(bytes(content), 16, "crop")


def test_first_frame_is_used_if_a_later_one_is_cut_off():
    frames = {"save_all": True, "append_images": [halves().rotate(180)]}
    content = encoded(halves(), "GIF", **frames)
    second = content.rindex(b"\x21\xf9")
    for end in range(second + 1, len(content)):
        decoded = images.decoded(content[:end], 32, "stretch")
        assert is_red(decoded.pixels[4, 16])
    assert decoded.several


def test_long_packed_text_does_not_spoil_a_picture():
    content = encoded(halves(), "PNG")
    text = b"zTXthistory\0\0" + zlib.compress(b"what was done " * 300_000)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    content = content[:33] + chunk + content[33:]
    assert is_red(images.decode(content, 32, "stretch")[4, 16])


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\1\4\0\0"}])
def test_thumbnail_in_a_camera_raw_file_is_not_taken_for_the_photo(tags):
    with pytest.raises(BadImage, match="unsupported format: camera raw"):
        images.decode(encoded(halves(), "TIFF", tiffinfo=tags), 32, "crop")


def test_item_whose_type_is_no_text_is_damaged():
    whole = (SAMPLES / "turned.heic").read_bytes()
    spoilt = whole.replace(b"Exif", b"\xff\xfe\xfd\xfc", 1)  # on which pi-heif crashes
    with pytest.raises(BadImage, match="damaged"):
        images.decode(spoilt, 32, "crop")


def test_spoilt_heic_files_are_decoded_or_refused():
    contents = [path.read_bytes() for path in sorted(SAMPLES.glob("*.heic"))]
    random = np.random.default_rng(0)
    for i in range(600):
        content = bytearray(contents[i % len(contents)])
        for _ in range(random.integers(1, 9)):
            content[random.integers(8, len(content))] = random.integers(256)
        if i % 4 == 0:
            del content[random.integers(len(content)) :]
        try:
            assert images.decode(bytes(content), 16, "crop").shape == (16, 16, 3)
        except BadImage as error:
            assert error.reason


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F"]


@pytest.mark.parametrize("form", [*FORMATS, "MPO", "DIB"])
def test_whatever_pillow_writes_is_decoded(form):
    """In every mode that the format has, with and without EXIF data, profile and more frames."""
    written = 0
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 8
    extras = ({}, {"exif": exif}, {"icc_profile": profile}, {"save_all": True})
    for mode, extra in itertools.product(MODES, extras):
        try:
            picture = halves().convert(mode)
            frames = {"append_images": [picture.copy()]} if "save_all" in extra else {}
            content = encoded(picture, form, **extra, **frames)
        except (ValueError, OSError, KeyError, TypeError, SystemError):
            continue  # Pillow does not convert to this mode, or the format does not have it
        written += 1
        if form == "DIB":
            with pytest.raises(BadImage, match="unsupported format: DIB"):
                images.decode(content, 16, "crop")
            continue
        decoded = images.decoded(content, 16, "crop")
        assert decoded.pixels.shape == (16, 16, 3), (mode, extra)
        assert decoded.format == ("JPEG" if form == "MPO" else form)
    assert written


def test_damaged_exif_does_not_spoil_the_picture():
    content = encoded(halves(), "JPEG", exif=b"Exif\x00\x00MM\x00*garbage")
    assert is_red(images.decode(content, 32, "stretch")[4, 16])


def test_greyscale_becomes_rgb():
    pixels = images.decode(encoded(Image.new("L", (8, 8), 77)), 8, "stretch")
    assert (pixels == 77).all()


def test_black_and_white_becomes_rgb():
    assert (images.decode(encoded(Image.new("1", (8, 8), 1)), 8, "stretch") == 255).all()


def test_palette_becomes_rgb():
    pixels = images.decode(encoded(halves().quantize(4)), 32, "stretch")
    assert is_red(pixels[4, 4])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    clear = Image.new(mode, (8, 8), 0)
    assert (images.decode(encoded(clear), 8, "stretch") == 255).all()


def test_half_transparency_is_blended():
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert images.decode(encoded(half), 8, "stretch") == pytest.approx(127, abs=1)


def test_transparent_palette_colour_is_laid_on_white():
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    assert (images.decode(encoded(picture, transparency=0), 8, "stretch") == 255).all()


def test_cmyk_becomes_rgb():
    content = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert is_red(images.decode(content, 16, "stretch")[8, 8])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO"])
def test_colours_of_another_profile_become_srgb(form):
    colour = np.array([200, 120, 60])
    linear = np.linalg.solve(SRGB, DISPLAY_P3 @ (colour / 255) ** 2.2)
    srgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    picture = Image.new("RGB", (16, 16), tuple(colour))
    content = encoded(picture, form, quality=100, icc_profile=profile(b"RGB ", 2.2, DISPLAY_P3))
    expected = 255 * srgb
    assert abs(expected[0] - colour[0]) > 8  # or nothing would be tested
    assert images.decode(content, 16, "stretch")[8, 8] == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("damage", [b"", bytes(200), profile(b"RGB ", 2.2, DISPLAY_P3)[:150]])
def test_damaged_profiles_change_nothing(damage):
    content = encoded(halves(), icc_profile=damage)
    assert is_red(images.decode(content, 32, "stretch")[4, 16])


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_greyscale_profile_does_not_take_the_colours_of_a_picture(mode):
    content = encoded(halves().convert(mode), "JPEG", icc_profile=profile(b"GRAY", 1.0))
    assert is_red(images.decode(content, 32, "stretch")[4, 16])


def test_greyscale_profile_is_applied():
    content = encoded(Image.new("L", (8, 8), 55), icc_profile=profile(b"GRAY", 1.0))
    assert images.decode(content, 8, "stretch") == pytest.approx(128, abs=2)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("value", "brightness"), [(0, 0), (200, 200), (800, 199), (32768, 128), (65535, 255)]
)
def test_16_bits_are_scaled_not_saturated(form, value, brightness):
    picture = Image.fromarray(np.full((8, 8), value, np.uint16))
    pixels = images.decode(encoded(picture, form), 8, "stretch")
    assert pixels == pytest.approx(brightness, abs=1)


def test_16_bit_colour_png_is_scaled():
    row = b"\x00" + struct.pack(">3H", 65535, 32768, 0) * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(row * 2)), (b"IEND", b"")):
        sum_ = zlib.crc32(kind + body)
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", sum_)
    pixels = images.decode(content, 2, "stretch")
    assert pixels.reshape(-1, 3) == pytest.approx(np.array([[255, 128, 0]] * 4), abs=1)


def test_float_tiff_is_scaled():
    picture = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert images.decode(encoded(picture, "TIFF"), 8, "stretch") == pytest.approx(128, abs=1)


@pytest.mark.parametrize("form", ["GIF", "WEBP"])
def test_only_the_first_frame_is_used(form):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    assert is_red(images.decode(content, 16, "stretch")[8, 8])


def test_crop_keeps_the_central_square():
    wide = Image.new("RGB", (90, 30), "blue")
    wide.paste("red", (30, 0, 60, 30))
    pixels = images.decode(encoded(wide), 30, "crop")
    assert all(is_red(pixel) for pixel in pixels.reshape(-1, 3))


def test_stretch_shows_everything():
    wide = Image.new("RGB", (90, 30), "blue")
    wide.paste("red", (0, 0, 45, 30))
    pixels = images.decode(encoded(wide), 30, "stretch")
    assert is_red(pixels[15, 2])
    assert not is_red(pixels[15, 27])


def test_pad_keeps_proportions_and_adds_grey():
    pixels = images.decode(encoded(Image.new("RGB", (60, 30), "red")), 30, "pad")
    assert (pixels[:7] == 127).all()
    assert (pixels[-7:] == 127).all()
    assert is_red(pixels[15, 15])


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 2000)])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_extreme_shapes_are_decoded(shape, fit):
    assert images.decode(encoded(Image.new("RGB", shape, "red")), 32, fit).shape == (32, 32, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_large_pictures_look_the_same_at_a_reduced_scale(form):
    gradient = np.linspace(0, 255, 1024)[None, :, None].repeat(1024, 0).repeat(3, 2)
    content = encoded(Image.fromarray(gradient.astype(np.uint8)), form)
    pixels = images.decode(content, 32, "stretch")
    assert pixels[16, :, 0] == pytest.approx((np.arange(32) + 0.5) * 8, abs=3)


def test_large_jpegs_are_decoded_at_a_reduced_scale(monkeypatch):
    loaded = []
    real = Image.Image.load
    monkeypatch.setattr(
        "PIL.ImageFile.ImageFile.load", _recording(loaded, __import__("PIL.ImageFile").ImageFile)
    )
    assert real is Image.Image.load
    images.decode(encoded(halves(1024), "JPEG"), 100, "crop")
    assert loaded == [(128, 128)]


def _recording(sizes, module):
    real = module.ImageFile.load

    def load(self):
        result = real(self)
        if not sizes:
            sizes.append(self.size)
        return result

    return load


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not an image"),
        (b"%PDF-1.7", "not an image: a PDF document"),
        (b"P1 is what this text begins with", "not an image"),
        (b"P5 8 8 255\n", "truncated"),
        (b"8BPS\0\1", "unsupported format: Photoshop (PSD); save it as PNG or JPEG"),
        (encoded(halves(), "JPEG")[:500], "truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, "damaged"),
    ],
)
def test_useless_content_has_a_reason(content, reason):
    with pytest.raises(BadImage) as caught:
        images.decode(content, 32, "crop")
    assert caught.value.reason == reason


def test_bomb_is_refused():
    content = encoded(Image.new("1", (20_000, 20_000)))
    with pytest.raises(BadImage, match="too large"):
        images.decode(content, 32, "crop")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder, not a picture"),
        (lambda path: path.symlink_to("nowhere"), "broken link"),
        (lambda path: path.symlink_to("/etc/passwd/x.jpg"), "broken link"),
        (lambda path: path.touch(), "empty file"),
        (lambda path: path.write_text("text"), "not an image"),
        (
            lambda path: path.write_bytes(b"\xff\x0a\xfa\x1f"),
            "unsupported format: JPEG XL; convert it with djxl",
        ),
    ],
)
def test_sniff_gives_the_reason_why_a_file_is_no_picture(tmp_path, make, reason):
    make(tmp_path / "x")
    with pytest.raises(BadImage) as caught:
        picture_bytes.sniff(tmp_path / "x")
    assert caught.value.reason == reason


def test_decoding_leaves_the_file_alone(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(halves(), "JPEG"))
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
    images.decode(picture_bytes.read(path), 32, "crop")
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode) == before


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_cleanly(content):
    with pytest.raises(BadImage):
        images.decode(content, 16, "crop")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damaged_files_are_decoded_or_refused_cleanly(form, data):
    content = bytearray(encoded(halves(24), form))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        pixels = images.decode(
            bytes(content[:cut]), 16, data.draw(st.sampled_from(["crop", "pad", "stretch"]))
        )
    except BadImage:
        return
    assert pixels.shape == (16, 16, 3)
