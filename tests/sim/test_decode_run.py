"""The closed form of a run of decode steps equals its steps one by one."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from inframind.sim.decode_run import DecodeRun

ROUNDS = 60


@st.composite
def runs(draw: st.DrawFn) -> tuple[DecodeRun, list[int], int]:
    """A run of 60 rounds, the ticks of its looks after 0, 1, ... rounds, and the rounds scheduled at once."""
    depth = draw(st.sampled_from([1, 2]))
    num_in_flight = draw(st.integers(depth - 1, depth))
    first = draw(st.sampled_from([1, 7, 10**13, 123_456_789_012_345]))
    growth = draw(st.sampled_from([0, 1, 3, 10**9, 10**14]))
    now = draw(st.sampled_from([0, 5, 10**18]))
    ends = list(accumulate(draw(st.lists(st.integers(1, 20), min_size=num_in_flight, max_size=num_in_flight))))
    ends = [now + end for end in ends]
    oldest_end, origin = (ends[0], ends[-1]) if ends else (now, now)
    durations = (first + growth * i for i in range(ROUNDS))
    ends += list(accumulate(durations, initial=origin))[1:]
    run = DecodeRun(oldest_end, origin, first, growth, depth - num_in_flight, depth - 1, ROUNDS, has_tail=False)
    # With k rounds scheduled the oldest of the ``depth`` steps in flight is the one after those that have ended.
    looks = [ends[max(0, num_in_flight + k - depth)] for k in range(ROUNDS + 1)]
    return run, looks, depth - num_in_flight


@given(runs(), st.integers(0, ROUNDS), st.sampled_from([-1, 0, 1]))
def test_rounds_by_a_tick(run_and_looks: tuple[DecodeRun, list[int], int], index: int, offset: int) -> None:
    """Right before, at and right after each look, where a float's rounding would show."""
    run, looks, missing = run_and_looks
    tick = looks[index] + offset
    expected = min(max(bisect_left(looks, tick), missing), ROUNDS)

    assert run.stop == looks[ROUNDS]
    assert run.rounds_by(tick) == expected
    if run.cut(tick):
        assert (run.rounds, run.stop) == (expected, looks[expected])
    else:
        assert (expected, run.stop) == (ROUNDS, looks[ROUNDS])
