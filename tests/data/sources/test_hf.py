import io
import os
import shutil
import sys
import time
import urllib.request
from collections import namedtuple

import pytest

import efftune
from conftest import COLOURS, fill, square
from efftune.data.sources import discovery
from efftune.data.sources.table_columns import Columns
from efftune.errors import DataError, UsageError

datasets = pytest.importorskip("datasets", reason='pip install "efftune[hf]"')

huggingface_hub = pytest.importorskip("huggingface_hub")  # which datasets brings

CLASSES = datasets.ClassLabel(names=list(COLOURS))
TEXT = datasets.Value("string")


@pytest.fixture(autouse=True)
def kept_elsewhere(tmp_path, monkeypatch, own_cache):
    """What datasets keeps is the test's own, and it does not look for a network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def jpeg(colour, seed):
    stream = io.BytesIO()
    square(COLOURS[colour], seed).save(stream, "JPEG")
    return stream.getvalue()


def made(count=2, *, seed=0, label=CLASSES, **more):
    """A set of JPEG squares, some of each class; more columns as a feature and its values."""
    listed = [(name, i) for name in COLOURS for i in range(count)]
    columns = {
        "image": [{"bytes": jpeg(name, seed + i), "path": None} for name, i in listed],
        "label": [name for name, _ in listed],
    }
    features = {"image": datasets.Image(), "label": label}
    for name, (feature, values) in more.items():
        columns[name], features[name] = [values(name, i) for name, i in listed], feature
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def saved(dataset, folder):
    dataset.save_to_disk(str(folder))
    return f"hf:{folder}"


@pytest.mark.parametrize("label", [CLASSES, TEXT, datasets.Value("large_string")])
def test_saved_set_is_written_out_as_it_is(tmp_path, label):
    calls = []
    source = saved(made(label=label), tmp_path / "squares")
    found = discovery.find(source, lambda *progress: calls.append(progress))
    assert found.source == source
    assert found.class_names == tuple(COLOURS)
    assert [row.name for row in found.rows][:2] == [
        "train/blue/000000.jpg",
        "train/blue/000001.jpg",
    ]
    assert found.rows[1].path.read_bytes() == jpeg("blue", 1)  # nothing is encoded again
    assert calls[-1] == ("unpack", 6, 6)


def test_splits_come_along(tmp_path):
    parts = {"train": made(4), "validation": made(1, seed=50), "test": made(2, seed=90)}
    parts["unsupervised"] = made(3, seed=70)
    found = discovery.find(saved(datasets.DatasetDict(parts), tmp_path / "squares"))
    assert found.counts == {"train": 12, "val": 3, "test": 6}


def test_only_split_is_all_for_training(tmp_path):
    found = discovery.find(saved(datasets.DatasetDict({"full": made()}), tmp_path / "squares"))
    assert found.counts == {"train": 6, "val": 0, "test": 0}


def test_several_splits_without_train_are_refused(tmp_path):
    parts = datasets.DatasetDict({"test": made(), "dev": made()})
    with pytest.raises(DataError, match=r"has no train split\. Its splits: test, dev"):
        discovery.find(saved(parts, tmp_path / "squares"))


def test_set_is_written_once_and_again_when_it_changed(tmp_path, own_cache):
    source = saved(made(), tmp_path / "squares")
    first = {row.path: row.path.stat().st_mtime_ns for row in discovery.find(source).rows}
    again = {row.path: row.path.stat().st_mtime_ns for row in discovery.find(source).rows}
    assert again == first
    other = discovery.find(saved(made(3), tmp_path / "others" / "squares"))
    assert len(other.rows) == 9
    assert len(list(own_cache.glob("hf/*squares-*"))) == 2


def test_sets_not_used_for_longest_make_room(tmp_path, own_cache, monkeypatch):
    sources = [saved(made(count), tmp_path / f"set{count}") for count in (1, 2, 3)]
    for source in sources[:2]:
        discovery.find(source)
    for folder in own_cache.glob("hf/*"):
        os.utime(folder, times=(0, 0))
    discovery.find(sources[0])  # which notes its use
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: namedtuple("disk", "free")(0))
    found = discovery.find(sources[2])
    assert len(found.rows) == 9
    assert {path.name[:4] for path in own_cache.glob("hf/*")} == {"set1", "set3"}


def test_relative_folder_is_found(tmp_path, monkeypatch):
    saved(made(), tmp_path / "squares")
    monkeypatch.chdir(tmp_path)
    assert len(discovery.find("hf:./squares").rows) == 6


def test_folder_of_pictures_is_read_as_datasets_reads_it(tmp_path):
    fill(tmp_path / "photos" / "train", count=3)
    fill(tmp_path / "photos" / "test", count=1)
    found = discovery.find(f"hf:{tmp_path / 'photos'}")
    assert found.counts == {"train": 9, "val": 0, "test": 3}
    assert found.class_names == tuple(COLOURS)
    contents = {path.read_bytes() for path in (tmp_path / "photos").rglob("*.*g")}
    assert {row.path.read_bytes() for row in found.rows} == contents


def test_parquet_folder_with_a_saved_format_is_read(tmp_path):
    (tmp_path / "squares").mkdir()
    made().to_parquet(str(tmp_path / "squares" / "train.parquet"))
    assert len(discovery.find(f"hf:{tmp_path / 'squares'}").rows) == 6
    formatted = made().with_format("pandas")
    assert len(discovery.find(saved(formatted, tmp_path / "formatted")).rows) == 6


def test_class_names_need_not_be_fit_for_folders(tmp_path):
    odd = {"blue": "a/b", "green": "..", "red": " caf\u00e9 "}
    dataset = made(label=TEXT).map(lambda row: {"label": odd[row["label"]]})
    found = discovery.find(saved(dataset, tmp_path / "squares"))
    assert found.class_names == ("-.", "a-b", "caf\u00e9")
    assert found.set_aside == ()


def test_pictures_without_a_class_are_left_out(tmp_path):
    for name, label, gap in (("numbers", CLASSES, -1), ("words", TEXT, None), ("blank", TEXT, " ")):
        dataset = made(label=label)
        gaps = [gap if i < 2 else value for i, value in enumerate(dataset["label"])]
        dataset = (
            dataset.remove_columns("label").add_column("label", gaps).cast_column("label", label)
        )
        assert len(discovery.find(saved(dataset, tmp_path / name)).rows) == 4


def test_training_split_without_any_class_is_refused(tmp_path):
    bare = made(label=TEXT).map(lambda _: {"label": ""})
    parts = datasets.DatasetDict({"train": bare, "test": made(label=TEXT)})
    with pytest.raises(DataError, match="No record in the train split"):
        discovery.find(saved(parts, tmp_path / "squares"))


def test_pictures_that_records_only_name_are_read_or_missed(tmp_path):
    from pyarrow import parquet

    paths = sorted(fill(tmp_path / "photos", count=2).rglob("*.*g"))
    columns = {"image": [str(path) for path in paths], "label": [p.parent.name for p in paths]}
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    dataset = datasets.Dataset.from_dict(columns, features=features)
    (tmp_path / "first").mkdir()
    parquet.write_table(dataset.data.table, tmp_path / "first" / "train.parquet")
    found = discovery.find(f"hf:{tmp_path / 'first'}")
    assert [row.path.read_bytes() for row in found.rows] == [path.read_bytes() for path in paths]
    paths[3].unlink()
    (tmp_path / "first").rename(tmp_path / "second")
    with pytest.raises(DataError, match=rf"Record 3 of .*{paths[3].name} \(No such file"):
        discovery.find(f"hf:{tmp_path / 'second'}")


def test_record_without_a_picture_is_set_aside(tmp_path):
    columns = {"image": [{"bytes": jpeg("red", 1), "path": None}, None], "label": ["red", "blue"]}
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    dataset = datasets.Dataset.from_dict(columns, features=features)
    found = discovery.find(saved(dataset, tmp_path / "squares"))
    assert [(row.label, row.reason) for row in found.set_aside] == [("blue", "empty file")]


def test_columns_choose(tmp_path):
    dataset = made(
        thumbnail=(datasets.Image(), lambda _, i: {"bytes": jpeg("red", 7 + i), "path": None}),
        kind=(datasets.ClassLabel(names=["even", "odd"]), lambda _, i: i % 2),
        number=(datasets.Value("int32"), lambda _, i: i),
    )
    source = saved(dataset.rename_column("label", "colour"), tmp_path / "squares")
    for columns, words in (
        ({"label": "kind"}, r"several columns of pictures: image, thumbnail.*--path-column"),
        ({"path": "image"}, r"several columns of classes: colour, kind.*--label-column"),
        (
            {"path": "kind"},
            r"no column 'kind' of pictures. All .*kind \(ClassLabel\), number \(int3",
        ),
        ({"path": "image", "label": "thumbnail"}, "no column 'thumbnail' of classes"),
    ):
        with pytest.raises(DataError, match=words):
            discovery.find(source, columns=Columns(**columns))
    chosen = discovery.find(source, columns=Columns(path="thumbnail", label="kind"))
    assert chosen.class_names == ("even", "odd")
    assert chosen.rows[0].path.read_bytes() == jpeg("red", 7)
    numbers = discovery.find(source, columns=Columns(path="image", label="number"))
    assert numbers.class_names == ("0", "1")


def test_column_called_label_needs_no_choice(tmp_path):
    more = {"kind": (datasets.ClassLabel(names=["even", "odd"]), lambda _, i: i % 2)}
    assert discovery.find(saved(made(**more), tmp_path / "squares")).class_names == tuple(COLOURS)


@pytest.mark.parametrize(
    ("column", "words"), [("label", "no column of classes"), ("image", "no column of pictures")]
)
def test_set_of_something_else_is_refused(tmp_path, column, words):
    with pytest.raises(DataError, match=words):
        discovery.find(saved(made().remove_columns(column), tmp_path / "squares"))


def test_splits_of_other_columns_are_refused(tmp_path):
    for split in ("train", "test"):
        saved(made() if split == "train" else made().rename_column("label", "x"), tmp_path / split)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match="no columns 'image' and 'label' in its test split"):
        discovery.find(f"hf:{tmp_path}")


@pytest.mark.long
def test_set_can_be_trained_on(tmp_path):
    source = saved(
        datasets.DatasetDict({"train": made(6), "test": made(2, seed=50)}), tmp_path / "s"
    )
    run = efftune.train(source, recipe="quick", image_size=32, run=tmp_path / "run")
    assert run.record["source"] == source
    assert run.record["data"]["pictures"]["test"] == 6


@pytest.mark.parametrize("name", ["hf:./nowhere", "hf:/nowhere/at/all", "hf:~/nowhere"])
def test_missing_folder_is_named(name):
    with pytest.raises(UsageError, match="There is no folder"):
        discovery.find(name)


def test_empty_name_is_refused():
    with pytest.raises(UsageError, match="A path is empty"):
        discovery.find("hf:")


def test_folder_that_is_no_dataset_is_reported(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"hf:.*empty cannot be loaded: "):
        discovery.find(f"hf:{tmp_path / 'empty'}")


def test_unknown_name_offline_is_a_clear_error():
    with pytest.raises(DataError, match=r"hf:beans cannot be downloaded.*offline.*sample:digits"):
        discovery.find("hf:beans")


def test_missing_network_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies it began with
    huggingface_hub.close_session()  # one that was opened before knows nothing of these
    start = time.monotonic()
    with pytest.raises(DataError, match=r"cannot be reached: .*refused.*sample:digits"):
        discovery.find("hf:beans")
    assert time.monotonic() - start < 10
    assert datasets.config.HF_HUB_OFFLINE is False


def test_without_datasets_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r'pip install "efftune\[hf\]"'):
        discovery.find("hf:beans")


def test_nothing_but_our_own_progress_is_printed(tmp_path, capfd):
    fill(tmp_path / "photos", count=2)
    discovery.find(f"hf:{tmp_path / 'photos'}")
    assert capfd.readouterr() == ("", "")
    assert not datasets.utils.are_progress_bars_disabled()


def test_columns_that_are_not_read_are_refused(tmp_path):
    source = saved(made(patient=(TEXT, lambda _, i: str(i))), tmp_path / "squares")
    with pytest.raises(UsageError, match="--group-column has no effect on hf:"):
        discovery.find(source, columns=Columns(group="patient"))
    assert discovery.find(source, columns=Columns(path="image")).class_names == tuple(COLOURS)
