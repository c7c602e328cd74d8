import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import efftune
from efftune.data import images


def pixels_of(paths, size):
    return np.stack([images.decode(images.read(path), size, "crop") for path in paths])


def test_prediction_is_the_likeliest_class(finished_run, source):
    path = source / "red" / "01.png"
    (prediction,) = finished_run.classifier.predict(path, top=3)
    assert prediction.path == path
    assert prediction.label == "red"
    assert (prediction.label, prediction.confidence) == prediction.top[0]
    assert sorted(label for label, _ in prediction.top) == ["blue", "green", "red"]
    assert sum(value for _, value in prediction.top) == pytest.approx(1, abs=1e-5)
    assert [value for _, value in prediction.top] == sorted(
        (value for _, value in prediction.top), reverse=True
    )


@pytest.fixture(scope="module")
def palace(tmp_path_factory):
    """The middle of scikit-learn's picture of a Chinese palace."""
    path = tmp_path_factory.mktemp("palace") / "palace.png"
    Image.fromarray(load_sample_image("china.jpg")[101:325, 208:432]).save(path)
    return path


def test_published_models_know_a_palace(palace):
    """As the PyTorch references say: see `test_lite`."""
    (said,) = efftune.classify(palace)
    assert [name for name, _ in said.top] == [
        "palace",
        "monastery",
        "bell cote",
        "boathouse",
        "lakeside",
    ]
    assert said.confidence > 0.3


def test_published_model_is_made_once(palace, own_cache):
    first = efftune.classify([palace])
    (folder,) = (own_cache / "classifiers").iterdir()
    made = (folder / "model.keras").stat().st_mtime_ns
    assert efftune.classify([palace]) == first
    assert (folder / "model.keras").stat().st_mtime_ns == made


def test_damaged_published_model_is_made_again(palace, own_cache):
    first = efftune.classify([palace])
    (weights,) = (own_cache / "classifiers").glob("*/openvino/model.bin")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert efftune.classify([palace]) == first


def test_predictions_come_in_the_order_asked(finished_run, source):
    paths = sorted(source.rglob("*.*g"))[::-1]
    assert [each.path for each in finished_run.classifier.predict(paths)] == paths


def test_more_classes_than_there_are_gives_all(finished_run, source):
    (prediction,) = finished_run.classifier.predict([source / "red" / "01.png"], top=50)
    assert len(prediction.top) == 3


def test_top_below_one_is_refused(finished_run, source):
    with pytest.raises(efftune.UsageError, match="top must be 1 or more"):
        finished_run.classifier.predict([source / "red" / "01.png"], top=0)


def test_unreadable_picture_is_an_error_unless_asked_for(finished_run, source, tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    paths = [tmp_path / "a.jpg", source / "red" / "01.png"]
    with pytest.raises(efftune.DataError, match=r"a\.jpg: not an image"):
        finished_run.classifier.predict(paths)
    failures = {}
    told = finished_run.classifier.predict(paths, on_unreadable=failures.__setitem__)
    assert [each.path for each in told] == paths[1:]
    assert failures == {paths[0]: "not an image"}


def test_progress_counts_unreadable_pictures_too(finished_run, source, tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    told = []
    paths = [tmp_path / "a.jpg", *sorted(source.rglob("*.*g"))]
    finished_run.classifier.probabilities(paths, lambda *each: told.append(each))
    assert sorted(told) == [(i, 31) for i in range(1, 32)]


def test_keras_model_says_the_same(finished_run, source):
    paths = sorted(source.rglob("*.*g"))
    classifier = finished_run.classifier
    ours, failures = classifier.probabilities(paths)
    theirs = classifier.model.predict(pixels_of(paths, 32).astype(np.float32), verbose=0)
    assert failures == {}
    assert np.abs(ours - theirs).max() <= 1e-4


def test_no_pictures_no_predictions(finished_run):
    assert finished_run.classifier.predict([]) == []
