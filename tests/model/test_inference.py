import subprocess
import sys
import threading

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from efftune.model import inference
from efftune.model.inference import Network


def mean_network(views=1, precision="f32", made=None):
    """A network that gives each picture's mean colour."""

    def make():
        if made is not None:
            made.append(1)
        pixels = ops.parameter([-1, 8, 8, 3], np.float32)
        return ov.Model([ops.reduce_mean(pixels, np.array([1, 2]))], [pixels])

    return Network(make, size=8, views=views, precision=precision)


def grey(value, views=1):
    return np.full((views, 8, 8, 3), value, np.uint8)


@pytest.mark.parametrize("precision", ["f32", inference.fastest_precision()])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 63])
def test_each_item_gets_its_own_output(count, precision):
    results = {}
    network = mean_network(precision=precision)
    network.run(range(count), grey, lambda i, rows: results.__setitem__(i, rows.copy()))
    assert sorted(results) == list(range(count))
    assert all((rows == i).all() and rows.shape == (1, 3) for i, rows in results.items())


def test_views_come_back_together():
    results = {}

    def load(i):
        return np.concatenate([grey(i), grey(i + 100)])

    mean_network(views=2).run(range(9), load, lambda i, rows: results.__setitem__(i, rows.copy()))
    assert all(results[i][:, 0].tolist() == [i, i + 100] for i in range(9))


def test_items_without_pixels_are_left_out():
    seen = []
    mean_network().run(
        range(10), lambda i: grey(i) if i % 3 else None, lambda i, _rows: seen.append(i)
    )
    assert sorted(seen) == [1, 2, 4, 5, 7, 8]


def test_network_is_not_made_if_nothing_needs_it():
    made = []
    mean_network(made=made).run(range(5), lambda _i: None, lambda _i, _rows: None)
    assert made == []


def test_loading_goes_on_in_several_threads():
    threads = set()
    together = threading.Barrier(min(2, inference.usable_processors()), timeout=30)

    def load(i):
        if i < together.parties:
            together.wait()  # passes only if several items are loaded at once
        threads.add(threading.get_ident())
        return grey(i)

    mean_network().run(range(20), load, lambda _i, _rows: None)
    assert threading.get_ident() not in threads


def test_few_pictures_wait_at_a_time(monkeypatch):
    monkeypatch.setattr(inference, "WINDOW_BYTES", 0)
    loaded, most = [], []

    def deliver(i, _rows):
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


def test_openvino_reports_nothing_to_its_maker():
    script = (
        "import sys, efftune.model.inference; "
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
