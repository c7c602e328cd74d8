import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from efftune.model.engines import engine, openvino_engine
from efftune.model.engines.openvino_engine import Network


def mean_network(precision="f32", made=None):
    """A network that gives each square's mean colour."""

    def make():
        if made is not None:
            made.append(1)
        pixels = ops.parameter([-1, 8, 8, 3], np.float32)
        return ov.Model([ops.reduce_mean(pixels, np.array([1, 2]))], [pixels])

    return Network(make, size=8, precision=precision)


def test_network_is_released_after_its_runs():
    network = mean_network()
    for _ in range(2):
        network.run(range(3), grey, lambda *_: None)
    released = weakref.ref(network)
    del network
    gc.collect()
    assert released() is None


def test_later_runs_use_the_same_request():
    network = mean_network()
    for _ in range(3):
        network.run([1], grey, lambda *_: None)
    assert network.idle.qsize() == 1


def test_network_can_run_in_several_threads_at_once():
    network, results = mean_network(), {}

    def run(first):
        def deliver(i, _number, outputs):
            results[i] = outputs[0][0].item()

        network.run(range(first, first + 20), grey, deliver)

    threads = [threading.Thread(target=run, args=(first,)) for first in (0, 20, 40, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: i for i in range(80)}


def grey(value, views=1):
    return np.full((views, 8, 8, 3), value, np.uint8)


@pytest.mark.parametrize("precision", ["f32", openvino_engine.fastest_precision()])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 63])
def test_each_item_gets_its_own_output(count, precision):
    results = {}

    def deliver(i, number, outputs):
        results[i, number] = outputs[0].copy()

    mean_network(precision=precision).run(range(count), grey, deliver)
    assert sorted(results) == [(i, 0) for i in range(count)]
    assert all((row == i).all() and row.shape == (3,) for (i, _), row in results.items())


@pytest.mark.parametrize("precision", ["f32", openvino_engine.fastest_precision()])
@pytest.mark.parametrize("squares", [2, 3, 7])
def test_views_of_an_item_keep_their_numbers(precision, squares):
    results = {}

    def load(i):
        return np.concatenate([grey(i + 20 * number) for number in range(squares)])

    def deliver(i, number, outputs):
        results[i, number] = outputs[0].copy()

    mean_network(precision=precision).run(range(9), load, deliver, views=squares)
    assert len(results) == 9 * squares
    assert all((row == i + 20 * number).all() for (i, number), row in results.items())


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 0x3E00), ("bfloat16", 0x3FC0)])
def test_outputs_come_in_the_type_asked_for(dtype, bits):
    def make():
        pixels = ops.parameter([-1, 8, 8, 3], np.float32)
        mean = ops.reduce_mean(pixels, np.array([1, 2]))
        return ov.Model([mean, ops.multiply(mean, np.float32(1.5))], [pixels])

    results = []
    network = Network(make, size=8, dtypes=["float32", dtype])
    network.run([0], lambda _i: grey(1), lambda _i, _n, out: results.append([*map(np.copy, out)]))
    ((plain, short),) = results
    assert plain.tolist() == [1, 1, 1]
    assert short.view(np.uint16).tolist() == [bits] * 3


def test_items_without_pixels_are_skipped():
    delivered = []
    mean_network().run(
        range(10), lambda i: grey(i) if i % 3 else None, lambda i, _n, _out: delivered.append(i)
    )
    assert sorted(delivered) == [1, 2, 4, 5, 7, 8]


def test_network_is_not_made_if_nothing_needs_it():
    made = []
    mean_network(made=made).run(range(5), lambda _i: None, lambda _i, _n, _out: None)
    assert made == []


def test_loading_goes_on_in_several_threads():
    threads = set()
    together = threading.Barrier(min(2, openvino_engine.usable_processors()), timeout=30)

    def load(i):
        if i < together.parties:
            together.wait()  # passes only if several items are loaded at once
        threads.add(threading.get_ident())
        return grey(i)

    mean_network().run(range(20), load, lambda _i, _n, _out: None)
    assert threading.get_ident() not in threads


def test_outputs_are_delivered_in_order_by_the_thread_that_runs_the_network():
    delivered = []
    mean_network().run(
        range(20), grey, lambda i, _n, _out: delivered.append((i, threading.get_ident()))
    )
    assert delivered == [(i, threading.get_ident()) for i in range(20)]


FIRST_ARRAY = """
import builtins, sys
from pathlib import Path
import numpy as np
from efftune.model.engines.openvino_engine import Network, read

network = Network(lambda: read(Path(sys.argv[1])), size=8)
network.compiled  # converts no array
original = builtins.__import__

def recorded(name, *arguments):
    if name.startswith("numpy"):
        print(name)
    return original(name, *arguments)

builtins.__import__ = recorded
network.run([0], lambda _i: np.zeros((1, 8, 8, 3), np.uint8), lambda *_: None)
"""


def test_running_does_not_look_numpy_up(tmp_path):
    """Threads that did so at the same time would wait for each other for ever."""
    openvino_engine.write(mean_network()._load_model(), tmp_path / "mean.xml")
    script = [sys.executable, "-c", FIRST_ARRAY, str(tmp_path / "mean.xml")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_few_pictures_wait_at_a_time(monkeypatch):
    monkeypatch.setattr(engine, "WINDOW_BYTES", 0)
    loaded, most = [], []

    def deliver(i, _number, _outputs):
        most.append(len(loaded) - i)

    mean_network().run(range(500), lambda i: (loaded.append(i), grey(i % 256))[1], deliver)
    assert max(most) < 100


@pytest.mark.parametrize("fails_in", ["load", "deliver"])
def test_failures_come_out_as_they_are(fails_in):
    def fail(*_):
        raise LookupError("seven")

    load = fail if fails_in == "load" else grey
    with pytest.raises(LookupError, match="seven"):
        mean_network().run(range(50), load, fail)


def test_openvino_sends_no_telemetry():
    script = (
        "import sys, efftune.model.engines.openvino_engine; "
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
