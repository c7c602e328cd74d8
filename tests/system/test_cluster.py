"""Workers of a Ray cluster: what they compute is the same, also when some are lost."""

import io
import json
import operator
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

import efftune
from conftest import fill
from efftune.data import picture_bytes
from efftune.errors import BadImage, EfftuneWarning, UsageError
from efftune.system import cluster
from efftune.system.workers import Lost

pytestmark = pytest.mark.usefixtures("own_cache")
CHOICES = {"image_size": 32, "test": 0.15, "seed": 3, "on_progress": None}
FILES = ("evaluation.json", "predictions.csv", "examples.csv", "findings.csv")
on_ray = pytest.mark.ci


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("many") / "pictures", count=50)


@pytest.fixture(scope="module")
def alone(pictures, tmp_path_factory):
    """Runs of this process alone, by recipe."""
    place = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EFFTUNE_CACHE", str(place / "cache"))
        return {
            recipe: efftune.train(pictures, recipe=recipe, run=place / recipe, **CHOICES, **more)
            for recipe, more in (("quick", {}), ("balanced", {"epochs": 2, "unfreeze": "block7"}))
        }


def same(run, other):
    return all((run.folder / x).read_bytes() == (other.folder / x).read_bytes() for x in FILES)


@on_ray
def test_a_run_is_the_same(nodes, pictures, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    with efftune.cluster("auto"):
        nodes.wait()
        run = efftune.train(pictures, recipe="quick", run=tmp_path / "run", **CHOICES)
        unread = tmp_path / "unread.png"
        unread.write_bytes(b"nothing")
        given = [pictures / "red" / "00.jpg", unread, (pictures / "blue" / "01.png").read_bytes()]
        content = (pictures / "red" / "00.jpg").read_bytes()
        given.append(Image.open(io.BytesIO(content[: len(content) // 2])))
        reasons = {}
        found = run.classifier.predict(given, on_unreadable=reasons.__setitem__)
    assert same(run, alone["quick"])
    costs = run.record["cluster"]
    assert costs["nodes"] == costs["workers"] == 2
    assert costs["calls"] > 10
    assert costs["worker_seconds"] > 0
    assert costs["lost"] == 0
    assert list(reasons) == [unread, 3]
    expected = alone["quick"].classifier.predict([given[0], given[2]])
    assert [each.top for each in found] == [each.top for each in expected]
    assert alone["quick"].record["cluster"] == {}
    assert cluster.current() is None


@on_ray
@pytest.mark.parametrize("phase", ["inspect", "features"])
def test_a_worker_may_be_lost_at_any_time(nodes, pictures, alone, tmp_path, phase):
    lost = []

    def on_progress(name, done, total):
        if name.startswith(phase) and not lost:
            lost.append(name)
            nodes.lose_worker()

    choices = CHOICES | {"on_progress": on_progress, "epochs": 2, "unfreeze": "block7"}
    with efftune.cluster(nodes.address):
        nodes.wait()
        with pytest.warns(EfftuneWarning, match="A worker on 127.0.0.1 was lost"):
            run = efftune.train(pictures, recipe="balanced", run=tmp_path / "run", **choices)
    assert lost
    assert run.record["cluster"]["lost"] >= 1
    assert same(run, alone["balanced"])


@on_ray
def test_a_worker_may_be_lost_during_prediction(nodes, pictures, alone):
    paths = sorted(pictures.rglob("*.*")) * 10  # so that all workers are asked again
    lost = []

    def on_progress(done, total):
        assert total == len(paths)
        if not lost:
            lost.append(done)
            nodes.lose_worker()

    with efftune.cluster(nodes.address), pytest.warns(EfftuneWarning, match="was lost"):
        nodes.wait()
        found = alone["quick"].classifier.predict(paths, on_progress=on_progress)
    assert found == alone["quick"].classifier.predict(paths)


@on_ray
def test_a_node_may_be_lost(nodes, pictures, alone, tmp_path):
    lost = []

    def on_progress(name, done, total):
        if name == "inspect" and done > 20 and not lost:
            lost.append(name)
            nodes.lose_node()

    try:
        with efftune.cluster(nodes.address), pytest.warns(EfftuneWarning, match="was lost"):
            nodes.wait()
            run = efftune.train(
                pictures,
                recipe="quick",
                run=tmp_path / "run",
                **CHOICES | {"on_progress": on_progress},
            )
    finally:
        nodes.restore()
    assert lost
    assert same(run, alone["quick"])


@pytest.mark.long
def test_nodes_that_come_later_help(nodes):
    nodes.lose_node()
    with efftune.cluster(nodes.address):
        workers = nodes.wait(1)
        assert workers.call(operator.mul, 2, 4) == 8
        nodes.restore()
        until = time.monotonic() + 60
        while workers.costs.workers < 2 and time.monotonic() < until:
            time.sleep(0.2)
        assert workers.costs.workers == 2


@on_ray
def test_all_workers_help_although_none_had_started(nodes, pictures, alone):
    paths = sorted(pictures.rglob("*.*")) * 40
    with efftune.cluster(nodes.address):
        alone["quick"].classifier.predict(paths)
        assert len(cluster.costs().nodes) == 2


@on_ray
def test_each_run_has_its_own_costs(nodes, pictures, tmp_path):
    with efftune.cluster(nodes.address):
        nodes.wait()
        first = efftune.train(pictures, recipe="quick", run=tmp_path / "first", **CHOICES)
        second = efftune.train(pictures, recipe="quick", run=tmp_path / "second", **CHOICES)
    calls = [run.record["cluster"]["calls"] for run in (first, second)]
    assert 0 < calls[1] < calls[0]  # whose features the second finds in the cache


@on_ray
def test_while_all_processors_are_taken_it_computes_by_itself(nodes, pictures, alone, tmp_path):
    held = """
import sys
import efftune
from efftune.system import cluster
with efftune.cluster(sys.argv[1]):
    while cluster.is_starting() or cluster.current().count < 2:
        pass
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", held, nodes.address]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with efftune.cluster(nodes.address):
            run = efftune.train(pictures, recipe="quick", run=tmp_path / "run", **CHOICES)
        other.stdin.close()
    assert run.record["cluster"]["workers"] == 0
    assert same(run, alone["quick"])


@on_ray
def test_one_cluster_at_a_time(nodes):
    with (
        efftune.cluster(nodes.address),
        pytest.raises(UsageError, match="joined a cluster already"),
        efftune.cluster("local:1"),
    ):
        pass


@on_ray
def test_what_cannot_be_sent_costs_no_worker(nodes):
    with efftune.cluster(nodes.address):
        workers = nodes.wait()
        for _ in range(5):
            with pytest.raises(TypeError):
                workers.call(operator.mul, 1, threading.Lock())
        assert workers.call(operator.mul, 2, 3) == 6
        assert workers.costs.lost == 0


@on_ray
def test_what_a_call_raises_is_raised_here(nodes):
    with efftune.cluster(nodes.address):
        workers = nodes.wait()
        with pytest.raises(BadImage, match="no such file"):
            workers.call(picture_bytes.read, Path("nowhere.png"))
        assert list(workers.map(lambda x: workers.call(operator.mul, 2, x), range(100))) == list(
            range(0, 200, 2)
        )
        shared = workers.share({"a": 1})
        assert workers.call(operator.attrgetter("value"), shared) == {"a": 1}


@on_ray
def test_a_call_that_kills_each_worker_ends_the_run_with_a_sentence(nodes):
    with (
        efftune.cluster(nodes.address),
        pytest.warns(EfftuneWarning, match="was lost"),
        pytest.raises(Lost, match="5 workers were lost one after the other"),
    ):
        nodes.wait().call(os._exit, 1)


@on_ray
def test_workers_on_this_machine_listen_to_it_alone(pictures, tmp_path, efftune_process):
    heard, ended = set(), threading.Event()

    def listen():
        while not ended.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                try:
                    open_ports = process.net_connections()
                except psutil.Error:
                    continue
                heard.update(each.laddr.ip for each in open_ports if each.status == "LISTEN")

    listener = threading.Thread(target=listen)
    listener.start()
    result = efftune_process("check", pictures, "--cluster", "local:2", "--json")
    ended.set()
    listener.join()
    assert json.loads(result.stdout)["pictures"] == 150
    assert heard
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.parametrize("name", ["local:0", "local:x", "elsewhere", "ray://", "a b", "local:-1"])
def test_what_is_no_cluster_is_refused(name, source, efftune_command):
    result = efftune_command("check", source, "--cluster", name)
    assert result.returncode == 2
    assert f"{name} is no cluster. Use local:N" in result.stderr


def test_an_address_where_nothing_answers_is_told_at_once(source, efftune_command, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    result = efftune_command("check", source)
    assert result.returncode == 2
    assert f"No Ray cluster answers at {address}" in result.stderr


@pytest.mark.parametrize("address", ["http://10.0.0.5:8265", "auto", "local"])
def test_what_ray_address_means_to_others_is_told(address, source, efftune_command, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.warns(EfftuneWarning, match=f"RAY_ADDRESS is {address}, but it is no HOST:PORT"):
        result = efftune_command("check", source, "--json")
    assert json.loads(result.stdout)["pictures"] == 30


def test_ray_address_without_ray_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    with pytest.warns(EfftuneWarning, match="Ray is not installed"), efftune.cluster("auto"):
        assert cluster.current() is None


def test_without_ray_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"efftune\[ray\]"), efftune.cluster("local:2"):
        pass


def test_auto_without_an_address_needs_no_ray(monkeypatch, source):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    script = "import sys, efftune\nwith efftune.cluster('auto'): pass\nprint('ray' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout.strip() == "False"


@on_ray
def test_cross_validation_is_the_same(nodes, pictures, own_cache, tmp_path, monkeypatch):
    choices = {key: value for key, value in CHOICES.items() if key != "test"}
    run = efftune.train(pictures, recipe="quick", run=tmp_path / "alone", **choices)
    shutil.rmtree(own_cache)
    with efftune.cluster(nodes.address):
        nodes.wait()
        other = efftune.train(pictures, recipe="quick", run=tmp_path / "helped", **choices)
    assert run.record["plan"]["folds"]
    assert same(other, run)
