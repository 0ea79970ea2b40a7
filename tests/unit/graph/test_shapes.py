"""Tensors whose shape is not known before anything runs."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import CutError
from collab.graph import allowed_cuts, cuts, parse_model, split, verify, with_shapes
from tests.tflite_builder import ModelBuilder, load


def with_where() -> bytes:
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    y = g.unary("TANH", x, name="y")
    positive = g.op("GREATER", [y, g.const("z", 0.0)], shape=(1, 4), dtype="bool", options="GreaterOptions")
    where = g.op("WHERE", [positive], name="where", shape=(0, 2), dtype="int64", options="WhereOptions")
    found = g.op("CAST", [where], name="found", shape=(0, 2), options="CastOptions")
    g.output(y, found)
    return b.build()


def test_cuts_through_data_dependent_shapes_are_refused_with_the_operator_that_makes_them():
    graph = parse_model(with_where())
    assert [cut.bytes is None for cut in cuts(graph)] == [False, False, True]
    assert cuts(graph)[2].refused == "the shape of tensor 'where' depends on data (operator 2, WHERE)"
    with pytest.raises(CutError, match=r"cut 3 \(before CAST\) .* depends on data .* that work: 2$"):
        split(graph, [3])


def test_a_model_with_a_data_dependent_answer_is_exact_at_the_cuts_that_work():
    graph = parse_model(with_where())
    report = verify(graph, [[1], [2], [1, 2], [3]], load)
    assert (report.exact, report.inexact, len(report.refused)) == (3, 0, 1)


def test_a_shape_operand_that_is_computed_makes_the_shape_dynamic_downstream():
    b = ModelBuilder()
    g = b.main
    x, shape = g.input("x", (4,)), g.input("shape", (2,), "int32")
    y = g.op("RESHAPE", [x, shape], name="y", shape=(2, 2), options="ReshapeOptions")
    g.output(g.unary("TANH", g.unary("NEG", y)))
    assert [cut.refused is None for cut in cuts(parse_model(b.build()))] == [False, False]


def test_an_open_batch_dimension_is_what_the_interpreter_allocates():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4), signature=(-1, 4))
    y = g.op("TANH", [x], shape=(1, 4), signature=(-1, 4))
    g.output(g.op("LOGISTIC", [y], shape=(1, 4), signature=(-1, 4)))
    graph = parse_model(b.build())
    assert allowed_cuts(graph) == (1,)
    assert verify(graph, [[1]], load).passed


def merged_batch() -> bytes:
    """The batch is merged with another dimension: the file says [1, 4] for what is [6, 4]."""
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 6, 4), signature=(-1, 6, 4))
    shape = g.const("shape", [-1, 4], "int32")
    y = g.op("RESHAPE", [x, shape], name="y", shape=(1, 4), signature=(-1, 4), options="ReshapeOptions")
    z = g.op("TANH", [y], name="z", shape=(1, 4), signature=(-1, 4))
    w = g.op("SUM", [z, g.const("axis", [0], "int32")], name="w", shape=(4,), options="ReducerOptions")
    g.output(g.unary("NEG", w))
    return b.build()


def test_a_shape_that_the_exporter_guessed_is_refused_until_the_next_known_one():
    graph = parse_model(merged_batch())
    assert allowed_cuts(graph) == (3,)
    assert "tensor 'y' is left open in the file ([-1, 4])" in (cuts(graph)[0].refused or "")
    assert verify(graph, [[3]], load).passed


def test_shapes_from_an_interpreter_open_such_cuts_again():
    shapes = [(1, 6, 4), (2,), (6, 4), (6, 4), (1,), (4,), (4,)]
    graph = with_shapes(parse_model(merged_batch()), shapes)
    assert allowed_cuts(graph) == (1, 2, 3)
    assert cuts(graph)[0].tensors[0].shape == (6, 4)
    assert verify(graph, [[1], [2], [3], [1, 2, 3]], load).passed


def test_an_unknown_rank_is_refused_where_the_file_knows_ranks():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (4,))
    y = g.op("Mystery", [x], name="y", shape=None, has_rank=False)
    g.output(g.op("TANH", [y], shape=(4,)))
    assert "'y'" in (cuts(parse_model(b.build()))[0].refused or "")


def test_a_scalar_of_an_old_file_is_a_scalar():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (4,), has_rank=False)
    axis = g.const("axis", [0], "int32", has_rank=False)
    total = g.op("SUM", [x, axis], shape=(), has_rank=False, options="ReducerOptions")
    g.output(g.op("TANH", [total], shape=(), has_rank=False))
    graph = parse_model(b.build())
    assert cuts(graph)[0].bytes == 4
    assert verify(graph, [[1]], load).passed


@pytest.mark.parametrize("dtype", ["string", "resource", "bfloat16", "int4"])
def test_types_that_numpy_has_not_are_refused_by_name(dtype):
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (4,))
    y = g.op("Mystery", [x], name="y", shape=(4,), dtype=dtype)
    g.output(g.op("Riddle", [y], shape=(4,)))
    cut = cuts(parse_model(b.build()))[0]
    assert cut.bytes is None
    assert cut.refused == f"tensor 'y' holds {dtype}, which cannot travel" or dtype == "resource"


@pytest.mark.parametrize("same", [True, False])
def test_a_condition_with_branches_of_different_shapes_makes_a_dynamic_tensor(same):
    b = ModelBuilder()
    g = b.main
    pick, x = g.input("pick", (1,), "bool"), g.input("x", (1, 4))
    for name, axis in (("then", 1), ("else", 1 if same else 0)):
        s = b.subgraph(name)
        inside = s.input("x", (1, 4))
        shape = (1,) if axis else (4,)
        s.output(
            s.op("SUM", [inside, s.const("axis", [axis], "int32")], shape=shape, options="ReducerOptions")
        )
    fields = {"thenSubgraphIndex": 1, "elseSubgraphIndex": 2}
    y = g.op("IF", [pick, x], name="y", shape=(1,), options="IfOptions", fields=fields)
    g.output(g.unary("TANH", y))
    graph = parse_model(b.build())
    assert (allowed_cuts(graph) == (1,)) is same
    if same:
        yes, no = (np.array([v]) for v in (True, False))
        given = np.ones((1, 4), np.float32)
        assert verify(graph, [[1]], load, inputs=[[yes, given], [no, -given]]).passed
