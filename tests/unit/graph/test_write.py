"""Weights inside and behind the flatbuffer."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from collab.errors import ModelError
from collab.graph import parse_model, split, verify
from collab.graph import write as write_module
from tests.tflite_builder import ModelBuilder, load, load_path

RNG = np.random.default_rng(5)


def network() -> ModelBuilder:
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 16))
    scalar = g.const("small", 0.5)
    for i in range(3):
        x = g.mul(g.dense(x, RNG.normal(size=(16, 16)).astype(np.float32), name=f"y{i}"), scalar)
    g.output(x)
    return b


@pytest.fixture(scope="module")
def model() -> ModelBuilder:
    return network()


@pytest.mark.parametrize("source", ["inside", "behind"])
@pytest.mark.parametrize("weights", ["auto", "inline", "external"])
def test_both_forms_are_read_and_written_exactly(model, tmp_path, source, weights):
    graph = parse_model(model.build(external=source == "behind"))
    x = RNG.normal(size=(1, 16)).astype(np.float32)
    (wanted,) = load(bytes(graph.data))([x])
    for way in (load, lambda data: _by_path(data, tmp_path)):
        array = x
        for stage in split(graph, [2, 4], weights=weights):
            (array,) = way(stage.data)([array])
        assert array.tobytes() == wanted.tobytes()


def _by_path(data: bytes, folder):
    path = folder / "stage.tflite"
    path.write_bytes(data)
    return load_path(path)


def test_external_weights_lie_behind_the_flatbuffer_at_multiples_of_16(model):
    data = split(parse_model(model.build()), [2], weights="external")[1].data
    root = schema.Model.GetRootAs(data, 0)
    found = [(b.Offset(), b.Size()) for b in map(root.Buffers, range(root.BuffersLength())) if b.Offset()]
    assert len(found) == 2
    assert all(offset % 16 == 0 and size == 1024 for offset, size in found)
    assert root.Buffers(0).DataIsNone()


def test_inline_weights_are_aligned_as_the_schema_demands(model):
    data = split(parse_model(model.build()), [2], weights="inline")[1].data
    flat = parse_model(data).flat
    assert all(span[0] % 16 == 0 for span in flat.buffers if span)


def test_what_was_written_external_splits_again(model):
    graph = parse_model(model.build())
    (whole,) = split(graph, [], weights="external")
    assert verify(parse_model(whole.data), [[1], [3], [2, 4]], load).passed


def test_buffers_of_one_byte_range_are_written_once(model):
    data = bytearray(model.build(external=True))
    root = schema.Model.GetRootAs(data, 0)
    large = [b for b in map(root.Buffers, range(root.BuffersLength())) if b.Size() == 1024]
    assert len(large) == 3
    for buffer in large[1:]:  # as converters write equal weights
        at = buffer._tab.Pos + buffer._tab.Offset(6)
        data[at : at + 8] = large[0].Offset().to_bytes(8, "little")
    graph = parse_model(bytes(data))
    assert graph.weight_bytes == 1024 + 4
    for weights in ("inline", "external"):
        (stage,) = split(graph, [], weights=weights)
        assert parse_model(stage.data).weight_bytes == 1024 + 4
        assert len(stage.data) < 2 * 1024 + 2048
    assert verify(graph, [[2], [3, 5]], load).passed


def test_weights_over_the_limit_go_outside_by_themselves_and_inline_says_so(model, monkeypatch):
    monkeypatch.setattr(write_module, "FLATBUFFER_LIMIT", write_module._ROOM_FOR_TABLES + 2000)
    graph = parse_model(model.build())
    stage = split(graph, [])[0]
    root = schema.Model.GetRootAs(stage.data, 0)
    assert any(root.Buffers(i).Offset() for i in range(root.BuffersLength()))
    assert verify(parse_model(stage.data), [[2]], load).passed
    with pytest.raises(ModelError, match="do not fit in a flatbuffer: use external weights"):
        split(graph, [], weights="inline")


def custom_with_large_options() -> bytes:
    """A custom operator whose options lie behind the flatbuffer."""
    b = ModelBuilder()
    x = b.main.input("x", (1, 4))
    y = b.main.op("Mystery", [x], shape=(1, 4), custom=b"o" * 100)
    b.main.output(b.main.unary("TANH", y))
    operator = b.main.table.operators[0]
    operator.customOptions = None
    operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize = 2, 100
    data = b.build()
    operator.largeCustomOptionsOffset = len(data)
    return b.build() + b"o" * 100


@pytest.mark.parametrize("weights", ["inline", "external"])
def test_custom_options_outside_the_flatbuffer_are_kept(weights):
    graph = parse_model(custom_with_large_options())
    data = split(graph, [1], weights=weights)[0].data
    operator = schema.Model.GetRootAs(data, 0).Subgraphs(0).Operators(0)
    if weights == "inline":
        assert operator.CustomOptionsAsNumpy().tobytes() == b"o" * 100
    else:
        start = operator.LargeCustomOptionsOffset()
        assert data[start : start + operator.LargeCustomOptionsSize()] == b"o" * 100


def test_a_model_that_cannot_be_packed_is_a_model_error(model, monkeypatch):
    def broken(self, builder):
        raise TypeError("bad number")

    graph = parse_model(model.build())
    monkeypatch.setattr(schema.TensorT, "Pack", broken)
    with pytest.raises(ModelError, match=r"cannot be written \(bad number\)"):
        split(graph, [1])
