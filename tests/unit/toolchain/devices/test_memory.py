"""The planned arena is the interpreter's, and tensors that live together never overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab import assets
from collab.graph import parse_model, read_model
from collab.toolchain.devices.measured import arena_bytes
from collab.toolchain.devices.memory import ALIGNMENT, Life, lives, patches, plan_arena
from tests.tflite_builder import ModelBuilder

ROOT = Path(__file__).parents[4]
FASHION = sorted(ROOT.glob("benchmarks/assets/fashion_*.tflite"))


@pytest.mark.parametrize("path", [assets.path("digits.tflite"), *FASHION], ids=lambda path: path.stem)
def test_the_plan_of_a_float_model_is_what_the_interpreter_takes(path):
    graph = read_model(path)
    assert plan_arena([*lives(graph), *patches(graph)]).bytes == arena_bytes(graph)


def test_the_plan_of_an_int8_model_is_what_the_interpreter_takes_but_for_alignment():
    graph = read_model(ROOT / "tests/data/digits_int8.tflite")
    planned = plan_arena([*lives(graph), *patches(graph)]).bytes
    measured = arena_bytes(graph)
    assert measured is not None
    assert 0 <= measured - planned <= ALIGNMENT


def test_what_a_skip_connection_holds_is_counted():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 100))
    y = g.unary("TANH", g.unary("TANH", x, name="a"), name="b")
    g.output(g.add(g.add(x, y, name="c"), y, name="d"))
    graph = parse_model(b.build())
    # Both operands and the sum, and the input, which LiteRT keeps to the end.
    assert plan_arena(lives(graph)).live_bytes == 4 * 400
    assert plan_arena(lives(graph)).bytes == arena_bytes(graph)


def test_a_model_with_an_open_shape_is_not_measured():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (4,), "int32")
    g.output(g.op("WHERE", [g.unary("ABS", x, name="a")], name="w", shape=[4, 1], dtype="int64"))
    assert arena_bytes(parse_model(b.build())) is None


TENSORS = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 6)), min_size=1, max_size=30
).map(lambda rows: [Life(i, size, first, first + length) for i, (size, first, length) in enumerate(rows)])


@given(TENSORS)
def test_no_plan_is_below_what_lives_at_a_time_nor_above_all_of_it(tensors):
    arena = plan_arena(tensors)
    assert arena.live_bytes <= arena.bytes <= sum(life.bytes + ALIGNMENT for life in tensors)
    live = [sum(t.bytes for t in tensors if t.first <= at <= t.last) for at in range(30)]
    assert arena.live_bytes == max(live)
    assert live[arena.at] == arena.live_bytes


@given(TENSORS)
def test_tensors_that_never_meet_share_memory(tensors):
    apart = [Life(t.tensor, t.bytes, i, i) for i, t in enumerate(tensors)]
    assert plan_arena(apart).bytes == max(t.bytes for t in tensors)


def test_patches_are_taken_by_convolutions_that_are_no_product_of_matrices():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 8, 8, 4))
    one = g.conv(x, np.ones((6, 1, 1, 4), np.float32), name="one")
    g.output(g.conv(one, np.ones((2, 3, 3, 6), np.float32), name="three"))
    graph = parse_model(b.build())
    (found,) = patches(graph)
    height, width = graph.outputs[0].shape[1:3]
    assert found.bytes == height * width * 3 * 3 * 6 * 4
