from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from collab.errors import ModelError
from collab.graph import manifest, parse_model, split, verify
from tests.tflite_builder import ModelBuilder, load
from tests.unit.graph.test_cuts import names, skipping

RNG = np.random.default_rng(3)


def interpreter(data: bytes) -> Interpreter:
    made = Interpreter(model_content=data, num_threads=1)
    made.allocate_tensors()
    return made


def test_inputs_and_outputs_are_in_interpreter_order_and_named_alike():
    for stage in split(parse_model(skipping().build()), [1, 2, 3]):
        loaded = interpreter(stage.data)
        assert [d["name"] for d in loaded.get_input_details()] == names(stage.inputs)
        assert [d["name"] for d in loaded.get_output_details()] == names(stage.outputs)


def test_what_a_stage_passes_on_is_on_its_boundaries_and_not_in_it():
    stages = split(parse_model(skipping().build()), [1, 2, 3])
    assert [(names(s.inputs), names(s.outputs)) for s in stages] == [
        (["x"], ["a"]),
        (["a"], ["b"]),
        (["a", "b"], ["sum"]),
        (["late", "sum"], ["last"]),
    ]
    assert [names(s.boundary_in) for s in stages] == [
        ["x", "late"],
        ["late", "a"],
        ["late", "a", "b"],
        ["late", "a", "sum"],
    ]
    assert [s.boundary_out for s in stages[:-1]] == [s.boundary_in for s in stages[1:]]
    assert names(stages[-1].boundary_out) == ["last", "a"]


def test_no_cut_gives_the_whole_model():
    graph = parse_model(skipping().build())
    (stage,) = split(graph, [])
    assert (stage.start, stage.stop) == (0, 4)
    assert (stage.inputs, stage.outputs) == (graph.inputs, graph.outputs)
    assert verify(graph, [[]], load).passed


def test_the_manifest_describes_the_files():
    graph = parse_model(skipping().build())
    stages = split(graph, [2])
    found = json.loads(json.dumps(manifest(graph, stages)))
    expected = ((0, [0, 2], ["x"], ["a", "b"]), (1, [2, 4], ["late", "a", "b"], ["last"]))
    assert found == {
        "model_sha256": hashlib.sha256(graph.data).hexdigest(),
        "inputs": ["x", "late"],
        "outputs": ["last", "a"],
        "stages": [
            {
                "id": f"stage-{i}",
                "file": f"stage-{i}.tflite",
                "sha256": hashlib.sha256(stages[i].data).hexdigest(),
                "ops": ops,
                "inputs": inputs,
                "outputs": outputs,
            }
            for i, ops, inputs, outputs in expected
        ],
    }


def test_a_split_is_the_same_bytes_every_time():
    data = skipping().build()
    assert split(parse_model(data), [2]) == split(parse_model(data), [2])


def test_a_stage_holds_its_own_weights_only():
    b = ModelBuilder()
    x = b.main.input("x", (1, 64))
    for i in range(4):
        x = b.main.dense(x, RNG.normal(size=(64, 64)).astype(np.float32), name=f"y{i}")
    b.main.output(x)
    graph = parse_model(b.build())
    stages = split(graph, [1, 2, 3])
    assert sum(parse_model(s.data).weight_bytes for s in stages) == graph.weight_bytes == 4 * 64 * 64 * 4
    assert all(len(s.data) < graph.weight_bytes / 4 + 4096 for s in stages)


def test_a_shared_constant_is_in_each_stage_that_reads_it_once():
    b = ModelBuilder()
    g = b.main
    x, c = g.input("x", (1, 64)), g.const("c", np.ones((1, 64)))
    g.output(g.add(g.add(g.add(x, c), c), c))
    first, second = split(parse_model(b.build()), [1])
    assert [parse_model(s.data).weight_bytes for s in (first, second)] == [256, 256]


def test_the_empty_buffer_stays_number_zero_and_dead_parts_are_dropped():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    y = g.unary("TANH", x)
    g.const("dead", np.ones(100))
    b.subgraph("dead")
    g.output(g.unary("NEG", y))
    for stage, kind in zip(split(parse_model(b.build()), [1]), ("TANH", "NEG"), strict=True):
        flat = parse_model(stage.data).flat
        assert flat.buffers == (None,)
        assert len(flat.subgraphs) == len(flat.codes) == 1
        assert len(flat.subgraphs[0].tensors) == 2
        assert flat.subgraphs[0].operators[0].name == kind


def test_signatures_keep_their_key_and_the_model_s_own_names():
    b = skipping()
    b.signature("serve", {"image": 0, "extra": 1}, {"scores": 5, "features": 2})
    graph = parse_model(b.build())
    assert (graph.signatures, graph.signature) == (("serve",), "serve")
    found = [interpreter(s.data).get_signature_list() for s in split(graph, [2])]
    assert found == [
        {"serve": {"inputs": ["image"], "outputs": ["b", "features"]}},
        {"serve": {"inputs": ["a", "b", "extra"], "outputs": ["scores"]}},
    ]


def test_a_boundary_tensor_never_takes_a_signature_s_name():
    b = skipping()
    b.signature("serve", {"b": 0, "late": 1}, {"sum": 5, "a": 2})
    (_, stage) = split(parse_model(b.build()), [3])
    runner = interpreter(stage.data).get_signature_runner("serve")
    assert set(runner.get_input_details()) == {"late", "sum"}
    b.signature("other", {"sum": 1}, {"y": 5})
    graph = parse_model(b.build(), signature="other")
    runner = interpreter(split(graph, [3])[1].data).get_signature_runner("other")
    assert set(runner.get_input_details()) == {"sum", "sum#boundary"}


def two_signatures() -> bytes:
    b = ModelBuilder()
    b.main.output(b.main.unary("TANH", b.main.input("x", (1, 4))))
    other = b.subgraph("other")
    other.output(other.unary("NEG", other.unary("SQUARE", other.input("y", (1, 4)))))
    b.signature("first", {"x": 0}, {"out": 1})
    b.signature("second", {"y": 0}, {"out": 2}, subgraph=1)
    return b.build()


def test_a_signature_chooses_its_subgraph_which_becomes_the_stages_first():
    graph = parse_model(two_signatures(), signature="second")
    assert [op.name for op in graph.operators] == ["SQUARE", "NEG"]
    for stage in split(graph, [1]):
        assert list(interpreter(stage.data).get_signature_list()) == ["second"]
        assert len(parse_model(stage.data).flat.subgraphs) == 1


def test_without_a_choice_the_first_subgraph_is_meant():
    assert parse_model(two_signatures()).signature == "first"


def test_an_unknown_signature_lists_those_that_are_there():
    with pytest.raises(ModelError, match="no signature 'third': it has 'first', 'second'"):
        parse_model(two_signatures(), signature="third")
    with pytest.raises(ModelError, match="no signature 'x': it has none"):
        parse_model(skipping().build(), signature="x")


def test_metadata_is_kept_but_for_what_describes_the_whole_model():
    b = skipping()
    b.metadata("min_runtime_version", b"2.1.0")
    b.metadata("reduced_precision_support", b"fp16compute")
    b.metadata("TFLITE_METADATA", b"labels of the whole model")
    b.metadata("model_control_dependencies", b"numbers of operators")
    for stage in split(parse_model(b.build()), [2]):
        flat = parse_model(stage.data).flat
        held = {n: bytes(stage.data[s[0] : sum(s)]) for n, i in flat.metadata if (s := flat.buffers[i])}
        assert held == {b"min_runtime_version": b"2.1.0", b"reduced_precision_support": b"fp16compute"}


def test_duplicate_and_empty_names_are_told_apart_and_the_stages_carry_the_new_ones():
    b = ModelBuilder()
    g = b.main
    x = g.input("t", (1, 4))
    y = g.unary("TANH", x, name="t")
    z = g.op("NEG", [y], [g.tensor("", (1, 4))])
    w = g.op("ABS", [z], [g.tensor(None, (1, 4))])
    g.output(g.add(g.add(w, y), g.add(x, z)), w)
    graph = parse_model(b.build())
    stages = split(graph, [1, 2, 3])
    assert names(stages[2].boundary_in) == ["t", "t#2", "tensor_2"]
    for stage in stages:
        loaded = interpreter(stage.data)
        assert [d["name"] for d in loaded.get_input_details()] == names(stage.inputs)
    assert verify(graph, [[1], [2], [3], [1, 2, 3]], load).passed


def test_an_answer_that_is_an_input_is_passed_on():
    b = ModelBuilder()
    x = b.main.input("x", (1, 4))
    b.main.output(x, b.main.unary("NEG", b.main.unary("TANH", x)))
    graph = parse_model(b.build())
    _, second = split(graph, [1])
    assert names(second.boundary_in) == ["x", "t1"]
    assert names(second.outputs) == ["t2"]
    assert verify(graph, [[1], []], load).passed


def test_an_answer_that_is_a_constant_comes_from_the_last_stage():
    b = ModelBuilder()
    g = b.main
    x, c = g.input("x", (1, 4)), g.const("c", np.arange(4.0))
    folded = g.unary("NEG", c, name="folded")
    y = g.unary("NEG", g.unary("TANH", x), name="y")
    g.output(c, y, folded)
    graph = parse_model(b.build())
    assert names(split(graph, [1])[1].outputs) == ["c", "y", "folded"]
    assert verify(graph, [[1], []], load).passed


def test_an_answer_given_twice_is_made_once():
    b = ModelBuilder()
    y = b.main.unary("NEG", b.main.unary("TANH", b.main.input("x", (1, 4))), name="y")
    b.main.output(y, y)
    graph = parse_model(b.build())
    assert names(graph.outputs) == ["y", "y"]
    assert names(split(graph, [1])[1].outputs) == ["y"]
    assert verify(graph, [[1]], load).passed


def test_an_input_that_nothing_reads_does_not_travel():
    b = ModelBuilder()
    x = b.main.input("x", (1, 4))
    b.main.input("unread", (1, 4))
    b.main.output(b.main.unary("NEG", b.main.unary("TANH", x)))
    graph = parse_model(b.build())
    first, _ = split(graph, [1])
    assert names(graph.inputs) == ["x", "unread"]
    assert names(first.boundary_in) == names(first.inputs) == ["x"]
    assert verify(graph, [[1]], load).passed


def test_quantisation_is_kept_and_int8_is_exact():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 5, 5, 2), "int8", quantised=(0.05, 3))
    for i in range(3):
        kernel = g.const(f"w{i}", RNG.integers(-127, 128, (2, 3, 3, 2)), "int8")
        table = g.table.tensors[kernel]
        table.quantization = g.table.tensors[x].quantization.__class__()
        table.quantization.scale = np.array([0.01, 0.02], np.float32)  # per channel
        table.quantization.zeroPoint = np.array([0, 0], np.int64)
        bias = g.const(f"b{i}", [5, -7], "int32")
        g.table.tensors[bias].quantization = type(table.quantization)()
        g.table.tensors[bias].quantization.scale = np.array([0.0005, 0.001], np.float32)
        g.table.tensors[bias].quantization.zeroPoint = np.array([0, 0], np.int64)
        fields = {"strideH": 1, "strideW": 1}
        inputs = [x, kernel, bias]
        x = g.op(
            "CONV_2D",
            inputs,
            shape=(1, 5, 5, 2),
            options="Conv2DOptions",
            fields=fields,
            dtype="int8",
            quantised=(0.05, -1),
        )
    g.output(x)
    graph = parse_model(b.build())
    assert graph.quantised == {"x"}
    assert verify(graph, [[1], [2], [1, 2]], load, samples=5).passed
    detail = interpreter(split(graph, [1])[1].data).get_input_details()[0]
    assert detail["quantization"] == (pytest.approx(0.05), -1)


def test_a_stage_that_makes_nothing_that_is_read_still_loads():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    g.unary("TANH", x, name="dead")
    g.output(g.unary("NEG", x))
    graph = parse_model(b.build())
    first, _ = split(graph, [1])
    assert first.outputs == ()
    assert verify(graph, [[1]], load).passed
