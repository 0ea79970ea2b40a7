"""Placing the stages of a pipeline: edges, schedules and searches."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from collab.core.ids import REQUESTER, NodeName
from collab.errors import PlanError
from collab.planner.placing import Costs, place, predicted, schedule
from collab.planner.units import Unit, Way, Wiring, ways


def wiring(*units, sizes=None, outputs=("z",)):
    made = tuple(Unit(*unit) for unit in units)
    names = {name for unit in made for name in (*unit.reads, *unit.makes)}
    inputs = tuple(sorted(names - {name for unit in made for name in unit.makes}))
    return Wiring(made, dict.fromkeys(names, 1000) | (sizes or {}), inputs, outputs)


DIAMOND = wiring(
    ("small", ("x",), ("s",)),
    ("find", ("s",), ("b",)),
    ("crop", ("x", "b"), ("c",)),
    ("read", ("c",), ("z",)),
    sizes={"x": 100_000},
    outputs=("b", "z"),
)


def placed(text):
    return {unit.id: tuple(nodes.split("+")) for unit, nodes in zip(DIAMOND.units, text.split(), strict=True)}


def test_an_input_goes_to_a_node_once():
    assert set(ways(DIAMOND, placed("a b a b"))) == {
        Way(REQUESTER, "small", ("x",)),
        Way("small", "find", ("s",)),
        Way("small", "crop", ("x",)),
        Way("find", "crop", ("b",)),
        Way("crop", "read", ("c",)),
        # What another node makes comes from there, what is here already from here.
        Way("find", "read", ("b",)),
        Way("read", REQUESTER, ("b", "z")),
    }


def test_an_input_goes_straight_to_another_node():
    edges = ways(DIAMOND, placed("a a b b"))
    assert Way(REQUESTER, "crop", ("x",)) in edges
    assert Way("crop", "read", ("c", "b")) in edges


def test_replicas_get_their_own():
    edges = ways(DIAMOND, placed("a+b a a+b b"))
    assert Way(REQUESTER, "crop", ("x",)) in edges


def links(nodes, latency_ms=1.0, mbit_s=100.0):
    ends = (REQUESTER, *nodes)
    return {(a, b): (latency_ms, mbit_s) for a, b in itertools.permutations(ends, 2)}


def costs(ms=1.0, nodes="ab", **more):
    return Costs({u.id: dict.fromkeys(nodes, ms) for u in DIAMOND.units}, links(nodes), **more)


def test_a_request_on_one_node_costs_its_stages_and_the_way_there_and_back():
    found = schedule(DIAMOND, costs(), placed("a a a a"))
    there, back = 1 + 8 * 100_000 / 100_000, 1 + 8 * 2000 / 100_000
    assert found.latency_ms == pytest.approx(there + 4 + back)
    assert found.bottleneck_ms == pytest.approx(8)


def test_stages_of_different_nodes_run_side_by_side():
    branches = wiring(("l", ("x",), ("p",)), ("r", ("x",), ("q",)), ("join", ("p", "q"), ("z",)))
    free = Costs({u.id: {"a": 10.0, "b": 10.0} for u in branches.units}, links("ab", 0, 1e9))
    alone = schedule(branches, free, {u.id: (NodeName("a"),) for u in branches.units})
    both = schedule(branches, free, {"l": ("a",), "r": ("b",), "join": ("a",)})
    assert (round(alone.latency_ms), round(both.latency_ms)) == (30, 20)
    assert place(branches, free, ["a", "b"], {}).latency_ms == pytest.approx(20, abs=0.1)


def test_transforms_go_where_fewest_bytes_travel():
    slow = {u.id: {"a": 1.0, "b": 1.0} for u in DIAMOND.units} | {"read": {"a": 50.0, "b": 1.0}}
    wires = links("ab") | {(REQUESTER, "b"): (1.0, 1.0)}
    found = place(DIAMOND, Costs(slow, wires), ["a", "b"], {})
    assert found.placement == placed("a a a b"), "the image stays on a, only the crops go on"


def test_what_is_placed_by_hand_stays():
    found = place(DIAMOND, costs(), ["a", "b"], {"find": ("b",)})
    assert found.placement["find"] == ("b",)


def test_a_node_holds_no_more_than_its_memory():
    full = costs(memory={"a": 10, "b": 100}, bytes={"find": 20, "read": 20})
    assert {place(DIAMOND, full, ["a", "b"], {}).placement[one] for one in ("find", "read")} == {("b",)}
    with pytest.raises(PlanError, match="memory is too small"):
        place(DIAMOND, costs(memory={"a": 10, "b": 10}, bytes={"find": 20}), ["a", "b"], {})


def test_no_link_is_no_way():
    with pytest.raises(PlanError, match="a link is missing"):
        place(DIAMOND, Costs(costs().ms, {}), ["a", "b"], {})


def test_throughput_spreads_what_latency_keeps_together():
    heavy = Costs({u.id: {"a": 5.0, "b": 5.0} for u in DIAMOND.units}, links("ab", 1, 1000))
    one, other = (place(DIAMOND, heavy, ["a", "b"], {}, goal) for goal in ("latency", "throughput"))
    assert len({nodes for nodes in one.placement.values()}) == 1
    assert other.bottleneck_ms < one.bottleneck_ms
    assert other.bottleneck_ms == pytest.approx(10, rel=0.1)


def random_case(seed, stages, nodes):
    rng = random.Random(seed)
    units, known = [], ["x"]
    for i in range(stages):
        reads = tuple(rng.sample(known, min(len(known), rng.randint(1, 2))))
        if i == stages - 1:
            reads = tuple(dict.fromkeys((*reads, known[-1])))
        units.append((f"u{i}", reads, (f"t{i}",)))
        known.append(f"t{i}")
    made = wiring(
        *units, sizes={name: rng.randint(10, 200_000) for name in known}, outputs=(f"t{stages - 1}",)
    )
    ms = {unit.id: {node: rng.uniform(0.1, 20) for node in nodes} for unit in made.units}
    wires = {ends: (rng.uniform(0.1, 5), rng.uniform(5, 500)) for ends in links(nodes)}
    return made, Costs(ms, wires)


@pytest.mark.parametrize("seed", range(6))
def test_the_search_for_many_placements_is_near_the_best(seed, monkeypatch):
    made, known = random_case(seed, 5, "abc")
    best = place(made, known, list("abc"), {}).latency_ms
    brute = min(
        schedule(
            made, known, {u.id: (NodeName(n),) for u, n in zip(made.units, chosen, strict=True)}
        ).latency_ms
        for chosen in itertools.product("abc", repeat=5)
    )
    assert best == brute
    monkeypatch.setattr("collab.planner.placing.MOST_TRIED", 0)
    assert brute <= place(made, known, list("abc"), {}).latency_ms <= 1.05 * brute


def test_many_stages_on_many_nodes_are_placed_and_never_worse_than_one_node():
    made, known = random_case(9, 9, "abc")
    found = place(made, known, list("abc"), {})
    alone = min(schedule(made, known, {u.id: (NodeName(n),) for u in made.units}).latency_ms for n in "abc")
    assert found.latency_ms <= alone


def test_a_prediction_names_every_stage_and_edge():
    found = place(DIAMOND, costs(), ["a", "b"], {})
    told = predicted(DIAMOND, costs(), found, "by hand")
    assert [part.stage for part in told.stages] == [unit.id for unit in DIAMOND.units]
    assert {(way.source, way.target) for way in told.edges} == {
        (way.source, way.target) for way in ways(DIAMOND, found.placement)
    }
    assert math.isfinite(told.latency_ms)
