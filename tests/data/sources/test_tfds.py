import io
import os
import shutil
import tempfile
import urllib.request
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import efftune
from conftest import square
from efftune.data.sources import discovery
from efftune.errors import DataError, UsageError

tfds = pytest.importorskip("tensorflow_datasets", reason='pip install "efftune[tfds]"')

PUBLIC = {"stanford_dogs": 120, "cifar10": 10, "cifar100": 100, "food101": 101}  # classes


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Each builder without records makes a temporary folder that it never removes."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A place for TensorFlow Datasets of the test's own."""
    folder = tmp_path / "tensorflow_datasets"
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    return folder


def jpeg(colour, seed):
    stream = io.BytesIO()
    square(colour, seed).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def written(data_dir):
    """A set of red and blue squares in TensorFlow Datasets' own format, and its first picture."""
    colours = {"n02085620-red": (200, 40, 40), "n02085782-blue": (40, 40, 200)}
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=list(colours))}
    )
    builder = tfds.dataset_builders.AdhocBuilder(
        name="squares",
        version="1.0.0",
        features=features,
        data_dir=str(data_dir),
        split_datasets={
            split: [
                (
                    f"{name}-{i}",
                    {"image": io.BytesIO(jpeg(colour, 10 * i + seed)), "label": name},
                )
                for name, colour in colours.items()
                for i in range(count)
            ]
            for split, count, seed in (("train", 12, 0), ("test", 4, 5))
        },
    )
    builder.download_and_prepare()
    return jpeg(next(iter(colours.values())), 0)


def test_written_set_is_found_with_its_splits_and_plain_names(written, own_cache):
    calls = []
    examples = discovery.find("tfds:squares", lambda *progress: calls.append(progress))
    assert examples.source == "tfds:squares"
    assert examples.class_names == ("blue", "red")
    assert examples.counts == {"train": 24, "val": 0, "test": 8}
    assert calls[-1] == ("unpack", 32, 32)
    contents = {row.path.read_bytes() for row in examples.of("train")}
    assert written in contents  # the very bytes: nothing is encoded again


def test_set_is_unpacked_once(written, own_cache):
    first = discovery.find("tfds:squares:1.0.0")
    stamps = {row.path: row.path.stat().st_mtime_ns for row in first.rows}
    again = discovery.find("tfds:squares:1.0.0")
    assert {row.path: row.path.stat().st_mtime_ns for row in again.rows} == stamps


def test_set_not_used_for_longest_makes_room(written, own_cache, monkeypatch):
    (own_cache / "tfds" / "old").mkdir(parents=True)
    (own_cache / "tfds" / "old" / "picture").write_bytes(bytes(1000))
    os.utime(own_cache / "tfds" / "old", times=(0, 0))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: namedtuple("disk", "free")(0))
    discovery.find("tfds:squares")
    (folder,) = own_cache.glob("tfds/*")
    os.utime(folder, times=(0, 0))
    discovery.find("tfds:squares")
    assert folder.stat().st_mtime > 0


@pytest.mark.long
def test_set_can_be_trained_on(written, tmp_path):
    run = efftune.train("tfds:squares", recipe="quick", image_size=32, run=tmp_path / "run")
    assert run.record["source"] == "tfds:squares"
    assert run.record["data"]["pictures"]["test"] == 8
    assert run.evaluation.test.accuracy == 1


def describe(name, data_dir, **counts):
    """Write down what TensorFlow Datasets would know of a set after a download."""
    builder = tfds.builder(name, data_dir=str(data_dir))
    infos = [
        tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=0)
        for split, count in counts.items()
    ]
    builder.info.set_splits(tfds.core.splits.SplitDict(infos))
    folder = Path(builder.data_dir)
    folder.mkdir(parents=True)
    builder.info.write_to_directory(folder)
    builder.info.features.save_config(folder)
    builder.info.features.save_metadata(folder)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_sets_are_unpacked(name, data_dir, own_cache):
    """Their own builders, with made-up pictures."""
    describe(name, data_dir, train=30, test=30)
    with tfds.testing.mock_data(num_examples=30, data_dir=str(data_dir)):
        examples = discovery.find(f"tfds:{name}")
    assert examples.counts["train"] == 30
    names = tfds.builder(name).info.features["label"].names
    assert len(names) == PUBLIC[name]
    assert set(examples.class_names) <= set(names)
    with Image.open(examples.rows[0].path) as picture:
        assert np.asarray(picture.convert("RGB")).shape[2] == 3


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        name if name == "cifar10" else pytest.param(name, marks=pytest.mark.variant)
        for name in PUBLIC
    ],
)
def test_public_sets_are_trained_on(name, data_dir, tmp_path):
    describe(name, data_dir, train=60, test=20)
    choices = {"image_size": 32, "missing_classes": "allow", "head_strengths": (0.01,)}
    with tfds.testing.mock_data(num_examples=60, data_dir=str(data_dir)):
        run = efftune.train(f"tfds:{name}", recipe="quick", run=tmp_path / "run", **choices)
    assert run.record["source"] == f"tfds:{name}"
    assert run.record["data"]["pictures"]["train"] > 0


@pytest.mark.long
def test_example_validates_on_the_test_split_and_notes_it(written, tmp_path):
    choices = {"image_size": 32, "phases": ("head",), "head_epochs": 2, "batch_size": 8}
    run = efftune.train("tfds:squares", recipe="keras-example", run=tmp_path / "run", **choices)
    assert run.record["data"]["pictures"] == {"train": 24, "val": 8, "test": 8}
    assert run.evaluation.val == run.evaluation.test
    assert "the test score is optimistic" in run.record["plan"]["notes"][0]
    own = efftune.train("tfds:squares", recipe="quick", run=tmp_path / "own", image_size=32)
    assert own.record["data"]["pictures"] == {"train": 20, "val": 4, "test": 8}
    assert not own.record["plan"]["notes"]


def test_unknown_set_is_refused(data_dir):
    with pytest.raises(UsageError, match="has no data set 'stanford_cats'"):
        discovery.find("tfds:stanford_cats")


def test_set_of_something_else_is_refused(data_dir, own_cache):
    describe("imdb_reviews", data_dir, train=3)
    mocked = tfds.testing.mock_data(num_examples=3, data_dir=str(data_dir))
    with mocked, pytest.raises(DataError, match="are not pictures with"):
        discovery.find("tfds:imdb_reviews")


def test_missing_network_is_a_clear_error(data_dir, own_cache, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies it began with
    with pytest.raises(DataError, match=r"tfds:cifar10 cannot be downloaded.*sample:digits"):
        discovery.find("tfds:cifar10")
