"""Random small graphs are bit-identical at every cut, through the real interpreter."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collab.graph import allowed_cuts, cuts, parse_model, random_splits, split, verify
from tests.tflite_builder import ModelBuilder, SubgraphBuilder, load

SHAPE = (1, 5, 5, 4)
UNARY = ("TANH", "LOGISTIC", "NEG", "ABS", "RELU")
KINDS = (*UNARY, "ADD", "MUL", "CONV", "CONST", "HALF", "RESHAPE", "RESIZE", "SPLIT")

steps = st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99))
graphs = st.tuples(
    st.integers(1, 3),
    st.lists(steps, min_size=2, max_size=9),
    st.lists(st.integers(0, 99), min_size=1, max_size=4),
    st.booleans(),
)


def shape_of(g: SubgraphBuilder, tensor: int) -> int:
    fields = {"outType": 2}
    return g.op("SHAPE", [tensor], shape=(4,), dtype="int32", options="ShapeOptions", fields=fields)


def build(inputs: int, operators, outputs, external: bool) -> bytes:
    """A graph with skips, branches, shared and folded constants, and several outputs."""
    rng = np.random.default_rng(11)
    b = ModelBuilder()
    g = b.main
    values = [g.input("x", SHAPE) for _ in range(inputs)]  # the same name on purpose
    shared = g.const("shared", rng.normal(size=SHAPE))
    kernel = rng.normal(size=(4, 3, 3, 4)).astype(np.float32)
    half = g.const("half", rng.normal(size=SHAPE), "float16")
    wide = g.op("DEQUANTIZE", [half], shape=SHAPE, options="DequantizeOptions")
    for kind, first, second in operators:
        x, y = values[first % len(values)], values[second % len(values)]
        if kind in UNARY:
            values.append(g.unary(kind, x, name="t"))
        elif kind == "CONV":
            values.append(g.conv(x, kernel))
        elif kind == "RESHAPE":  # to the shape that another tensor has
            shape = shape_of(g, y)
            values.append(g.op("RESHAPE", [x, shape], shape=SHAPE, options="ReshapeOptions"))
        elif kind == "RESIZE":
            ends = [g.const(None, [v], "int32") for v in (1, 3, 1)]
            options = "StridedSliceOptions"
            shape = shape_of(g, y)
            size = g.op(
                "STRIDED_SLICE", [shape, *ends], shape=(2,), dtype="int32", options="StridedSliceOptions"
            )
            values.append(g.op("RESIZE_BILINEAR", [x, size], shape=SHAPE, options="ResizeBilinearOptions"))
        elif kind == "SPLIT":
            halves = [g.tensor(None, (1, 5, 5, 2)) for _ in range(2)]
            axis = g.const(None, 3, "int32")
            g.op("SPLIT", [axis, x], halves, options="SplitOptions", fields={"numSplits": 2})
            options = "ConcatenationOptions"
            values.append(
                g.op("CONCATENATION", halves[::-1], shape=SHAPE, options=options, fields={"axis": 3})
            )
        else:
            other = {"CONST": shared, "HALF": wide}.get(kind, y)
            values.append((g.mul if kind == "MUL" else g.add)(x, other, name="t"))
    g.output(*{values[-1 - i % len(values)]: None for i in outputs})
    return b.build(external=external)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs)
def test_every_cut_of_a_random_graph_is_exact(recipe):
    graph = parse_model(build(*recipe))
    splits = [(k,) for k in range(1, graph.op_count)] + random_splits(graph, 3, seed=1)
    report = verify(graph, splits, load)
    assert report.differing == ()
    assert report.exact == len(splits)


@settings(max_examples=100, deadline=None)
@given(graphs, st.data())
def test_stages_fit_together(recipe, data):
    graph = parse_model(build(*recipe))
    works = allowed_cuts(graph)
    at = sorted(data.draw(st.sets(st.sampled_from(works), max_size=4))) if works else []
    stages = split(graph, at)
    assert [s.start for s in stages] == [0, *at]
    assert [s.stop for s in stages] == [*at, graph.op_count]
    found = {cut.at: cut for cut in cuts(graph)}
    for stage in stages:
        assert set(stage.inputs) <= set(stage.boundary_in)
        assert set(stage.outputs) <= set(stage.boundary_out)
        assert set(stage.boundary_out) <= set(stage.boundary_in) | set(stage.outputs)
        assert len({spec.name for spec in stage.boundary_in}) == len(stage.boundary_in)
        inside = parse_model(stage.data)
        assert (inside.inputs, inside.outputs) == (stage.inputs, stage.outputs)
        assert [op.name for op in inside.operators] == [
            op.name for op in graph.operators[stage.start : stage.stop]
        ]
    for before, after in itertools.pairwise(stages):
        assert before.boundary_out == after.boundary_in == found[after.start].tensors


@settings(max_examples=40, deadline=None)
@given(graphs)
def test_a_stage_splits_like_a_model(recipe):
    graph = parse_model(build(*recipe))
    works = allowed_cuts(graph)
    if len(works) > 1:
        _, rest = split(graph, works[:1])
        inside = parse_model(rest.data)
        assert verify(inside, [(k,) for k in allowed_cuts(inside)], load).differing == ()
