"""In processes of their own: a signal in a test's process may end more than the test."""

import signal
import subprocess
import sys
import time

import pytest

BEGIN = """
import signal, sys, threading
from efftune.system import stopping

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
# A script's background jobs ignore it, and so would this process.
signal.signal(signal.SIGINT, signal.default_int_handler)
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


def test_signal_that_the_process_ignores_does_not_stop_it():
    body = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
with stopping.deferred() as stop:
    signal.raise_signal(signal.SIGINT)
    print(stop.requested)
    signal.raise_signal(signal.SIGTERM)
    print(stop.requested)
"""
    assert printed(body) == ["False", "True", "SystemExit"]


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


# What Python cannot interrupt, as a step of a large network: a minute in C, without the lock.
LONG_STEP = """
import hashlib, signal, sys, time
from contextlib import nullcontext
from efftune.cli import main
from efftune.system import stopping

# A script's background jobs ignore it, and so would this process.
signal.signal(signal.SIGINT, signal.default_int_handler)
stopping._LONGEST, stopping._AGAIN = {longest}, 0.2

def command(prog_name):
    with stopping.last_words("go on like this"), stopping.deferred() as stop, {around}:
        print("begun", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
        print("saved", flush=True)
        if stop.requested:
            stop.now()

main.app = command
main.main()
"""
MINUTE = 200_000_000


def stop_in_long_step(longest, rounds, numbers, around="nullcontext()"):
    """Stop a command in a long step; returns its errors, its output and its exit code."""
    script = LONG_STEP.format(longest=longest, rounds=rounds, around=around)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.1)
        return *process.communicate(timeout=30)[::-1], process.returncode


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_process_ends_in_time_in_a_step_that_cannot_be_interrupted(number, code):
    errors, output, ended_with = stop_in_long_step(0.3, MINUTE, [number])
    assert (output, ended_with) == ("", code)
    assert errors == "Ended at once.\ngo on like this\n"


def test_second_signal_ends_such_a_step():
    errors, output, code = stop_in_long_step(3600, MINUTE, [signal.SIGINT, signal.SIGINT])
    assert (errors, output, code) == ("Ended at once.\ngo on like this\n", "", 130)


def test_step_that_ends_in_time_is_saved():
    errors, output, code = stop_in_long_step(20, 500_000, [signal.SIGTERM])
    assert (errors, output, code) == ("", "saved\n", 143)


def test_what_a_signal_asked_for_is_written_to_its_end():
    errors, output, code = stop_in_long_step(0.2, 2_000_000, [signal.SIGTERM], "stopping.saving()")
    assert (errors, output, code) == ("", "saved\n", 143)


def test_process_ends_though_nobody_reads_its_errors():
    script = LONG_STEP.format(longest=0.3, rounds=MINUTE, around="nullcontext()")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
