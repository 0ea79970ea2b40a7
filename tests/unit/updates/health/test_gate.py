"""The health gate: what stops a candidate, what lets it through, and how few requests it touches."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.updates.health import gate as gates
from collab.updates.health.gate import (
    Bounds,
    Commit,
    Compared,
    Drop,
    Failed,
    Gate,
    GoldenRan,
    Load,
    Loaded,
    MarkHealthy,
    Order,
    RollBack,
    RunGolden,
    Served,
    Staged,
    Tick,
)
from collab.updates.health.sequential import Rates, Tally

GOOD = Compared(True, True, 1.0, 1.0)
PAGE = Path(__file__).parents[4] / "docs" / "releases" / "health.md"


def in_shadow(bounds: Bounds | None = None) -> Gate:
    gate = Gate(bounds or Bounds(), 0.0)
    assert gate.observe(Staged(), 0.0) == [Load()]
    assert gate.observe(Loaded(), 0.0) == [RunGolden()]
    assert gate.observe(GoldenRan(4, 0), 0.0) == []
    assert gate.phase == "shadow"
    return gate


def in_canary() -> Gate:
    gate = in_shadow()
    while gate.phase == "shadow":
        assert gate.observe(GOOD, 0.0) == []
    assert gate.phase == "canary"
    return gate


def in_probation() -> Gate:
    gate = in_canary()
    orders: list[Order] = []
    while gate.phase == "canary":
        if gate.route() == "first":
            orders += gate.observe(GOOD, 0.0)
    assert orders == [Commit()]
    return gate


def test_a_good_release_is_committed_and_called_healthy():
    gate = in_probation()
    orders = []
    for _ in range(Bounds().probation):
        assert gate.route() == "first"
        orders += gate.observe(Served(), 0.0)
    assert orders == [MarkHealthy()]
    assert gate.phase == "healthy"


def test_wrong_golden_answers_drop_it_before_any_request():
    gate = Gate(Bounds(), 0.0)
    gate.observe(Staged(), 0.0)
    gate.observe(Loaded(), 0.0)
    assert gate.observe(GoldenRan(8, 1), 0.0) == [Drop("golden inputs: 1 of 8 answers are wrong")]
    assert gate.route() == "old"


@pytest.mark.parametrize(("new", "dropped"), [(38 << 20, False), (39 << 20, True)])
def test_too_much_memory_drops_it(new, dropped):
    gate = Gate(Bounds(memory_factor=1.5, memory_slack_bytes=8 << 20), 0.0)
    gate.observe(Staged(), 0.0)
    orders = gate.observe(Loaded(new, 20 << 20), 0.0)
    assert isinstance(orders[0], Drop) == dropped


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (Compared(False, True, 1.0, 1.0), "differ"),
        (Compared(True, True, 1.0, 2.0), "as long"),
        (Compared(True, False, 1.0, 1.0), "finite"),
        (Failed("killed by a signal"), "killed by a signal"),
    ],
)
@pytest.mark.parametrize("reach", [in_shadow, in_canary])
def test_one_that_is_worse_slower_not_finite_or_crashing_is_dropped_after_a_few(reach, seen, word):
    gate = reach()
    phase, tries = gate.phase, 0
    orders: list[Order] = []
    while not orders:
        orders, tries = gate.observe(seen, 0.0), tries + 1
    assert isinstance(orders[0], Drop)
    assert word in orders[0].reason
    assert orders[0].reason.startswith(phase)
    assert tries <= 3


def test_a_failure_in_probation_rolls_back():
    for seen in (Served(finite=False), Failed("killed")):
        gate = in_probation()
        orders = gate.observe(seen, 0.0)
        assert isinstance(orders[0], RollBack)
        assert gate.phase == "rolled back"
        assert gate.route() == "old"


@pytest.mark.parametrize(
    ("seen", "phase"), [([], "staged"), ([Loaded()], "golden"), ([Loaded(), GoldenRan(0, 0)], "shadow")]
)
def test_what_stays_undecided_is_dropped_and_says_so(seen, phase):
    gate = Gate(Bounds(golden_s=10, shadow_s=10), 0.0)
    for one in (Staged(), *seen):
        gate.observe(one, 5.0)
    assert gate.phase == phase
    assert gate.observe(Tick(), 9.9) == []
    orders = gate.observe(Tick(), 15.0)
    assert isinstance(orders[0], Drop)
    assert "undecided" in orders[0].reason


def test_copies_are_spread_evenly():
    gate = in_shadow(Bounds(copies=0.2))
    ways = [gate.route() for _ in range(100)]
    assert ways.count("copy") == 20
    assert ways[:10].count("copy") == 2
    assert "first" not in ways


observations = st.one_of(
    st.just(Staged()),
    st.builds(Loaded, st.integers(0, 1 << 26), st.integers(0, 1 << 26)),
    st.builds(GoldenRan, st.integers(0, 9), st.sampled_from([0, 0, 0, 1])),
    st.builds(Compared, st.booleans(), st.booleans(), st.floats(0.1, 9), st.floats(0.1, 9)),
    st.sampled_from([GOOD] * 5),
    st.builds(Served, st.booleans()),
    st.just(Failed("x")),
    st.just(Tick()),
    st.just("request"),
)


@given(st.lists(st.tuples(observations, st.integers(1, 150)), max_size=60))
def test_whatever_is_seen_a_candidate_touches_few_and_ends_once(steps):
    gate, now = Gate(Bounds(), 0.0), 0.0
    given_orders, seen, touched, golden = [], 0, 0, False
    for what, times in steps:
        for _ in range(times):
            now += 1.0
            before = gate.phase
            if what == "request":
                seen, way = seen + (before == "canary"), gate.route()
                touched += way == "first" and before == "canary"
                assert way != "first" or before in ("canary", "probation", "healthy")
                assert way != "copy" or before == "shadow"
                assert touched <= 0.01 * seen
                continue
            orders = gate.observe(what, now)
            golden |= before == "golden" and gate.phase == "shadow"
            if before in gates.FINAL:
                assert orders == []
                assert gate.phase == before
            for order in orders:
                assert not isinstance(order, Commit) or (golden and before == "canary" and touched >= 10)
                assert not isinstance(order, (Drop, RollBack)) or order.reason
            given_orders += orders
    kinds = [type(order) for order in given_orders]
    assert kinds.count(Commit) <= 1
    assert sum(kinds.count(kind) for kind in (Drop, MarkHealthy, RollBack)) <= 1
    assert not (Drop in kinds and Commit in kinds)


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.02, "fine"), (0.10, "worse"), (0.4, "worse"), (0.0, "fine")]
)
def test_the_sequential_test_is_wrong_about_as_often_as_was_asked(share, verdict):
    rng, rates, wrong, longest = np.random.default_rng(3), Rates(fine=0.02, worse=0.10), 0, 0
    for _ in range(400):
        test = Tally()
        while (found := test.verdict(rates)) == "undecided":
            test = test.add(bool(rng.random() < share))
        wrong += found != verdict
        longest = max(longest, test.seen)
    assert wrong <= 12
    assert longest < 1000


def test_the_page_shows_every_transition():
    rows = set(re.findall(r"^\| (\w[\w ]*) \| `(\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE))
    assert rows == {(phase, kind.__name__) for phase, kind in gates.HANDLERS}


def test_the_page_shows_every_bound_with_its_default():
    text = PAGE.read_text("utf-8")
    for field, value in msgspec.structs.asdict(Bounds()).items():
        shown = (
            f"{value.fine:g} / {value.worse:g}"
            if isinstance(value, Rates)
            else f"{value:,}".removesuffix(".0")
        )
        assert f"| `{field}` | {shown} |" in text, (field, shown)
