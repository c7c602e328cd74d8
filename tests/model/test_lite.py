import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from efftune.model import catalogue, lite
from efftune.model.backbone import Backbone
from model.conftest import each

# What the PyTorch reference predicts for the middle of scikit-learn's picture of a Chinese palace:
# 698 palace, 663 monastery, 442 bell cote, 449 boathouse, 497 church, 483 castle, 975 lakeside.
PALACE = {
    "efficientnet-lite0": {698: 8.904, 663: 7.8642, 442: 7.0577, 449: 6.6527, 975: 5.9773},
    "efficientnet-lite1": {449: 8.4492, 698: 7.6874, 858: 5.4451, 975: 5.1213, 663: 5.0554},
    "efficientnet-lite2": {698: 7.2656, 497: 5.1172, 858: 4.9381, 483: 4.3178, 975: 4.2951},
}


def test_layers_are_named_by_stage_and_block():
    names = [layer.name for layer in lite.backbone("efficientnet-lite0", 32).layers]
    blocks = list(dict.fromkeys(name.split("_")[0] for name in names if name.startswith("block")))
    assert " ".join(block.removeprefix("block") for block in blocks) == (
        "1a 2a 2b 3a 3b 4a 4b 4c 5a 5b 5c 6a 6b 6c 6d 7a"
    )


def with_imagenet_head(name, size):
    """The backbone with its own 1000 classes, up to the logits."""
    backbone = Backbone(name, size)
    model = backbone.keras_model
    logits = keras.layers.Dense(1000)
    model = keras.Model(model.input, logits(model.output))
    logits.set_weights(list(backbone.published_head))
    return model


def reference_logits(name, pixels):
    """What the PyTorch reference predicts for pixels (batch, size, size, 3)."""
    torch = pytest.importorskip("torch", reason="the PyTorch reference needs torch")
    reference = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch"
    )
    path = str(catalogue.model(name).weights.path)
    model = reference.EfficientNet.from_pretrained(name, weights_path=path).eval()
    batch = torch.from_numpy(((pixels - 127) / 128).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        return model(batch).numpy()


@pytest.mark.torch
@pytest.mark.parametrize("name", list(PALACE))
def test_logits_equal_the_pytorch_references(name):
    size = catalogue.model(name).resolution
    pixels = np.random.default_rng(0).uniform(0, 255, (3, size, size, 3)).astype(np.float32)
    expected = reference_logits(name, pixels)
    logits = with_imagenet_head(name, size).predict(pixels, verbose=0)
    assert np.abs(logits - expected).max() <= 1e-3


@pytest.mark.ci
@pytest.mark.parametrize("name", each(PALACE))
def test_palace_is_recognised_as_by_the_reference(name):
    """Guards padding, BatchNorm's epsilon, channel order and scaling without PyTorch."""
    picture = load_sample_image("china.jpg")
    size = catalogue.model(name).resolution
    top, left = ((side - size) // 2 for side in picture.shape[:2])
    pixels = picture[top : top + size, left : left + size].astype(np.float32)
    (logits,) = with_imagenet_head(name, size).predict(pixels[None], verbose=0)
    assert np.argsort(-logits)[:5].tolist() == list(PALACE[name])
    assert logits[list(PALACE[name])] == pytest.approx(list(PALACE[name].values()), abs=1e-3)


def test_preprocessing_is_inside():
    """Grey of 127 is the models' zero: the stem sees nothing of it."""
    model = lite.backbone("efficientnet-lite0", 32)
    entry = keras.Model(model.input, model.get_layer("preprocessing").output)
    grey = np.full((1, 32, 32, 3), 127, np.float32)
    assert np.abs(entry.predict(grey, verbose=0)).max() < 1e-6
    white = entry.predict(grey + 128, verbose=0)
    assert white == pytest.approx(1.0)


@pytest.mark.shared
def test_pretrained_statistics_fit_real_pictures(clothing):
    """The stem's activations on photos have the spread that its BatchNorm was trained on.

    This fails for another scaling of the pixels or another order of the channels' weights.
    """
    from efftune.data import images, picture_bytes

    model = Backbone("efficientnet-lite0").keras_model
    paths = sorted(clothing.glob("train/*/*.jpg"))[::100]
    pixels = np.stack([images.decode(picture_bytes.read(path), 224, "crop") for path in paths])
    stem = keras.Model(model.input, model.get_layer("stem_conv").output)
    spread = stem.predict(pixels.astype(np.float32), verbose=0).std(axis=(0, 1, 2))
    trained = np.sqrt(model.get_layer("stem_bn").moving_variance.numpy())
    alive = trained > 1e-3
    assert alive.sum() > 15
    assert 0.75 < np.median(spread[alive] / trained[alive]) < 1.3
