import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efftune.recipe.recipe import Recipe
from efftune.training.schedule import Schedule, Tail


def schedule(steps=20, accumulated=1, tails=(), **choices):
    return Schedule(0.01, steps, Recipe(**choices).optimization, accumulated, tails)


def test_rate_warms_up_and_falls_as_a_cosine():
    rates = schedule(warmup=0.25).rates(0, 21)
    assert rates[:6] == pytest.approx([0, 0.002, 0.004, 0.006, 0.008, 0.01])
    cosine = [0.005 * (1 + np.cos(np.pi * step / 15)) for step in range(16)]
    assert rates[5:] == pytest.approx(cosine, abs=1e-8)


def test_rate_can_stay_as_it_is():
    assert schedule(schedule="constant").rates(3, 9) == pytest.approx([0.01] * 9)


def test_rate_changes_with_the_weights_where_gradients_are_gathered():
    rates = schedule(steps=21, accumulated=4, warmup=0.0).rates(0, 20).reshape(5, 4)
    assert (rates == rates[:, :1]).all()
    assert rates[:, 0] == pytest.approx(schedule(steps=5, warmup=0.0).rates(0, 5))


@given(
    steps=st.integers(2, 60),
    shares=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3),
    warmup=st.floats(0, 0.5),
)
def test_tails_go_on_where_they_begin_and_end_at_zero(steps, shares, warmup):
    before = schedule(steps, warmup=warmup)
    for share, of_rest in shares:
        start = before.tails[-1].first if before.tails else 0
        first = start + int(share * (before.end - 1 - start))
        tail = Tail(first, max(1, int(of_rest * (before.end - first))))
        after = schedule(steps, tails=(*before.tails, tail), warmup=warmup)
        assert after.end == first + tail.steps <= before.end
        if before.tails:  # else rates change with the updates
            assert after.rates(0, first + 1) == pytest.approx(before.rates(0, first + 1))
        assert after.rate(after.end) == pytest.approx(0, abs=1e-12)
        rates = after.rates(first, tail.steps + 1)
        top = int(rates.argmax())  # in the warm-up, it still rises first
        assert (np.diff(rates[: top + 1]) >= 0).all()
        assert (np.diff(rates[top:]) <= 0).all()
        before = after


def test_tail_without_steps_ends_the_schedule():
    made = schedule(tails=(Tail(7, 0),))
    assert made.end == 7
    assert made.rate(7) == 0
    assert made.rates(0, 7) == pytest.approx(schedule().rates(0, 7))
