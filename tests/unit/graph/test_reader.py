from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collab.errors import BackendError, CollabError, ModelError
from collab.graph import cuts, parse_model, read_model, split
from collab.graph import schema as schema_module
from tests.tflite_builder import ModelBuilder
from tests.unit.graph.test_flow import shape_arithmetic
from tests.unit.graph.test_state import counter, loop


def small(external: bool = False) -> bytes:
    b = ModelBuilder()
    x = b.main.input("x", (1, 4, 4, 3))
    y = b.main.conv(x, np.ones((2, 3, 3, 3), np.float32), name="y")
    z = b.main.unary("TANH", y, name="z")
    b.main.output(b.main.add(y, z, name="sum"), z)
    b.signature("serving_default", {"image": x}, {"tanh": z})
    b.metadata("min_runtime_version", b"1.5.0\0")
    return b.build(external=external)


def test_a_missing_file_is_named_with_a_remedy(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.tflite: there is no such file: give the path"):
        read_model(tmp_path / "nowhere.tflite")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ModelError, match="this is a directory"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04 a zip file", "not a .tflite file"),
        (b"TFL", "not a .tflite file"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (small()[:60], "truncated"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line_that_starts_with_the_path(tmp_path, data, message):
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message) as caught:
        read_model(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_reads_like_its_bytes(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(small())
    assert read_model(str(path)) == parse_model(memoryview(small()))


def test_a_newer_builtin_operator_is_named_with_the_remedy():
    b = ModelBuilder()
    x = b.main.input("x", (1,))
    b.main.output(b.main.unary("TANH", x))
    b.table.operatorCodes[0].builtinCode = 4321
    with pytest.raises(ModelError, match=r"code 4321 .* update ai-edge-litert"):
        parse_model(b.build())


def test_a_field_newer_than_the_schema_is_refused_and_not_dropped(monkeypatch):
    data = small()
    schema_module.field_count("Tensor")
    monkeypatch.setattr("collab.graph.reader.field_count", lambda table: 2 if table == "Tensor" else 99)
    with pytest.raises(ModelError, match=r"field of Tensor that is newer .* update ai-edge-litert"):
        parse_model(data)


def test_old_files_with_the_8_bit_operator_code_alone_are_read():
    b = ModelBuilder()
    x = b.main.input("x", (1,))
    b.main.output(b.main.unary("TANH", x))
    b.table.operatorCodes[0].builtinCode = 0
    assert parse_model(b.build()).operators[0].name == "TANH"


def test_external_buffer_files_are_refused_with_the_remedy():
    b = ModelBuilder()
    x = b.main.input("x", (1,))
    b.main.output(b.main.unary("TANH", x))
    b.main.table.tensors[1].externalBuffer = 3
    with pytest.raises(ModelError, match="export it as one file"):
        parse_model(b.build())


def test_weights_cut_off_behind_the_flatbuffer_are_noticed():
    data = small(external=True)
    with pytest.raises(ModelError, match="truncated"):
        parse_model(data[:-64])


@pytest.mark.parametrize("where", ["tensor", "buffer", "opcode", "input", "subgraph"])
def test_an_index_out_of_range_is_a_model_error(where):
    b = ModelBuilder()
    x = b.main.input("x", (1,))
    cond, body = b.subgraph("cond"), b.subgraph("body")
    body.output(body.input("x", (1,)))
    cond.output(cond.const("true", True, "bool"))
    fields = {"condSubgraphIndex": 1, "bodySubgraphIndex": 9 if where == "subgraph" else 2}
    b.main.output(b.main.op("WHILE", [x], shape=(1,), options="WhileOptions", fields=fields))
    operator = b.main.table.operators[0]
    if where == "tensor":
        operator.inputs = [77]
    elif where == "buffer":
        b.main.table.tensors[0].buffer = 77
    elif where == "opcode":
        operator.opcodeIndex = 77
    elif where == "input":
        b.main.table.inputs = [-2]
    with pytest.raises(ModelError, match="refers to"):
        parse_model(b.build())


def test_subgraphs_that_call_each_other_are_refused():
    b = ModelBuilder()
    x = b.main.input("x", (1,))
    fields = {"condSubgraphIndex": 1, "bodySubgraphIndex": 0}
    b.subgraph("cond")
    b.main.output(b.main.op("WHILE", [x], shape=(1,), options="WhileOptions", fields=fields))
    with pytest.raises(ModelError, match="calls itself"):
        parse_model(b.build())


def test_operators_out_of_order_and_in_a_circle_are_refused():
    b = ModelBuilder()
    x = b.main.input("x", (1,))
    later = b.main.tensor("later", (1,))
    y = b.main.add(x, later)
    b.main.op("TANH", [y], [later])
    b.main.output(y)
    with pytest.raises(ModelError, match="before it is made"):
        parse_model(b.build())


def test_a_tensor_made_twice_is_refused():
    b = ModelBuilder()
    x = b.main.input("x", (1,))
    y = b.main.unary("TANH", x)
    b.main.op("LOGISTIC", [x], [y])
    with pytest.raises(ModelError, match="a second time"):
        parse_model(b.build())


def test_a_missing_schema_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(name)

    schema_module.schema.cache_clear()
    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(BackendError, match="pip install ai-edge-litert"):
        parse_model(small())
    schema_module.schema.cache_clear()


def test_overlapping_tables_cannot_make_the_reader_explode():
    """A thousand subgraph entries that all point to one subgraph with a thousand tensors."""
    b = ModelBuilder()
    for i in range(2000):
        b.main.tensor(f"t{i}", (1,))
    for _ in range(2000):
        b.table.subgraphs.append(schema.SubGraphT())
    data = bytearray(b.build())
    root = schema.Model.GetRootAs(data, 0)
    start = root._tab.Vector(root._tab.Offset(8))
    target = start + int.from_bytes(data[start : start + 4], "little")
    for i in range(2001):
        data[start + 4 * i : start + 4 * i + 4] = (target - start - 4 * i).to_bytes(4, "little", signed=False)
    with pytest.raises(ModelError, match="overlap"):
        parse_model(bytes(data))


SEEDS = [small(), small(external=True), counter(), loop().build(), shape_arithmetic("resize")]


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_a_corrupt_file_parses_or_raises_a_model_error(seed, flips, keep):
    data = bytearray(seed)
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    del data[max(8, int((0.5 + keep) * len(data))) :]
    _parse_and_split(bytes(data))


@settings(max_examples=60, deadline=2000)
@given(st.sampled_from(SEEDS), st.integers(0, 5000), st.integers(-(2**31), 2**31 - 1))
def test_a_corrupt_word_parses_or_raises_a_model_error(seed, place, value):
    data = bytearray(seed)
    at = 8 + 4 * (place % ((len(data) - 12) // 4))
    data[at : at + 4] = value.to_bytes(4, "little", signed=True)
    _parse_and_split(bytes(data))


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_noise_behind_the_mark_parses_or_raises_a_model_error(noise):
    _parse_and_split(noise[:4].ljust(4, b"\0") + b"TFL3" + noise[4:])


def _parse_and_split(data: bytes) -> None:
    try:
        graph = parse_model(data)
    except ModelError:
        return
    for cut in cuts(graph):
        try:
            split(graph, [cut.at])
        except CollabError:
            continue
