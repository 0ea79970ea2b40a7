"""Operators that share state stay together; control flow takes its subgraphs along."""

from __future__ import annotations

import numpy as np
import pytest

from collab.errors import CutError
from collab.graph import allowed_cuts, cuts, parse_model, split, verify
from tests.tflite_builder import ModelBuilder, SubgraphBuilder, load


def handle(g: SubgraphBuilder, name: bytes = b"counter") -> int:
    fields = {"container": "", "sharedName": name.decode()}
    return g.op("VAR_HANDLE", [], shape=(1,), dtype="resource", options="VarHandleOptions", fields=fields)


def counter(once: bool = True) -> bytes:
    """Adds its input to a variable and answers with tanh of the sum."""
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    y = g.unary("TANH", x)
    if once:
        init = b.subgraph("init")
        init.op("ASSIGN_VARIABLE", [handle(init), init.const("zero", np.zeros((1, 4)))], [])
        g.op("CALL_ONCE", [], [], options="CallOnceOptions", fields={"initSubgraphIndex": 1})
    y = g.unary("NEG", y)
    var = handle(g)
    before = g.op("READ_VARIABLE", [var], shape=(1, 4), options="ReadVariableOptions")
    after = g.add(before, y)
    g.op("ASSIGN_VARIABLE", [var, after], [])
    z = g.unary("TANH", after)
    g.output(g.unary("NEG", z))
    return b.build()


def test_operators_that_share_a_variable_stay_in_one_stage():
    graph = parse_model(counter())
    names = [op.name for op in graph.operators]
    assert names[1] == "CALL_ONCE"
    assert names[6] == "ASSIGN_VARIABLE"
    assert allowed_cuts(graph) == (1, 7, 8)
    with pytest.raises(CutError, match=r"cut 4 \(before READ_VARIABLE\).*the variable 'counter' is shared"):
        split(graph, [4])
    with pytest.raises(CutError, match="nearest cuts that work: 1 and 7"):
        split(graph, [4])


def test_state_is_kept_from_one_run_to_the_next_in_its_stage():
    graph = parse_model(counter())
    report = verify(graph, [[1], [7], [8], [1, 7, 8]], load, samples=5)
    assert report.passed
    assert report.exact == 4


def test_variables_of_other_names_do_not_hold_each_other():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    for name in (b"a", b"b"):
        var = handle(g, name)
        g.op("ASSIGN_VARIABLE", [var, x], [])
        x = g.op("READ_VARIABLE", [var], shape=(1, 4), options="ReadVariableOptions")
    g.output(x)
    graph = parse_model(b.build())
    assert allowed_cuts(graph) == (3,)
    assert verify(graph, [[3]], load).passed


def test_a_hash_table_stays_with_those_who_use_it():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (2,), "int64")
    y = g.op("ADD", [x, x], shape=(2,), dtype="int64", options="AddOptions")
    kinds = {"tableId": 7, "keyDtype": 4, "valueDtype": 4}
    table = g.op("HASHTABLE", [], shape=(1,), dtype="resource", options="HashtableOptions", fields=kinds)
    z = g.op("ADD", [y, y], shape=(2,), dtype="int64", options="AddOptions")
    size = g.op("HASHTABLE_SIZE", [table], shape=(1,), dtype="int64")
    g.output(g.op("ADD", [z, size], shape=(2,), dtype="int64", options="AddOptions"))
    graph = parse_model(b.build())
    assert [cut.refused is None for cut in cuts(graph)] == [True, False, False, True]
    assert "the hash table 7" in (cuts(graph)[1].refused or "")


def test_state_tensors_stay_with_those_who_read_and_write_them():
    b = ModelBuilder()
    g = b.main
    x = g.input("x", (1, 4))
    state = g.tensor("state", (1, 4), variable=True)
    y = g.unary("TANH", x)
    y = g.add(y, state)
    y = g.unary("NEG", y)
    y = g.add(y, state)
    g.output(y)
    graph = parse_model(b.build())
    assert allowed_cuts(graph) == (1,)
    assert "the state 'state' is shared by operators 1 to 3 (ADD to ADD)" in (cuts(graph)[1].refused or "")
    assert verify(graph, [[1]], load).passed


def loop() -> ModelBuilder:
    """tanh, then x = 2x + w three times, then neg."""
    b = ModelBuilder()
    g, cond, body = b.main, b.subgraph("cond"), b.subgraph("body")
    x = g.unary("TANH", g.input("x", (1, 4)))
    n = g.const("n", np.zeros(1), "int32")
    fields = {"condSubgraphIndex": 1, "bodySubgraphIndex": 2}
    outputs = [g.tensor("count", (1,), "int32"), g.tensor("looped", (1, 4))]
    g.op("WHILE", [n, x], outputs, options="WhileOptions", fields=fields)
    g.output(g.unary("NEG", outputs[1]))
    i, _ = cond.input("i", (1,), "int32"), cond.input("x", (1, 4))
    three = cond.const("three", [3], "int32")
    cond.output(cond.op("LESS", [i, three], shape=(1,), dtype="bool", options="LessOptions"))
    i, x = body.input("i", (1,), "int32"), body.input("x", (1, 4))
    one = body.const("one", [1], "int32")
    body.output(body.op("ADD", [i, one], shape=(1,), dtype="int32", options="AddOptions"))
    body.output(body.add(body.add(x, x), body.const("w", np.arange(4.0).reshape(1, 4))))
    return b


def test_a_loop_takes_its_subgraphs_along():
    graph = parse_model(loop().build())
    assert [op.name for op in graph.operators] == ["TANH", "WHILE", "NEG"]
    assert verify(graph, [[1], [2], [1, 2]], load).passed
    counts = [len(parse_model(stage.data).flat.subgraphs) for stage in split(graph, [1, 2])]
    assert counts == [1, 3, 1]


def test_subgraphs_in_subgraphs_are_renumbered():
    b = ModelBuilder()
    g = b.main
    b.subgraph("unused")
    pick, x = g.input("pick", (1,), "bool"), g.input("x", (1, 4))
    x = g.unary("TANH", x)
    fields = {"thenSubgraphIndex": 3, "elseSubgraphIndex": 2}
    y = g.op("IF", [pick, x], shape=(1, 4), options="IfOptions", fields=fields)
    g.output(g.unary("NEG", y))
    other, outer, inner, inner2 = (b.subgraph(n) for n in ("else", "then", "a", "b"))
    other.output(other.unary("LOGISTIC", other.input("x", (1, 4))))
    z = outer.input("x", (1, 4))
    fields = {"thenSubgraphIndex": 4, "elseSubgraphIndex": 5}
    yes = outer.const("yes", [True], "bool")
    outer.output(outer.op("IF", [yes, z], shape=(1, 4), options="IfOptions", fields=fields))
    for s, kind in ((inner, "SQUARE"), (inner2, "ABS")):
        s.output(s.unary(kind, s.input("x", (1, 4))))
    graph = parse_model(b.build())
    given = np.full((1, 4), 0.5, np.float32)
    inputs = [[np.array([v]), given] for v in (True, False)]
    assert verify(graph, [[1], [2], [1, 2]], load, inputs=inputs).passed
    assert [s.name for s in parse_model(split(graph, [1])[1].data).flat.subgraphs] == [
        b"main", b"then", b"else", b"a", b"b",
    ]  # fmt: skip
