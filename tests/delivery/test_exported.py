"""Exported files asked by efftune itself; and files that are damaged, or made to harm."""

import csv
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import efftune
from conftest import square
from efftune.delivery import asking, exported, litert_file
from efftune.errors import EfftuneError

NAMES = ["blue", "green", "red"]
KNOWN = {
    **{"classes": json.dumps(NAMES), "image_size": "32", "fit": "crop", "temperature": "1.0"},
    **{"unsure_below": "0.5", "depth": "{}", "input": "pixels", "output": "shares"},
    **{"model": "means", "run": "r", "producer": "efftune"},
}


@pytest.fixture(scope="module")
def made(finished_run, tmp_path_factory):
    """The folder of a run's exports."""
    folder = tmp_path_factory.mktemp("made")
    finished_run.export(["onnx", "openvino"], folder)
    return folder


def means(path, *, known=KNOWN, change=None):
    """A LiteRT file that answers with the softmax of the mean red, green and blue."""
    codes = [
        schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=1)
        for code in (schema.BuiltinOperator.MEAN, schema.BuiltinOperator.SOFTMAX)
    ]
    shapes = {"pixels": [1, 32, 32, 3], "axes": [2], "means": [1, 3], "shares": [1, 3]}
    types = {"axes": schema.TensorType.INT32}
    graph = schema.SubGraphT(
        tensors=[
            schema.TensorT(name=name, shape=shape, type=types.get(name, 0), buffer=name == "axes")
            for name, shape in shapes.items()
        ],
        inputs=[0],
        outputs=[3],
        operators=[
            schema.OperatorT(
                opcodeIndex=0,
                inputs=[0, 1],
                outputs=[2],
                builtinOptionsType=schema.BuiltinOptions.ReducerOptions,
                builtinOptions=schema.ReducerOptionsT(keepDims=False),
            ),
            schema.OperatorT(
                opcodeIndex=1,
                inputs=[2],
                outputs=[3],
                builtinOptionsType=schema.BuiltinOptions.SoftmaxOptions,
                builtinOptions=schema.SoftmaxOptionsT(beta=1.0),
            ),
        ],
    )
    axes = schema.BufferT(data=np.frombuffer(np.int32([1, 2]).tobytes(), np.uint8))
    model = schema.ModelT(
        version=3, operatorCodes=codes, subgraphs=[graph], buffers=[schema.BufferT(), axes]
    )
    if change is not None:
        change(model)
    path.write_bytes(litert_file.packed(model))
    litert_file.describe(path, NAMES, known, 0.5)
    return path


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.ci
@pytest.mark.parametrize(
    "place",
    [
        *("onnx/model.onnx", "openvino"),
        *(pytest.param(place, marks=pytest.mark.long) for place in ("onnx", "openvino/model.xml")),
    ],
)
def test_exports_answer_as_their_run(made, finished_run, source, place, efftune_command):
    path, photos = made / place, [source / "red" / "00.jpg", source / "blue" / "01.png"]
    of_run = finished_run.classifier.predict(photos, top=3)
    of_file = efftune.load(path).predict(photos, top=3)
    for mine, its in zip(of_file, of_run, strict=True):
        assert mine.label == its.label
        assert mine.unsure == its.unsure
        assert mine.unlike is None
        assert [share for _, share in mine.top] == pytest.approx(
            [share for _, share in its.top], abs=1e-4
        )
    raw = efftune.load(path).predict(photos, raw=True)
    assert [each.confidence for each in raw] == pytest.approx(
        [each.confidence for each in finished_run.classifier.predict(photos, raw=True)], abs=1e-3
    )
    lines = efftune_command("predict", path, *photos, "--json", "--top", 2).stdout.splitlines()
    expected = efftune_command("predict", finished_run.folder, *photos, "--json", "--top", 2).stdout
    for mine, its in zip(lines, expected.splitlines(), strict=True):
        assert json.loads(mine).keys() == json.loads(its).keys()
        assert json.loads(mine)["unlike"] is None
    table = rows(efftune_command("predict", path, *photos, "--csv").stdout)
    assert [(row["label"], row["unsure"], row["unlike"]) for row in table] == [
        ("red", "no", ""),
        ("blue", "no", ""),
    ]


def test_picture_that_cannot_be_read_is_told_as_with_a_run(made, tmp_path, efftune_command, source):
    (tmp_path / "cut.png").write_bytes(b"x")
    photos = (source / "red" / "01.png", tmp_path / "cut.png")
    done = efftune_command("predict", made / "onnx", *photos)
    assert done.returncode == 1
    assert "cut.png" in done.stderr
    assert "red" in done.stdout


@pytest.mark.ci
def test_evaluation_is_that_of_the_run(made, finished_run, source, efftune_command):
    words = [source, "--json"]
    its = json.loads(efftune_command("evaluate", finished_run.folder, *words).stdout)
    mine = json.loads(efftune_command("evaluate", made / "onnx", *words).stdout)
    assert mine.keys() == its.keys()
    trained = finished_run.record["data"]["pictures"]["train"]
    assert (mine.pop("trained_on"), its.pop("trained_on")) == (None, trained)
    assert mine["loss"] == pytest.approx(its["loss"], abs=1e-4)
    assert mine | {"loss": 0, "ece": 0} == its | {"loss": 0, "ece": 0}
    table = efftune_command("evaluate", made / "openvino", source).stdout
    told, note, _ = efftune_command("evaluate", finished_run.folder, source).stdout.partition(
        "\nNote"
    )
    assert (told, note) == (table, "\nNote")


@pytest.mark.long
def test_pictures_of_more_bits_are_as_dark_as_for_the_run(tmp_path, source):
    for path in source.rglob("*.*"):
        target = tmp_path / "grey" / path.parent.name / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        Image.fromarray(pixels).save(target)
    run = efftune.train(
        tmp_path / "grey", run=tmp_path / "run", recipe="quick", image_size=32, test=0.2
    )
    assert run.classifier.depth.integers
    (made,) = run.export("onnx")
    photo = tmp_path / "grey" / "red" / "01.png"
    (mine,), (its,) = efftune.load(made.path).predict(photo), run.classifier.predict(photo)
    assert mine.confidence == pytest.approx(its.confidence, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["predict", "EXPORT", "x.png", "--max-error", "1%"], "keeps the threshold"),
        (["predict", "EXPORT", "x.png", "--device", "auto"], "on the CPU"),
        (["predict", "EXPORT", "x.png", "--precision", "auto"], "as it was exported"),
        (["evaluate", "EXPORT", "x", "--device", "gpu"], "on the CPU"),
        (["report", "EXPORT"], "Give its run folder"),
        (["explain", "EXPORT", "x.png"], "Give its run folder"),
        (["review", "EXPORT"], "Give its run folder"),
        (["export", "EXPORT", "--format", "onnx"], "Give its run folder"),
    ],
)
@pytest.mark.parametrize("place", ["onnx", "onnx/model.onnx"])
def test_what_only_a_run_can_do_is_refused(made, efftune_command, words, reason, place):
    done = efftune_command(*[made / place if word == "EXPORT" else word for word in words])
    assert done.returncode == 2
    assert reason in done.stderr


def test_keras_model_is_not_there(made):
    with pytest.raises(efftune.UsageError, match="no Keras model"):
        _ = efftune.load(made / "onnx").model


def test_runtime_that_is_not_installed_is_named(made, monkeypatch):
    monkeypatch.setattr(exported, "find_spec", lambda _name: None)
    with pytest.raises(efftune.UsageError, match="pip install onnx onnxruntime"):
        efftune.load(made / "onnx")


def test_litert_files_answer(tmp_path):
    loaded = efftune.load(means(tmp_path / "model.tflite"))
    assert loaded.runtime.startswith("LiteRT")
    assert loaded.class_names == tuple(NAMES)
    for number in range(3):
        colour = [90, 90, 90]
        colour[number] = 200
        (found,) = loaded.predict(square(tuple(colour), seed=1))
        assert (found.label, found.unsure) == (NAMES[number], False)


@pytest.mark.long
def test_converted_litert_files_answer(finished_run, source, tmp_path):
    (made,) = finished_run.export("litert", tmp_path)
    photo = source / "red" / "01.png"
    (mine,), (its,) = efftune.load(made.path).predict(photo), finished_run.classifier.predict(photo)
    assert mine.confidence == pytest.approx(its.confidence, abs=1e-4)


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")
def test_copies_and_forks_ask_a_process_of_their_own(made, source):
    loaded, photo = efftune.load(made / "onnx"), source / "red" / "01.png"
    (expected,) = loaded.predict(photo)
    assert pickle.loads(pickle.dumps(loaded)).predict(photo) == [expected]
    child = os.fork()
    if not child:
        os._exit(loaded.predict(photo) != [expected])
    assert os.waitpid(child, 0)[1] == 0
    assert loaded.predict(photo) == [expected]


def test_process_ends_with_its_classifier(made):
    loaded = efftune.load(made / "onnx")
    process = loaded._answers._process
    assert process.poll() is None
    del loaded
    assert process.wait(10) is not None


def test_what_lies_in_the_working_folder_is_not_imported(made, tmp_path, monkeypatch, source):
    for name in ("numpy", "onnx", "onnxruntime", "json"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(tmp_path)
    assert efftune.load(made / "onnx").predict(source / "red" / "01.png")[0].label == "red"
    assert not (tmp_path / "executed").exists()


def ended_while_asked(loaded, photo, number):
    """The error of a request whose process is ended by a signal."""
    process = loaded.network._process
    process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(loaded.predict, photo)
        while not any(isinstance(each, threading.Timer) for each in threading.enumerate()):
            time.sleep(0.01)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        return asked.exception()


@pytest.mark.parametrize("number", [9, 11])
def test_crash_of_the_runtime_is_an_error_and_it_begins_again(made, source, number):
    photo = source / "red" / "01.png"
    loaded = efftune.load(made / "onnx")
    expected = loaded.predict(photo)
    error = ended_while_asked(loaded, photo, number)
    assert isinstance(error, efftune.DataError)
    assert f"crashes on it (exit status -{number})" in str(error)
    assert loaded.predict(photo) == expected


@pytest.mark.ci
def test_process_that_has_died_is_begun_again(made, source):
    photo = source / "red" / "01.png"
    loaded = efftune.load(made / "onnx")
    expected = loaded.predict(photo)
    process = loaded.network._process
    process.kill()
    process.wait()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(loaded.predict, [photo] * 8)) == [expected] * 8
    assert process.stdin.closed and process.stdout.closed


@pytest.mark.ci
def test_another_file_in_its_place_does_not_answer_for_it(made, source, tmp_path):
    path = altered(made, tmp_path / "model.onnx", lambda _: None)
    loaded = efftune.load(path)
    altered(made, path, props(classes='["green", "red", "blue"]'))
    loaded.network._process.kill()
    loaded.network._process.wait()
    for _ in range(2):
        with pytest.raises(efftune.DataError, match="another file than when it was loaded"):
            loaded.predict(source / "red" / "01.png")
    path.unlink()
    with pytest.raises(efftune.DataError, match="cannot be read"):
        loaded.predict(source / "red" / "01.png")


def test_signals_that_come_to_the_whole_group_are_left_to_the_parent(made, source):
    photo = source / "red" / "01.png"
    loaded = efftune.load(made / "onnx")
    expected = loaded.predict(photo)
    process = loaded.network._process
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    assert loaded.predict(photo) == expected
    assert loaded.network._process is process


def test_file_that_takes_for_ever_is_an_error(made, source, monkeypatch):
    loaded = efftune.load(made / "onnx")
    monkeypatch.setattr(asking, "_SECONDS", 0.5)
    os.kill(loaded._answers._process.pid, 19)  # it is stopped
    with pytest.raises(efftune.DataError, match="takes more than"):
        loaded.predict(source / "red" / "01.png")


def altered(made, path, change):
    """An ONNX file with something changed."""
    model = onnx.load(made / "onnx" / "model.onnx")
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def props(**values):
    def change(model):
        found = {each.key: each.value for each in model.metadata_props} | values
        onnx.helper.set_model_props(model, {k: v for k, v in found.items() if v is not None})

    return change


def elsewhere(location):
    def change(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def looping(model):
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", [], ["x"], body=body))


def nested(model):
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Identity", ["pixels"], ["x"], body=body))


HARM = {
    "constants elsewhere": (elsewhere("../../secret"), "names another file"),
    "constants at an absolute path": (elsewhere("/etc/passwd"), "names another file"),
    "operation of others": (
        lambda model: model.graph.node.append(
            onnx.helper.make_node("Run", [], ["x"], domain="com.evil")
        ),
        "'Run', which exports never have",
    ),
    "operations of others": (
        lambda model: model.opset_import.add(domain="com.evil", version=1),
        "not ONNX's",
    ),
    "loop": (looping, "'Loop', which exports never have"),
    "graph in a graph": (nested, "graph within"),
    "constant of 2^31 values": (
        lambda model: model.graph.initializer[0].dims.__setitem__(0, 2**31),
        "too large|not whole",
    ),
    "padding of a thousand": (
        lambda model: next(
            attribute
            for node in model.graph.node
            for attribute in node.attribute
            if attribute.name == "pads"
        ).ints.__setitem__(slice(0, 4), [1000] * 4),
        "computes too many",
    ),
    "image size of a million": (props(image_size="1000000"), "image_size .* not 1 to"),
    "image size of another file": (props(image_size="64"), "its runtime refuses it"),
    "threshold that is no number": (props(unsure_below="nan"), "unsure_below"),
    "temperature of 0": (props(temperature="0"), "temperature"),
    "unknown fit": (props(fit="twist"), "fit"),
    "no classes": (props(classes=None), "no classes"),
    "classes that are no list": (props(classes='"red"'), "no list"),
    "classes that are no names": (props(classes="[1, 2, 3]"), "no list"),
    "classes nested deeply": (props(classes="[" * 10**5), "no JSON"),
    "too few labels": (props(classes='["a", "b"]'), "other than 2 values"),
    "too many labels": (props(classes=json.dumps([str(i) for i in range(9)])), "other than 9"),
    "the same label twice": (props(classes='["a", "a", "b"]'), "other names"),
    "a million labels": (props(classes=json.dumps(list(map(str, range(10**6))))), "not 1 to"),
    "depth that is no number": (props(depth='{"integers": [0, "x"]}'), "damaged"),
    "no probabilities": (
        lambda model: setattr(model.graph.node[-2], "op_type", "Identity"),
        "no probabilities|refuses",
    ),
}


@pytest.mark.parametrize("harm", list(HARM))
def test_harmful_onnx_file_is_refused(made, tmp_path, harm):
    change, reason = HARM[harm]
    path = altered(made, tmp_path / "model.onnx", change)
    with pytest.raises(efftune.DataError, match=reason) as refused:
        efftune.load(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 500


def xml_of(made, folder, change):
    text = (made / "openvino" / "model.xml").read_text()
    altered_text = change(text)
    assert altered_text != text
    os.link(made / "openvino" / "model.bin", folder / "model.bin")
    (folder / "model.xml").write_text(altered_text)
    return folder / "model.xml"


ENTITY = '<!DOCTYPE n [<!ENTITY a "{}"><!ENTITY b SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('<?xml version="1.0"?>', ENTITY.format("a" * 99), "entities"),
        ('type="Clamp"', 'type="Loop"', "never have"),
        ('version="opset1"', 'version="extension"', "never have"),
        ('offset="0"', f'offset="{2**31}"', "not whole"),
        ("<layers>", "<layers>" + "<a>" * 10**5, "nested"),
        ("<rt_info>", "<extensions/><rt_info>", "graph within"),
        ("efftune>", "other>", "no classes"),
        ("<net", "<html", "no XML|no OpenVINO"),
        ('strides="2, 2"', 'strides="0, 0"', "refuses"),
        ("<dim>32</dim>", "<dim>99999999999999999999999999</dim>", "refuses"),
    ],
)
def test_harmful_openvino_file_is_refused(made, tmp_path, old, new, reason):
    path = xml_of(made, tmp_path, lambda text: text.replace(old, new))
    with pytest.raises(efftune.DataError, match=reason):
        efftune.load(path)


def test_openvino_file_that_computes_too_much_is_refused(made, tmp_path):
    path = xml_of(
        *(made, tmp_path),
        lambda text: re.sub(
            r'pads_begin="0, 0" pads_end="0, 0"(.*?)auto_pad="\w+"',
            r'pads_begin="999, 999" pads_end="999, 999"\1auto_pad="explicit"',
            text,
            count=1,
        ),
    )
    with pytest.raises(efftune.DataError, match="too many values"):
        efftune.load(path)


def test_openvino_file_without_its_weights_is_refused(made, tmp_path):
    path = xml_of(made, tmp_path, lambda text: text + "\n")
    (tmp_path / "model.bin").unlink()
    with pytest.raises(efftune.DataError, match=r"model\.bin is missing"):
        efftune.load(path)
    (tmp_path / "model.bin").symlink_to("/dev/zero")
    with pytest.raises(efftune.DataError, match=r"model\.bin lies outside"):
        efftune.load(path)


LITERT = {
    "custom operation": lambda model: setattr(model.operatorCodes[0], "customCode", "FlexAdd"),
    "tensor that is not there": lambda model: setattr(
        model.subgraphs[0].operators[0], "inputs", [0, 99]
    ),
    "tensor before the first": lambda model: setattr(
        model.subgraphs[0].operators[0], "inputs", [0, -7]
    ),
    "output that is not there": lambda model: setattr(model.subgraphs[0], "outputs", [2**30]),
    "operation that is not there": lambda model: setattr(
        model.subgraphs[0].operators[0], "opcodeIndex", 2**30
    ),
    "buffer that is not there": lambda model: setattr(
        model.subgraphs[0].tensors[0], "buffer", 2**30
    ),
    "constant larger than its buffer": lambda model: setattr(
        model.subgraphs[0].tensors[1], "shape", [2**20]
    ),
    "tensor of all memory": lambda model: setattr(
        model.subgraphs[0].tensors[2], "shape", [2**15, 2**15]
    ),
    "second graph": lambda model: model.subgraphs.append(model.subgraphs[0]),
    "constant elsewhere": lambda model: setattr(model.buffers[1], "offset", 2**40),
}


@pytest.mark.parametrize("harm", list(LITERT))
def test_harmful_litert_file_is_refused(tmp_path, harm):
    with pytest.raises(efftune.DataError, match="cannot be used"):
        efftune.load(means(tmp_path / "model.tflite", change=LITERT[harm]))


def test_litert_file_of_others_is_refused(tmp_path):
    path = means(tmp_path / "model.tflite")
    path.write_bytes(path.read_bytes().replace(b"EFFTUNE_META", b"SOMEONE_META"))
    with pytest.raises(efftune.DataError, match="no metadata of efftune"):
        efftune.load(path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".tflite"])
@pytest.mark.parametrize("kind", ["empty", "text", "folder", "pipe", "device", "missing", "huge"])
def test_what_is_no_file_of_that_kind_is_refused(tmp_path, suffix, kind, efftune_command, source):
    path = tmp_path / f"model{suffix}"
    if kind in ("empty", "text", "huge"):
        path.write_bytes(b"" if kind == "empty" else b"my thesis")
        (tmp_path / "model.bin").write_bytes(b"x")
    if kind == "huge":
        os.truncate(path, 2**40)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    done = efftune_command("predict", path, source / "red" / "01.png")
    assert done.returncode in (1, 2)
    assert str(path) in done.stderr or kind == "device"
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="there are no permissions of that kind")
def test_file_that_may_not_be_read_is_told(made, tmp_path):
    path = altered(made, tmp_path / "model.onnx", lambda _model: None)
    path.chmod(0)
    code = (
        "import os, sys, efftune\n"
        "efftune.load  # is read as who we are\n"
        "os.getuid() or os.seteuid(65534)\n"
        "try:\n    efftune.load(sys.argv[1])\n"
        "except (efftune.EfftuneError, PermissionError) as error:\n    print('told', error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.startswith("told"), done.stderr
    assert str(path) in done.stdout


@pytest.mark.parametrize(
    "receipt",
    ["{", "[]", '{"file": "../model.onnx"}', '{"file": "a.txt"}', '{"file": 1}', "[" * 9**5],
)
def test_folder_whose_receipt_names_no_file_of_it_is_refused(tmp_path, receipt):
    (tmp_path / "receipt.json").write_text(receipt)
    with pytest.raises(efftune.DataError, match="names no exported file"):
        efftune.load(tmp_path)


@pytest.mark.long
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    where=st.floats(0, 1, exclude_max=True),
    bits=st.sampled_from([b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff", b"\x01", b"\x80"]),
    cut_of=st.tuples(st.booleans(), st.sampled_from([".onnx", ".tflite"])),
)
def test_damage_anywhere_is_an_error_or_harmless(
    made, source, tmp_path_factory, where, bits, cut_of
):
    cut, suffix = cut_of
    path = tmp_path_factory.mktemp("damaged") / f"model{suffix}"
    if suffix == ".tflite":
        content = bytearray(means(path).read_bytes())
        at = int(where * len(content))
    else:
        content = bytearray((made / "onnx" / "model.onnx").read_bytes())
        at = int(where * 40_000)  # the rest is weights
    content[at : None if cut else at + len(bits)] = bits
    path.write_bytes(content)
    try:
        (found,) = efftune.load(path).predict(source / "red" / "01.png")
    except EfftuneError as error:
        assert str(path) in str(error)
    else:
        assert 0 <= found.confidence <= 1.001
