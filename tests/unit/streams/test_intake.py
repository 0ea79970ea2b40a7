"""Every frame that comes is answered, dropped, failed, waiting or under way: exactly one of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from collab.core.streams import LATEST, FramePolicy
from collab.streams.intake import Intake, Numbered

SECOND = 1_000_000

policies = st.one_of(st.just(LATEST), st.builds(FramePolicy, st.integers(1, 5), st.booleans()))


class Bookkeeping(RuleBasedStateMachine):
    """Any order of events, beside books kept by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = 0
        self.begun: list[Numbered[int]] = []
        self.pushed: set[int] = set()
        self.settled: dict[int, str] = {}
        self.taken: list[tuple[int, int]] = []
        self.ready = False

    @precondition(lambda self: not self.ready)
    @rule(
        policy=policies,
        fps=st.none() | st.floats(0.5, 1000),
        at_a_time=st.integers(1, 4),
        most=st.none() | st.integers(1, 20),
    )
    def begin(self, policy: FramePolicy, fps: float | None, at_a_time: int, most: int | None) -> None:
        self.policy, self.fps, self.at_a_time, self.most = policy, fps, at_a_time, most
        self.intake: Intake[int] = Intake(policy, fps, at_a_time, most)
        self.ready = True

    @precondition(lambda self: self.ready and self.intake.room)
    @rule()
    def offer(self) -> None:
        before = self.intake.waiting
        pushed = self.intake.offer(self.intake.counts.captured)
        assert (pushed is not None) == (before == self.policy.waiting)
        if pushed is not None:
            assert pushed.sequence not in self.pushed
            self.pushed.add(pushed.sequence)

    @precondition(lambda self: self.ready and self.intake.open)
    @rule()
    def unreadable(self) -> None:
        self.settled[self.intake.fail()] = "failed"

    @precondition(lambda self: self.ready)
    @rule(wait_us=st.integers(0, 3 * SECOND))
    def take(self, wait_us: int) -> None:
        self.now_us += wait_us
        due_us = self.intake.next_us()
        frame = self.intake.take(self.now_us)
        if frame is None:
            assert not self.intake.waiting or self.intake.under_way == self.at_a_time or due_us is not None
            return
        assert frame.frame == frame.sequence
        assert all(frame.sequence > other for other, _ in self.taken)
        self.taken.append((frame.sequence, self.now_us))
        self.begun.append(frame)

    @precondition(lambda self: self.ready and self.begun)
    @rule(data=st.data(), outcome=st.sampled_from(["answered", "failed", "dropped"]))
    def settle(self, data: st.DataObject, outcome: str) -> None:
        frame = self.begun.pop(data.draw(st.integers(0, len(self.begun) - 1)))
        self.intake.settle(frame, outcome)
        self.settled[frame.sequence] = outcome

    @precondition(lambda self: self.ready)
    @rule()
    def end(self) -> None:
        self.intake.end()
        assert not self.intake.room

    @invariant()
    def every_frame_is_in_one_place(self) -> None:
        if not self.ready:
            return
        counts = self.intake.counts
        assert counts.captured == sum(
            (counts.answered, counts.dropped, counts.failed, self.intake.waiting, self.intake.under_way)
        )
        outcomes = list(self.settled.values())
        assert counts.answered == outcomes.count("answered")
        assert counts.failed == outcomes.count("failed")
        assert counts.dropped == outcomes.count("dropped") + len(self.pushed)
        assert not self.settled.keys() & self.pushed
        assert self.intake.waiting <= self.policy.waiting
        assert self.intake.under_way <= self.at_a_time
        assert self.most is None or counts.captured <= self.most
        if not self.policy.drops:
            assert not self.pushed

    @invariant()
    def the_rate_is_kept(self) -> None:
        if not self.ready or self.fps is None or len(self.taken) < 2:
            return
        interval_us = round(SECOND / self.fps)
        # One frame may be late by less than an interval; over many the rate holds.
        span_us = self.taken[-1][1] - self.taken[0][1]
        assert span_us > (len(self.taken) - 2) * interval_us


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_latest_keeps_the_newest_frame_alone():
    intake: Intake[str] = Intake(LATEST)
    assert intake.offer("a") is None
    assert intake.offer("b") == Numbered(0, "a")
    assert intake.offer("c") == Numbered(1, "b")
    taken = intake.take(0)
    assert taken == Numbered(2, "c")
    intake.settle(taken, "answered")
    assert intake.counts.to_json() == {"captured": 3, "answered": 1, "dropped": 2, "failed": 0}


def test_a_queue_that_waits_has_no_room_when_it_is_full():
    intake: Intake[str] = Intake(FramePolicy(2, drops=False))
    had = []
    for step in (lambda: intake.offer("a"), lambda: intake.offer("b"), lambda: intake.take(0)):
        step()
        had.append(intake.room)
    assert had == [True, False, True]


@given(fps=st.floats(0.5, 500), late_us=st.integers(0, 10 * SECOND))
def test_a_pause_is_not_caught_up(fps: float, late_us: int):
    interval_us = round(SECOND / fps)
    intake: Intake[int] = Intake(FramePolicy(8, drops=True), fps, at_a_time=8)
    for i in range(8):
        intake.offer(i)
    assert intake.take(0) is not None
    assert intake.next_us() == interval_us
    now_us = interval_us + late_us
    assert intake.take(now_us) is not None
    due_us = intake.next_us()
    assert due_us is not None
    assert due_us > now_us or late_us < interval_us
    assert due_us - now_us <= interval_us


def test_the_end_comes_when_everything_is_settled():
    intake: Intake[str] = Intake(LATEST, most=1)
    intake.offer("a")
    assert [intake.open] == [False]
    taken = intake.take(0)
    assert [taken is None, intake.over] == [False, False]
    intake.settle(taken, "failed")
    assert [intake.over] == [True]
