"""Pictures in a bucket: a real client and a real server, and faults planted between them."""

import http.client
import http.server
import json
import threading
import time
import urllib.request
from contextlib import contextmanager

import pytest

from efftune.data.sources import discovery
from efftune.errors import DataError, EfftuneWarning
from efftune.features import shared_cache

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("own_cache")]

BUCKET = "photos-of-ours"


@pytest.fixture(scope="module")
def server():
    """The address of an S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


class Way(http.server.ThreadingHTTPServer):
    """Passes requests on to a server; of every few answers, one is faulty if it is to be."""

    daemon_threads = True

    def __init__(self, server):
        super().__init__(("127.0.0.1", 0), Passing)
        self.server = server.removeprefix("http://")
        self.faults, self.made, self.asked = [], [], 0


class Passing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(self.server.server, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.server.asked += 1
        fault = ""
        if self.server.faults and self.server.asked % 4 == 0:
            fault = self.server.faults[len(self.server.made) % len(self.server.faults)]
            self.server.made.append(fault)
        if fault == "503":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name not in ("Content-Length", "Transfer-Encoding", "Connection", "Server", "Date"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", length or 0)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif fault == "slow":
            for start in range(0, len(content), 100):
                self.wfile.write(content[start : start + 100])
                time.sleep(0.05)
        else:
            self.wfile.write(content)

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@contextmanager
def faulty_way(server):
    with Way(server) as way:
        threading.Thread(target=way.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{way.server_port}", way
        way.shutdown()


@pytest.fixture
def bucket(server, source, monkeypatch):
    """A bucket with the pictures of `source`, and how to make faults on the way to it."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "us")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-ours")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    if not system.exists(BUCKET):
        system.mkdir(BUCKET)
        system.put(str(source), f"{BUCKET}/photos", recursive=True)
    with faulty_way(server) as (address, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        s3fs.S3FileSystem.clear_instance_cache()
        yield faults
    s3fs.S3FileSystem.clear_instance_cache()


def described(examples):
    return sorted((row.name, row.label, row.split, row.reason) for row in examples.rows)


def test_a_bucket_is_read_like_a_folder(bucket, source):
    assert described(discovery.find(f"s3://{BUCKET}/photos")) == described(discovery.find(source))


def test_a_file_and_a_folder_of_one_name_are_refused(bucket):
    import s3fs

    system = s3fs.S3FileSystem()
    for path in ("cat/a.png", "cat/a.png/b.png"):
        system.pipe_file(f"{BUCKET}/odd/{path}", b"1")
    with pytest.raises(DataError, match="a file and a folder of the same name, cat/a"):
        discovery.find(f"s3://{BUCKET}/odd")


def test_faults_on_the_way_change_nothing(bucket, source):
    bucket.faults[:] = ["503", "cut", "slow"]
    assert described(discovery.find(f"s3://{BUCKET}/photos")) == described(discovery.find(source))
    assert set(bucket.made) == {"503", "cut", "slow"}


@pytest.mark.parametrize("recipe", ["quick", pytest.param("balanced", marks=pytest.mark.long)])
def test_a_run_from_a_bucket_is_that_from_the_folder(
    bucket, source, recipe, efftune_process, tmp_path
):
    bucket.faults[:] = ["503", "cut", "slow"]
    options = ("--recipe", recipe, "--image-size", "32", "--seed", "3", "--quiet")
    for place, run in ((f"s3://{BUCKET}/photos", "far"), (str(source), "near")):
        found = efftune_process("train", place, "--run", run, *options)
        assert found.returncode == 0, found.stderr
    assert bucket.made
    for name in ("examples.csv", "evaluation.json", "predictions.csv"):
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()


def test_wrong_credentials_are_told_in_a_sentence(bucket, server, efftune_process):
    def check_credentials(after):
        """After so many requests the server looks at who asks."""
        headers = {"Content-Type": "text/plain"}
        url = f"{server}/moto-api/reset-auth"
        urllib.request.urlopen(urllib.request.Request(url, after, headers, method="POST"))

    check_credentials(b"0")
    try:
        found = efftune_process("check", f"s3://{BUCKET}/photos")
    finally:
        check_credentials(b"inf")
    assert found.returncode == 1
    assert "cannot be read: " in found.stderr
    assert "Credentials are those of AWS' own tools" in found.stderr
    assert len(found.stderr.strip().splitlines()) <= 3


def test_no_credentials_are_told_in_a_sentence(bucket, efftune_process, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    found = efftune_process("check", f"s3://{BUCKET}/photos")
    assert found.returncode == 1
    assert "Credentials are those of AWS' own tools" in found.stderr


def test_what_is_packed_into_a_bucket_is_read_there(bucket, source, own_cache, efftune_command):
    place = f"s3://{BUCKET}/packed"
    bucket.faults[:] = ["503"]
    result = efftune_command("pack", source, "--into", place, "--megabytes", 1, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["source"] == place
    assert not list(own_cache.glob("pack-*"))
    bucket.faults[:] = []
    found = described(discovery.find(place))
    assert found == described(discovery.find(source))
    again = efftune_command("pack", source, "--into", place)
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_a_bucket_that_must_not_be_written_is_told(source, efftune_command, bucket):
    result = efftune_command("pack", source, "--into", "s3://no-bucket-of-ours/packed")
    assert result.returncode == 2
    assert "photos-000000.tar cannot be written: make its folder or bucket first" in result.stderr
    assert "Traceback" not in result.stderr


def test_machines_share_features_in_a_bucket(bucket, source, tmp_path, monkeypatch):
    """A run from a bucket on a new machine computes nothing, and is the same."""
    import efftune

    place = f"{BUCKET}/cache"
    monkeypatch.setattr(shared_cache, "_failed", set())
    monkeypatch.setenv("EFFTUNE_SHARED_CACHE", f"s3://{place}")
    bucket.faults[:] = ["503", "cut"]
    choices = {"recipe": "quick", "image_size": 32, "val": 0.2, "test": 0.2, "on_progress": None}
    runs, kept = [], []
    for machine in "ab":
        monkeypatch.setenv("EFFTUNE_CACHE", str(tmp_path / machine))
        run = efftune.train(f"s3://{BUCKET}/photos", run=tmp_path / f"run-{machine}", **choices)
        runs.append((run.folder / "evaluation.json").read_bytes())
        kept.append({path.name for path in (tmp_path / machine).glob("features/*/*.npy")})
    bucket.faults[:] = []
    import s3fs

    shared = s3fs.S3FileSystem().find(place)
    assert kept[0] == kept[1] == {path.rpartition("/")[2] for path in shared if ".npy" in path}
    assert runs[0] == runs[1]
    assert bucket.made


def test_a_cache_in_a_bucket_that_is_not_there_ends_no_run(bucket, source, tmp_path, monkeypatch):
    import efftune

    monkeypatch.setattr(shared_cache, "_failed", set())
    monkeypatch.setenv("EFFTUNE_SHARED_CACHE", "s3://no-bucket-of-ours/cache")
    choices = {"recipe": "quick", "image_size": 32, "val": 0.2, "test": 0.2, "on_progress": None}
    with pytest.warns(
        EfftuneWarning, match="not shared any more .*make its folder or bucket first"
    ):
        efftune.train(source, run=tmp_path / "run", **choices)
