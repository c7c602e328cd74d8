"""What the server answers, over HTTP."""

import base64
import csv
import io
import json
import os
import shutil
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import odd_files, planted
from efftune.data import images
from efftune.errors import BadImage
from efftune.serving.service import Service
from efftune.system import files

from .client import MULTIPART, multipart
from .conftest import serving

SAID_ABOUT = {"request_id", "ms", "model"}


def predicted(efftune_command, run, folder: Path, pictures: dict[str, bytes], *options):
    """What `efftune predict` prints for the same files."""
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in pictures]
    for path, content in zip(paths, pictures.values(), strict=True):
        path.write_bytes(content)
    done = efftune_command("predict", run.folder, *paths, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_path(answer: dict) -> dict:
    return {key: value for key, value in answer.items() if key not in {"path", *SAID_ABOUT}}


def test_one_picture_has_the_answer_of_predict(
    client, finished_run, squares, efftune_command, tmp_path
):
    told = predicted(efftune_command, finished_run, tmp_path / "a", squares, "--json", "--top", 3)
    for line, content in zip(told.splitlines(), squares.values(), strict=True):
        answer = client.send("/predict?top=3", content)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"] == answer.json["request_id"]
        assert answer.json["model"] == client.ask("/info").json["checksum"]
        assert answer.json["ms"] > 0
        assert set(json.loads(line)) | SAID_ABOUT == set(answer.json)
        assert without_path(json.loads(line)) == without_path(answer.json)


@pytest.mark.ci
def test_several_pictures_have_an_answer_each(
    client, finished_run, squares, efftune_command, tmp_path
):
    told = predicted(efftune_command, finished_run, tmp_path / "a", squares, "--json")
    answer = client.send_several("/predict", {**squares, "text.jpg": b"no picture"})
    *good, bad = answer.json["predictions"]
    assert [each["path"] for each in good] == list(squares)
    lines = [without_path(json.loads(line)) for line in told.splitlines()]
    assert lines == list(map(without_path, good))
    assert bad == {"path": "text.jpg", "error": "not an image"}


@pytest.mark.ci
def test_csv_is_that_of_predict(client, finished_run, squares, efftune_command, tmp_path):
    told = predicted(efftune_command, finished_run, tmp_path / "a", squares, "--csv", "--top", 2)
    answer = client.send_several("/predict?top=2", squares, accept="text/csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.body.decode() == told.replace(f"{tmp_path / 'a'}/", "")
    alone = client.send(
        "/predict", squares["red.png"], accept="text/csv;q=1", content_type="image/png"
    )
    (row,) = csv.DictReader(io.StringIO(alone.body.decode()))
    assert row["label"] == "red"
    assert row["path"] == ""


def test_csv_tells_of_pictures_without_an_answer(client, squares):
    pictures = {"a.png": squares["red.png"], "b.png": b"no picture", "c.png": b""}
    answer = client.send_several("/predict", pictures, accept="text/csv")
    assert answer.headers["x-unreadable"] == "2"
    assert len(answer.body.splitlines()) == 2


def test_explanations_are_pictures(client, squares):
    answer = client.send("/explain?label=green", squares["red.png"])
    assert answer.headers["content-type"] == "image/png"
    assert unquote(answer.headers["x-label"]) == "green"
    assert 0 <= float(answer.headers["x-confidence"]) < 0.5
    with Image.open(io.BytesIO(answer.body)) as image:
        assert image.size == (448, 448)
    own = client.send("/explain", squares["red.png"])
    assert own.headers["x-label"] == "red"
    assert own.body != answer.body
    assert client.send("/explain?label=violet", squares["red.png"]).status == 400


@pytest.mark.ci
def test_explanations_at_the_same_time_share_a_network(finished_run, squares, monkeypatch):
    made = []
    with serving(finished_run.folder) as client:
        engine = client.state.service.classifier.engine
        explainer = engine.explainer

        def noted(*arguments, **choices):
            made.append(arguments)
            return explainer(*arguments, **choices)

        monkeypatch.setattr(engine, "explainer", noted)
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda each: client.send("/explain", each), [*squares.values()][:4])
            )
    assert [each.status for each in answers] == [200] * 4
    assert len(made) == 1


def test_info_knows_the_run_and_no_place(client, finished_run):
    info = client.ask("/info").json
    assert info["classes"] == ["blue", "green", "red"]
    assert info["name"] == finished_run.folder.name
    assert info["judged"]["val"]["accuracy"] == finished_run.summary["val"]["accuracy"]
    assert info["versions"]["efftune"]
    for path in ("/info", "/metrics", "/openapi.json", f"/v2/models/{info['name']}"):
        assert str(finished_run.folder.parent) not in client.ask(path).body.decode()


@pytest.mark.ci
def test_names_of_any_bytes_are_told_as_in_the_tables(finished_run, squares, tmp_path):
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/run-\xff"))
    shutil.copytree(finished_run.folder, folder)
    (folder / "classes.json").write_text(json.dumps(["blue", "green", "caf\udce9"]))
    record = json.loads((folder / "run.json").read_text())
    record["files"]["classes.json"] = files.sha256(folder / "classes.json")
    (folder / "run.json").write_text(json.dumps(record))
    with serving(folder) as client:
        picture, name = squares["red.png"], "caf\\udce9"
        info = client.ask("/info").json
        assert (info["name"], info["classes"][2]) == ("run-\\udcff", name)
        assert client.send("/predict", picture).json["label"] == name
        answer = client.send(f"/explain?label={quote(name)}", picture)
        assert (answer.status, unquote(answer.headers["x-label"])) == (200, name)
        assert 'label="caf\\\\udce9"' in client.ask("/metrics").body.decode()
        asked = infer(picture, parameters={"binary_data": True})
        answer = client.send(f"/v2/models/{quote(info['name'])}/infer", asked)
        assert answer.body.endswith(name.encode())


@pytest.mark.ci
def test_accuracy_without_leaks_is_told(finished_run, tmp_path):
    folder = Path(shutil.copytree(finished_run.folder, tmp_path / "leaking"))
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["test_without_leaks"] = {**evaluation["test"], "accuracy": 0.5, "low": 0.25}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    judged = Service.load(folder).info["judged"]
    high = evaluation["test"]["high"]
    assert judged["test_without_leaks"] == {"accuracy": 0.5, "low": 0.25, "high": high}
    assert judged["test"]["accuracy"] == evaluation["test"]["accuracy"]
    assert "test_without_leaks" not in Service.load(finished_run.folder).info["judged"]


@pytest.mark.ci
def test_exported_file_whose_process_has_died_answers_again(finished_run, squares, tmp_path):
    """And if it cannot, it is not the server that has failed."""
    finished_run.export("onnx", tmp_path)
    with serving(tmp_path / "onnx") as client:

        def end():
            process = client.state.service.classifier.network._process
            process.kill()
            process.wait()

        expected = client.send("/predict", squares["red.png"]).json["top"]
        end()
        answer = client.send("/predict", squares["red.png"])
        assert (answer.status, answer.json["top"]) == (200, expected)
        file = (tmp_path / "onnx" / "model.onnx").rename(tmp_path / "away")
        end()
        for path, content in (
            ("/predict", squares["red.png"]),
            ("/v2/models/onnx/infer", infer(squares["red.png"])),
        ):
            answer = client.send(path, content)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert str(tmp_path) not in answer.body.decode()
        assert client.ask("/readyz").status == 200
        file.rename(tmp_path / "onnx" / "model.onnx")
        assert client.send("/predict", squares["red.png"]).json["top"] == expected


def infer(picture, **output):
    """A request of the Open Inference Protocol."""
    file = base64.b64encode(picture).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [file]}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": "label", **output}]}).encode()


def test_pages_and_states(client):
    for path, kind in (
        ("/", "text/html"),
        ("/docs", "text/html"),
        ("/page/index.html", "text/html"),
    ):
        answer = client.ask(path)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith(kind)
    assert client.ask("/openapi.json").json["openapi"].startswith("3.")
    assert client.ask("/healthz").json == {"alive": True}
    assert client.ask("/readyz").json == {"ready": True}


def test_head_has_headers_alone(client):
    for path in ("/", "/info", "/metrics", "/healthz", "/v2"):
        full, answer = client.ask(path), client.ask(path, method="HEAD")
        assert answer.status == 200
        assert answer.body == b""
        if path != "/metrics":
            assert answer.headers["content-length"] == full.headers["content-length"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "HEAD", "GET"])
def test_unknown_methods(client, method):
    answer = client.ask("/predict", method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    [
        *("/predict/", "/Predict", "//predict", "/nothing", "/page/", "/page/..", "/page/."),
        *("/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page/index.html%00", "/page/__init__.py"),
        *("/%00", "/%ff"),
        *("/v2/models", "/v2/models/", "/v2/models/none", "/v2/models/%ff%00", "/v2/models/a%2fb"),
        "/page/%C3%A9", "/" + "a" * 5000,
    ],
)  # fmt: skip
def test_unknown_paths(client, path):
    answer = client.ask(path)
    assert answer.status == 404
    assert answer.json["request_id"]
    assert answer.json["error"]


@pytest.mark.parametrize(
    "query",
    [
        *("top=0", "top=-1", "top=1.5", "top=", "top=²", "top=%00", "top=1&top=2", "top=9999999"),
        *(
            "top=\u0661",
            "Top=1",
            "url=http://127.0.0.1:1/a.png",
            "top",
            "a=1",
            "label=red",
            "=",
            "top=%ff",
        ),
    ],
)
def test_unknown_parameters(client, query, picture):
    path = "/predict?" + query.encode("utf-8").decode("latin-1")
    (answer,) = client.raw(
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(picture)}\r\n\r\n".encode("latin-1")
        + picture
    )
    assert answer.status == 400
    assert answer.json["error"]


@pytest.mark.parametrize(
    "kind",
    ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/mixed", ""],
)
def test_other_types_are_refused(client, kind, picture):
    assert client.send("/predict", picture, content_type=kind).status == 415
    assert client.send("/explain", picture, content_type=kind).status == 415


def test_nothing_is_no_picture(client):
    assert client.send("/predict", b"").status == 422
    assert client.send_several("/predict", {}).status in (400, 422)
    assert client.send_several("/predict", {"empty.png": b""}).json["predictions"] == [
        {"path": "empty.png", "error": "empty file"}
    ]


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "a" * 71,
        "multipart/form-data; boundary=another",
        *(
            f"{MULTIPART['content-type']}; charset={name}"
            for name in ("idna", "undefined", "unicode_escape", "hex", "utf-16", "x\0", "../../a")
        ),
    ],
)  # fmt: skip
def test_boundaries_and_character_sets(client, squares, kind):
    body = multipart({"\\ud800.png": squares["red.png"]})
    start = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
    start += f"Content-Length: {len(body)}\r\n\r\n"
    (answer,) = client.raw(start.encode() + body)
    assert answer.status == (200 if "charset" in kind and "\0" not in kind else 400)


@pytest.mark.parametrize(
    "name",
    ["été.png", "../../etc/passwd", "a\tb.png", "a//b.png", "http://127.0.0.1/a.png", "=1+1"],
)
def test_names_come_back_as_they_are(client, squares, name):
    answer = client.send_several("/predict", {name: squares["red.png"], f"{name}x": b"?"})
    assert [each["path"] for each in answer.json["predictions"]] == [name, f"{name}x"]


def test_names_of_no_text(client, squares):
    body = multipart({"NAME": squares["red.png"]})
    for name in (b"\xff\xfe", b"\0", b"a\0b", b"\xed\xa0\x80", b"%00", b"\xf0\x9f\x90\x8d"):
        answer = client.send("/predict", body.replace(b"NAME", name), **MULTIPART)
        assert answer.status in (200, 400)
    assert "path" in answer.json["predictions"][0]


def test_names_that_are_not_utf_8_are_told_as_in_tables(client, squares):
    body = multipart({"NAME.png": squares["red.png"]}).replace(b"NAME", b"caf\xe9")
    answer = client.send("/predict", body, **MULTIPART)
    assert answer.json["predictions"][0]["path"] == "caf\\udce9.png"
    table = client.send("/predict", body, **MULTIPART, accept="text/csv").body.decode()
    assert table.splitlines()[1].startswith("caf\\udce9.png,")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_body_that_is_cut_loses_no_picture(client, squares, share):
    body = multipart(squares)
    answer = client.send("/predict", body[: int(share * len(body))], **MULTIPART)
    assert answer.status == 400
    assert "end is missing" in answer.json["error"]


def test_too_many_parts(client, squares):
    many = {f"{number}.png": squares["red.png"] for number in range(64)}
    assert len(client.send_several("/predict", many).json["predictions"]) == 64
    assert client.send_several("/predict", {**many, "more.png": b"x"}).status == 400
    ten_thousand = {f"{number}.png": b"x" for number in range(10_000)}
    assert client.send_several("/predict", ten_thousand).status == 400
    fields = multipart(ten_thousand).replace(b"; filename", b"; x-filename")
    assert client.send("/predict", fields, **MULTIPART).status == 400


@pytest.mark.ci
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_multipart_body_has_an_answer(client, squares, data):
    whole = bytearray(multipart({"a.png": squares["red.png"][:60], "b.png": b"x"}))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(whole)))
        end = place + data.draw(st.integers(0, 12))
        whole[place:end] = data.draw(
            st.binary(max_size=12) | st.sampled_from([b"\r\n", b"--", b'"'])
        )
    assert client.send("/predict", bytes(whole), **MULTIPART).status in (200, 400, 422)


def odd_pictures(folder: Path) -> dict[str, bytes]:
    """Odd files, by name."""
    pictures, found = planted.textured(), {}
    odd = (
        *planted._damaged(pictures),
        *planted._no_pictures(),
        *planted._bombs(),
        *planted._formats(pictures),
        *planted._shapes(pictures),
    )
    for number, each in enumerate(odd):
        path = folder / str(number)
        each.write(path)
        found[each.name] = path.read_bytes()
    return found


def reason_of(content: bytes, size: int, fit: str) -> str:
    """Why `check` sets a picture aside; empty if it does not."""
    try:
        images.decode(content, size, fit)
    except BadImage as error:
        return error.reason
    return ""


@pytest.mark.ci
def test_planted_pictures_have_the_reasons_of_check(client, finished_run, tmp_path):
    classifier = finished_run.classifier
    for name, content in odd_pictures(tmp_path).items():
        answer = client.send("/predict", content)
        reason = reason_of(content, classifier.image_size, classifier.fit)
        assert answer.status == (422 if reason else 200), name
        if not content:
            assert "no picture" in answer.json["error"]
        elif reason:
            assert answer.json["reason"] == reason, name
            assert answer.json["error"] == f"The picture cannot be used: {reason}."


@pytest.mark.long
def test_odd_pictures_have_the_reasons_of_check(finished_run, tmp_path):
    classifier = finished_run.classifier
    with serving(finished_run.folder, most_pixels=10**9) as client:
        for each in odd_files.make(tmp_path / "odd", every=5):
            path = tmp_path / "odd" / each.name
            if path.is_file() and (content := path.read_bytes()):
                answer = client.send("/predict", content)
                reason = reason_of(content, classifier.image_size, classifier.fit)
                assert answer.status == (422 if reason else 200), each.name
                assert answer.json.get("reason", "") == reason, each.name


def test_pixels_are_limited_by_the_header(client):
    assert client.send("/predict", planted.png(7000, 7001, b"")).json["reason"] != "too large"
    answer = client.send("/predict", planted.png(7000, 7200, b""))
    assert answer.status == 422
    assert answer.json["reason"] == "too large"


@pytest.mark.ci
def test_a_jpeg_of_many_scans_takes_no_time(client):
    stream = io.BytesIO()
    Image.new("RGB", (4000, 4000), "teal").save(stream, "JPEG", progressive=True)
    whole = stream.getvalue()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    assert client.send("/predict", whole).status == 200
    answer = client.send("/predict", whole[:-2] + 5000 * scan + whole[-2:], timeout=5)
    assert answer.json["reason"] == "too large"


def test_a_picture_of_text_bombs(client):
    text = b"zTXtComment\0\0" + zlib.compress(bytes(10**8), 1)
    content = planted.png(9, 9, zlib.compress(bytes(90)), text)
    assert client.send("/predict", content, timeout=5).json["reason"].startswith("damaged")


URLS = (
    *(
        "http://127.0.0.1:{port}/a.png",
        "https://127.0.0.1:{port}/a.png",
        "//127.0.0.1:{port}/a.png",
    ),
    *(
        "ftp://127.0.0.1:{port}/a",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "data:image/png;base64,AAAA",
    ),
    *("s3://bucket/a.png", "gopher://127.0.0.1:{port}/", "hf://a/b"),
)


@pytest.mark.parametrize("url", URLS)
def test_urls_are_never_fetched(client, squares, url):
    """Neither as the body, a file, its name, nor a parameter, nor as the target itself."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        text = url.format(port=trap.getsockname()[1])
        assert client.send("/predict", text.encode()).status == 422
        assert client.send("/predict", text.encode(), content_type="text/uri-list").status == 415
        named = client.send_several("/predict", {text: text.encode()}).json["predictions"]
        assert named == [{"path": text, "error": "not an image"}]
        for name in ("url", "image", "top", "file"):
            start = f"POST /predict?{name}={text} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0"
            assert client.raw(f"{start}\r\n\r\n".encode())[0].status == 400
        for body in (json.dumps({"url": text}), f"url={text}"):
            assert client.send("/predict", body.encode()).status == 422
        (answer,) = client.raw(f"GET {text} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert answer.status in (400, 404)
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_any_bytes_have_an_answer(client):
    random = np.random.default_rng(0)
    starts = (
        b"",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"II*\0",
    )
    for number in range(60):
        content = starts[number % len(starts)] + random.bytes(int(random.integers(1, 400)))
        answer = client.send("/predict", content)
        assert answer.status == 422
        assert answer.json["reason"]


def test_run_that_is_taken_away_is_answered_still_but_not_explained(
    finished_run, tmp_path, picture
):
    run = shutil.copytree(finished_run.folder, tmp_path / "run")
    with serving(run) as client:
        shutil.rmtree(run)
        assert client.send("/predict", picture).status == 200
        answer = client.send("/explain", picture)
        assert answer.status == 503
        assert "restore" in answer.json["error"] and str(tmp_path) not in answer.json["error"]
