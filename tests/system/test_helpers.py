import os
import pickle
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from efftune.data import picture_bytes
from efftune.errors import BadImage
from efftune.system import helpers


@pytest.fixture
def helped(monkeypatch):
    helpers._helpers.cache_clear()
    monkeypatch.setattr(helpers, "usable_processors", lambda: 4)
    yield helpers.caller(10_000)
    helpers._helpers.cache_clear()


def test_few_calls_are_no_work_for_helpers(monkeypatch):
    monkeypatch.setattr(helpers, "usable_processors", lambda: 4)
    assert helpers.caller(10) is helpers.called
    monkeypatch.setattr(helpers, "usable_processors", lambda: 2)
    assert helpers.caller(10_000) is helpers.called


def test_results_come_from_other_processes(helped):
    with ThreadPoolExecutor(4) as threads:
        processes = set(threads.map(lambda _: helped(os.getpid), range(50)))
        squares = list(threads.map(lambda i: helped(pow, i, 2), range(50)))
    assert os.getpid() not in processes
    assert squares == [i**2 for i in range(50)]


def test_arrays_are_whole_and_can_be_changed(helped):
    large = np.arange(3_000_000, dtype=np.uint32).reshape(3, -1)
    found = helped(np.add, large, np.uint32(1))
    assert (found == large + 1).all()
    found += 1


def test_what_a_call_raises_is_raised_here(helped, tmp_path):
    with pytest.raises(ZeroDivisionError):
        helped(divmod, 1, 0)
    with pytest.raises(BadImage) as caught:
        helped(picture_bytes.read, tmp_path / "none.jpg")
    assert caught.value.reason == picture_bytes.NO_SUCH_FILE


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_work_of_a_helper_that_is_killed_is_done_here(helped):
    for process in {helped(os.getpid) for _ in range(8)}:
        os.kill(process, signal.SIGKILL)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda i: helped(abs, -i), range(20))) == list(range(20))
    assert os.getpid() not in {helped(os.getpid) for _ in range(8)}


def test_without_helpers_the_work_is_done_here(helped, monkeypatch):
    monkeypatch.setattr(helpers, "own_program", lambda _module: (["no-such-program"], {}))
    assert {helped(os.getpid) for _ in range(6)} == {os.getpid()}


def test_what_cannot_be_sent_is_raised(helped):
    with pytest.raises((pickle.PicklingError, AttributeError)):
        helped(lambda: 0)
    assert helped(abs, -1) == 1
