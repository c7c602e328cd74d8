"""In training and in prediction, the network gets the pixels that `check` inspects."""

import hashlib
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from efftune.data import inspection
from efftune.features import extraction
from efftune.features.extraction import ExtractionSettings
from efftune.model import saving
from efftune.model.backbone import Backbone
from efftune.model.classifier import Classifier
from efftune.model.engines import openvino_engine

from .planted import encoded, textured

SIZE = inspection.SIDE
NAMES = ("coat", "shirt")


def turned(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def files() -> dict[str, bytes]:
    """A file of every colour mode, bit depth and EXIF orientation."""
    pictures = textured(3)
    faded = next(pictures).convert("RGBA")
    faded.putalpha(Image.linear_gradient("L").resize(faded.size))
    deep = np.asarray(next(pictures).convert("L")).astype(np.uint16) * 257
    moving = next(pictures)
    frames = {"save_all": True, "append_images": [ImageOps.invert(moving)]}
    return {
        **{f"turned {i}.jpg": encoded(next(pictures), exif=turned(i)) for i in range(1, 9)},
        **{f"turned {i}.png": encoded(next(pictures), "PNG", exif=turned(i)) for i in (3, 6)},
        **{f"turned {i}.webp": encoded(next(pictures), "WEBP", exif=turned(i)) for i in (5, 8)},
        **{f"turned {i}.tif": encoded(next(pictures), "TIFF", exif=turned(i)) for i in (2, 6)},
        "large.jpg": encoded(next(pictures).resize((1500, 1100))),
        "progressive.jpg": encoded(next(pictures), progressive=True),
        "grey.jpg": encoded(next(pictures).convert("L")),
        "cmyk.jpg": encoded(next(pictures).convert("CMYK")),
        "1 bit.png": encoded(next(pictures).convert("1"), "PNG"),
        "2 bits.png": encoded(next(pictures).quantize(4), "PNG", bits=2),
        "8 bits.png": encoded(next(pictures).convert("L"), "PNG"),
        "16 bits.png": encoded(Image.fromarray(deep), "PNG"),
        "16 bits.tif": encoded(Image.fromarray(deep), "TIFF"),
        "32 bits.tif": encoded(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "float.tif": encoded(Image.fromarray(deep.astype(np.float32) / 65535), "TIFF"),
        "palette.png": encoded(next(pictures).quantize(200), "PNG"),
        "clear palette.png": encoded(next(pictures).quantize(200), "PNG", transparency=3),
        "alpha.png": encoded(faded, "PNG"),
        "alpha.webp": encoded(faded, "WEBP", lossless=True),
        "grey alpha.png": encoded(faded.convert("LA"), "PNG"),
        "cmyk.tif": encoded(next(pictures).convert("CMYK"), "TIFF"),
        "moving.gif": encoded(moving, "GIF", **frames),
        "moving.webp": encoded(moving, "WEBP", **frames),
        "views.jpg": encoded(next(pictures), "MPO", **frames),
        "modern.avif": encoded(next(pictures), "AVIF", exif=turned(6)),
        "scan.jp2": encoded(next(pictures), "JPEG2000"),
        "plain.ppm": encoded(next(pictures), "PPM"),
        "plain.pgm": encoded(next(pictures).convert("L"), "PPM"),
        "game.tga": encoded(faded, "TGA"),
        "window.ico": encoded(faded.resize((96, 80)), "ICO"),
        "windows.bmp": encoded(next(pictures), "BMP"),
        "pixel.png": encoded(Image.new("RGB", (1, 1), "orange"), "PNG"),
        "long.png": encoded(next(pictures).resize((3, 900)), "PNG"),
    }


FILES = files()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def pixels_by_use(folder, tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """By way and file: the very pixels that went into the network."""
    backbone = Backbone("efficientnet-lite0", SIZE, weights="none")
    paths = [folder / name for name in FILES]
    settings = ExtractionSettings(fit="stretch", precision="f32")
    place = tmp_path_factory.mktemp("classifier")
    head = (np.zeros((1280, 2), np.float32), np.zeros(2, np.float32))
    saving.save(place, backbone, head, NAMES)
    with pytest.MonkeyPatch.context() as patch:
        given = listening(patch)
        extraction.extract(paths, backbone, settings)
        trained, given[:] = list(given), []
        Classifier(place, NAMES, SIZE, "stretch").predict(paths)
        predicted = list(given)
    return {"train": named(trained), "predict": named(predicted)}


def listening(patch: pytest.MonkeyPatch) -> list[tuple[int, np.ndarray]]:
    """Note every square that a network is run on, which it is all the same."""
    given: list[tuple[int, np.ndarray]] = []
    lock = threading.Lock()
    run = openvino_engine.Network.run

    def heard(self, items, load, deliver, *, views=1):
        def loaded(item):
            pixels = load(item)
            with lock:
                given.append((item[0] if isinstance(item, tuple) else item, pixels.copy()))
            return pixels

        return run(self, items, loaded, deliver, views=views)

    patch.setattr(openvino_engine.Network, "run", heard)
    return given


def named(given: list[tuple[int, np.ndarray]]) -> dict[str, np.ndarray]:
    assert len(given) == len(FILES)
    names = list(FILES)
    return {names[i]: pixels[0] for i, pixels in given}


def as_recorded(pixels: np.ndarray, content: bytes) -> bytes:
    """What `look` records of a picture's pixels and its size as shown."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # Pillow turns TIFF files while it loads them
        size = ImageOps.exif_transpose(image).size
    whole = pixels.tobytes() + np.array(size, np.int64).tobytes()
    return hashlib.blake2b(whole, digest_size=16).digest()


@pytest.mark.parametrize("name", FILES)
def test_training_prediction_and_check_see_the_same_pixels(name, pixels_by_use):
    trained, predicted = pixels_by_use["train"][name], pixels_by_use["predict"][name]
    assert trained.shape == (SIZE, SIZE, 3)
    assert trained.tobytes() == predicted.tobytes()
    looked_at = inspection.measure(FILES[name])["pixels"].tobytes()
    assert looked_at == as_recorded(predicted, FILES[name])
