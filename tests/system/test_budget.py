import pytest

from efftune.system import budget
from efftune.system.budget import Budget


@pytest.fixture
def process(monkeypatch):
    """The age of this process, in seconds, which a test may change."""
    age = [2.0]
    monkeypatch.setattr(budget, "_process_seconds", lambda: age[0])
    return age


def test_budget_of_a_command_begins_with_its_process(process):
    assert Budget(60).left == pytest.approx(60, abs=0.5)
    with budget.beginning_with_process():
        first = Budget(60)
        process[0] = 5.0
        second = Budget(60)
    assert (first.starting, second.starting) == (2, 2)  # the same, so that decisions agree
    assert first.left == pytest.approx(58, abs=0.5)
    assert second.left == pytest.approx(55, abs=0.5)
    assert Budget(60).starting == 0


def test_slow_machine_takes_longer_to_save():
    made = Budget(60)
    usual, made.reserved = made.saving, made.reserved + 3
    made.note_first_pictures(1.0)
    assert (made.saving, made.reserved) == (usual, usual + 3)
    made.note_first_pictures(12.0)
    assert usual < made.saving < 12
    assert made.reserved == made.saving + 3
    made.note_first_pictures(1000.0)  # a large network, not a slow machine
    assert made.saving == 12
