from __future__ import annotations

import numpy as np
import pytest

from collab.errors import CutError
from collab.graph import check_cuts, custom_operators, cuts, parse_model, split
from tests.tflite_builder import ModelBuilder


def skipping() -> ModelBuilder:
    """x -> a -> b -> sum(b, a) -> last; `a` is also an answer and `late` is read at the end."""
    b = ModelBuilder()
    g = b.main
    x, late = g.input("x", (1, 4)), g.input("late", (1, 4))
    first = g.unary("TANH", x, name="a")
    second = g.unary("NEG", first, name="b")
    total = g.add(second, first, name="sum")
    g.output(g.add(total, late, name="last"), first)
    return b


def names(specs):
    return [spec.name for spec in specs]


def test_a_boundary_holds_all_that_is_read_later_inputs_first_then_in_order_of_making():
    found = cuts(parse_model(skipping().build()))
    assert [cut.at for cut in found] == [1, 2, 3]
    assert [names(cut.tensors) for cut in found] == [["late", "a"], ["late", "a", "b"], ["late", "a", "sum"]]
    assert [cut.bytes for cut in found] == [32, 48, 48]


def test_a_graph_tells_its_inputs_outputs_and_weights():
    b = ModelBuilder()
    x = b.main.input("x", (2, 3))
    kernel = np.ones((5, 3), np.float32)
    b.main.output(b.main.dense(x, kernel, name="y"))
    graph = parse_model(b.build())
    assert (names(graph.inputs), names(graph.outputs)) == (["x"], ["y"])
    assert (graph.inputs[0].shape, graph.inputs[0].dtype) == ((2, 3), "float32")
    assert (graph.op_count, graph.foldable_count, graph.weight_bytes) == (1, 0, kernel.nbytes)
    assert [(op.index, op.name) for op in graph.operators] == [(0, "FULLY_CONNECTED")]
    assert cuts(graph) == ()


def test_custom_operators_are_listed_and_named():
    b = ModelBuilder()
    x = b.main.input("x", (1,))
    b.main.output(b.main.op("Mystery", [b.main.op("Riddle", [x], shape=(1,))], shape=(1,)))
    graph = parse_model(b.build())
    assert custom_operators(graph) == ("Mystery", "Riddle")
    assert [op.name for op in graph.operators] == ["Riddle", "Mystery"]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ([0], r"cut 0 is out of range: cuts of this model are 1 to 3"),
        ([4], r"cut 4 is out of range"),
        ([-1], r"cut -1 is out of range"),
        ([2, 2], r"cut 2 is given twice"),
        ([3, 1], r"cut 1 comes after cut 3: give cuts in ascending order"),
    ],
)
def test_impossible_cuts_are_refused_with_what_to_do(at, message):
    with pytest.raises(CutError, match=message):
        split(parse_model(skipping().build()), at)


def test_a_model_of_one_operator_says_that_it_has_no_cuts():
    b = ModelBuilder()
    b.main.output(b.main.unary("TANH", b.main.input("x", (1,))))
    with pytest.raises(CutError, match="a model of 1 operators has no cuts"):
        check_cuts(parse_model(b.build()), [1])


def test_a_refused_cut_says_when_no_other_works():
    b = ModelBuilder()
    g = b.main
    y = g.op("Mystery", [g.input("x", (1,))], shape=(1,), dtype="string")
    g.output(g.op("Riddle", [y], shape=(1,)))
    with pytest.raises(CutError, match=r"before Riddle.*holds string.*no other cut of this model works"):
        check_cuts(parse_model(b.build()), [1])
