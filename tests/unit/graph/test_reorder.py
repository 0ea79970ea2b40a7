"""A model in another order answers alike in every bit, and splits as exactly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.planner_profiles import graph_tensors, two_sites
from collab.assets import path as asset
from collab.errors import CutError
from collab.graph import (
    Graph,
    allowed_cuts,
    cuts,
    parse_model,
    random_inputs,
    random_splits,
    read_model,
    reorder,
    verify,
)
from collab.planner.mincut import dag_cut
from tests.tflite_builder import ModelBuilder, load
from tests.unit.graph.test_cuts import names
from tests.unit.graph.test_properties import build, graphs
from tests.unit.graph.test_state import counter, handle, loop
from tests.unit.graph.test_wheel_models import NAMES, model

DATA = Path(__file__).parents[2] / "data"
RNG = np.random.default_rng(7)


def reads(graph: Graph) -> list[set[int]]:
    """Counted operators whose results each one needs, through foldable ones too."""
    operators = graph.flat.subgraphs[graph.main].operators
    number = {p: k for k, p in enumerate(graph.flow.counted)}
    needs: dict[int, set[int]] = {}
    for position, operator in enumerate(operators):
        needs[position] = set()
        for maker in {graph.flow.maker.get(t, -1) for t in operator.inputs} - {-1}:
            needs[position] |= {number[maker]} if maker in number else needs[maker]
    return [needs[p] for p in graph.flow.counted]


def random_order(graph: Graph, seed: int) -> list[int]:
    """Any order in which the model can run, stateless models only."""
    rng = np.random.default_rng(seed)
    needs, order = reads(graph), []
    left = set(range(graph.op_count))
    while left:
        ready = [k for k in sorted(left) if not needs[k] & left]
        order.append(int(rng.choice(ready)))
        left.remove(order[-1])
    return order


def as_now(graph: Graph) -> list[int]:
    return list(range(graph.op_count))


def assert_alike(graph: Graph, other: Graph, splits: Sequence[Sequence[int]]) -> None:
    """The whole model and its splits in the new order against the old one, bit by bit."""
    assert (other.inputs, other.outputs, other.signatures) == (graph.inputs, graph.outputs, graph.signatures)
    assert (other.weight_bytes, other.foldable_count) == (graph.weight_bytes, graph.foldable_count)
    whole, moved = load(bytes(graph.data)), load(bytes(other.data))
    for arrays in random_inputs(graph.inputs, quantised=graph.quantised, seed=3):
        for ours, theirs in zip(moved(arrays), whole(arrays), strict=True):
            assert ours.tobytes() == theirs.tobytes()
    report = verify(other, splits, load, whole=load(bytes(graph.data)))
    assert (report.differing, report.refused) == ((), ())
    assert report.exact == len(splits)


@pytest.mark.parametrize(
    "path", [asset("digits.tflite"), DATA / "digits_int8.tflite", DATA / "digits_dynamic.tflite"]
)
def test_own_models_are_exact_in_another_order(path):
    graph = read_model(path)
    for seed in range(3):
        order = random_order(graph, seed)
        other = reorder(graph, order)
        assert [op.name for op in other.operators] == [graph.operators[k].name for k in order]
        assert_alike(graph, other, [[], *random_splits(other, 4, seed)])


@pytest.mark.parametrize("name", NAMES)
def test_published_models_are_exact_in_another_order(name):
    graph = model(name)
    order = random_order(graph, seed=5)
    assert order != as_now(graph)
    assert_alike(graph, reorder(graph, order), random_splits(graph, 2, seed=5))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs, st.integers(0, 99))
def test_random_graphs_are_exact_in_any_order(recipe, seed):
    graph = parse_model(build(*recipe))
    other = reorder(graph, random_order(graph, seed))
    report = verify(other, [(k,) for k in allowed_cuts(other)] or [()], load, whole=load(bytes(graph.data)))
    assert (report.differing, report.refused) == ((), ())
    assert {v.spec.name: v.spec for v in other.flow.values.values()} == {
        v.spec.name: v.spec for v in graph.flow.values.values()
    }


def taking_turns() -> ModelBuilder:
    """Two branches whose operators alternate; each has weights and a folded constant."""
    b = ModelBuilder()
    g = b.main
    ends = [g.input("x", (1, 16))] * 2
    halves = []
    for branch in "ab":
        half = g.const(f"half-{branch}", RNG.normal(size=(1, 16)), "float16")
        halves.append(half)
    for step in range(3):
        for i, branch in enumerate("ab"):
            ends[i] = g.dense(ends[i], RNG.normal(size=(16, 16)).astype(np.float32), name=f"{branch}{step}")
    for i in range(2):
        wide = g.op("DEQUANTIZE", [halves[i]], shape=(1, 16), options="DequantizeOptions")
        ends[i] = g.add(ends[i], wide, name="ab"[i] + "3")
    g.output(g.mul(ends[0], ends[1], name="y"))
    return b


APART = [0, 2, 4, 6, 1, 3, 5, 7, 8]


def test_branches_that_take_turns_can_be_cut_apart_afterwards():
    graph = parse_model(taking_turns().build())
    assert names(cuts(graph)[3].tensors) == ["a1", "b1"]
    other = reorder(graph, APART)
    assert names(cuts(other)[3].tensors) == ["x", "a3"]
    assert_alike(graph, other, [[k] for k in range(1, 9)] + [[2, 4, 6]])


def test_a_minimum_cut_is_a_cut_of_the_model_in_its_order():
    graph = parse_model(taking_turns().build())
    times = {"near": [1.0, 90.0] * 4 + [90.0], "far": [90.0, 1.0] * 4 + [1.0]}
    rates = {(s, t): (1.0, 100.0) for s, t in (("near", "far"), ("far", "near"))}
    found = dag_cut(two_sites(graph_tensors(graph), times, rates, allowed_cuts(graph)), "near", "far")
    assert found is not None
    assert list(found.order) == APART
    other = reorder(graph, found.order)
    assert sorted(names(cuts(other)[found.at - 1].tensors)) == sorted(found.crossing)
    assert_alike(graph, other, [[found.at]])


def test_the_same_order_gives_the_same_graph():
    graph = parse_model(taking_turns().build())
    other = reorder(graph, as_now(graph))
    assert other.operators == graph.operators
    assert other.boundaries == graph.boundaries


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("weights", ["auto", "inline", "external"])
def test_weights_may_lie_inside_and_behind_the_flatbuffer(external, weights):
    graph = parse_model(taking_turns().build(external=external))
    other = reorder(graph, APART, weights=weights)
    root = schema.Model.GetRootAs(other.data, 0)
    outside = [root.Buffers(n).Offset() for n in range(root.BuffersLength()) if root.Buffers(n).Offset()]
    assert bool(outside) == (weights == "external")
    assert_alike(graph, other, [[4]])


def test_signatures_metadata_and_other_subgraphs_stay_but_for_numbers_of_operators():
    b = taking_turns()
    other = b.subgraph("other")
    other.output(other.unary("NEG", other.unary("TANH", other.input("z", (1, 4)))))
    last = len(b.main.table.tensors) - 1
    b.signature("first", {"image": 0}, {"scores": last})
    b.signature("second", {"z": 0}, {"out": 2}, subgraph=1)
    b.metadata("TFLITE_METADATA", b"labels")
    b.metadata("model_control_dependencies", b"numbers")
    graph = parse_model(b.build())
    moved = reorder(graph, APART)
    assert Interpreter(model_content=bytes(moved.data)).get_signature_list() == {
        "first": {"inputs": ["image"], "outputs": ["scores"]},
        "second": {"inputs": ["z"], "outputs": ["out"]},
    }
    held = {
        n: bytes(moved.data[s[0] : sum(s)]) for n, i in moved.flat.metadata if (s := moved.flat.buffers[i])
    }
    assert held == {b"TFLITE_METADATA": b"labels"}
    second = parse_model(bytes(graph.data), signature="second")
    assert [op.name for op in reorder(second, [0, 1]).operators] == ["TANH", "NEG"]


def test_of_equal_names_each_tensor_keeps_its_own():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    first, second = g.unary("TANH", x, name="t"), g.unary("NEG", x, name="t")
    g.output(second, first)
    graph = parse_model(b.build())
    assert names(graph.outputs) == ["t#2", "t"]
    assert_alike(graph, reorder(graph, [1, 0]), [[1]])


def test_a_loop_keeps_its_subgraphs():
    graph = parse_model(loop().build())
    other = reorder(graph, [0, 1, 2])
    assert [len(s.operators) for s in other.flat.subgraphs] == [
        len(s.operators) for s in graph.flat.subgraphs
    ]
    assert_alike(graph, other, [[1], [2]])


@pytest.mark.parametrize("order", [[], [0, 1, 2], [*range(8), 7], [*range(8), 9], [-1, *range(1, 9)]])
def test_an_order_that_is_not_one_of_all_operators_is_refused(order):
    graph = parse_model(taking_turns().build())
    with pytest.raises(CutError, match=r"for 9 operators: give each of 0 to 8 once"):
        reorder(graph, order)


def test_an_operator_before_what_it_reads_is_refused_and_both_are_named():
    graph = parse_model(taking_turns().build())
    with pytest.raises(CutError, match=r"operator 2, FULLY_CONNECTED, before operator 0, FULLY_CONNECTED"):
        reorder(graph, [2, 0, 4, 6, 1, 3, 5, 7, 8])


def test_an_operator_before_that_whose_shape_it_reads_is_refused():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    y = g.unary("TANH", x, name="y")
    shape = g.op("SHAPE", [y], shape=(2,), dtype="int32", options="ShapeOptions", fields={"outType": 2})
    z = g.op("RESHAPE", [x, shape], shape=(1, 4), options="ReshapeOptions", name="z")
    g.output(y, z)
    graph = parse_model(b.build())
    assert graph.op_count == 2
    with pytest.raises(CutError, match=r"operator 1, RESHAPE, before operator 0, TANH, which makes"):
        reorder(graph, [1, 0])


def test_operators_that_share_state_keep_their_order_and_others_may_move():
    graph = parse_model(counter())
    kinds = [op.name for op in graph.operators]
    assert kinds[:3] == ["TANH", "CALL_ONCE", "NEG"]
    moved = [1, 3, 4, 0, 2, *range(5, 9)]
    other = reorder(graph, moved)
    assert [op.name for op in other.operators] == [kinds[k] for k in moved]
    one, two = load(bytes(graph.data)), load(bytes(other.data))
    for _ in range(4):
        x = RNG.normal(size=(1, 4)).astype(np.float32)
        assert one([x])[0].tobytes() == two([x])[0].tobytes()
    with pytest.raises(CutError, match=r"operator 3, VAR_HANDLE, before operator 1, CALL_ONCE, with which"):
        reorder(graph, [0, *range(2, 9), 1])


def test_of_two_independent_variables_just_the_interleavings_work():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    for name in (b"a", b"b"):
        var = handle(g, name)
        g.op("ASSIGN_VARIABLE", [var, x], [])
        g.output(g.op("READ_VARIABLE", [var], shape=(1, 4), options="ReadVariableOptions"))
    graph = parse_model(b.build())
    allowed = []
    for order in itertools.permutations(range(6)):
        try:
            allowed.append((order, reorder(graph, order)))
        except CutError:
            continue
    assert {order for order, _ in allowed} == {
        order
        for order in itertools.permutations(range(6))
        if [k for k in order if k < 3] == [0, 1, 2] and [k for k in order if k > 2] == [3, 4, 5]
    }
    for _, other in allowed:
        assert_alike(graph, other, [[]])
