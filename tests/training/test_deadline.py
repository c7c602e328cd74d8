import pytest

from efftune.system.journal import Journal
from efftune.training import deadline
from efftune.training.deadline import Deadline
from efftune.training.schedule import Tail


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set forward."""

    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(deadline, "time", made)
    return made


def trained(limit, clock, seconds_of, steps=100, epoch=10):
    """Train steps that take some seconds each; returns how many were done."""
    limit.begin("an attempt")
    end, done = steps, 0
    while done < end:
        if limit.is_near(done) and (tail := limit.tail(done, end, epoch)):
            end = tail.first + tail.steps
            if done >= end:
                break
        clock.now += seconds_of(done)
        done += 1
        if done % epoch == 0 or done == end:
            clock.now += limit.validation
    return done


def test_nothing_is_shortened_in_time(clock):
    assert trained(Deadline(100.0), clock, lambda _done: 1.0) == 100
    assert trained(Deadline(), clock, lambda _done: 1e6) == 100


def test_what_falls_behind_ends_in_time(clock):
    began = clock.now
    done = trained(Deadline(100.0), clock, lambda done: 1.0 if done < 30 else 3.0)
    assert 45 < done < 55
    assert 85 <= clock.now - began <= 100


def test_what_falls_behind_again_is_shortened_again(clock):
    began = clock.now
    trained(Deadline(100.0), clock, lambda done: {0: 1.0, 1: 2.0, 2: 5.0}[done // 30])
    assert 85 <= clock.now - began <= 105


def test_less_than_a_tenth_behind_is_near_enough(clock):
    limit = Deadline(100.0)
    limit.begin("an attempt")
    for done in range(20):
        assert limit.tail(done, 100, 10) is None
        clock.now += 1.05


def test_validation_counts(clock):
    limit, began = Deadline(100.0), clock.now
    limit.validation = 10.0
    assert trained(limit, clock, lambda _done: 1.0) < 60
    assert clock.now - began <= 100


def test_first_step_is_no_measure(clock):
    assert trained(Deadline(130.0), clock, lambda done: 20.0 if done == 0 else 1.0) == 100


def test_nothing_more_is_trained_after_the_end(clock):
    limit = Deadline(10.0)
    limit.begin("an attempt")
    clock.now += 11
    assert limit.tail(1, 100, 10) == Tail(1, 0)


def test_tails_are_decided_once(clock, tmp_path):
    journal = Journal()
    journal.begin(tmp_path, {})
    done = trained(Deadline(50.0, journal, "upper"), clock, lambda _done: 1.0)
    journal.close()
    again = Deadline(1000.0, Journal.reopened(tmp_path), "upper")
    assert trained(again, clock, lambda _done: 0.001) == done
    again.begin("an attempt", taken=0)
    first = again.known
    assert again.is_near(first)
    assert not again.is_near(first - 1)
    again.begin("another attempt")
    assert again.known is None
