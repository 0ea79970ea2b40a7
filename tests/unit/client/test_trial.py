"""What a requester does in a trial: few requests touched, an end at the first fault, honest counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.client.trial import AGAIN_S, Ask, Witness, blame, judged
from collab.core.ids import PlanName
from collab.core.validate import convert_plan
from collab.errors import (
    BackendError,
    CollabError,
    DeadlineExceeded,
    LinkLost,
    NodeLost,
    NotLoaded,
    Overloaded,
    PeerUnreachable,
    StageFailed,
    TensorError,
    UsageError,
)
from collab.updates.health.gate import Bounds, Compared, Failed, Served
from collab.updates.health.trial import FIGURES, Counts, Trial, TrialPhase
from tests.unit.core.trees import chain

RUNNING = convert_plan(chain())
CANDIDATE = convert_plan({**chain(), "models": [{**chain()["models"][0], "sha256": "e" * 64}]}).replace(
    name=PlanName("chain-beside")
)
GOOD = Compared(True, True, 1.0, 1.0)


def trial(number: int = 1, phase: TrialPhase = "shadow", **bounds: float) -> Trial:
    return Trial(
        plan=RUNNING.name,
        number=number,
        phase=phase,
        candidate=CANDIDATE if phase else None,
        bounds=Bounds(**bounds),
    )


def short(number: int, phase: TrialPhase) -> Trial:
    return Trial(plan=RUNNING.name, number=number, phase=phase)


def witness(phase: TrialPhase = "shadow", **bounds: float) -> Witness:
    """In a trial, with the candidate open."""
    made = Witness()
    made.told(trial(1, phase, **bounds))
    made.opened(CANDIDATE)
    return made


def asked(made: Witness, count: int = 1) -> list[Ask]:
    return [ask for ask in (made.route(0.0) for _ in range(count)) if ask is not None]


def counts(made: Witness) -> Counts:
    found = made.counts
    assert found is not None
    return found


def test_without_a_trial_nothing_is_done_and_nothing_counted():
    made = Witness()
    for told in (None, short(1, "shadow"), trial(1, "")):
        made.told(told)
        assert (made.active, made.route(0.0), made.counts, made.wants) == (False, None, None, None)


def test_a_candidate_is_opened_by_the_first_request_that_is_due_and_copies_follow():
    made = Witness()
    made.told(trial(copies=0.25))
    assert [ask.way for ask in asked(made, 4)] == ["old", "old", "old", "open"]
    assert [ask.way for ask in asked(made, 4)] == ["old"] * 4, "one thing at a time"
    made.opened(CANDIDATE)
    ways = asked(made, 4)
    assert [ask.way for ask in ways] == ["old", "old", "old", "copy"]
    made.saw(ways[-1], GOOD)
    assert counts(made) == Counts(number=1, phase="shadow", requests=12, compared=1)


def test_a_candidate_that_cannot_be_opened_by_no_fault_of_its_own_is_tried_again_later():
    made = Witness()
    made.told(trial(copies=1.0))
    assert [ask.way for ask in asked(made)] == ["open"]
    made.postponed(100.0)
    later = [made.route(at) for at in (100.0, 100.0 + AGAIN_S - 0.1, 100.0 + AGAIN_S)]
    assert [ask and ask.way for ask in later] == ["old", "old", "open"]
    assert counts(made).failed == 0


@given(st.floats(0.001, 0.5), st.lists(st.booleans(), min_size=1, max_size=150))
def test_the_share_of_touched_requests_is_never_above_the_bound(touched, answered):
    made, under_way = witness("canary", touched=touched), list[Ask]()
    for number, done in enumerate(answered, 1):
        (ask,) = asked(made)
        if ask.way == "first":
            under_way.append(ask)
        assert len(under_way) <= 1
        assert counts(made).touched <= touched * number
        if done and under_way:
            made.saw(under_way.pop(), GOOD)


def test_the_bound_is_reached_where_answers_come():
    made = witness("canary")
    for _ in range(1000):
        (ask,) = asked(made)
        made.saw(ask, GOOD if ask.way == "first" else None)
    assert counts(made) == Counts(number=1, phase="canary", requests=1000, touched=10, compared=10)


@given(st.floats(0.0, 1.0), st.integers(1, 100))
def test_no_more_than_the_share_is_copied(copies, requests):
    made, made_copies = witness(copies=copies), 0
    for _ in range(requests):
        (ask,) = asked(made)
        made_copies += ask.way == "copy"
        made.saw(ask, GOOD if ask.way == "copy" else None)
    assert made_copies == math.floor(requests * copies) == counts(made).compared


STOPS = {
    "a failure": [Failed("stage s1: broken")],
    "numbers that are not finite": [Compared(False, False, 1.0, 1.0)],
    "answers that are all other ones": [Compared(False, True, 1.0, 1.0)] * 3,
    "answers that are all late": [Compared(True, True, 1.0, math.inf)] * 3,
}


@pytest.mark.parametrize("seen", STOPS.values(), ids=STOPS)
def test_a_requester_stops_by_itself_until_the_next_phase(seen):
    made, left = witness("shadow", copies=1.0), list(seen)
    while left:
        (ask,) = asked(made)
        assert ask.way == "copy"
        made.saw(ask, left.pop())
    assert [ask.way for ask in asked(made, 9)] == ["old"] * 9
    assert made.wants is None
    kept = counts(made)
    made.told(short(1, "shadow"))
    assert counts(made) == kept, "it is the same phase still"
    made.told(trial(1, "canary", touched=1.0))
    assert [ask.way for ask in asked(made)] == ["first"]


def test_a_fault_among_many_good_answers_is_counted_with_its_reason():
    made = witness("shadow", copies=1.0)
    for seen in (GOOD, Compared(False, True, 1.0, 1.0), Compared(True, True, 1.0, 1.6), Failed("x" * 500)):
        (ask,) = asked(made)
        made.saw(ask, seen)
    assert counts(made) == Counts(
        number=1, phase="shadow", requests=4, compared=3, disagreed=1, slow=1, failed=1, reason="x" * 200
    )


def test_what_ends_after_its_phase_is_not_counted_and_frees_the_way():
    made = witness("shadow", copies=1.0)
    (ask,) = asked(made)
    made.told(trial(1, "canary", touched=1.0))
    assert [one.way for one in asked(made)] == ["old"], "the copy is under way still"
    made.saw(ask, Failed("late"))
    assert counts(made) == Counts(number=1, phase="canary", requests=1)
    assert [one.way for one in asked(made)] == ["first"]


def test_nodes_that_lag_are_not_heeded_and_those_that_forgot_pause_the_trial():
    made = witness("canary", touched=1.0)
    (ask,) = asked(made)
    made.saw(ask, GOOD)
    made.told(trial(1, "shadow"))
    assert counts(made).phase == "canary"
    made.told(None)
    assert (made.active, made.wants) == (False, None)
    made.told(short(1, "canary"))
    assert counts(made) == Counts(number=1, phase="canary", requests=1, touched=1, compared=1)
    made.told(short(1, ""))
    made.told(trial(1, "canary"))
    assert not made.active, "it is over"
    made.told(None)
    made.told(trial(1, "shadow"))
    assert made.active, "who numbers trials may have begun anew with the nodes"


def test_what_was_committed_is_counted_by_its_own_answers():
    made = witness("probation")
    assert made.wants is None
    assert made.is_new(CANDIDATE.replace(name=RUNNING.name, credits=3))
    assert not made.is_new(RUNNING)
    for seen in (Served(), Served(), Served(False), Failed("broken")):
        (ask,) = asked(made)
        assert ask.way == "alone"
        made.saw(ask, seen)
    assert counts(made) == Counts(
        number=1, phase="probation", requests=4, served=2, not_finite=1, failed=1, reason="broken"
    )


events = st.one_of(
    st.just(GOOD),
    st.builds(Compared, st.booleans(), st.booleans(), st.just(1.0), st.floats(0.1, 9.0)),
    st.builds(Failed, st.just("no")),
    st.none(),
)


@given(st.lists(events, max_size=30))
def test_counts_only_grow(seen):
    made, before = witness("canary", touched=1.0), Counts(number=1, phase="canary")
    for event in seen:
        (ask,) = asked(made)
        made.saw(ask, event)
        now = counts(made)
        assert all(getattr(now, name) >= getattr(before, name) for name in FIGURES)
        assert now.compared + now.failed <= now.touched <= now.requests
        assert max(now.disagreed, now.slow, now.not_finite) <= now.compared
        before = now


@pytest.mark.parametrize("kind", [StageFailed, NotLoaded, BackendError, TensorError])
def test_what_is_the_models_own_fault_is_a_failure(kind: type[CollabError]):
    assert blame(kind("why")) == Failed("why")


@pytest.mark.parametrize("kind", [NodeLost, LinkLost, PeerUnreachable, Overloaded, UsageError])
def test_nodes_that_are_lost_and_full_plans_say_nothing_of_a_model(kind: type[CollabError]):
    assert blame(kind("why")) is None
    assert judged([], 1.0, kind("why"), 0.0) is None


def test_an_answer_is_judged_by_its_numbers_and_its_time():
    old, other = [np.float32([1, 3, 2])], [np.float32([3, 1, 2])]
    assert judged(old, 2.0, old, 3.0) == Compared(True, True, 2.0, 3.0)
    assert judged(old, 2.0, other, 3.0) == Compared(False, True, 2.0, 3.0)
    assert judged(old, 2.0, [np.float32([np.nan, 3, 2])], 3.0) == Compared(False, False, 2.0, 3.0)
    assert judged(old, 2.0, DeadlineExceeded("late"), 0.0) == Compared(False, True, 2.0, math.inf)
