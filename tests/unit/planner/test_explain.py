"""Why a plan is as it is: limits, alternatives, improvements, and who is busy when."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from collab.core.profile import CodecAt, CodecSpeed
from collab.errors import PlanError
from collab.planner.chains import OBJECTIVES, Move, StageChoice, Wants
from collab.planner.evaluate import Evaluator
from collab.planner.explain import alternatives, best_moves, bottleneck, limits, speed_up
from collab.planner.gantt import pipeline_gantt, request_gantt
from collab.planner.what_if import best_pair, what_if, why_one_device
from tests.unit.planner.profiles import chain, device, link, meshed, profile, solve

TWO = profile(
    [device("a", (4, 4, 4, 4)), device("b", (1, 1, 1, 1))], meshed("a", "b", latency_ms=2.0), requester="a"
)


def test_a_requests_spans_stand_in_the_order_of_the_chain_and_end_with_its_latency():
    evaluation = Evaluator(TWO).evaluate(chain((2, "a"), (4, "b")))
    drawn = request_gantt(evaluation)
    assert [row.where for row in drawn.rows] == ["a", "a → b", "b", "b → a"]
    assert drawn.end_ms == pytest.approx(evaluation.costs.latency_ms)
    move = drawn.rows[1].bars[0]
    assert (move.start_ms, move.duration_ms, move.occupied_ms) == pytest.approx((8, 12, 10))


def test_an_impossible_chain_has_no_times_to_draw():
    lonely = profile([device("a", (1,) * 4), device("b", (1,) * 4)], [])
    evaluator, impossible = Evaluator(lonely), chain((2, "a"), (4, "b"))
    with pytest.raises(PlanError, match="cannot run"):
        request_gantt(evaluator.evaluate(impossible))
    with pytest.raises(PlanError, match="a → b at 2: it cannot run"):
        pipeline_gantt(evaluator, impossible, 3)
    with pytest.raises(PlanError, match="requests 0"):
        pipeline_gantt(evaluator, chain((4, "a")), 0)


def overlaps(gantt):
    """Bars that begin before the one before has left the resource."""
    return [
        (row.where, left, right)
        for row in gantt.rows
        for left, right in itertools.pairwise(row.bars)
        if right.start_ms < left.start_ms + left.occupied_ms - 1e-9
    ]


def interval(gantt):
    """Mean time between the later half of the answers."""
    ends: dict[int, float] = {}
    for bar in itertools.chain.from_iterable(row.bars for row in gantt.rows):
        ends[bar.request] = max(ends.get(bar.request, 0), bar.start_ms + bar.duration_ms)
    later = sorted(ends.values())[(len(ends) - 1) // 2 :]
    return (later[-1] - later[0]) / (len(later) - 1)


times = st.floats(0.1, 50)


@given(
    op_ms=st.tuples(times, times, times, times),
    cuts=st.lists(st.integers(1, 3), max_size=3, unique=True).map(sorted),
    speed=st.floats(0.5, 1000),
    delay=st.floats(0, 20),
    asked=st.integers(2, 12),
    requester=st.sampled_from([None, "r", "d0"]),
)
def test_a_pipeline_without_replicas_answers_once_in_each_bottleneck(
    op_ms, cuts, speed, delay, asked, requester
):
    names = [f"d{n}" for n in range(4)]
    made = profile(
        [device(name, op_ms) for name in names],
        meshed(*names, "r", latency_ms=delay, mbit_s=speed),
        requester=requester,
    )
    placed = chain(*zip((*cuts, 4), names, strict=False))
    evaluator = Evaluator(made)
    costs = evaluator.evaluate(placed).costs
    drawn = pipeline_gantt(evaluator, placed, asked)
    assert interval(drawn) == pytest.approx(costs.bottleneck_ms, rel=1e-6)
    assert drawn.end_ms == pytest.approx(costs.latency_ms + (asked - 1) * costs.bottleneck_ms, rel=1e-6)
    assert not overlaps(drawn)
    busiest = bottleneck(evaluator, placed)
    row = next(row for row in drawn.rows if row.where == busiest.where)
    assert sum(bar.occupied_ms for bar in row.bars) == pytest.approx(asked * costs.bottleneck_ms)


def test_a_node_that_is_visited_twice_serves_the_older_request_first_and_keeps_up():
    evaluator = Evaluator(profile([device("a", (5, 5, 5, 5)), device("b", (5,) * 4)], meshed("a", "b")))
    twice = chain((1, "a"), (2, "b"), (3, "a"))
    twice = replace(twice, stages=(*twice.stages, StageChoice(3, 4, ("b",))), moves=(Move(),) * 5)
    drawn = pipeline_gantt(evaluator, twice, 40)
    assert not overlaps(drawn)
    expected = evaluator.evaluate(twice).costs.bottleneck_ms
    assert interval(drawn) == pytest.approx(expected, rel=0.1)


def test_replicas_take_requests_by_their_rate_and_no_pair_is_starved():
    fast, slow = (2, 2, 2, 2), (4, 4, 4, 4)
    made = profile(
        [device("a", (1,) * 4), device("b", fast), device("c", slow)], meshed("a", "b", "c", mbit_s=10_000)
    )
    evaluator, spread = Evaluator(made), chain((1, "a"), (4, "b+c"))
    drawn = pipeline_gantt(evaluator, spread, 30)
    served = {row.where: len(row.bars) for row in drawn.rows}
    assert (served["b"], served["c"]) == (20, 10)
    assert not overlaps(drawn)
    assert interval(drawn) == pytest.approx(evaluator.evaluate(spread).costs.bottleneck_ms, rel=0.1)
    pairs = pipeline_gantt(evaluator, chain((2, "a+b"), (4, "b+c")), 60)
    assert {"a → b", "a → c", "b → c"} <= {row.where for row in pairs.rows}


def test_the_bottleneck_is_who_is_busy_longest_and_says_its_shares():
    found = bottleneck(Evaluator(TWO), chain((2, "a"), (4, "b")))
    assert (found.where, found.is_link) == ("a → b", True)
    assert (found.busy_ms, found.of_pipeline) == pytest.approx((10, 1))
    # 12 of 8 + 12 + 2 + 2.08 ms, its delay counted in.
    assert found.of_latency == pytest.approx(12 / 24.08)
    first = limits(Evaluator(TWO).evaluate(chain((3, "a"), (4, "b"))), "latency")[0]
    assert (first.where, first.is_link, first.latency_ms) == ("a", False, 12)


def test_alternatives_list_every_device_and_say_by_how_much_a_model_is_too_large():
    made = profile(
        [device("a", (4,) * 4), device("b", (1,) * 4, memory=3000), device("c", (2,) * 4)],
        meshed("a", "b", "c", mbit_s=1000.0),
        requester="a",
    )
    wants = Wants()
    solution = solve(made, wants)
    rows = alternatives(made, wants, solution)
    assert rows[0].chain == solution.best.chain
    assert rows[0].name == "this plan"
    whole = {row.chain.stages[0].nodes[0]: row for row in rows if len(row.chain.stages) == 1}
    assert whole["b"].hindrance == "1.0 kB too large"
    assert whole["b"].costs.memory_bytes == 4000
    assert (whole["a"].name, whole["a"].hindrance) == ("whole model", "")
    assert whole["c"].name == "full offload"
    assert whole["c"].costs.latency_ms == pytest.approx(8 + 1 + 1.2 + 1 + 0.008)
    assert len({(row.chain.stages, row.chain.moves) for row in rows}) == len(rows)


def test_alternatives_name_the_rule_or_the_link_that_stands_in_the_way():
    made = profile(
        [device("a", (4,) * 4), device("b", (1,) * 4), device("c", (1,) * 4)],
        meshed("a", "b"),
        requester="a",
    )
    wants = Wants(forbidden=frozenset({"b"}), deadline_ms=10)
    rows = alternatives(made, wants, solve(made, replace(wants, deadline_ms=None)))
    hindrances = {row.chain.stages[0].nodes[0]: row.hindrance for row in rows[1:] if row.name != "runner-up"}
    assert hindrances["b"] == "b is forbidden"
    assert hindrances["c"] == "no link a → c"
    first = alternatives(made, Wants(first_on="a"), solve(made, Wants()))
    assert {row.hindrance for row in first if row.chain.stages[0].nodes == ("b",)} == {"a must be first"}
    late = alternatives(made, Wants(deadline_ms=10), solve(made, Wants()))
    whole = next(row for row in late if row.name == "full offload")
    assert whole.hindrance == "8.08 ms past the deadline"
    assert whole.costs.latency_ms == pytest.approx(18.08)


def test_moves_take_the_transport_and_the_codec_that_the_objective_likes():
    speeds = (CodecSpeed(codec="int8", encode_mb_s=1000, decode_mb_s=1000),)
    made = profile(
        [device("a", (4,) * 4, codecs=speeds), device("b", (1,) * 4, codecs=speeds)],
        [*meshed("a", "b"), link("a", "b", mbit_s=400.0, transport="coap+udp")],
    )
    ratio = (CodecAt(codec="int8", ratio=4.0, error=0.004),)
    made = changed(made, cuts=tuple(changed(cut, codecs=ratio) for cut in made.cuts))
    plain = best_moves(Evaluator(made), Wants(codecs=("raw", "int8")), chain((1, "a"), (4, "b")))
    assert plain.moves[1] == Move("coap+udp", "raw")
    lossy = Wants(codecs=("raw", "int8"), codec_error=0.01)
    assert best_moves(Evaluator(made), lossy, chain((1, "a"), (4, "b"))).moves[1] == Move("coap+udp", "int8")
    slow = replace(lossy, transports=("grpc",))
    assert best_moves(Evaluator(made), slow, chain((1, "a"), (4, "b"))).moves[1] == Move("grpc", "int8")


def test_what_if_suggests_what_gains_and_says_by_how_much():
    wants = Wants()
    made = profile(
        [device("a", (20,) * 4), device("b", (1,) * 4)], meshed("a", "b", latency_ms=0.1), requester="a"
    )
    solution = solve(made, wants)
    found = what_if(made, wants, solution, solve)
    assert solution.best.costs.latency_ms == pytest.approx(16.28)
    best = found[0]
    # 150 kB in 3 ms rather than 12.
    assert best.sentence == "a 400 Mbit/s link a → b would give 2.24 times (7.28 ms instead of 16.3 ms)"
    assert [each.times for each in found] == sorted((each.times for each in found), reverse=True)
    assert all(each.times >= 1.05 for each in found)
    assert {each.change for each in found} == {
        "a 400 Mbit/s link a → b",
        "a 200 Mbit/s link a → b",
        "a device twice as fast as b",
    }


def test_what_if_says_nothing_of_gains_that_nobody_would_notice():
    wants = Wants()
    made = profile([device("a", (1000,) * 4)], [link("r", "a", 10, 1000), link("a", "r", 10, 1000)])
    made = changed(made, requester="r")
    found = what_if(made, wants, solve(made, wants), solve)
    assert [each.change for each in found] == ["a device twice as fast as a"]


def test_what_if_names_a_codec_that_is_not_allowed_and_its_error():
    speeds = (CodecSpeed(codec="int8", encode_mb_s=2000, decode_mb_s=2000),)
    made = profile(
        [device("a", (20,) * 4, codecs=speeds), device("b", (1,) * 4, codecs=speeds)],
        meshed("a", "b", mbit_s=20.0),
        cuts=(250_000,) * 3,
        requester="a",
        input_codecs=(CodecAt(codec="int8", ratio=4.0, error=0.004),),
    )
    wants = Wants(objective="throughput")
    solution = solve(made, wants)
    assert bottleneck(Evaluator(made), solution.best.chain).where == "a → b"
    found = what_if(made, wants, solution, solve)
    allowing = next(each for each in found if each.change == "allowing codec int8 (error up to 0.4 %)")
    # 150 kB at 20 Mbit/s take 60 ms, a quarter of it 15.
    assert (allowing.before, allowing.after) == pytest.approx((60, 15))
    assert allowing.sentence.endswith("would give 4 times (66.7 answers/s instead of 16.7 answers/s)")
    assert allowing.chain.moves[0].codec == "int8"


def test_one_device_is_best_where_moving_costs_more_than_it_saves():
    made = profile(
        [device("a", (5, 5, 5, 5)), device("b", (9, 9, 9, 1))],
        meshed("a", "b", latency_ms=5.0),
        cuts=(250_000, 250_000, 250_900),
        requester="a",
    )
    wants = Wants()
    solution = solve(made, wants)
    pair = best_pair(Evaluator(made), wants)
    assert pair.cuts == (3,)
    # 5 ms and 20.07 ms there, 5.08 ms back.
    assert why_one_device(made, wants, solution) == (
        "one device is best: moving 250.9 kB to b costs 30.2 ms and saves 4 ms"
    )
    better = what_if(made, wants, solution, solve)
    assert better[0].change == "a device twice as fast as a"


def test_where_one_device_is_best_a_faster_link_that_would_change_that_is_suggested():
    made = profile(
        [device("a", (20,) * 4), device("b", (1,) * 4)],
        meshed("a", "b", latency_ms=0.5, mbit_s=10.0),
        requester="a",
    )
    wants = Wants()
    solution = solve(made, wants)
    assert solution.best.chain.stages[0].nodes == ("a",)
    assert any(better.chain.stages[-1].nodes == ("b",) for better in what_if(made, wants, solution, solve))


sizes = st.integers(1_000, 500_000)


@given(
    objective=st.sampled_from(OBJECTIVES),
    op_ms=st.lists(st.tuples(times, times, times, times), min_size=3, max_size=3),
    cuts=st.tuples(sizes, sizes, sizes),
    ratio=st.floats(1, 8),
    rates=st.lists(st.floats(1, 1000), min_size=6, max_size=6),
    requester=st.sampled_from([None, "a"]),
)
def test_the_best_pair_is_the_best_of_all_pairs_though_few_are_looked_at(
    objective, op_ms, cuts, ratio, rates, requester
):
    speeds = (CodecSpeed(codec="raw+lz4", encode_mb_s=100, decode_mb_s=200),)
    made = profile(
        [device(name, ms, codecs=speeds, watts=4.0) for name, ms in zip("abc", op_ms, strict=True)],
        [
            link(source, target, 2.0, rate, metered=source == "a")
            for (source, target), rate in zip(itertools.permutations("abc", 2), rates, strict=True)
        ],
        cuts=cuts,
        requester=requester,
    )
    known = (CodecAt(codec="raw+lz4", ratio=ratio),)
    made = changed(made, cuts=tuple(changed(cut, codecs=known) for cut in made.cuts))
    evaluator, wants = Evaluator(made), Wants(objective=objective, codecs=("raw", "raw+lz4"))
    tried = [
        chain((at, one), (4, two), moves=(Move(), Move("grpc", codec), Move()))
        for at in (1, 2, 3)
        for one, two in itertools.permutations("abc", 2)
        for codec in wants.codecs
    ]
    least = min(evaluator.evaluate(each).costs.of(objective) for each in tried)
    found = best_pair(evaluator, wants)
    assert found is not None
    assert evaluator.evaluate(found).costs.of(objective) == pytest.approx(least)


@pytest.mark.parametrize(
    ("devices", "links", "wants", "sentence"),
    [
        (("a",), [], Wants(), "a is the only device in the profile"),
        (
            ("a", "b"),
            [],
            Wants(),
            "a does it alone: no link, memory or rule lets two devices share the model",
        ),
        (("a", "b"), meshed("a", "b"), Wants(max_stages=1), "one device was asked for: a"),
        (
            ("a", "b"),
            meshed("a", "b", mbit_s=0.1),
            Wants(objective="throughput"),
            "one device is best: a → b at 3 would give 0.5 answers/s (limited by a → b), "
            "a alone 62.5 answers/s",
        ),
        (
            ("a", "b"),
            meshed("a", "b", metered=True),
            Wants(objective="bytes"),
            "one device is best: a → b at 3 would give 25.0 kB, a alone 0 B",
        ),
    ],
)
def test_why_one_device_names_what_stands_against_two(devices, links, wants, sentence):
    made = profile([device(name, (4,) * 4) for name in devices], links)
    assert why_one_device(made, wants, solve(made, wants)) == sentence


def test_a_plan_of_several_devices_says_how_much_better_it_is_than_one():
    wants = Wants(objective="throughput")
    made = profile([device(n, (4,) * 4) for n in "ab"], meshed("a", "b", mbit_s=1000.0))
    solution = solve(made, wants)
    gained = speed_up(wants, solution)
    assert gained is not None
    times, single = gained
    assert times == pytest.approx(2)
    assert single.costs.bottleneck_ms == 16
    assert why_one_device(made, wants, solution) == ""
    assert speed_up(wants, replace(solution, best=solution.best_single)) is None
