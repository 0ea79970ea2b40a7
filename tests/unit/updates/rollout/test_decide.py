"""What a rollout does next: by table, and over lives drawn at random."""

from __future__ import annotations

import ast
import inspect
import typing
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.updates.rollout import decide
from collab.updates.rollout.decide import HANDLERS, LONGEST_PAUSE_S, is_healthy, pause_s, step
from collab.updates.rollout.definition import Rollout, rollout_of
from collab.updates.rollout.state import (
    BAD,
    ENDED,
    FINAL,
    UNDER_WAY,
    Abort,
    Away,
    Event,
    Gone,
    LeftOut,
    Order,
    Pause,
    Restarted,
    Resume,
    RolloutState,
    Spoiled,
    Step,
    TakeBack,
    Tick,
    Update,
    Updated,
    WentBack,
    begin,
)

NOON = 1_800_273_600.0


class Life:
    """A rollout, and what it asked for."""

    def __init__(self, count: int, **fields: Any) -> None:
        self.rollout: Rollout = rollout_of(
            {
                "name": "r",
                "release": {"bundle": "b", "family": "f", "version": 7},
                "targets": [{"plans": "p"}],
                **fields,
            }
        )
        self.now_s = NOON
        self.state: RolloutState = begin(
            self.rollout, {f"p{n}": (f"p{n}.yaml", {}) for n in range(count)}, self.now_s
        )
        self.orders: list[Order] = []
        self.wait_until_s: float | None = None

    def see(self, event: Event, after_s: float = 0.0) -> tuple[Order, ...]:
        self.now_s += after_s
        made: Step = step(self.rollout, self.state, event, self.now_s)
        self.state, self.wait_until_s = made.state, made.wait_until_s
        self.orders += made.orders
        return made.orders

    def good(self, orders: tuple[Order, ...]) -> tuple[Order, ...]:
        """All of them end well; what is asked for then."""
        asked: list[Order] = []
        for order in orders:
            asked += self.see(Updated(order.name, "f:7", 2))
        return tuple(asked)

    @property
    def phase(self) -> str:
        return self.state.phase

    def statuses(self) -> list[str]:
        return [one.status for one in self.state.targets]

    def wave(self, number: int) -> list[str]:
        return [one.name for one in self.state.targets if one.wave == number]


def bad(order: Order, status: typing.Literal["dropped", "rolled back", "failed"] = "dropped") -> Spoiled:
    return Spoiled(order.name, status, "answers differ")


def test_a_good_release_goes_out_wave_by_wave():
    life = Life(6, waves=[1, "50%", "100%"])
    first = life.see(Tick())
    assert first == (Update(life.wave(0)[0]),)
    second = life.good(first)
    assert sorted(order.name for order in second) == sorted(life.wave(1))
    third = life.good(second)
    assert sorted(order.name for order in third) == sorted(life.wave(2))
    assert life.good(third) == ()
    assert (life.state.phase, life.statuses(), life.wait_until_s) == ("done", ["healthy"] * 6, None)


def test_a_bad_canary_halts_all_and_the_others_are_untouched():
    life = Life(6, waves=[1, "100%"])
    (canary,) = life.see(Tick())
    assert life.see(bad(canary)) == ()
    assert life.state.phase == "halted"
    assert "answers differ" in life.state.reason
    assert life.statuses() == ["dropped", *["waiting"] * 5]
    assert life.see(Tick(), 1e9) == ()


def test_a_wave_rests_before_the_next_one():
    life = Life(3, waves=[1, "100%"], soak_s=60)
    assert life.good(life.see(Tick())) == ()
    assert life.wait_until_s == NOON + 60
    assert life.see(Tick(), 59) == ()
    assert len(life.see(Tick(), 1)) == 2


def test_no_more_than_parallel_are_under_way():
    life = Life(5, waves=["100%"], parallel=2)
    orders = life.see(Tick())
    assert len(orders) == 2
    assert len(life.see(Updated(orders[0].name))) == 1


def test_errors_below_the_threshold_do_not_halt_and_the_last_one_does():
    life = Life(10, waves=["100%"], parallel=10, errors="30%", success="10%")
    orders = life.see(Tick())
    for order in orders[:2]:
        life.see(bad(order))
    assert life.state.phase == "running"
    life.see(bad(orders[2], "rolled back"))
    assert life.phase == "halted"


def test_a_wave_that_cannot_be_healthy_enough_any_more_halts():
    life = Life(10, waves=[4, "100%"], parallel=10, errors=10, success="75%")
    orders = life.see(Tick())
    life.see(bad(orders[0]))
    assert life.state.phase == "running"
    life.see(bad(orders[1]))
    assert (life.state.phase, life.state.reason) == (
        "halted",
        "wave 1: 2 of 4 took no release, 3 had to be healthy",
    )


def test_halting_takes_back_in_the_reverse_order_where_that_is_asked_for():
    life = Life(4, waves=[1, "100%"], on_failure="rollback", parallel=3)
    first = life.see(Tick())
    second = life.good(first)
    life.see(Updated(second[0].name, "f:7", 2))
    orders = life.see(bad(second[1]))
    assert life.state.phase == "going back"
    assert orders == (TakeBack(second[0].name), TakeBack(first[0].name))
    late = life.see(Updated(second[2].name, "f:7", 2))
    assert late == (TakeBack(second[2].name),), "what became healthy meanwhile follows"
    for order in (*orders, *late):
        life.see(WentBack(order.name, "f:6", 3))
    assert life.phase == "halted"
    assert sorted(life.statuses()) == ["dropped", "gone back", "gone back", "gone back"]


def test_going_back_tries_again_where_a_node_is_away():
    life = Life(1, waves=["100%"])
    life.good(life.see(Tick()))
    (order,) = life.see(Abort("me", back=True))
    assert life.see(Away(order.name, "no link")) == ()
    assert life.wait_until_s is not None
    assert life.see(Tick(), life.wait_until_s - life.now_s) == (order,)
    life.see(WentBack(order.name))
    assert (life.state.phase, life.state.reason) == ("aborted", "aborted by me")


def test_what_cannot_be_taken_back_is_said_and_ends_it():
    life = Life(1, waves=["100%"])
    life.good(life.see(Tick()))
    (order,) = life.see(Abort("me", back=True))
    life.see(bad(order, "failed"))
    assert (life.state.phase, life.statuses()) == ("aborted", ["failed"])


def test_pause_stops_what_is_new_at_once_and_resume_goes_on():
    life = Life(4, waves=["100%"], parallel=2)
    orders = life.see(Tick())
    assert life.see(Pause("ann")) == ()
    assert life.good(orders) == ()
    assert (life.state.paused_by, life.wait_until_s) == ("ann", None)
    assert len(life.see(Resume("bob"))) == 2


def test_halting_is_final_until_resumed_and_then_failed_targets_are_tried_again():
    life = Life(3, waves=[1, "100%"])
    (canary,) = life.see(Tick())
    life.see(bad(canary))
    for event in (Tick(), Pause("ann"), Gone("a newer one"), Restarted()):
        halted = Life(0)
        halted.rollout, halted.state = life.rollout, life.state
        assert halted.see(event) == ()
        assert halted.state.phase in ("halted", "closed")
    assert life.see(Resume("bob")) == (canary,)
    assert len(life.good((canary,))) == 2


def test_failed_targets_may_be_left_out():
    life = Life(3, waves=[1, "100%"])
    (canary,) = life.see(Tick())
    life.see(bad(canary))
    assert len(life.see(Resume("bob", leave_out=True))) == 1, "another canary takes its place"
    assert life.state.target(canary.name).reason == "dropped, left out by bob: answers differ"


def test_an_offline_target_is_looked_for_again_ever_more_rarely():
    pauses = [pause_s("p", tries) for tries in range(1, 21)]
    assert all(0.79 * LONGEST_PAUSE_S <= pause <= LONGEST_PAUSE_S for pause in pauses[9:])
    assert pauses[0] <= 2.0 < pauses[2]
    life = Life(2, waves=["100%"], success="50%")
    away, other = life.see(Tick())
    assert life.see(Away(away.name, "no link")) == ()
    life.see(Updated(other.name))
    assert (life.state.phase, life.statuses()) == ("open", ["offline", "healthy"])
    assert life.wait_until_s is not None
    assert life.see(Tick(), life.wait_until_s - life.now_s) == (away,)
    life.see(Updated(away.name))
    assert (life.state.phase, life.state.reason) == ("done", "")


def test_an_offline_canary_is_waited_for():
    life = Life(3, waves=[1, "100%"])
    (canary,) = life.see(Tick())
    life.see(Away(canary.name, "no link"))
    assert life.see(Tick(), 1.0) == ()
    assert life.see(Tick(), 1e6) == (canary,)
    assert len(life.good((canary,))) == 2


def test_an_offline_target_of_an_earlier_wave_catches_up_beside_the_next_one():
    life = Life(4, waves=[2, "100%"], success="50%")
    away, other = life.see(Tick())
    life.see(Away(away.name, "no link"))
    second = life.see(Updated(other.name))
    assert len(second) == 2
    assert life.see(Tick(), 1e6) == (away,)
    life.see(Updated(away.name))
    life.good(second)
    assert life.state.phase == "done"


def test_who_does_not_come_back_in_time_is_left_alone():
    life = Life(2, waves=["100%"], success="50%", close_after_s=600)
    away, other = life.see(Tick())
    life.see(Away(away.name, "no link"))
    life.see(Updated(other.name))
    (again,) = life.see(Tick(), 599)
    life.see(Tick(), 1)
    assert life.state.phase == "open", "it is under way"
    life.see(Away(again.name, "no link"))
    assert (life.state.phase, life.state.reason) == ("done", "1 targets did not come back in time")


def test_after_going_back_it_begins_with_the_first_wave_again():
    life = Life(4, waves=[1, "100%"], on_failure="rollback")
    first = life.see(Tick())
    second = life.good(first)
    life.see(Updated(second[0].name))
    back = [*life.see(bad(second[1])), *life.see(bad(second[2]))]
    for order in back:
        life.see(WentBack(order.name))
    assert life.state.phase == "halted"
    assert life.see(Resume("me")) == first


def test_another_process_goes_on_with_what_was_under_way():
    life = Life(3, waves=["100%"], success="34%", parallel=3)
    away, new, done = life.see(Tick())
    life.see(Away(away.name, "no link"))
    life.see(Updated(done.name))
    assert life.see(Tick(), 60) == (away,)
    assert life.see(Restarted()) == (new, away)
    assert life.state.target(away.name).tries == 1
    life.see(Away(away.name, "no link"))
    assert life.see(Abort("me", back=True)) == (TakeBack(done.name),)
    assert life.see(Restarted()) == (TakeBack(done.name),)


def test_windows_hold_updates_and_not_going_back():
    life = Life(2, waves=[1, "100%"], windows=[{"from": "11:00", "to": "12:30"}])
    first = life.see(Tick())
    assert life.see(Updated(first[0].name), 1800) == ()
    assert life.wait_until_s == NOON + 23 * 3600
    assert life.see(Abort("me", back=True)) == (TakeBack(first[0].name),)


def test_a_release_that_is_gone_closes_it_and_leaves_what_runs():
    life = Life(3, waves=[1, "100%"], parallel=1)
    second = life.good(life.see(Tick()))
    assert life.see(Gone("version 8 is newer")) == ()
    assert life.see(Updated(second[0].name)) == ()
    assert (life.state.phase, sorted(life.statuses())) == ("closed", ["healthy", "healthy", "waiting"])
    assert life.see(Resume("me")) == ()


def test_targets_that_it_is_not_for_do_not_count():
    life = Life(3, waves=[1, "100%"])
    (canary,) = life.see(Tick())
    stand_in = life.see(LeftOut(canary.name, "runs version 9", "f:9"))
    assert len(stand_in) == 1, "the wave has shown nothing yet"
    assert [one.wave for one in life.state.targets] == [0, 0, 1]
    life.good(life.good(stand_in))
    assert (life.state.phase, life.statuses()[0]) == ("done", "excluded")


def test_an_abort_after_the_end_takes_all_back():
    life = Life(2, waves=["100%"])
    life.good(life.see(Tick()))
    assert life.see(Abort("me")) == ()
    assert life.state.phase == "done"
    assert len(life.see(Abort("me", back=True))) == 2


def test_every_event_has_a_handler():
    assert HANDLERS.keys() == set(typing.get_args(Event))
    source = ast.parse(inspect.getsource(decide))
    assert not [node for node in ast.walk(source) if isinstance(node, ast.Await)]


# --- lives drawn at random --------------------------------------------------------

OUTCOMES = st.sampled_from(["good", "good", "good", "good", "away", "dropped", "failed", "left out"])
MOVES = st.sampled_from(
    [*["end"] * 4, "tick", "wait", "restart", "pause", "resume", "leave out", "abort", "back", "gone"]
)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    waves: list[Any] = draw(
        st.lists(st.one_of(st.integers(1, 6), st.sampled_from(["10%", "34%", "50%"])), max_size=3)
    )
    return Life(
        draw(st.integers(1, 12)),
        waves=[*waves, "100%"],
        parallel=draw(st.integers(1, 4)),
        success=draw(st.sampled_from(["10%", "50%", "90%", "100%"])),
        errors=draw(st.one_of(st.integers(1, 4), st.just("30%"))),
        on_failure=draw(st.sampled_from(["pause", "rollback"])),
        soak_s=draw(st.sampled_from([0, 30])),
        close_after_s=draw(st.sampled_from([0, 50, 10_000])),
        seed=draw(st.integers(0, 3)),
    )


def outcome(life: Life, order: Order, kind: str) -> Event:
    if kind == "away":
        return Away(order.name, "no link")
    if kind in BAD:
        return Spoiled(order.name, typing.cast(Any, kind), "bad")
    if isinstance(order, TakeBack):
        return WentBack(order.name, "f:6", 3)
    return LeftOut(order.name, "newer") if kind == "left out" else Updated(order.name, "f:7", 2)


def outer(life: Life, move: str) -> tuple[Event, float]:
    events: dict[str, Event] = {
        "restart": Restarted(),
        "pause": Pause("x"),
        "resume": Resume("x"),
        "leave out": Resume("x", leave_out=True),
        "abort": Abort("x"),
        "back": Abort("x", back=True),
        "gone": Gone("newer"),
    }
    wait_s = 1.0
    if move == "wait" and life.wait_until_s is not None:
        wait_s = max(0.0, life.wait_until_s - life.now_s)
    return events.get(move, Tick()), wait_s


@settings(max_examples=150, deadline=None)
@given(lives(), st.lists(st.tuples(MOVES, OUTCOMES, st.integers(0, 3)), max_size=60))
def test_whatever_happens_the_rules_hold(life, moves):
    runs: dict[str, bool] = {}
    at_it: list[Order] = []
    at_it += life.see(Tick())
    for move, kind, which in moves:
        before = life.state
        if move == "end" and at_it:
            order = at_it.pop(which % len(at_it))
            event = outcome(life, order, kind)
            if isinstance(event, Updated):
                runs[order.name] = True
            if isinstance(event, WentBack):
                runs[order.name] = False
            made = life.see(event)
        else:
            event, after_s = outer(life, move)
            made = life.see(event, after_s)
            if move == "restart":
                at_it.clear()
        check_orders(life, before, event, made, runs)
        at_it += made
        under_way = {one.name for one in life.state.targets if one.status in UNDER_WAY}
        assert under_way == {order.name for order in at_it}
        assert len(under_way) <= life.rollout.parallel
        assert msgspec.json.decode(msgspec.json.encode(life.state), type=RolloutState) == life.state
    ends_by_itself(life, at_it)


def check_orders(
    life: Life, before: RolloutState, event: Event, made: tuple[Order, ...], runs: dict[str, bool]
) -> None:
    state = life.state
    if before.phase == "halted" and not isinstance(event, (Resume, Abort, Gone)):
        assert (state.phase, made) == ("halted", ())
    if before.phase in FINAL and not isinstance(event, Abort):
        assert (state.phase, made) == (before.phase, ())
    if state.paused_by:
        assert made == ()
    for order in made:
        target = state.target(order.name)
        if isinstance(order, TakeBack):
            assert state.phase == "going back"
            continue
        assert state.phase in ("running", "open")
        assert not runs.get(order.name, False), "it was done twice"
        reached = [w for w in range(target.wave) if any(one.wave == w for one in state.targets)]
        if before.target(order.name).status == "waiting":
            # What is waiting begins only while each earlier wave is healthy enough.
            assert target.wave == state.wave
            assert is_healthy(life.rollout, state, reached[-1]) if reached else True


def ends_by_itself(life: Life, at_it: list[Order]) -> None:
    """With nodes that are there and a good release it ends, and nothing is left half done."""
    at_it += life.see(Resume("x")) if life.state.paused_by else life.see(Tick())
    for _ in range(200):
        if at_it:
            at_it += life.see(outcome(life, at_it.pop(), "good"))
        elif life.state.phase in ENDED:
            break
        else:
            assert life.wait_until_s is not None, life.state
            at_it += life.see(Tick(), max(0.0, life.wait_until_s - life.now_s))
    assert life.state.phase in ENDED
    assert not [one for one in life.state.targets if one.status in UNDER_WAY]
    if life.state.phase == "done":
        assert not [one for one in life.state.targets if one.status in ("waiting", "updating")]
