import asyncio
import base64
import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from conftest import COLOURS, square
from efftune.delivery import photos
from efftune.serving import showing
from efftune.serving.answering import Busy
from efftune.serving.nearest import Learning
from efftune.serving.service import Service
from efftune.serving.settings import ServerSettings
from efftune.serving.state import State
from serving.processes import ask, in_thread, process, until


@pytest.fixture(scope="module")
def service(finished_run):
    return Service.load(finished_run.folder)


def state_of(service):
    state = State(ServerSettings(at_work=2))
    state.serve(service)
    return state


@pytest.fixture
def server(service):
    """A server with training pictures that are ready; its state and what was told."""
    state, events = state_of(service), []

    async def gather():
        await showing.gather(state, service, lambda *event: events.append(event))

    with in_thread(state, also=gather) as url:
        until(lambda: state.training is not None)
        yield url, state, events


def training_of(folder):
    with (folder / "examples.csv").open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["split"] == "train"]


def encoded(colour, seed):
    stream = io.BytesIO()
    square(colour, seed).save(stream, "png")
    return stream.getvalue()


def test_training_picture_is_nearest_to_itself(server, finished_run, source):
    url, _, events = server
    rows = training_of(finished_run.folder)
    assert events == [("progress", f"Training pictures to show: {len(rows)}, ready.")]
    for row in rows[::5]:
        status, answer = ask(f"{url}/nearest", (source / row["path"]).read_bytes())
        assert status == 200
        assert len(answer["nearest"]) == 6
        distances = [each["distance"] for each in answer["nearest"]]
        assert distances == sorted(distances)
        assert distances[0] < 1e-3
        assert answer["nearest"][0]["label"] == row["label"]
        kind, _, content = answer["nearest"][0]["thumbnail"].partition(",")
        assert kind == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as small:
            assert small.format == "WEBP" and max(small.size) <= 96
            seen = np.asarray(small.convert("RGB")).mean((0, 1))
        assert np.abs(seen - COLOURS[row["label"]]).max() < 20
    assert str(source) not in str(answer)


def test_distances_are_those_of_the_features(server, service, finished_run, source):
    """As the detector of unlike pictures measures them: its references are training pictures."""
    _, state, _ = server
    detector = service.classifier.uncertainty.detector
    places = np.stack([each.place for each in state.training._found])
    references = detector.references.astype(np.float32)
    nearest = np.linalg.norm(places[:, None] - references[None], axis=2).min(1)
    precision = json.loads((finished_run.folder / "run.json").read_text())["machine"]["precision"]
    # Of vectors of length 1, stored in 16 bits. Where the machine has bfloat16, those of training
    # pictures were computed in it, and the server computes in float32.
    assert nearest.max() < {"f32": 0.02, "bf16": 0.1}[precision]


@pytest.mark.parametrize(
    ("query", "status"),
    [({"count": 1}, 200), ({"count": 12}, 200), ({"count": 13}, 400), ({"count": 0}, 400)],
)
def test_count_is_limited(server, query, status):
    found, answer = ask(f"{server[0]}/nearest", encoded(COLOURS["red"], 3), **query)
    assert found == status
    if status == 200:
        assert len(answer["nearest"]) == query["count"]


def test_what_is_no_picture_gets_its_reason(server):
    status, answer = ask(f"{server[0]}/nearest", b"nothing")
    assert (status, answer["reason"]) == (422, "not an image")


def test_offered_only_when_ready(server, service):
    url, state, _ = server
    assert ask(f"{url}/info")[1]["shows_training"] is True
    state.serve(service)
    assert ask(f"{url}/info")[1]["shows_training"] is False
    assert ask(f"{url}/nearest", b"x")[0] == 404


def gathered(service, state=None):
    """What was told, and what is shown."""
    events = []
    state = state or state_of(service)

    async def gather():
        await showing.gather(state, service, lambda *event: events.append(event))

    asyncio.run(gather())
    state.answering.close()
    return events, state.training


@pytest.fixture
def moved(tmp_path, source, finished_run):
    """A run of its own, whose source the test may change."""
    shutil.copytree(source, tmp_path / "photos")
    run = shutil.copytree(finished_run.folder, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"source": str(tmp_path / "photos")}))
    return run, tmp_path / "photos"


def test_pictures_that_are_gone_or_changed_are_not_shown(moved):
    run, source = moved
    rows = training_of(run)
    (source / rows[0]["path"]).unlink()
    square(COLOURS["red"], 77).save(source / rows[1]["path"], "png")
    events, training = gathered(Service.load(run))
    assert len(training._found) == len(rows) - 2
    shutil.rmtree(source)
    events, training = gathered(Service.load(run))
    assert training is None
    ((kind, text),) = events
    assert kind == "problem" and "No training pictures are shown: There is no" in text


def test_training_pictures_of_a_run_that_is_served_no_more_are_not_shown(service, finished_run):
    state = state_of(service)
    other = Service.load(finished_run.folder)
    assert gathered(other, state)[1] is None


def test_all_classes_are_among_few(service, finished_run, source):
    names = service.classifier.class_names
    found = photos.training(finished_run.folder, finished_run.recipe, str(source), names, 6)
    assert sorted(each.label for each in found) == [0, 0, 1, 1, 2, 2]
    assert {each.split for each in found} == {"train"}


def test_work_that_nobody_waits_for_waits_for_room(service, monkeypatch):
    state, tries = state_of(service), []
    each = state.answering.each

    async def full(work, items):
        tries.append(items)
        if len(tries) < 3:
            raise Busy
        return await each(work, items)

    monkeypatch.setattr(state.answering, "each", full)
    assert asyncio.run(state.answering.patiently(len, "abc")) == 3
    assert len(tries) == 3
    state.answering.close()


def test_picture_that_cannot_be_read_is_left_out(service, tmp_path):
    (tmp_path / "odd.png").write_bytes(b"nothing")
    photo = photos.Photo(tmp_path / "odd.png", "odd.png", "train", 0, "")
    assert Learning(service.classifier)(photo) is None


@pytest.mark.long
def test_process_shows_them_after_it_is_ready(finished_run):
    with process(finished_run.folder, "--show-training") as server:
        server.wait_for("progress")
        assert server.wait_for("ready") == "run"
        assert ask(f"{server.url}/info")[1]["shows_training"] is True
        assert ask(f"{server.url}/nearest", encoded(COLOURS["red"], 3))[0] == 200
        assert server.stop() == (0, "")
