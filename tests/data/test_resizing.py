"""Pictures as published evaluations make them square."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from efftune.data import images
from efftune.data.resizing import Resizing, fitted
from efftune.model import catalogue

PHOTO = Image.fromarray(load_sample_image("china.jpg"))  # 640 × 427


@pytest.mark.parametrize(
    ("resizing", "picture", "size", "scaled", "box"),
    [
        (Resizing(0.875), (512, 512), 224, (256, 256), (32, 32, 480, 480)),
        (Resizing(0.875), (1024, 512), 224, (512, 256), (288, 32, 736, 480)),
        (Resizing(240 / 272), (272, 272), 240, (272, 272), (16, 16, 256, 256)),
        (Resizing(1.0, stretch=True), (640, 480), 384, (384, 384), (0, 0, 640, 480)),
    ],
)
def test_central_square_has_its_share_of_the_shorter_side(resizing, picture, size, scaled, box):
    assert resizing.scaled(*picture, size) == scaled
    assert resizing.box(*picture, size) == pytest.approx(box)


@pytest.mark.parametrize("photo", [PHOTO, PHOTO.transpose(Image.Transpose.ROTATE_90)])
def test_bicubic_is_pillows_resize_and_crop(photo):
    resizing = Resizing(0.875)
    width, height = resizing.scaled(*photo.size, 224)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    whole = photo.resize((width, height), Image.Resampling.BICUBIC)
    expected = np.asarray(whole.crop((left, top, left + 224, top + 224)), int)
    differences = np.abs(fitted(photo, 224, resizing) - expected)
    # Pillow rounds between its two passes, whose order it chooses by the sizes.
    assert differences.max() <= 5
    assert differences.mean() < 0.25  # half a pixel beside it is above 2


def test_bilinear_is_tensorflows_resize():
    """Between neighbours, without averaging, below half the size."""
    found = fitted(PHOTO, 384, Resizing(1.0, "bilinear", stretch=True))
    expected = cv2.resize(np.asarray(PHOTO), (384, 384), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(found, expected)


def test_every_published_share_and_filter_has_a_source():
    """Of the TensorFlow TPU models: 32 pixels of padding; of google/automl: all from 320 pixels."""
    for entry in catalogue.models():
        found = entry.weights.resizing
        if entry.family == "EfficientNet-Lite":
            assert found == Resizing(0.875, "bicubic")
        elif entry.short_name in ("v2-s", "v2-m", "v2-l"):
            assert found == Resizing(1.0, "bilinear", stretch=True)
        else:
            side = found.scaled(1000, 1000, entry.resolution)[0]
            assert (side - entry.resolution, found.filter, found.stretch) == (32, "bicubic", False)


@pytest.mark.parametrize("shape", [(5000, 1), (1, 5000), (1, 1), (3, 2)])
@pytest.mark.parametrize("filter_", ["bicubic", "bilinear"])
def test_odd_shapes_become_squares(shape, filter_):
    picture = Image.new("RGB", shape, (10, 20, 30))
    found = fitted(picture, 32, Resizing(0.875, filter_))
    assert found.shape == (32, 32, 3)
    assert (found == (10, 20, 30)).all()


def test_large_jpeg_loses_nothing_that_counts():
    """It is decoded at a reduced scale: as if it were not, but for rounding."""
    large = PHOTO.resize((3200, 2135), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    large.save(stream, "JPEG", quality=95)
    found = images.decode(stream.getvalue(), 224, Resizing(0.875)).astype(float)
    with Image.open(stream) as whole:
        expected = fitted(whole.convert("RGB"), 224, Resizing(0.875)).astype(float)
    assert np.abs(found - expected).mean() < 1.5
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def published():
    return [(entry, weights) for entry in catalogue.models() for weights in entry.others]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("entry", "weights"), published(), ids=lambda each: getattr(each, "file", None)
)
def test_other_weights_are_evaluated_as_timm_does(entry, weights):
    """The very transform of timm's configuration for the file with these digits."""
    timm = pytest.importorskip("timm")
    digits = weights.checksum.removeprefix("sha256:")
    (name,) = (
        name
        for name in timm.list_models("*efficientnet*", pretrained=True)
        if digits in (timm.get_pretrained_cfg(name).url or "")
    )
    config = timm.get_pretrained_cfg(name)
    assert weights.file == config.url.rsplit("/", 1)[1]
    assert weights.url.split("/")[-2:] == config.url.split("/")[-2:]
    assert weights.licence.lower() == config.license
    if weights.graph.mean is not None:
        assert (weights.graph.mean, weights.graph.std) == (config.mean, config.std)
    else:
        assert config.mean == (0.485, 0.456, 0.406)
    assert (weights.graph.padding == "same") == name.startswith("tf_")
    resolved = timm.data.resolve_data_config(
        {}, pretrained_cfg=config.to_dict(), use_test_size=True
    )
    size = weights.resolution or entry.resolution
    assert resolved["input_size"] == (3, size, size)
    resolved |= {"mean": (0, 0, 0), "std": (1 / 255,) * 3}
    theirs = timm.data.create_transform(**resolved)(PHOTO).numpy().transpose(1, 2, 0)
    differences = np.abs(fitted(PHOTO, size, weights.resizing) - theirs)
    assert differences.max() <= 5
    assert differences.mean() < 0.25
