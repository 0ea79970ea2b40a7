"""Deploying: reserve and prepare everywhere, then commit; whoever comes second gets a conflict."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.core.token import Kind
from collab.errors import Conflict, LimitExceeded, NotLoaded, PlanError, Refused
from collab.node.session import Compute, Drop, Free, SessionLimits
from tests.unit.node.cases import bare, only, token
from tests.unit.node.plans import chain

ABC = chain("a", "b", "c")
OTHER = chain("a", "b", "c", credits=9)


def deploy(session, plan, epoch, holder="h", expected=None, now=0):
    session.reserve(plan, epoch, holder, now, expected)
    session.prepare(plan.name, epoch, plan.digest, holder, now)
    session.commit(plan.name, epoch, plan.digest, holder, now)


def test_what_is_committed_is_current_and_loaded():
    a = bare("a")
    assert a.current("p") is None
    deploy(a, ABC, 1)
    assert a.current("p") == (1, ABC.digest)
    assert a.loaded("p", 1)
    deploy(a, OTHER, 2, expected=(1, ABC.digest))
    assert a.current("p") == (2, OTHER.digest)
    assert a.epochs("p") == (1, 2)


def test_every_step_may_be_repeated():
    a = bare("a")
    for _ in range(2):
        a.reserve(ABC, 1, "h", 0, None)
    for _ in range(2):
        assert a.prepare("p", 1, ABC.digest, "h", 0) == []
    a.reserve(ABC, 1, "h", 0, None)
    for _ in range(2):
        a.commit("p", 1, ABC.digest, "h", 0)
    deploy(a, ABC, 1, expected=None)
    assert a.abort("p", 1, ABC.digest, "h", 0) == []
    assert a.current("p") == (1, ABC.digest)


def test_a_second_holder_gets_a_conflict_that_names_the_first():
    a = bare("a")
    a.reserve(ABC, 1, "one", 0, None)
    with pytest.raises(Conflict, match="'one' is deploying epoch 1"):
        a.reserve(OTHER, 1, "two", 0, None)
    with pytest.raises(Conflict):
        a.prepare("p", 1, OTHER.digest, "two", 0)
    with pytest.raises(Conflict):
        a.commit("p", 1, OTHER.digest, "two", 0)


@pytest.mark.parametrize("expected", [None, (1, OTHER.digest), (2, ABC.digest)])
def test_a_wrong_idea_of_what_is_current_is_a_conflict(expected):
    a = bare("a")
    deploy(a, ABC, 1)
    with pytest.raises(Conflict, match="it has epoch 1"):
        a.reserve(OTHER, 3, "h", 0, expected)


@pytest.mark.parametrize("epoch", [1, 0])
def test_epochs_only_grow(epoch):
    a = bare("a")
    deploy(a, ABC, 1)
    with pytest.raises(Conflict, match="take a larger one"):
        a.reserve(OTHER, epoch, "h", 0, (1, ABC.digest))
    a.unload("p", 1, 0)
    with pytest.raises(Conflict, match="take a larger one"):
        a.reserve(OTHER, epoch, "h", 0, None)


def test_nothing_is_committed_that_is_not_prepared():
    a = bare("a")
    a.reserve(ABC, 1, "h", 0, None)
    with pytest.raises(Conflict, match="prepare it everywhere first"):
        a.commit("p", 1, ABC.digest, "h", 0)


def test_a_plan_that_has_no_use_for_the_node_is_refused():
    with pytest.raises(PlanError, match="'z' is not listed"):
        bare("z").reserve(ABC, 1, "h", 0, None)


def test_a_draining_node_takes_no_new_plans():
    a = bare("a")
    a.drain()
    with pytest.raises(Refused, match="draining"):
        a.reserve(ABC, 1, "h", 0, None)


def test_tokens_of_a_prepared_epoch_are_taken_before_its_commit():
    b = bare("b")
    b.reserve(ABC, 1, "h", 0, None)
    b.prepare("p", 1, ABC.digest, "h", 0)
    assert isinstance(only(b.receive("a", token(ABC, 1), 0)), Compute)
    assert only(b.plans()).state == "prepared"


def test_an_aborted_epoch_is_unloaded_and_its_number_can_be_used():
    b = bare("b")
    b.reserve(ABC, 1, "one", 0, None)
    b.prepare("p", 1, ABC.digest, "one", 0)
    only(b.receive("a", token(ABC, 1), 0))
    assert b.abort("p", 1, ABC.digest, "two", 0) == []
    drop, send, free = b.abort("p", 1, ABC.digest, "one", 0)
    assert isinstance(drop, Drop)
    assert (send.token.kind, send.token.fault.code) == (Kind.ERROR, "not_loaded")
    assert free == Free("p", 1)
    assert not b.loaded("p", 1)
    deploy(b, OTHER, 1, "two")
    assert b.current("p") == (1, OTHER.digest)


def test_a_reservation_that_has_expired_can_be_taken_by_another():
    a = bare("a", SessionLimits(reservation_us=1000))
    a.reserve(ABC, 1, "one", 0, None)
    a.prepare("p", 1, ABC.digest, "one", 500)
    with pytest.raises(Conflict):
        a.reserve(OTHER, 1, "two", 1499, None)
    a.reserve(OTHER, 1, "two", 1500, None)
    with pytest.raises(Conflict, match="'two' holds epoch 1"):
        a.commit("p", 1, ABC.digest, "one", 1500)
    assert a.prepare("p", 1, OTHER.digest, "two", 1500) == []
    a.commit("p", 1, OTHER.digest, "two", 1500)
    assert a.current("p") == (1, OTHER.digest)


def test_what_was_prepared_for_a_reservation_that_is_gone_is_freed():
    a = bare("a", SessionLimits(reservation_us=1000))
    a.reserve(ABC, 1, "one", 0, None)
    a.prepare("p", 1, ABC.digest, "one", 0)
    a.reserve(OTHER, 2, "two", 1000, None)
    with pytest.raises(Conflict):
        a.prepare("p", 1, ABC.digest, "one", 1000)
    assert a.prepare("p", 2, OTHER.digest, "two", 1000) == [Free("p", 1)]
    assert a.epochs("p") == (2,)


def test_an_expired_reservation_that_nobody_took_still_commits():
    a = bare("a", SessionLimits(reservation_us=1000))
    a.reserve(ABC, 1, "one", 0, None)
    a.prepare("p", 1, ABC.digest, "one", 0)
    a.commit("p", 1, ABC.digest, "one", 9000)
    assert a.current("p") == (1, ABC.digest)


def test_the_reserved_plan_can_be_read_by_its_holder():
    a = bare("a")
    a.reserve(ABC, 1, "h", 0, None)
    assert a.reserved("p", 1, ABC.digest, "h", 0) is ABC
    with pytest.raises(Conflict):
        a.reserved("p", 1, ABC.digest, "other", 0)


def test_plans_are_bounded_and_forgotten_names_make_room():
    a = bare("a", SessionLimits(plans=2))
    for name in ("p", "q"):
        deploy(a, chain("a", name=name), 1)
    with pytest.raises(LimitExceeded, match=r"limits\.plans"):
        a.reserve(chain("a", name="z"), 1, "h", 0, None)
    with pytest.raises(LimitExceeded, match=r"limits\.plans"):
        deploy(a, chain("a", name="q", credits=3), 2, expected=a.current("q"))
    a.unload("p", 1, 0)
    deploy(a, chain("a", name="z"), 1)
    assert a.current("z") is not None


def test_only_what_is_loaded_can_be_retired():
    with pytest.raises(NotLoaded, match="no epoch of it is"):
        bare("a").retire("p", 1)


def test_a_restarted_node_restores_what_was_current():
    a = bare("a")
    a.restore(ABC, 7, 0)
    assert a.current("p") == (7, ABC.digest)
    with pytest.raises(Conflict):
        a.restore(OTHER, 8, 0)


def coordinator(sessions, plan, epoch, holder, order, expected):
    """Deploys step by step; returns whether it won. It aborts everywhere when one node says no."""
    names = [order[i] for i in range(len(order))]
    try:
        for name in names:
            yield
            sessions[name].reserve(plan, epoch, holder, 0, expected)
        for name in names:
            yield
            sessions[name].prepare("p", epoch, plan.digest, holder, 0)
    except Conflict:
        for name in names:
            yield
            sessions[name].abort("p", epoch, plan.digest, holder, 0)
        return False
    for name in names:
        yield
        sessions[name].commit("p", epoch, plan.digest, holder, 0)
    return True


@settings(max_examples=400, deadline=None)
@given(
    first=st.permutations("abc"),
    second=st.permutations("abc"),
    turns=st.lists(st.booleans(), max_size=30),
    epochs=st.sampled_from([(2, 2), (2, 3), (3, 2)]),
    same=st.booleans(),
    duplicated=st.booleans(),
)
def test_of_two_coordinators_one_wins_everywhere_or_none(first, second, turns, epochs, same, duplicated):
    sessions = {name: bare(name) for name in "abc"}
    for session in sessions.values():
        deploy(session, ABC, 1)
    old = (1, ABC.digest)
    plans = (OTHER, OTHER if same else chain("a", "b", "c", credits=11))
    running = {
        "one": coordinator(sessions, plans[0], epochs[0], "one", first, old),
        "two": coordinator(sessions, plans[1], epochs[1], "two", second, old),
    }
    won = {}
    for turn in [*turns, *[True, False] * 40]:
        holder = "one" if turn else "two"
        if holder in running:
            try:
                next(running[holder])
                if duplicated and holder == "two":
                    next(running[holder])
            except StopIteration as stop:
                won[holder] = stop.value
                del running[holder]
    assert len(won) == 2
    current = {session.current("p") for session in sessions.values()}
    assert len(current) == 1
    outcomes = {"one": (epochs[0], plans[0].digest), "two": (epochs[1], plans[1].digest)}
    winners = [holder for holder, success in won.items() if success]
    if winners:
        assert current == {outcomes[winners[-1]]}
    else:
        assert current == {old}
    for session in sessions.values():
        assert set(session.epochs("p")) <= {1, *(outcomes[w][0] for w in winners)}
