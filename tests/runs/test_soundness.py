"""Run folders that are damaged, or made to harm: refused with a reason, and nothing is executed."""

import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import efftune
from efftune.errors import EfftuneError
from efftune.evaluation import metrics
from efftune.evaluation.metrics import Evaluation
from efftune.model.engines import keras_check
from efftune.model.uncertainty import Uncertainty
from efftune.runs import contents, loading, soundness
from efftune.system import files

COMMANDS = ("predict", "evaluate", "report", "explain", "export")


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy to damage."""
    return shutil.copytree(finished_run.folder, tmp_path / "run")


def sealed(run):
    """Let the checksums fit: who makes a run makes these, too."""
    record = json.loads((run / "run.json").read_text())
    record["files"] = {name: files.sha256(run / name) for name in record["files"]}
    (run / "run.json").write_text(json.dumps(record))


def changed(run, name, change):
    """Change a JSON file of a run."""
    values = json.loads((run / name).read_text())
    change(values)
    (run / name).write_text(json.dumps(values))


def with_config(run, change):
    """Change the description of the network in the Keras file."""
    with zipfile.ZipFile(run / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    change(config)
    parts["config.json"] = json.dumps(config).encode()
    write_keras(run, parts)


def write_keras(run, parts, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(run / "model.keras", "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    sealed(run)


def add_lambda(config):
    config["config"]["layers"].append(
        {"module": "keras.layers", "class_name": "Lambda", "config": {"function": {}}}
    )


def keras_parts(run):
    with zipfile.ZipFile(run / "model.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def linked(run, name, target):
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)


def piped(run, name):
    (run / name).unlink()
    os.mkfifo(run / name)


def huge(run, name):
    with (run / name).open("r+b") as stream:
        stream.truncate(2**40)  # takes no space


def xml(run, old, new, count=1):
    path = run / "openvino" / "model.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))
    sealed(run)


def arrays(run, **values):
    with np.load(run / "uncertainty.npz") as stored:
        np.savez(run / "uncertainty.npz", **(dict(stored) | values))
    sealed(run)


def pickled(run):
    """A NumPy file that runs code when it is unpickled."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], object), allow_pickle=True)
    with zipfile.ZipFile(run / "uncertainty.npz", "w") as archive:
        archive.writestr("numbers.npy", buffer.getvalue())
    sealed(run)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def claiming(shape):
    """A NumPy array that claims to be larger than it is."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def claiming_arrays(run):
    with zipfile.ZipFile(run / "uncertainty.npz") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(run / "uncertainty.npz", "w") as archive:
        for name, content in (parts | {"references.npy": claiming((2**20, 2**30))}).items():
            archive.writestr(name, content)
    sealed(run)


def compressed_arrays(run):
    np.savez_compressed(run / "uncertainty.npz", numbers=np.zeros(2**24))
    sealed(run)


def named(run, name):
    changed(run, "run.json", lambda record: record["files"].update({name: "0" * 64}))


def model(run, **values):
    changed(run, "run.json", lambda record: record["model"].update(values))


HARM = {
    "Lambda layer": lambda run: with_config(run, add_lambda),
    "layer of another module": lambda run: with_config(
        run, lambda config: config["config"]["layers"][0].update(module="os", class_name="system")
    ),
    "registered class": lambda run: with_config(
        run, lambda config: config["config"]["layers"][0].update(registered_name="mine>Bad")
    ),
    "Keras file with a way out": lambda run: write_keras(
        run, keras_parts(run) | {"../escaped": b"x"}
    ),
    "Keras file that unpacks to much": lambda run: write_keras(
        run, keras_parts(run) | {"model.weights.h5": bytes(2**28)}, zipfile.ZIP_DEFLATED
    ),
    "Keras file that is none": lambda run: ((run / "model.keras").write_bytes(b"x"), sealed(run)),
    "pickle in uncertainty.npz": pickled,
    "uncertainty.npz that unpacks to much": compressed_arrays,
    "array larger than its file": claiming_arrays,
    "threshold that is no number": lambda run: arrays(run, numbers=np.array([1, np.nan, 1])),
    "temperature of 0": lambda run: arrays(run, numbers=np.array([0.0, 0.5, 1])),
    "references of texts": lambda run: arrays(run, references=np.array([["a"]])),
    "references that are no numbers": lambda run: arrays(run, references=np.array([[np.nan]])),
    "run.json that is huge": lambda run: huge(run, "run.json"),
    "run.json nested deeply": lambda run: (run / "run.json").write_text("[" * 10**6),
    "run.json that is no JSON": lambda run: (run / "run.json").write_bytes(b"\xff\xfe"),
    "run.json of another kind": lambda run: (run / "run.json").write_text('["state"]'),
    "files that are a list": lambda run: changed(
        run, "run.json", lambda record: record.update(files=["model.keras"])
    ),
    "model that is a text": lambda run: changed(
        run, "run.json", lambda record: record.update(model="lite0")
    ),
    "image size of a million": lambda run: model(run, image_size=10**6),
    "image size that is a text": lambda run: model(run, image_size="32"),
    "fit that is unknown": lambda run: model(run, fit="twist"),
    "depth that is no number": lambda run: model(run, depth={"integers": [0, "x"]}),
    "file outside, relative": lambda run: named(run, "../../secret"),
    "file outside, absolute": lambda run: named(run, "/etc/passwd"),
    "file with a zero in its name": lambda run: named(run, "a\0b"),
    "run.json is a link out": lambda run: linked(run, "run.json", "/etc/passwd"),
    "classes.json is a link out": lambda run: linked(run, "classes.json", "/etc/passwd"),
    "model.bin is a link to a device": lambda run: linked(run, "openvino/model.bin", "/dev/zero"),
    "link to itself": lambda run: linked(run, "classes.json", "classes.json"),
    "run.json is a pipe": lambda run: piped(run, "run.json"),
    "recipe.toml is a pipe": lambda run: piped(run, "recipe.toml"),
    "examples.csv is a pipe": lambda run: piped(run, "examples.csv"),
    "thumbnails.json is a device": lambda run: linked(run, "thumbnails.json", "/dev/zero"),
    "model.keras that is huge": lambda run: huge(run, "model.keras"),
}
OF_CLASSIFIER = {  # which `report` does not read
    "references of other features": lambda run: arrays(
        run, references=np.ones((3, 5000), np.float16)
    ),
    "no class names": lambda run: ((run / "classes.json").write_text("{}"), sealed(run)),
    "one name too few": lambda run: ((run / "classes.json").write_text('["a"]'), sealed(run)),
    "class names that are numbers": lambda run: (
        (run / "classes.json").write_text("[1, 2, 3]"),
        sealed(run),
    ),
    "entities": lambda run: xml(
        run, '<?xml version="1.0"?>', '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'
    ),
    "operation that reads files": lambda run: xml(run, 'type="Clamp"', 'type="ReadValue"'),
    "operation of an extension": lambda run: xml(run, 'version="opset1"', 'version="mine"'),
    "constant beyond the weights": lambda run: xml(run, 'offset="0"', f'offset="{2**40}"'),
    "constant before the weights": lambda run: xml(run, 'offset="0"', 'offset="-64"'),
    "constant of overflowing size": lambda run: xml(
        run, 'element_type="i64" shape="4"', f'element_type="i64" shape="{2**31 - 1},{2**31 - 1},8"'
    ),
    "no XML": lambda run: ((run / "openvino" / "model.xml").write_text("<net"), sealed(run)),
    "nested deeply": lambda run: xml(run, "<layers>", "<layers>" + "<a>" * 10**5),
    "stride of 0": lambda run: xml(run, 'strides="2, 2"', 'strides="0, 0"'),
    "weights cut off": lambda run: (os.truncate(run / "openvino" / "model.bin", 99), sealed(run)),
    "weights of no number": lambda run: (
        (run / "openvino" / "model.bin").write_bytes(
            b"\xff" * (run / "openvino" / "model.bin").stat().st_size
        ),
        sealed(run),
    ),
}


@pytest.mark.parametrize("harm", list(HARM))
def test_harmful_run_is_refused(run, source, tmp_path, efftune_command, harm):
    HARM[harm](run)
    photo = source / "red" / "01.png"
    more = {"predict": [photo], "explain": [photo], "evaluate": [source]}
    more["export"] = ["--format", "onnx"]
    left = set(tmp_path.rglob("*"))
    wanted = COMMANDS
    if "uncertainty" in harm or any(
        word in harm
        for word in ("threshold", "temperature", "references", "array", "zero", "file o")
    ):
        wanted = ("predict", "evaluate", "explain", "export")  # nor does `report` read these
    for command in wanted:
        done = efftune_command(command, run, *more.get(command, []))
        assert done.returncode in (1, 2), command
        assert str(run) in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr) < 600
        assert not done.stdout
    assert set(tmp_path.rglob("*")) <= left | {run / "report.html"}


@pytest.mark.parametrize("harm", list(OF_CLASSIFIER))
def test_harmful_classifier_is_refused(run, source, tmp_path, harm):
    OF_CLASSIFIER[harm](run)
    with pytest.raises(EfftuneError, match=r"cannot be used|damaged|gives"):
        efftune.load(run).predict(source / "red" / "01.png")


@pytest.mark.parametrize("kind", ["external", "soft", "elsewhere", "virtual", "compressed", "loop"])
def test_weights_that_are_not_in_the_file_are_refused(run, tmp_path, kind):
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "w.h5", "w") as weights:
        if kind == "external":
            weights["x"] = h5py.ExternalLink("/etc/passwd", "x")
        elif kind == "soft":
            weights["x"] = h5py.SoftLink("/y")
        elif kind == "elsewhere":
            weights.create_dataset("x", (16,), "f4", external=[(tmp_path / "secret", 0, 64)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
            weights.create_virtual_dataset("x", layout)
        elif kind == "compressed":
            weights.create_dataset("x", data=np.zeros(2**20), compression="gzip")
        else:
            weights.create_group("a")["b"] = weights["/"]
    parts = keras_parts(run) | {"model.weights.h5": (tmp_path / "w.h5").read_bytes()}
    write_keras(run, parts)
    with pytest.raises(efftune.DataError, match=r"model\.keras cannot be used"):
        _ = efftune.load(run).model


@pytest.mark.long
def test_sound_runs_are_not_refused(finished_run, tuned_run, tmp_path):
    for each in (finished_run, tuned_run):
        keras_check.require_plain(each.folder / "model.keras", weights=True)
        latest = tmp_path / each.folder.name
        latest.symlink_to(each.folder)  # by the user
        assert loading.record_of(latest) == each.record


def test_links_within_a_run_are_followed(run, source):
    (run / "classes.json").rename(run / "names.json")
    (run / "classes.json").symlink_to("names.json")
    assert efftune.load(run).predict(source / "red" / "01.png")[0].label == "red"


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_what_is_no_run_is_refused(tmp_path, efftune_command, source, content):
    path = tmp_path / "thing"
    if content is None:
        shutil.copytree(source, path)
    else:
        path.write_bytes(content)
    done = efftune_command("predict", path, source / "red" / "01.png")
    assert done.returncode == 1
    assert "is not a finished run" in done.stderr


def test_run_of_many_classes_and_pictures_is_read(run):
    os.truncate(run / "evaluation.json", 2**29)  # takes no space
    os.truncate(run / "predictions.csv", 2**35)
    soundness.require_sound(run)


@pytest.mark.ci
def test_evaluation_of_many_classes_is_as_large_as_is_read():
    names = [f'{i} "confusion": []' for i in range(500)]
    random = np.random.default_rng(0)
    probabilities, labels = random.random((500, 500)), random.integers(0, 500, 500)
    score = metrics.evaluate(probabilities, labels, names)
    found = Evaluation(score, replace(score, accuracy=0.5), test_without_leaks=score)
    text = contents._evaluation_json(found.to_dict())
    assert Evaluation.from_dict(json.loads(text)) == found
    assert json.loads(text) == json.loads(contents._json(found.to_dict()))
    lines = text.splitlines()
    assert sum(line.startswith("   [0,") for line in lines) > 1400  # a row of a matrix each
    cells, without = 3 * 500**2, replace(score, confusion=())
    others = len(contents._json(Evaluation(*[without] * 3).to_dict()))
    per_cell = (len(text) - others) / cells
    assert 4 * 10_000**2 * per_cell + 4 * 40 * others / 3 < soundness._MOST["evaluation.json"]


def junk():
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    return st.recursive(
        leaves,
        lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each),
        max_leaves=8,
    )


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_of_run_json_is_used_or_refused(finished_run, tmp_path_factory, data):
    record = json.loads((finished_run.folder / "run.json").read_text())
    place, keys = record, data.draw(st.sampled_from([("model",), ("files",), ()]))
    for key in keys:
        place = place[key]
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(junk())
    folder = tmp_path_factory.mktemp("junk")
    for path in finished_run.folder.rglob("*.*"):
        link = folder / path.relative_to(finished_run.folder)
        link.parent.mkdir(exist_ok=True)
        if path.is_file() and path.name != "run.json":
            os.link(path, link)
    (folder / "run.json").write_text(json.dumps(record))
    for use in (efftune.load, efftune.Run.load):
        try:
            use(folder)
        except EfftuneError as error:
            assert str(folder) in str(error)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    part=st.sampled_from(["uncertainty.npz", "classes.json", "evaluation.json", "recipe.toml"]),
    where=st.floats(0, 1, exclude_max=True),
    bits=st.binary(min_size=1, max_size=8),
    cut=st.booleans(),
)
def test_damage_anywhere_is_refused_or_harmless(
    finished_run, tmp_path_factory, part, where, bits, cut
):
    path = tmp_path_factory.mktemp("damaged") / part
    content = bytearray((finished_run.folder / part).read_bytes())
    at = int(where * min(len(content), 4000))
    content[at : None if cut else at + len(bits)] = bits
    path.write_bytes(content)
    for name in ("run.json", "evaluation.json", "recipe.toml"):
        if name != part:
            os.link(finished_run.folder / name, path.parent / name)
    try:
        if part == "uncertainty.npz":
            Uncertainty.read(path)
        elif part != "classes.json":
            efftune.Run.load(Path(path.parent))
    except EfftuneError as error:
        assert str(path.parent) in str(error)
