import keras
import numpy as np
import pytest
from PIL import Image

from conftest import made_once, trained_once
from efftune.data import images, picture_bytes
from efftune.errors import DataError, UsageError
from efftune.evaluation import explanation
from efftune.evaluation.explanation import Explainer, Explanation
from efftune.model import saving
from efftune.model.backbone import FEATURES, STAGE_FEATURES, Backbone
from efftune.model.classifier import Classifier
from efftune.model.engines import openvino_engine
from efftune.report import explanation_images
from efftune.report.explanation_images import explain, overlay, pair

SIDE, DISC = 192, 60  # pixels
DISCS = {"blue": (30, 50, 220), "green": (20, 190, 50), "red": (220, 40, 30)}


def disc(colour, seed):
    """Grey noise with a coloured disc at a random place; the disc's centre (down, right)."""
    random = np.random.default_rng(seed)
    pixels = np.repeat(random.normal(127, 40, (SIDE, SIDE, 1)), 3, axis=2)
    centre = random.integers(DISC // 2, SIDE - DISC // 2, 2)
    down, right = np.mgrid[:SIDE, :SIDE]
    inside = np.hypot(down - centre[0], right - centre[1]) <= DISC / 2
    pixels[inside] = random.normal(colour, 15, (inside.sum(), 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), centre


@pytest.fixture(scope="module")
def disc_run(shared_place, cache):
    """A run on pictures whose class is the colour of a small thing in them."""
    folder = shared_place / "discs"
    with made_once(folder) as missing:
        if missing:
            for number, (name, colour) in enumerate(DISCS.items()):
                (folder / name).mkdir(parents=True)
                for i in range(14):
                    picture, _ = disc(colour, 100 * number + i)
                    picture.save(folder / name / f"{i}.png")
    run = shared_place / "disc run"
    return trained_once(folder, run, cache, recipe="quick", image_size=SIDE)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    disc(DISCS["red"], 7777)[0].save(path)
    return path


def made(folder, name="efficientnet-lite0", output=FEATURES, classes=3, **choices):
    """A classifier of random weights, and its backbone and head."""
    backbone = Backbone(name, SIDE, weights="none").randomly_initialized(0)
    random = np.random.default_rng(1)
    head = random.normal(size=(*backbone.shape(output), classes)).astype(np.float32)
    bias = random.normal(size=classes).astype(np.float32)
    names = [f"class {i}" for i in range(classes)]
    saving.save(folder, backbone, (head, bias), names, **choices)
    return Classifier(folder, names, SIDE, "crop"), backbone, (head, bias)


def grad_cam(lower, upper, squares, number):
    """Grad-CAM as published, with TensorFlow's gradients, (squares, height, width).

    `upper` gives logits; that of a class counts as far as it is above the mean of all.
    """
    import tensorflow as tf

    activations = tf.convert_to_tensor(lower(squares.astype(np.float32), training=False))
    with tf.GradientTape() as tape:
        tape.watch(activations)
        logits = upper(activations)
        score = logits[:, number] - tf.reduce_mean(logits, axis=1)
    gradients = tape.gradient(score, activations).numpy()
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return (activations.numpy() * weights).sum(axis=-1)


def pooled(model):
    (layer,) = [x for x in model.layers if isinstance(x, keras.layers.GlobalAveragePooling2D)][-1:]
    return layer.input


def heat(evidence):
    return explanation._heat(evidence, SIDE)


needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="takes gradients with TensorFlow"
)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "mirrored"),
    [
        ("efficientnet-lite0", True),
        pytest.param("efficientnet-b0", False, marks=pytest.mark.variant),
    ],
)
def test_places_contribute_the_logit_between_them(tmp_path, picture, monkeypatch, name, mirrored):
    """If the head sees all stages."""
    classifier, _, (_, bias) = made(tmp_path, name, STAGE_FEATURES, mirrored=mirrored)
    maps = []
    monkeypatch.setattr(explanation, "_heat", lambda evidence, _size: maps.append(evidence))
    explainer = Explainer(classifier)
    labels = classifier.class_names
    logs = np.log([explainer.explain(picture, label).confidence for label in labels])
    contributed = np.array([each.mean() for each in maps])
    expected = (logs - bias) - (logs - bias).mean()
    assert [each.shape for each in maps] == [(6, 6)] * 3
    assert np.abs(expected).max() > 0.01
    assert contributed == pytest.approx(expected, abs=1e-3)


@pytest.mark.ci
@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "mirrored"),
    [
        ("efficientnet-lite0", True),
        pytest.param("efficientnet-b0", False, marks=pytest.mark.variant),
        pytest.param("efficientnet-lite0", False, marks=pytest.mark.variant),
        pytest.param("efficientnet-b0", True, marks=pytest.mark.variant),
    ],
)
def test_heat_is_what_gradients_give_in_any_network(tmp_path, picture, name, mirrored):
    """With squeeze-and-excitation, whose means are not the pooling, and with mirror images."""
    classifier, backbone, (kernel, bias) = made(tmp_path, name, mirrored=mirrored)
    model = backbone.keras_model
    middle = pooled(model)
    lower = keras.Model(model.input, middle)
    logits = keras.layers.Dense(3)
    upper = keras.Model(middle, logits(model.output))
    logits.set_weights([kernel, bias])
    explainer = Explainer(classifier)
    for number, label in enumerate(classifier.class_names):
        found = explainer.explain(picture, label)
        squares = np.stack([found.pixels, found.pixels[:, ::-1]])
        plain, mirror = grad_cam(lower, upper, squares, number)
        expected = (plain + mirror[:, ::-1]) / 2 if mirrored else plain
        assert np.abs(found.heat - heat(expected)).max() < 0.01


@pytest.mark.ci
def test_heat_is_where_the_evidence_is(disc_run, tmp_path):
    explainer = Explainer(disc_run.classifier)
    hits = []
    for seed in range(24):
        label = list(DISCS)[seed % 3]
        picture, centre = disc(DISCS[label], 5000 + seed)
        picture.save(tmp_path / "picture.png")
        found = explainer.explain(tmp_path / "picture.png", label)
        place = np.unravel_index(found.heat.argmax(), found.heat.shape)
        # One place of the network's last activations is 32 pixels wide.
        hits.append(np.hypot(*(place - centre)) <= DISC / 2 + 16)
    assert sum(hits) >= 20, hits


@pytest.mark.ci
def test_mirror_image_is_explained_by_the_mirror_image(tmp_path, picture):
    classifier, _, _ = made(tmp_path / "run", mirrored=True)
    with Image.open(picture) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirror.png")
    explainer = Explainer(classifier)
    one, other = (explainer.explain(each) for each in (picture, tmp_path / "mirror.png"))
    assert one.label == other.label
    assert one.heat.max() == 1
    assert one.heat == pytest.approx(other.heat[:, ::-1], abs=1e-3)


@pytest.mark.long
def test_of_two_classes_both_are_explained(tmp_path, picture):
    """The first column of the head that is fitted for two classes is zero."""
    backbone = Backbone("efficientnet-lite0", SIDE, weights="none").randomly_initialized(0)
    weights = np.random.default_rng(0).normal(size=(1280, 1)).astype(np.float32)
    heats = {}
    for sign in (1, -1):
        folder = tmp_path / f"{sign}"
        kernel = np.hstack([np.zeros_like(weights), sign * weights])
        saving.save(folder, backbone, (kernel, np.zeros(2, np.float32)), ["no", "yes"])
        explainer = Explainer(Classifier(folder, ["no", "yes"], SIDE, "crop"))
        heats[sign] = [explainer.explain(picture, label).heat for label in ("no", "yes")]
    assert max(each.max() for each in heats[1]) == 1
    assert np.array(heats[1]) == pytest.approx(np.array(heats[-1][::-1]), abs=1e-3)


@pytest.mark.ci
def test_explained_class_is_that_of_predict(disc_run, picture):
    found = Explainer(disc_run.classifier).explain(str(picture))
    (prediction,) = disc_run.classifier.predict(picture, top=3)
    assert found.label == prediction.label == "red"
    assert found.confidence == pytest.approx(prediction.confidence, abs=1e-5)
    other = Explainer(disc_run.classifier).explain(picture, "blue")
    assert other.confidence == pytest.approx(dict(prediction.top)["blue"], abs=1e-5)
    expected = images.decode(picture_bytes.read(picture), SIDE, disc_run.classifier.fit)
    assert (found.pixels == expected).all()
    assert (found.heat.shape, found.heat.dtype) == ((SIDE, SIDE), np.float32)
    assert found.heat.min() >= 0
    assert found.heat.max() == 1


@pytest.mark.ci
def test_network_is_read_when_first_needed_and_only_once(disc_run, picture, monkeypatch):
    read = []
    original = openvino_engine.read
    monkeypatch.setattr(openvino_engine, "read", lambda path: read.append(1) or original(path))
    explainer = Explainer(disc_run.classifier)
    assert read == []
    first, again = (explainer.explain(picture).heat for _ in range(2))
    assert read == [1]
    assert (first == again).all()


def test_nothing_is_shown_where_nothing_speaks_for_a_class(tmp_path):
    square = np.full((SIDE, SIDE, 3), 200, np.uint8)
    activations = [np.ones((2, 4, 4), np.float32)]
    nothing = heat(explanation._evidence(activations, np.float32([-1, 0.5])))
    assert (nothing == 0).all()
    shown = overlay(Explanation(tmp_path, "x", 0.5, square, nothing), 64)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 1


def test_map_of_one_place_is_even():
    assert (explanation._heat(np.ones((1, 1), np.float32), 32) == 1).all()


@pytest.mark.ci
@pytest.mark.parametrize("side", [1, 31, 96, SIDE, 420])
def test_pair_is_the_picture_next_to_its_heat_map(disc_run, picture, side):
    found = Explainer(disc_run.classifier).explain(picture)
    both = pair(found, side)
    assert (both.shape, both.dtype) == ((side, 2 * side, 3), np.uint8)
    assert (both[:, side:] == overlay(found, side)).all()
    if side == SIDE:
        assert (both[:, :side] == found.pixels).all()
        red, _, blue = both[:, side:].reshape(-1, 3).astype(int)[found.heat.argmax()]
        assert red > blue + 30  # the hottest place is yellow


@pytest.mark.ci
def test_unknown_class_is_refused(disc_run, picture):
    with pytest.raises(UsageError, match=r"Unknown class 'rad'. Did you mean 'red'"):
        Explainer(disc_run.classifier).explain(picture, "rad")


@pytest.mark.ci
def test_unreadable_picture_is_named(disc_run, picture, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(DataError, match=r"Cannot explain .*broken.png: "):
        Explainer(disc_run.classifier).explain(broken)
    with pytest.raises(DataError, match=r"Cannot explain .*nowhere.png: no such file"):
        explain(disc_run.classifier, [picture, tmp_path / "nowhere.png"], tmp_path / "out")
    unreadable, progress = [], []
    written = explain(
        disc_run.classifier,
        [tmp_path / "nowhere.png", picture],
        tmp_path / "out",
        on_unreadable=lambda path, reason: unreadable.append((path.name, reason)),
        on_progress=lambda *counts: progress.append(counts),
    )
    assert unreadable == [("nowhere.png", "no such file")]
    assert progress == [(1, 2), (2, 2)]
    assert [each.path for each in written] == [picture]


@pytest.mark.ci
def test_each_picture_gets_a_file_of_its_own(disc_run, picture, tmp_path):
    names = [
        "a.png",
        "A.png",
        "x/a.jpg",
        "höhe $1$ {.png",
        "...png",
        f"{'n' * 200}.png",
        "日本.png",
    ]
    paths = []
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.read_bytes())
        paths.append(path)
    written = explain(disc_run.classifier, paths, tmp_path / "out", "green")
    assert [each.png.name for each in written] == [
        *("a-explained.png", "A-explained-2.png", "a-explained-3.png", "höhe-1-explained.png"),
        *("picture-explained.png", f"{'n' * 60}-explained.png", "日本-explained.png"),
    ]
    assert sorted((tmp_path / "out").iterdir()) == sorted(each.png for each in written)
    assert {each.label for each in written} == {"green"}
    for each in written:
        with Image.open(each.png) as image:
            assert image.width >= 800
    explain(disc_run.classifier, paths[:1], tmp_path / "out")
    assert len([*(tmp_path / "out").iterdir()]) == len(names)


@pytest.mark.ci
def test_pictures_in_the_output_folder_are_not_changed(disc_run, picture):
    before = picture.read_bytes()
    (written,) = explain(disc_run.classifier, [picture], picture.parent)
    assert written.png != picture
    assert picture.read_bytes() == before


@pytest.mark.parametrize("label", ["$x_{", "名前", "caf\udce9", "long " * 40])
def test_any_label_can_be_a_title(tmp_path, label):
    square = np.zeros((32, 32, 3), np.uint8)
    found = Explanation(tmp_path, label, 0.1234, square, np.ones((32, 32), np.float32))
    explanation_images.write(found, tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as image:
        assert 800 <= image.width <= 900


@pytest.mark.ci
def test_place_that_cannot_be_written_is_refused(disc_run, picture, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="Cannot write"):
        explain(disc_run.classifier, [picture], tmp_path / "out")
