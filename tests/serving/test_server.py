"""The process: how it starts, how it ends."""

import contextlib
import io
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from .client import head, is_ended, read
from .conftest import serving

POST = {"content_type": "image/png"}


@pytest.fixture(scope="module")
def slow_picture() -> bytes:
    """Takes some tenths of a second to decode."""
    stream = io.BytesIO()
    Image.effect_noise((3000, 3000), 90).convert("RGB").save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@pytest.mark.ci
def test_100_in_flight_are_answered(process, finished_run, squares):
    started = process(finished_run.folder, "--max-waiting", 200, "--at-work", 1)
    started.wait_until_ready()
    content, links = squares["red.png"], []
    for number in range(100):
        link = started.client.connect()
        whole = head("POST /predict", **POST, content_length=len(content)) + content
        link.sendall(whole if number % 2 else whole[:-10])  # half of them are not received yet
        links.append((link, b"" if number % 2 else whole[-10:]))
    started.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    for link, rest in links:
        link.sendall(rest)
    answers = [read(link) for link, _ in links]
    assert [[each.json["label"] for each in found] for found in answers] == [["red"]] * 100
    assert started.ended(30) == (0, "")


@pytest.mark.ci
def test_what_happens_while_it_drains(finished_run, picture):
    """Clients are told to leave, and new ones not to come."""
    start = head("POST /predict", **POST, content_length=len(picture))
    with (
        serving(finished_run.folder, drain_seconds=5.0) as client,
        client.connect() as kept,
        client.connect() as slow,
    ):
        kept.sendall(head("GET /readyz"))
        assert read(kept)[0].status == 200
        slow.sendall(start + picture[:-1])
        time.sleep(0.1)
        client.stop()
        time.sleep(0.1)
        kept.sendall(head("GET /readyz"))
        (answer,) = read(kept)
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        time.sleep(1.2)
        with pytest.raises(OSError, match="refused"):
            client.connect()
        slow.sendall(picture[-1:])
        assert read(slow)[0].json["label"] == "red"


@pytest.mark.ci
def test_what_takes_longer_than_it_drains_is_told_so(finished_run, picture):
    start = head("POST /predict", **POST, content_length=len(picture))
    with serving(finished_run.folder, drain_seconds=1.0) as client, client.connect() as slow:
        slow.sendall(start + picture[:-1])
        time.sleep(0.1)
        client.stop()
        assert read(slow)[0].status == 503


@pytest.mark.long
def test_it_drains_for_longer_than_other_commands_may(process, finished_run, picture):
    started = process(finished_run.folder)
    started.wait_until_ready()
    with started.client.connect() as slow:
        slow.sendall(head("POST /predict", **POST, content_length=len(picture)) + picture[:-1])
        time.sleep(0.1)
        started.process.send_signal(signal.SIGTERM)
        time.sleep(12)
        slow.sendall(picture[-1:])
        assert read(slow)[0].status == 200
    assert started.ended() == (0, "")


@pytest.mark.long
def test_a_second_signal_ends_it_at_once(process, finished_run, slow_picture):
    started = process(finished_run.folder, "--at-work", 2)
    started.wait_until_ready()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            link = stack.enter_context(started.client.connect())
            start = head("POST /predict", **POST, content_length=len(slow_picture))
            link.sendall(start + slow_picture)
        started.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        began = time.monotonic()
        started.process.send_signal(signal.SIGTERM)
        assert started.ended(5) == (128 + signal.SIGTERM, "efftune: Ended at once.\n")
        assert time.monotonic() - began < 1


@pytest.mark.ci
def test_killed_while_busy_and_started_again(process, finished_run, slow_picture, picture):
    """It is there at once, and says that it is not ready until it is."""
    first = process(finished_run.folder)
    first.wait_until_ready()
    port = first.client.port

    def ask() -> None:
        with contextlib.suppress(OSError):
            first.client.send("/predict", slow_picture)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(ask)
        time.sleep(0.2)
        first.process.kill()
    began = time.monotonic()
    second = process(finished_run.folder, "--port", port)
    client, states = second.client, set()
    thread = threading.Thread(target=second.wait_until_ready)
    thread.start()
    while thread.is_alive():
        states.add((client.ask("/healthz").status, client.ask("/readyz").status))
        answer = client.send("/predict", picture)
        assert answer.status in (200, 503)
        if answer.status == 503:
            assert answer.headers["retry-after"] == "1"
    assert time.monotonic() - began < 20  # 3 s on a machine that does nothing else
    assert client.port == port
    assert (200, 503) in states
    assert client.ask("/readyz").status == client.ask("/v2/health/ready").status == 200
    assert client.send("/predict", picture).json["label"] == "red"


@pytest.mark.ci
@pytest.mark.parametrize("what", ["run.json", "model.keras", "classes.json", "predictions.csv"])
def test_a_damaged_run_is_refused_as_by_predict(
    efftune_command, finished_run, tmp_path, what, picture
):
    folder, photo = tmp_path / "damaged", tmp_path / "photo.jpg"
    shutil.copytree(finished_run.folder, folder)
    (folder / what).write_bytes((folder / what).read_bytes()[20:])
    photo.write_bytes(picture)
    done = efftune_command("serve", folder, "--port", 0, "--quiet")
    assert done.returncode == 1
    assert done.stderr.startswith("efftune: ")
    assert len(done.stderr.splitlines()) == 1
    if what != "predictions.csv":  # which `predict` does not read
        assert efftune_command("predict", folder, photo).stderr == done.stderr


def test_a_run_that_is_missing_is_refused_as_by_predict(efftune_command, tmp_path):
    done = efftune_command("serve", tmp_path / "none", "--port", 0)
    told = efftune_command("predict", tmp_path / "none", tmp_path / "a.png")
    assert (done.returncode, done.stderr) == (told.returncode, told.stderr)
    assert done.returncode == 2


def test_a_port_in_use_is_told(efftune_command, finished_run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = efftune_command("serve", finished_run.folder, "--port", port)
    assert done.returncode == 2
    assert done.stderr == (
        f"efftune: Cannot listen at 127.0.0.1:{port}: Address already in use. Choose another "
        "--host or --port.\n"
    )
    done = efftune_command("serve", finished_run.folder, "--host", "192.0.2.1", "--token", "a" * 16)
    assert done.returncode == 2
    assert "Cannot listen at 192.0.2.1:8000" in done.stderr


def test_all_addresses_need_a_token(efftune_command, finished_run):
    for host in ("0.0.0.0", "::"):
        done = efftune_command("serve", finished_run.folder, "--host", host)
        assert done.returncode == 2
        assert "--token" in done.stderr


@pytest.mark.ci
def test_all_addresses_with_a_token(finished_run, picture):
    token = "a-secret-of-24-characters"
    bearer = {"authorization": f"Bearer {token}", "content-type": "image/jpeg"}
    with serving(finished_run.folder, host="0.0.0.0", token=token) as client:
        assert client.send("/predict", picture).status == 401
        assert client.send("/predict", picture, **bearer).status == 200


@pytest.mark.long
def test_a_signal_while_it_loads(process, finished_run):
    started = process(finished_run.folder)
    with started.client.connect() as link:
        started.process.send_signal(signal.SIGTERM)
        assert is_ended(link, 10)
    assert started.ended() == (0, "")
