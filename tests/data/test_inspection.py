import csv
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter

from efftune.data import inspection
from efftune.data.examples import Example, Examples
from efftune.data.inspection import Finding
from efftune.data.sources import discovery
from efftune.system import helpers

from .scenes import scene


def odd(picture, tmp_path, name="a.png", **saving):
    path = tmp_path / name
    picture.save(path, **saving)
    look = inspection.measure(path.read_bytes())
    return {
        each.kind for each in inspection.quality_findings([Example(path, name)], np.stack([look]))
    }


EXIF = Image.Exif()
EXIF[0x0112] = 6
ODD = {
    "wrong-suffix": (lambda: scene(0), {"name": "a.png", "format": "JPEG"}),
    "tiny": (lambda: scene(0, 20), {}),
    "long": (lambda: scene(0, 200).resize((900, 100)), {}),
    "rotated": (lambda: scene(0), {"name": "a.jpg", "exif": EXIF}),
    "animated": (
        lambda: scene(0),
        {"name": "a.webp", "save_all": True, "append_images": [scene(1)]},
    ),
    "uniform": (lambda: Image.new("RGB", (200, 200), (90, 120, 200)), {}),
    "greyscale": (lambda: scene(0).convert("L"), {}),
    "dark": (lambda: scene(0).point(lambda level: level // 5), {}),
    "blown-out": (lambda: scene(0).point(lambda level: 255 - level // 16), {}),
    "blurry": (lambda: scene(0).filter(ImageFilter.GaussianBlur(12)), {}),
}


def test_whatever_a_measurement_raises_is_a_finding(source, monkeypatch):
    measure = inspection.measure

    def measured(content, depth):
        if content == (source / "red" / "01.png").read_bytes():
            raise ZeroDivisionError
        return measure(content, depth)

    monkeypatch.setattr(inspection, "measure", measured)
    examples, measurements, _ = inspection.inspect(discovery.find(source))
    (finding,) = inspection.unusable(examples)
    assert (finding.kind, finding.name) == ("damaged", "red/01.png")
    assert finding.detail == "damaged (ZeroDivisionError)"
    assert len(measurements) == 29


@pytest.mark.parametrize("kind", ODD)
def test_odd_picture_is_reported(kind, tmp_path):
    make, saving = ODD[kind]
    assert kind in odd(make(), tmp_path, **saving)


def test_usual_picture_is_not(tmp_path):
    assert odd(scene(0), tmp_path) == set()
    assert odd(scene(0), tmp_path, "a.JPG", format="JPEG") == set()


def test_unusable_files_are_listed_by_reason(broken_source):
    examples, measurements, thumbnails = inspection.inspect(discovery.find(broken_source))
    rows = [row for row in examples.rows if row.usable]
    assert len(measurements) == len(rows) == 30
    for i, row in enumerate(rows):
        alone = inspection.measure(row.path.read_bytes())
        assert all(alone[name] == measurements[name][i] for name in measurements.dtype.names)
        assert (alone["small"] == thumbnails[i]).all()
    kinds = Counter(each.kind for each in inspection.unusable(examples))
    assert kinds == {
        "truncated": 1,
        "empty": 1,
        "broken-link": 1,
        "empty-folder": 1,
        "other-file": 2,
    }


def test_helpers_measure_the_same(source, broken_source, monkeypatch):
    here = [inspection.inspect(discovery.find(each)) for each in (source, broken_source)]
    monkeypatch.setattr(helpers, "usable_processors", lambda: 4)
    monkeypatch.setattr(helpers, "_FEWEST_CALLS", 0)
    for each, (examples, measurements, thumbnails) in zip(
        (source, broken_source), here, strict=True
    ):
        found = inspection.inspect(discovery.find(each))
        assert found[0] == examples
        assert (found[1] == measurements).all()
        assert all((found[2][i] == thumbnails[i]).all() for i in range(len(measurements)))


def test_pictures_are_counted_and_known_by_their_hash(source):
    calls = []
    examples, *_ = inspection.inspect(discovery.find(source), lambda *each: calls.append(each))
    assert sorted(calls)[-1] == (30, 30)
    assert all(len(row.sha256) == 64 for row in examples.rows)


def examples(**counts):
    rows = [
        Example(None, f"{label}{i}", label, split)
        for (label, split), count in counts.pop("counts").items()
        for i in range(count)
    ]
    return Examples("photos", tuple(rows))


def test_small_and_imbalanced_classes_are_reported():
    found = list(
        inspection.class_findings(examples(counts={("a", "train"): 300, ("b", "train"): 7}))
    )
    assert [(each.kind, each.name) for each in found] == [("small-class", "b"), ("imbalance", "a")]
    equal = examples(counts={("a", "train"): 30, ("b", "train"): 10})
    assert not list(inspection.class_findings(equal))


def test_single_class_is_reported():
    found = list(inspection.class_findings(examples(counts={("a", ""): 10, ("a", "test"): 2})))
    assert [(each.kind, each.name) for each in found] == [("only-class", "a")]
    several = examples(counts={("a", ""): 1, ("b", ""): 1})
    details = {each.detail for each in inspection.class_findings(several)}
    assert details == {"1 training picture"}


def test_class_missing_in_a_split_is_reported():
    counts = {("a", "train"): 20, ("b", "train"): 20, ("a", "test"): 9}
    (finding,) = inspection.class_findings(examples(counts=counts))
    assert (finding.kind, finding.name, finding.split) == ("missing-in-split", "b", "test")


@pytest.mark.parametrize(
    ("one", "other"), [("Cat", "cat"), ("t shirt", "t  shirt "), ("ﬁsh", "fish")]
)
def test_classes_that_read_alike_are_reported(one, other):
    counts = {(one, "train"): 20, (other, "train"): 20}
    (finding,) = inspection.class_findings(examples(counts=counts))
    assert finding.kind == "similar-names"
    assert {finding.name, finding.other} == {one, other}


def test_table_has_a_row_per_finding():
    found = [Finding("leak", "a,b.png", other="c"), Finding("rotated", "d", "EXIF")]
    rows = list(csv.DictReader(io.StringIO(inspection.to_csv(found))))
    assert [row["problem"] for row in rows] == ["yes", "no"]
    assert rows[0]["name"] == "a,b.png"
