"""The Open Inference Protocol, against its specification; the client of Triton has a test too."""

import base64
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from efftune.serving import inference_protocol
from efftune.serving.inference_protocol import _Invalid

HEADER = "Inference-Header-Content-Length"
OUTPUTS = ["probabilities", "label", "confidence", "unsure", "unlike"]


@pytest.fixture(scope="module")
def path(client) -> str:
    return f"/v2/models/{client.ask('/info').json['name']}"


def asked(tensor: dict, **more: object) -> bytes:
    return json.dumps({"inputs": [tensor], **more}).encode()


def files_in_json(*pictures: bytes) -> dict:
    data = [base64.b64encode(each).decode() for each in pictures]
    return {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}


def binary(message: dict, *parts: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(message).encode()
    return b"".join([text, *parts]), {
        HEADER: str(len(text)),
        "content-type": "application/octet-stream",
    }


def prefixed(*pictures: bytes) -> bytes:
    return b"".join(len(each).to_bytes(4, "little") + each for each in pictures)


def outputs(answer) -> dict:
    assert answer.status == 200, answer.body
    return {each["name"]: each for each in answer.json["outputs"]}


def test_what_it_is(client, path):
    assert client.ask("/v2").json["extensions"] == ["binary_tensor_data"]
    assert client.ask("/v2/health/live").json == {"live": True}
    assert client.ask("/v2/health/ready").json == {"ready": True}
    for place in (path, f"{path}/versions/1"):
        assert client.ask(f"{place}/ready").json["ready"]
        described = client.ask(place).json
        assert described["name"] == path.rpartition("/")[2]
        assert described["versions"] == ["1"]
        assert described["inputs"] == [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, 32, 32, 3]},
        ]
        assert [each["name"] for each in described["outputs"]] == OUTPUTS
    for place in ("/v2/models/other", "/v2/models/other/ready", f"{path}/versions/2"):
        assert client.ask(place).status == 404
    assert client.send("/v2/models/other/infer", b"{}").status == 404


def test_files_have_the_answers_of_predict(client, path, squares):
    pictures = list(squares.values())
    found = outputs(client.send(f"{path}/infer", asked(files_in_json(*pictures), id="a b")))
    expected = [client.send("/predict?top=3", each).json for each in pictures]
    assert found["label"]["data"] == [each["label"] for each in expected]
    assert found["probabilities"]["shape"] == [len(pictures), 3]
    rows = np.array(found["probabilities"]["data"], np.float32).reshape(-1, 3)
    for row, each in zip(rows, expected, strict=True):
        assert {each["class_index"]: each["confidence"] for each in each["top"]} == dict(
            enumerate(row.tolist())
        )
    assert found["unsure"]["data"] == [each["unsure"] for each in expected]
    assert found["unlike"]["data"] == [each["unlike"] for each in expected]


def test_the_binary_extension_says_the_same(client, path, squares):
    pictures = list(squares.values())
    plain = outputs(client.send(f"{path}/infer", asked(files_in_json(*pictures), id="7")))
    part = prefixed(*pictures)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(pictures)]}
    tensor["parameters"] = {"binary_data_size": len(part)}
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
    body, headers = binary({"id": "7", "inputs": [tensor], "outputs": wanted}, part)
    answer = client.send(f"{path}/infer", body, **headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    end = int(answer.headers[HEADER.lower()])
    message, rest = json.loads(answer.body[:end]), answer.body[end:]
    assert message["id"] == "7"
    values = {}
    for each in message["outputs"]:
        size = each["parameters"]["binary_data_size"]
        values[each["name"]], rest = rest[:size], rest[size:]
    assert rest == b""
    assert np.frombuffer(values["probabilities"], "<f4").tolist() == plain["probabilities"]["data"]
    assert np.frombuffer(values["confidence"], "<f4").tolist() == plain["confidence"]["data"]
    assert values["label"] == prefixed(*(each.encode() for each in plain["label"]["data"]))
    assert np.frombuffer(values["unsure"], "?").tolist() == plain["unsure"]["data"]
    everything, headers = binary(
        {"inputs": [tensor], "parameters": {"binary_data_output": True}}, part
    )
    assert HEADER.lower() in client.send(f"{path}/infer", everything, **headers).headers


@pytest.mark.parametrize("kind", ["UINT8", "FP32"])
def test_pixels(client, path, finished_run, squares, kind):
    pixels = np.stack([finished_run.classifier.decode(each) for each in squares.values()])
    given = pixels.astype({"UINT8": "u1", "FP32": "<f4"}[kind])
    tensor = {"name": "pixels", "datatype": kind, "shape": list(pixels.shape)}
    expected = [each.partition(".")[0] for each in squares]
    for data in (given.tolist(), given.ravel().tolist()):
        found = outputs(client.send(f"{path}/infer", asked({**tensor, "data": data})))
        assert found["label"]["data"] == expected
    part = given.tobytes()
    body, headers = binary(
        {"inputs": [{**tensor, "parameters": {"binary_data_size": len(part)}}]}, part
    )
    assert outputs(client.send(f"{path}/infer", body, **headers)) == found


def test_pixels_of_any_size_are_pictures(client, path):
    red = np.zeros((1, 40, 60, 3), np.uint8) + np.array([200, 50, 40], np.uint8)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 40, 60, 3], "data": red.tolist()}
    found = outputs(client.send(f"{path}/infer", asked(tensor, outputs=[{"name": "label"}])))
    assert list(found) == ["label"]


def test_a_picture_that_cannot_be_used_is_named(client, path, squares):
    tensor = files_in_json(squares["red.png"], b"no picture")
    answer = client.send(f"{path}/infer", asked(tensor))
    assert answer.status == 400
    assert answer.json["error"] == "picture 1 cannot be used: not an image."


PIXELS = {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 1, 3]}
FILE = files_in_json(b"a")
INVALID = [
    *(b"", b"[]", b"null", b"{", b"\xff\xfe\xff", b"[" * 100_000, b'{"a":' * 5000, b"1" * 5000),
    *(b"{}", b'{"inputs": {}}', b'{"inputs": []}', b'{"inputs": [1]}', b'{"inputs": [{}, {}]}'),
    *(asked({**PIXELS, "data": data}) for data in ([], [1, 2], [[1, 2], [3]], ["a"] * 3, None)),
    *(asked({**PIXELS, "data": data}) for data in ([{}] * 3, [256] * 3, [-1] * 3, [10**400] * 3)),
    *(asked({**PIXELS, "data": data}) for data in ([float("nan")] * 3, [None] * 3, {}, "abc")),
    *(asked({**PIXELS, "data": [1] * 3, "datatype": kind}) for kind in ("INT8", "", None, [], 3)),
    *(asked({**FILE, "shape": shape}) for shape in ([], [0], [-1], [1.0], ["1"], [True], [2], 1)),
    *(asked({**FILE, "shape": shape}) for shape in ([65], [1, 2], [2**31], [1, *[2**30] * 5000])),
    *(asked({**PIXELS, "shape": each, "data": [1] * 3}) for each in ([1, 1, 3], [1, 1, 1, 4], [3])),
    asked({**PIXELS, "shape": [1, 2**30, 2**30, 3], "data": [1]}),
    *(asked({**FILE, "data": data}) for data in ([1], ["?"], ["YQ"], ["\ud800"], [[]], "YQ==")),
    *(asked(FILE, id=value) for value in (1, None, ["a"], "\ud800")),
    *(asked(FILE, parameters=value) for value in (1, [], "a")),
    *(asked(FILE, outputs=value) for value in (1, "a", [1], [{}], [{"name": 1}])),
    asked(FILE, outputs=[{"name": "\ud800"}]),
    asked(FILE, outputs=[{"name": "probabilities"}] * 6),
    asked(FILE, outputs=[{"name": "label", "parameters": []}]),
    *(asked({**FILE, "parameters": {"binary_data_size": size}}) for size in (1, "1", 1.0, True)),
]  # fmt: skip


@pytest.mark.parametrize("body", INVALID, ids=range(len(INVALID)))
def test_requests_that_are_none(client, path, body):
    answer = client.send(f"{path}/infer", body)
    assert answer.status == 400
    assert answer.json["error"]


@pytest.mark.parametrize("value", ["-1", "1.0", "x", "9" * 5000, "99999", "²", "0x5", "1, 2", ""])
def test_lengths_that_are_none(client, path, value):
    body = asked(FILE)
    start = f"POST {path}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\n{HEADER}: {value}\r\n"
    start += f"Content-Length: {len(body)}\r\n\r\n"
    (answer,) = client.raw(start.encode("latin-1") + body)
    assert answer.status == 400


@pytest.mark.parametrize(
    "part",
    [
        *(b"", b"\x01", b"\x01\0\0\0", b"\xff\xff\xff\xffa", b"\x01\0\0\0ab", b"\x01\0\0\0a" * 2),
        b"\0\0\0\0",
    ],
)
def test_binary_tensors_that_are_none(client, path, part):
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    for size in (len(part), len(part) + 1):
        message = {"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]}
        body, headers = binary(message, part)
        assert client.send(f"{path}/infer", body, **headers).status == 400
    body, headers = binary({"inputs": [tensor]}, b"a")
    assert client.send(f"{path}/infer", body, **headers).status == 400


@pytest.mark.ci
def test_much_json_is_read_and_not_multiplied(client, path):
    tensor = {**PIXELS, "shape": [1, 500, 500, 3], "data": [7] * 750_000}
    answer = client.send(f"{path}/infer", asked(tensor))
    assert answer.status == 200
    many = [{"name": "probabilities"}] * 100_000
    assert client.send(f"{path}/infer", asked(FILE, outputs=many)).status == 400


words = st.sampled_from(
    [
        *("inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "image"),
        *("pixels", "BYTES", "UINT8", "FP32", "label", "binary_data_size", "binary_data"),
        "binary_data_output",
    ]
)
leaves = words | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=6)
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": words,
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"]) | leaves,
        "shape": st.lists(st.integers(-1, 4), max_size=5) | values,
        "data": values,
        "parameters": st.dictionaries(words, leaves, max_size=2) | values,
    },
)
messages = values | st.fixed_dictionaries(
    {"inputs": st.lists(tensors, min_size=1, max_size=1)},
    optional={"id": leaves, "outputs": values, "parameters": values},
)


@pytest.mark.ci
@settings(max_examples=100, deadline=None)
@given(message=messages, rest=st.binary(max_size=20), cut=st.integers(-5, 5) | st.none())
@example(message={"inputs": [FILE]}, rest=b"", cut=None)
def test_any_json_is_read_or_refused(message, rest, cut):
    text = json.dumps(message).encode()
    header = None if cut is None else str(len(text) + cut)
    try:
        found, pictures = inference_protocol._asked(text + rest, header=header, most=64)
    except _Invalid:
        return
    assert 1 <= len(pictures) <= 64
    assert {name for name, _ in found.outputs} <= set(OUTPUTS)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60), header=st.none() | st.text(max_size=8))
def test_any_bytes_are_refused(content, header):
    with pytest.raises(_Invalid):
        inference_protocol._asked(content, header=header, most=64)


@pytest.mark.ci
@settings(max_examples=40, deadline=None)
@given(message=messages, rest=st.binary(max_size=20))
def test_no_json_fails_the_server(client, path, message, rest):
    body, headers = binary(message, rest)
    assert client.send(f"{path}/infer", body, **headers).status in (200, 400)
