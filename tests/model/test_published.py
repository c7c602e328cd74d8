"""Published classifiers, as they were published."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import efftune
from efftune.errors import UsageError
from efftune.model import catalogue
from efftune.model.published import published
from model.conftest import each

# What the PyTorch reference answers for scikit-learn's photo of a Chinese palace, resized to 256
# pixels by Pillow's bicubic filter, of which it sees the central 224 (Lite1: 274 and 240).
PALACE = {
    "efficientnet-lite0": {698: 0.2976, 442: 0.17141, 663: 0.06618, 975: 0.05649, 449: 0.04016},
    "efficientnet-lite1": {698: 0.52499, 663: 0.12576, 483: 0.04678, 449: 0.02967, 442: 0.02695},
}


@pytest.fixture(scope="module")
def photo():
    return load_sample_image("china.jpg")


@pytest.mark.ci
@pytest.mark.parametrize("name", each(PALACE))
def test_whole_photo_is_answered_as_by_the_reference(name, photo):
    (prediction,) = efftune.classify(photo, name)
    assert list(prediction.top_indices) == list(PALACE[name])
    confidences = [value for _, value in prediction.top]
    assert confidences == pytest.approx(list(PALACE[name].values()), abs=1e-3)


@pytest.mark.torch
@pytest.mark.parametrize("name", PALACE)
def test_logits_equal_those_of_the_reference(name, photo):
    """The reference, behind timm's transform with the published share and filter."""
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    entry = catalogue.model(name)
    transform = timm.data.create_transform(
        entry.resolution,
        crop_pct=0.875,
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )
    model = reference.EfficientNet.from_pretrained(name, weights_path=str(entry.weights.path))
    with torch.no_grad():
        logits = model.eval()(transform(Image.fromarray(photo))[None])[0]
        expected = torch.log_softmax(logits, 0).numpy()
    probabilities, failures = published(name).probabilities([photo])
    assert failures == {}
    likely = expected > -7
    # A few of the pixels differ by 1 of 255 in rounding.
    assert np.abs(np.log(probabilities[0]) - expected)[likely].max() <= 0.02


@pytest.mark.ci
def test_every_answer_has_index_wordnet_id_and_name(photo):
    (prediction,) = efftune.classify(photo, top=3)
    answers = prediction.to_dict()["top"]
    assert [(answer["class_index"], answer["wordnet_id"]) for answer in answers] == [
        (698, "n03877845"),
        (442, "n02825657"),
        (663, "n03781244"),
    ]
    assert answers[0]["label"] == prediction.label == "palace"


def test_published_model_of_other_weights_must_exist():
    with pytest.raises(
        UsageError, match=r"No advprop weights .* efficientnet-lite0\. Published: imagenet, timm"
    ):
        efftune.classify(np.zeros((8, 8, 3), np.uint8), weights="advprop")
    with pytest.raises(UsageError, match=r"No ns weights .* Published: imagenet, noisy-student"):
        efftune.classify(np.zeros((8, 8, 3), np.uint8), "efficientnet-b0", weights="ns")


def test_wordnet_ids_are_those_of_imagenet():
    """Known pairs, among them the two names that two classes share in WordNet."""
    from efftune.model import published as module

    ids, names = module._classes()
    assert ids == sorted(set(ids))
    assert len(ids) == len(names) == 1000
    pairs = {0: "n01440764 tench", 134: "n02012849 crane bird", 281: "n02123045 tabby"}
    pairs |= {517: "n03126707 crane", 999: "n15075141 toilet tissue"}
    assert {i: f"{ids[i]} {names[i]}" for i in pairs} == pairs
