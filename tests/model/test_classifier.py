import base64
import io
import json
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import efftune
from efftune.data import images, picture_bytes
from efftune.errors import DataError, UsageError
from efftune.model.engines import engine


def pixels_of(paths, size):
    return np.stack([images.decode(picture_bytes.read(path), size, "crop") for path in paths])


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


def test_notebooks_show_the_picture_and_its_classes(finished_run, source, tmp_path):
    path = tmp_path / "<script>.png"
    path.write_bytes((source / "red" / "01.png").read_bytes())  # 48 by 40 pixels
    (prediction,) = finished_run.classifier.predict(path, top=3)
    html = prediction._repr_html_()
    encoded = re.search(r'src="data:image/webp;base64,([^"]*)"', html)[1]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as shown:
        assert shown.size == (128, 107)
        assert np.argmax(np.asarray(shown).mean((0, 1))) == 0
    assert f"{100 * prediction.confidence:.1f}" in html
    assert all(name in html for name in ("red", "green", "blue", "&lt;script&gt;.png"))
    assert "<script" not in html
    path.unlink()
    assert "<img" not in prediction._repr_html_()
    (unnamed,) = finished_run.classifier.predict(as_array(source / "red" / "01.png"))
    assert "<img" not in unnamed._repr_html_()


def as_array(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


FORMS = {  # a picture as programs have it, from its path
    "text": str,
    "bytes": lambda path: path.read_bytes(),
    "stream": lambda path: io.BytesIO(path.read_bytes()),
    "Pillow": Image.open,
    "array": as_array,
    "array with opacity": lambda path: np.dstack([as_array(path), np.full((40, 48), 255, "u1")]),
    "array that is not contiguous": lambda path: np.asfortranarray(as_array(path)),
}


@pytest.mark.parametrize("form", FORMS)
def test_pictures_may_be_given_in_any_form(finished_run, source, form):
    classifier = finished_run.classifier
    paths = [source / "red" / "01.png", source / "blue" / "02.png"]
    expected = classifier.predict(paths, top=3)
    given = [FORMS[form](path) for path in paths]
    predictions = classifier.predict(given, top=3)
    assert [each.top for each in predictions] == [each.top for each in expected]
    assert [each.path for each in predictions] == (paths if form == "text" else [None, None])
    assert [each.index for each in predictions] == [0, 1]
    assert [each.class_index for each in predictions] == [2, 0]
    (alone,) = classifier.predict(FORMS[form](paths[1]), top=3)
    assert alone.top == expected[1].top


def test_orientation_of_an_opened_photo_is_applied(finished_run, source):
    path = source / "red" / "00.jpg"  # with EXIF orientation
    with Image.open(path) as image:
        before = (image.size, image.info["exif"])
        (given,) = finished_run.classifier.predict(image)
        assert (image.size, image.info["exif"]) == before
    assert given.top == finished_run.classifier.predict(path)[0].top


def test_grey_arrays_are_grey_pictures(finished_run):
    grey = np.full((30, 40), 90, np.uint8)
    forms = [grey, grey[..., None], np.dstack([grey] * 3)]
    first, *others = finished_run.classifier.predict(forms, top=3)
    assert [each.top for each in others] == [first.top, first.top]
    (alone,) = finished_run.classifier.predict(np.stack([np.dstack([grey] * 3)]), top=3)
    assert alone.top == first.top


def test_iterators_are_advanced_as_pictures_are_needed(finished_run, source, monkeypatch):
    monkeypatch.setattr(engine, "WINDOW_BYTES", 0)
    pixels, ahead, counts = as_array(source / "red" / "01.png"), [], []

    def pictures():
        for i in range(100):
            ahead.append(i - len(counts))
            yield pixels

    predictions = finished_run.classifier.predict(
        pictures(), on_progress=lambda *count: counts.append(count)
    )
    assert [each.index for each in predictions] == list(range(100))
    assert counts[-1] == (100, 0)
    assert max(ahead) < 30


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((8, 8, 3)), "Received float64: its range is unknown"),
        (np.zeros((8, 8, 2), np.uint8), r"Received an array of shape \(8, 8, 2\)"),
        (np.zeros((0, 8, 3), np.uint8), r"Received an array of shape \(0, 8, 3\)"),
        (7, "Received: int"),
        ([None], "Received: NoneType"),
        (io.StringIO("text"), "mode 'rb'"),
    ],
)
def test_what_is_no_picture_is_refused(finished_run, picture, words):
    with pytest.raises(UsageError, match=words):
        finished_run.classifier.predict(picture)


def test_unreadable_picture_without_a_path_is_named_by_its_position(finished_run, source):
    pictures = [source / "red" / "01.png", b"text", source / "nowhere.png"]
    with pytest.raises(DataError, match="Cannot predict picture 1: not an image"):
        finished_run.classifier.predict(pictures)
    failures = {}
    (first,) = finished_run.classifier.predict(pictures, on_unreadable=failures.__setitem__)
    assert failures == {1: "not an image", source / "nowhere.png": "no such file"}
    assert first.index == 0


def test_prediction_is_shown_and_stored_in_short(finished_run, source):
    path = source / "red" / "01.png"
    (prediction,) = finished_run.classifier.predict(path)
    assert repr(prediction) == f"Prediction({str(path)!r}: 'red', {prediction.confidence:.3f})"
    stored = json.loads(json.dumps(prediction.to_dict()))
    assert (stored["path"], stored["label"], stored["class_index"]) == (str(path), "red", 2)
    answer = {"label": "red", "confidence": prediction.confidence, "class_index": 2}
    assert stored["top"] == [answer]


def test_classifier_can_be_pickled(finished_run, source):
    classifier = finished_run.classifier
    expected = classifier.predict(source / "red" / "01.png", top=3)
    again = pickle.loads(pickle.dumps(classifier))
    assert again.predict(source / "red" / "01.png", top=3) == expected


def test_many_threads_may_share_a_classifier(finished_run, source):
    classifier = pickle.loads(pickle.dumps(finished_run.classifier))  # not compiled yet
    paths = [source / name / "01.png" for name in ("red", "green", "blue")]
    expected = finished_run.classifier.predict(paths)
    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda _: classifier.predict(paths), range(64)))
    assert all(each == expected for each in results)


FORKED = """
import multiprocessing, sys
import efftune

classifier = efftune.load(sys.argv[1])
expected = classifier.predict(sys.argv[2], top=3)  # so that it is compiled before the fork
with multiprocessing.get_context("fork").Pool(2) as pool:
    predictions = pool.map(classifier.predict, [sys.argv[2]] * 4)
print(all(each[0].label == expected[0].label for each in predictions))
process = multiprocessing.get_context("fork").Process(target=classifier.predict, args=sys.argv[2:])
process.start()
process.join()
print(process.exitcode)
"""


@pytest.mark.ci
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_classifier_predicts_in_a_forked_process(finished_run, source):
    arguments = [str(finished_run.folder), str(source / "red" / "01.png")]
    done = subprocess.run(
        [sys.executable, "-c", FORKED, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "True\n0\n", done.stderr


@pytest.fixture(scope="module")
def palace(tmp_path_factory):
    """The middle of scikit-learn's picture of a Chinese palace."""
    path = tmp_path_factory.mktemp("palace") / "palace.png"
    Image.fromarray(load_sample_image("china.jpg")[101:325, 208:432]).save(path)
    return path


@pytest.mark.ci
def test_published_model_is_made_once(palace, own_cache):
    first = efftune.classify([palace])
    (folder,) = (own_cache / "classifiers").iterdir()
    made = (folder / "model.keras").stat().st_mtime_ns
    assert efftune.classify([palace]) == first
    assert (folder / "model.keras").stat().st_mtime_ns == made


@pytest.mark.long
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
    predictions = finished_run.classifier.predict(paths, on_unreadable=failures.__setitem__)
    assert [each.path for each in predictions] == paths[1:]
    assert failures == {paths[0]: "not an image"}


def test_progress_counts_unreadable_pictures_too(finished_run, source, tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    calls = []
    paths = [tmp_path / "a.jpg", *sorted(source.rglob("*.*g"))]
    finished_run.classifier.probabilities(paths, lambda *each: calls.append(each))
    assert sorted(calls) == [(i, 31) for i in range(1, 32)]


@pytest.mark.ci
def test_keras_model_gives_the_same_probabilities(finished_run, source):
    paths = sorted(source.rglob("*.*g"))
    classifier = finished_run.classifier
    ours, failures = classifier.probabilities(paths)
    theirs = classifier.model.predict(pixels_of(paths, 32).astype(np.float32), verbose=0)
    assert failures == {}
    assert np.abs(ours - theirs).max() <= 1e-4


def test_no_pictures_no_predictions(finished_run):
    assert finished_run.classifier.predict([]) == []
