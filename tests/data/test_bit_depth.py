"""Pictures of more than 8 bits, in the files that scanners, microscopes and cameras write."""

import io
import json
import pickle
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

import efftune
from conftest import fill
from efftune.data import bit_depth, images, inspection
from efftune.data.bit_depth import BitDepth
from efftune.data.sources import discovery
from efftune.errors import BadImage


def grey(values: np.ndarray, form: str = "PNG", **tags: int) -> bytes:
    stream = io.BytesIO()
    options = {}
    if tags:
        options["tiffinfo"] = TiffImagePlugin.ImageFileDirectory_v2()
        for name, value in tags.items():
            options["tiffinfo"][int(name.removeprefix("tag"))] = value
    Image.fromarray(values).save(stream, form, **options)
    return stream.getvalue()


def colour(values: np.ndarray, suffix: str) -> bytes:
    """A file of red, green, blue and perhaps opacity, written by OpenCV."""
    order = [2, 1, 0, 3][: values.shape[2]]
    return cv2.imencode(suffix, np.ascontiguousarray(values[..., order]))[1].tobytes()


def folder_of(folder: Path, pictures: dict[str, bytes]) -> Path:
    """A class folder with these pictures and one plain picture."""
    (folder / "class").mkdir(parents=True)
    for name, content in pictures.items():
        (folder / "class" / name).write_bytes(content)
    Image.new("RGB", (8, 8)).save(folder / "class" / "plain.png")
    return folder


def depth_of(folder: Path) -> BitDepth:
    return inspection.inspect(discovery.find(folder))[0].depth


def ramp(low: float, high: float, dtype: str) -> np.ndarray:
    return np.linspace(low, high, 64).round(4).astype(dtype).reshape(8, 8)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_depth_is_that_of_the_brightest_pictures(tmp_path, bits, suffix):
    white = 2**bits - 1
    bright, dark = ramp(0, 0.9 * white, "uint16"), ramp(0, 0.1 * white, "uint16")
    pictures = {"dark": dark, "bright": bright, "colours": np.dstack([dark, bright, dark])}
    write = {2: lambda values: grey(values, suffix[1:]), 3: lambda values: colour(values, suffix)}
    written = {f"{name}{suffix}": write[each.ndim](each) for name, each in pictures.items()}
    depth = depth_of(folder_of(tmp_path, written))
    assert depth == BitDepth(integers=(0, white))
    for name, content in written.items():
        pixels = images.decode(content, 8, "stretch", depth).astype(int)
        expected = pictures[Path(name).stem] * (255 / white)
        expected = np.repeat(expected[..., None], 3, 2) if expected.ndim == 2 else expected
        assert np.abs(pixels - expected).max() <= 1, name


def test_each_deep_picture_is_remarked_with_the_range_of_the_set(tmp_path):
    pictures = {"a.png": grey(ramp(0, 900, "uint16")), "b.png": grey(ramp(0, 4000, "uint16"))}
    examples, measurements, thumbnails = inspection.inspect(
        discovery.find(folder_of(tmp_path, pictures))
    )
    found = [
        (each.name, each.detail, each.is_problem)
        for each in inspection.quality_findings(examples.rows, measurements, examples.depth)
        if each.kind == "more-than-8-bits"
    ]
    detail = "in the whole set, 0 is black and 4095 is white"
    assert found == [(f"class/{name}", detail, False) for name in ("a.png", "b.png")]
    # The measurements and thumbnails are those of the pictures as the network will see them.
    assert measurements["bright"][0] < 70 < measurements["bright"][1]
    assert thumbnails[0].max() < 70 < thumbnails[1].max()


def test_hot_pixels_and_one_odd_picture_do_not_darken_the_set(tmp_path):
    hot = np.tile(ramp(0, 4000, "uint16"), (8, 8))
    hot[3, 3] = 65535
    pictures = {f"{i:03}.png": grey(np.roll(hot, i)) for i in range(100)}
    pictures["odd.png"] = grey(ramp(0, 65535, "uint16"))
    assert depth_of(folder_of(tmp_path, pictures)) == BitDepth(integers=(0, 4095))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "expected"),
    [
        (0, 1, "float32", (0, 1)),
        (0, 255, "float32", (0, 255)),
        (-1000, 3000, "float32", (-1000, 3000)),  # Hounsfield units
        (-1000, 3000, "int32", (-1000, 3000)),
        (20_000, 24_000, "uint16", (20_000, 24_000)),  # of a thermal camera
        (0, 1, "uint16", (0, 1)),  # a mask
        (0, 1e6, "float32", (0, 1e6)),
    ],
)
def test_range_of_other_values(tmp_path, low, high, dtype, expected):
    depth = depth_of(folder_of(tmp_path, {"a.tif": grey(ramp(low, high, dtype), "TIFF")}))
    assert (depth.floats if dtype == "float32" else depth.integers) == expected
    pixels = images.decode(grey(ramp(low, high, dtype), "TIFF"), 8, "stretch", depth)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_integers_and_floats_of_one_set_have_ranges_of_their_own(tmp_path):
    pictures = {"a.png": grey(ramp(0, 4000, "uint16")), "b.tif": grey(ramp(0, 1, "f4"), "TIFF")}
    assert depth_of(folder_of(tmp_path, pictures)) == BitDepth((0, 4095), (0, 1))


def test_no_value_is_not_a_number_and_infinity_is_white():
    values = np.array([[np.nan, np.inf, -np.inf, 0.5]], np.float32)
    pixels = images.decode(grey(values, "TIFF"), 4, "stretch", BitDepth(floats=(0, 1)))
    assert pixels[1, :, 0].tolist() == [0, 255, 0, 128]
    assert bit_depth.inner_range(values) == (0.5, 0.5)


def test_colour_tiff_of_floats_is_read():
    values = np.zeros((8, 8, 3), np.float32)
    values[:4, :, 0] = values[4:, :, 2] = 1
    decoded = images.decoded(colour(values, ".tiff"), 8, "stretch")
    assert (decoded.width, decoded.height, decoded.kind) == (8, 8, "floats")
    assert decoded.pixels[1, 4].tolist() == [255, 0, 0]
    assert decoded.pixels[6, 4].tolist() == [0, 0, 255]


def test_colour_tiff_of_floats_that_claims_to_be_huge_is_not_decoded():
    content = bytearray(colour(np.zeros((8, 8, 3), np.float32), ".tiff"))
    for tag in (b"\x00\x01", b"\x01\x01"):  # width and height, of 16 bits each
        at = content.index(tag + b"\x03\x00\x01\x00\x00\x00\x08\x00")
        content[at + 8 : at + 10] = (60_000).to_bytes(2, "little")
    with pytest.raises(BadImage) as error:
        images.decode(bytes(content), 8, "stretch")
    assert error.value.reason == "too large"


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_transparent_areas_of_16_bits_become_white(suffix):
    values = np.full((8, 8, 4), 1000, np.uint16)
    values[:4, :, 3], values[4:, :, 3] = 0, 65535
    pixels = images.decode(colour(values, suffix), 8, "stretch", BitDepth((0, 1023)))
    assert pixels[1].min() == 255
    assert pixels[6] == pytest.approx(249, abs=1)


def test_where_zero_is_white_the_values_are_turned():
    content = bytearray(grey(ramp(0, 65535, "uint16"), "TIFF"))
    tag = content.index(b"\x06\x01\x03\x00\x01\x00\x00\x00")  # how values are to be understood
    content[tag + 8] = 0
    pixels = images.decode(bytes(content), 8, "stretch", BitDepth((0, 65535)))
    assert pixels[0, 0, 0] == 255
    assert pixels[7, 7, 0] == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_deep_pictures_are_turned_upright(channels):
    values = np.zeros((8, 16), np.uint16)
    values[:, :8] = 65535  # left half white; turned clockwise it is on top
    if channels == 1:
        content = grey(values, "TIFF", tag274=6)
    else:
        turned = Image.Exif()
        turned[274] = 6
        chunk = b"eXIf" + turned.tobytes()[6:]
        plain = colour(np.dstack([values] * 3), ".png")
        length = (len(chunk) - 4).to_bytes(4, "big")
        sum_ = zlib.crc32(chunk).to_bytes(4, "big")
        content = plain[:33] + length + chunk + sum_ + plain[33:]
    decoded = images.decoded(content, 8, "stretch")
    assert (decoded.width, decoded.height) == (8, 16)
    assert decoded.pixels[1].min() == 255
    assert decoded.pixels[6].max() == 0


def turned(tiff: bytes, orientation: int) -> bytes:
    """A TIFF file of OpenCV, with a tag that says how it is to be turned."""
    start = int.from_bytes(tiff[4:8], "little")
    count = int.from_bytes(tiff[start : start + 2], "little")
    tags = [tiff[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    tags = [tag for tag in tags if tag[:2] != b"\x12\x01"]
    tags.append(b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0]))
    tags.sort(key=lambda tag: int.from_bytes(tag[:2], "little"))
    tiff += b"\0" * (len(tiff) % 2)
    directory = len(tags).to_bytes(2, "little") + b"".join(tags) + bytes(4)
    return tiff[:4] + len(tiff).to_bytes(4, "little") + tiff[8:] + directory


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_colours_of_tiff_files_are_turned_as_those_of_8_bits(orientation, dtype):
    bytes_ = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    deep = bytes_.astype(dtype) * 257 if dtype == "uint16" else bytes_.astype(dtype) / 255
    depth = BitDepth(integers=(0, 65535), floats=(0, 1))
    found = images.decoded(turned(colour(deep, ".tiff"), orientation), 8, "stretch", depth)
    plain = images.decoded(turned(colour(bytes_, ".tiff"), orientation), 8, "stretch", depth)
    assert (found.width, found.height) == (plain.width, plain.height)
    assert (found.width, found.height) == ((7, 5) if orientation < 5 else (5, 7))
    np.testing.assert_array_equal(found.pixels, plain.pixels)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50))
@example([0.0, 4.5e-42])
@example([0.0, 1e-29, 1e6])
def test_brighter_is_never_darker(values):
    array = np.array([sorted(values)], np.float32)
    pixels = bit_depth.to_8_bits(array, bit_depth.usual_range(*bit_depth.inner_range(array)))
    assert (np.diff(pixels[0].astype(int)) >= 0).all()


# Darker than any of the set: by itself it would be taken for a picture of 10 bits.
DARK = np.full((40, 48, 3), 400, np.uint16)


def test_predict_scales_as_the_run_did(finished_run, tmp_path):
    folder = shutil.copytree(finished_run.folder, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    assert record["model"]["depth"] == {"integers": None, "floats": None}
    record["model"]["depth"]["integers"] = [0, 4095]
    (folder / "run.json").write_text(json.dumps(record))
    loaded = pickle.loads(pickle.dumps(efftune.load(folder)))
    assert loaded.depth == BitDepth((0, 4095))
    outputs = loaded.outputs([colour(DARK, ".png"), np.full((40, 48, 3), 25, np.uint8)])
    assert outputs.probabilities[0] == pytest.approx(outputs.probabilities[1], abs=1e-4)


@pytest.mark.long
def test_depth_is_kept_with_the_run(tmp_path):
    folder = fill(tmp_path / "squares", count=10)
    for path in sorted(folder.rglob("*.*")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        path.unlink()
        path.with_suffix(".png").write_bytes(colour(pixels.astype(np.uint16) * 16, ".png"))
    run = efftune.train(folder, recipe="quick", image_size=32, run=tmp_path / "run")
    assert run.classifier.depth == BitDepth((0, 4095))
    assert "4095 is white" in run.record["plan"]["notes"][0]
    assert run.evaluation.test.accuracy == 1
