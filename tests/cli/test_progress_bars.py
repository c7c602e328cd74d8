import pytest

from efftune.cli import progress_bars


@pytest.fixture
def report(monkeypatch):
    """Reports a count at a time in seconds."""
    lines, now = progress_bars._PlainLines(), [0.0]
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: now[0])

    def at(seconds, done, total=100, phase="decode"):
        now[0] = seconds
        lines.report(phase, done, total)

    return at


def test_rest_is_told_by_the_speed_so_far(report, capsys):
    report(0, 0)
    report(5, 10)
    report(12, 20)
    report(15, 30)  # within ten seconds of the line before
    report(25, 50)
    assert capsys.readouterr().err.splitlines() == [
        "decode …",
        "decode 20 of 100, about 56 s left",
        "decode 50 of 100, about 25 s left",
    ]


def test_rest_is_not_told_before_anything_was_done(report, capsys):
    report(0, 0)
    report(1, 1)
    report(12, 1)
    assert capsys.readouterr().err.splitlines() == ["decode …", "decode 1 of 100"]


def test_count_that_begins_again_has_a_speed_of_its_own(report, capsys):
    report(0, 0)
    report(1, 1)
    report(100, 100)
    report(200, 1)
    report(201, 1)  # nothing is known yet
    report(212, 12)
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "decode 1 of 100",
        "decode 12 of 100, about 96 s left",
    ]


def test_threads_may_report_in_another_order(report, capsys):
    report(0, 0)
    for seconds, done in ((1, 10), (2, 21), (3, 20), (12, 30)):
        report(seconds, done)
    assert capsys.readouterr().err.splitlines()[-1] == "decode 30 of 100, about 38 s left"
