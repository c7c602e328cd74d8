import signal
import threading

import pytest

from efftune.system import stopping


@pytest.fixture
def sigterm_raises():
    def handler(_number, _frame):
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
@pytest.mark.usefixtures("sigterm_raises")
def test_signal_waits_until_it_is_asked_for(number, error):
    done = []
    with pytest.raises(error), stopping.deferred() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        done.append(stop.requested)
        stop.now()
        done.append("not reached")
    assert done == [True]


def test_signal_is_not_lost_to_an_error():
    with pytest.raises(KeyboardInterrupt), stopping.deferred():
        signal.raise_signal(signal.SIGINT)
        raise ValueError


def test_signal_comes_at_the_end_at_the_latest():
    with pytest.raises(KeyboardInterrupt), stopping.deferred():
        signal.raise_signal(signal.SIGINT)


def test_second_signal_stops_at_once():
    reached = []
    with pytest.raises(KeyboardInterrupt), stopping.deferred():
        signal.raise_signal(signal.SIGINT)
        reached.append("first")
        signal.raise_signal(signal.SIGINT)
        reached.append("second")
    assert reached == ["first"]


def test_handlers_are_as_before():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stopping.deferred():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_handler_that_does_not_raise_lets_work_go_on():
    calls = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append("handled"))
    try:
        with stopping.deferred() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            stop.now()
            calls.append("went on")
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == ["handled", "went on"]


def test_other_threads_are_left_alone():
    def work():
        with stopping.deferred() as stop:
            found.append(stop.requested)

    found = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
