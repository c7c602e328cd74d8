"""In processes of their own: a signal in a test's process may end more than the test."""

import subprocess
import sys

import pytest

BEGIN = """
import signal, sys, threading
from efftune.system import stopping

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
try:
"""
END = """
except BaseException as error:
    print(type(error).__name__)
"""


def printed(body):
    """What a program prints: the lines of its own, and the exception that ends it."""
    script = BEGIN + "\n".join(f"    {line}" for line in body.splitlines()) + END
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("number", "error"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "SystemExit")]
)
def test_signal_waits_until_it_is_asked_for(number, error):
    body = f"""
with stopping.deferred() as stop:
    print(stop.requested)
    signal.raise_signal(signal.{number})
    print(stop.requested)
    stop.now()
    print("not reached")
"""
    assert printed(body) == ["False", "True", error]


def test_signal_is_not_lost_to_an_error():
    body = """
with stopping.deferred():
    signal.raise_signal(signal.SIGINT)
    raise ValueError
"""
    assert printed(body) == ["KeyboardInterrupt"]


def test_signal_comes_at_the_end_at_the_latest():
    body = """
with stopping.deferred():
    signal.raise_signal(signal.SIGINT)
    print("first")
"""
    assert printed(body) == ["first", "KeyboardInterrupt"]


def test_second_signal_stops_at_once():
    body = """
with stopping.deferred():
    signal.raise_signal(signal.SIGINT)
    print("first")
    signal.raise_signal(signal.SIGINT)
    print("second")
"""
    assert printed(body) == ["first", "KeyboardInterrupt"]


def test_handlers_are_as_before():
    body = """
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
with stopping.deferred():
    print(signal.getsignal(signal.SIGINT) == before[0])
print((signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before)
"""
    assert printed(body) == ["False", "True"]


def test_handler_that_does_not_raise_lets_work_go_on():
    body = """
signal.signal(signal.SIGINT, lambda *_: print("handled"))
with stopping.deferred() as stop:
    signal.raise_signal(signal.SIGINT)
    print(stop.requested)
    stop.now()
    print("on")
"""
    assert printed(body) == ["True", "handled", "on"]


def test_other_threads_are_left_alone():
    body = """
def work():
    with stopping.deferred() as stop:
        print(stop.requested, signal.getsignal(signal.SIGINT) is signal.default_int_handler)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    assert printed(body) == ["False", "True"]
