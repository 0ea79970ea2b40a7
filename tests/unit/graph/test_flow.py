"""Which operators count, and that shape arithmetic stays exact."""

from __future__ import annotations

import numpy as np
import pytest

from collab.graph import cuts, parse_model, split, verify
from tests.tflite_builder import ModelBuilder, load

RNG = np.random.default_rng(7)
KERNEL = RNG.normal(size=(4, 3, 3, 4)).astype(np.float32)


def every_cut(data: bytes):
    graph = parse_model(data)
    report = verify(graph, [[k] for k in range(1, graph.op_count)], load)
    assert report.differing == ()
    return graph, report


def half_precision() -> ModelBuilder:
    """Two convolutions that share fp16 weights behind DEQUANTIZE."""
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 5, 5, 4))
    half = g.const("w16", KERNEL, "float16")
    kernel = g.op("DEQUANTIZE", [half], name="w", shape=KERNEL.shape, options="DequantizeOptions")
    bias = g.const("b", np.zeros(4))
    fields = {"strideH": 1, "strideW": 1}
    for _ in range(3):
        x = g.op("CONV_2D", [x, kernel, bias], shape=(1, 5, 5, 4), options="Conv2DOptions", fields=fields)
    g.output(x)
    return b


def test_operators_on_constants_do_not_count_and_are_copied_into_each_stage():
    graph, report = every_cut(half_precision().build())
    assert [op.name for op in graph.operators] == ["CONV_2D"] * 3
    assert (graph.op_count, graph.foldable_count, report.exact) == (3, 1, 2)
    for stage in split(graph, [1, 2]):
        inside = parse_model(stage.data)
        assert (inside.op_count, inside.foldable_count) == (1, 1)
        assert [spec.name for spec in inside.inputs] == [spec.name for spec in stage.inputs]


def test_foldable_operators_never_stand_on_a_boundary():
    graph = parse_model(half_precision().build())
    assert [[t.name for t in cut.tensors] for cut in cuts(graph)] == [["t4"], ["t5"]]


def test_a_chain_of_foldable_operators_is_copied_whole():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    c = g.add(g.const("a", np.ones((1, 4))), g.const("b", np.full((1, 4), 2.0)))
    c = g.unary("NEG", c)
    y = g.add(x, x)
    g.output(g.mul(y, c))
    graph, _ = every_cut(b.build())
    assert (graph.op_count, graph.foldable_count) == (2, 2)
    first, second = split(graph, [1])
    assert parse_model(first.data).foldable_count == 0
    assert parse_model(second.data).foldable_count == 2


@pytest.mark.parametrize("kind", ["RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL"])
def test_chance_is_not_folded(kind):
    b = ModelBuilder()
    shape = b.main.const("shape", [2, 2], "int32")
    r = b.main.op(kind, [shape], shape=(2, 2), options="RandomOptions", fields={"seed": 1, "seed2": 2})
    x = b.main.input("x", (2, 2))
    b.main.output(b.main.add(x, r))
    assert [op.name for op in parse_model(b.build()).operators] == [kind, "ADD"]


def test_custom_operators_on_constants_count_since_they_may_keep_state():
    b = ModelBuilder()
    c = b.main.const("c", np.ones(3))
    b.main.output(b.main.op("Mystery", [c], shape=(3,)))
    assert parse_model(b.build()).op_count == 1


def shape_arithmetic(kind: str) -> bytes:
    """Reads the shape of an early tensor late: RESHAPE or RESIZE_BILINEAR to what it says."""
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 6, 6, 4))
    early = g.conv(x, KERNEL, name="early")
    y = g.unary("TANH", g.conv(early, KERNEL))
    shape = g.op("SHAPE", [early], shape=(4,), dtype="int32", options="ShapeOptions", fields={"outType": 2})
    if kind == "reshape":
        flat = g.op("RESHAPE", [y, g.const("flat", [144], "int32")], shape=(144,), options="ReshapeOptions")
        y = g.op("RESHAPE", [flat, shape], shape=(1, 6, 6, 4), options="ReshapeOptions")
    else:
        ends = [g.const(n, [v], "int32") for n, v in (("begin", 1), ("end", 3), ("step", 1))]
        size = g.op("STRIDED_SLICE", [shape, *ends], shape=(2,), dtype="int32", options="StridedSliceOptions")
        twice = g.op(
            "MUL", [size, g.const("by", [2, 3], "int32")], shape=(2,), dtype="int32", options="MulOptions"
        )
        y = g.op("RESIZE_BILINEAR", [y, twice], shape=(1, 12, 18, 4), options="ResizeBilinearOptions")
    g.output(g.conv(y, KERNEL, name="late"))
    return b.build()


@pytest.mark.parametrize("kind", ["reshape", "resize"])
def test_shape_arithmetic_is_copied_and_exact_at_every_cut(kind):
    graph, report = every_cut(shape_arithmetic(kind))
    assert "SHAPE" not in [op.name for op in graph.operators]
    assert report.exact == graph.op_count - 1
    assert report.passed


@pytest.mark.parametrize("kind", ["reshape", "resize"])
def test_a_tensor_whose_shape_alone_is_read_later_does_not_travel(kind):
    graph = parse_model(shape_arithmetic(kind))
    last = cuts(graph)[-1]
    assert "early" not in [t.name for t in last.tensors]
    assert split(graph, [last.at])[1].inputs == last.tensors


@pytest.mark.parametrize("kind", ["reshape", "resize"])
def test_a_stage_counts_as_many_operators_as_it_was_cut_from(kind):
    graph = parse_model(shape_arithmetic(kind))
    for k in range(1, graph.op_count):
        assert [parse_model(s.data).op_count for s in split(graph, [k])] == [k, graph.op_count - k]


def test_the_rank_of_a_tensor_folds_too():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    early = g.unary("TANH", x)
    rank = g.op("RANK", [early], shape=(), dtype="int32", options="RankOptions")
    real = g.op("CAST", [rank], shape=(), options="CastOptions")
    g.output(g.add(g.unary("LOGISTIC", early), real))
    graph, report = every_cut(b.build())
    assert (graph.op_count, graph.foldable_count, report.exact) == (3, 2, 2)
