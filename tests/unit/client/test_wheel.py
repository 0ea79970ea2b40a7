"""The timer wheel against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collab.client.wheel import Wheel

steps = st.lists(
    st.tuples(st.sampled_from(["add", "discard", "due"]), st.integers(0, 300), st.integers(0, 5)), max_size=60
)


@given(steps=steps, grain=st.sampled_from([1, 10, 100]))
def test_things_fall_due_less_than_a_grain_after_their_time_and_never_before(steps, grain):
    wheel: Wheel[int] = Wheel(grain)
    waiting: set[tuple[int, int]] = set()
    now = 0
    for what, at, thing in steps:
        if what == "add":
            wheel.add(at, thing)
            waiting.add((-(-at // grain) * grain, thing))
        elif what == "discard":
            wheel.discard(at, thing)
            waiting.discard((-(-at // grain) * grain, thing))
        else:
            now = max(now, at)
            due = sorted(pair for pair in waiting if pair[0] <= now)
            assert sorted(wheel.due(now)) == sorted(thing for _, thing in due)
            waiting -= set(due)
        assert wheel.next_us() == min((pair[0] for pair in waiting), default=None)
        assert len(wheel) == len(waiting)


def test_what_is_added_and_taken_out_leaves_nothing_behind():
    wheel: Wheel[int] = Wheel(1)
    for i in range(10_000):
        wheel.add(i, i)
        wheel.discard(i, i)
    assert len(wheel._order) < 200
    assert len(wheel) == 0
