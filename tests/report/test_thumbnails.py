import base64
import io
import json

import numpy as np
from PIL import Image

from efftune.data.examples import Example
from efftune.evaluation.predictions import SplitPredictions
from efftune.evaluation.suspects import Suspect
from efftune.report import thumbnails


def opened(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def predictions(run, source, wrong=()):
    """Predictions for all pictures of a source, with another class for those in `wrong`."""
    names = run.classifier.class_names
    rows = [
        Example(path, f"{path.parent.name}/{path.name}", path.parent.name, "test")
        for path in sorted(source.rglob("*.*g"))
    ]
    probabilities = np.full((len(rows), len(names)), 0.1, np.float32)
    for i, row in enumerate(rows):
        number = names.index(row.label)
        probabilities[i, (number + 1) % len(names) if i in wrong else number] = 0.8
    flags = np.zeros(len(rows), bool)
    return SplitPredictions("test", rows, probabilities, flags, flags, flags)


def written(tmp_path):
    return json.loads((tmp_path / "thumbnails.json").read_text())


def test_every_picture_has_a_thumbnail_and_mistakes_are_explained(finished_run, source, tmp_path):
    given = predictions(finished_run, source, wrong=(3, 17))
    progress = []
    thumbnails.write(
        tmp_path, finished_run.classifier, given, [], lambda *each: progress.append(each)
    )
    found = written(tmp_path)
    assert found["thumbnails"].keys() == {row.name for row in given.rows}
    with opened(found["thumbnails"]["red/01.png"]) as thumbnail:
        assert thumbnail.size == (96, 96)
        red, green, blue = np.asarray(thumbnail.convert("RGB")).mean(axis=(0, 1))
        assert red > 2 * green
        assert red > 2 * blue
    assert found["explanations"].keys() == {given.rows[3].name, given.rows[17].name}
    with opened(found["explanations"][given.rows[3].name]) as both:
        assert both.size == (192, 96)
    assert progress[-1] == (32, 32)


def test_suspects_come_first_then_mistakes(finished_run, source, tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "MAX_BYTES", 12_000)
    given = predictions(finished_run, source, wrong=(3, 17))
    suspect = Suspect(given.rows[25], "blue", 0.1, 0.8, True)
    thumbnails.write(tmp_path, finished_run.classifier, given, [suspect])
    found = written(tmp_path)["thumbnails"]
    assert {given.rows[i].name for i in (25, 3, 17)} <= found.keys()
    assert len(found) < len(given.rows)
    assert sum(map(len, found.values())) <= 12_000


def test_picture_that_is_gone_is_left_out(finished_run, source, tmp_path):
    given = predictions(finished_run, source)
    gone = Example(tmp_path / "gone.png", "gone.png", "red", "train")
    thumbnails.write(tmp_path, finished_run.classifier, given, [Suspect(gone, "blue", 0, 1, True)])
    assert "gone.png" not in written(tmp_path)["thumbnails"]


def test_no_mistakes_no_explanations(finished_run, source, tmp_path):
    thumbnails.write(tmp_path, finished_run.classifier, predictions(finished_run, source), [])
    assert written(tmp_path)["explanations"] == {}
