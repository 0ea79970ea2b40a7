"""Every rule of a plan, with the field that breaks it at the start of the message."""

from __future__ import annotations

import copy
import json
import math
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.core.ids import EdgeId
from collab.core.plan import FireQuorum, from_json
from collab.core.validate import MAX_EDGES, MAX_STAGES, convert_plan, decode_plan, flow, order, validate
from collab.errors import PlanError
from tests.unit.core.trees import SHA, cascade, chain, edge, spec, stage

DELETE = object()


def changed(tree: dict[str, Any], *changes: tuple[Any, ...]) -> dict[str, Any]:
    """The tree with values set at paths: ``("stages", 0, "ops", [0, 3])``; lists grow at their end."""
    tree = copy.deepcopy(tree)
    for *path, last, value in changes:
        at: Any = tree
        for step in path:
            at = at[step]
        if value is DELETE:
            del at[last]
        elif isinstance(at, list) and last == len(at):
            at.append(value)
        else:
            at[last] = value
    return tree


def test_the_trees_that_the_tests_change_are_plans():
    assert [s.id for s in convert_plan(chain()).stages] == ["head", "tail"]
    assert [s.id for s in convert_plan(cascade()).stages] == ["s", "l", "merge"]


Q = "@requester"
STAGES, EDGES, NODES = "stages", "edges", "nodes"
AMPLE = edge("head", "tail", "h", guard={"tensor": "h", "measure": "max", "when": "below", "threshold": 0.5})

RULES: dict[str, tuple[list[tuple[Any, ...]], str]] = {
    # what msgspec checks, in our words
    "a field too many": ([("colour", "red")], "plan: Object contains unknown field `colour`"),
    "a field too many below": ([(STAGES, 1, "gpu", 1)], "stages[1]: Object contains unknown field `gpu`"),
    "a field too few": ([("edges", DELETE)], "plan: Object missing required field `edges`"),
    "a wrong type": ([(STAGES, 0, "threads", "two")], "stages[0].threads: Expected `int`, got `str`"),
    "a wrong type in a tensor": ([("inputs", 0, "shape", 0, "n")], "inputs[0].shape[0]: Expected `int`"),
    "half a range": ([(STAGES, 0, "ops", [0])], "stages[0].ops: Expected `array` of length 2"),
    "an unknown rule": (
        [(STAGES, 0, "fires", {"rule": "most"})],
        "stages[0].fires.rule: Invalid value 'most'",
    ),
    "an unknown measure": (
        [(EDGES, 1, {**AMPLE, "guard": {**AMPLE["guard"], "measure": "mood"}})],
        "edges[1].guard.measure: Invalid enum value 'mood'",
    ),
    # version, names
    "another version": ([("version", 2)], "version: 2 is not 1; make the plan anew"),
    "a bad plan name": ([("name", "a b")], "name: 'a b': use 1 to 63 letters"),
    "a bad node name": ([(NODES, 1, "name", "")], "nodes[1].name: '': use 1 to 63"),
    "a bad stage name": ([(STAGES, 1, "id", Q)], "stages[1].id: '@requester': use 1 to 63"),
    "a bad model name": ([("models", 0, "id", "-")], "models[0].id: '-': use 1 to 63"),
    "a bad model digest": ([("models", 0, "sha256", "0")], "models[0].sha256: '0': not a SHA-256"),
    "a bad stage digest": ([(STAGES, 0, "sha256", SHA.upper())], "stages[0].sha256: "),
    "a node twice": ([(NODES, 2, {"name": "a"})], "nodes: 'a' stands there 2 times; names must differ"),
    "a stage twice": ([(STAGES, 1, "id", "head")], "stages: 'head' stands there 2 times"),
    "a model twice": ([("models", 1, {"sha256": SHA, "ops": 5})], "models: 'model' stands there 2 times"),
    # tensors
    "a bad input": (
        [("inputs", 0, "dtype", "string")],
        "inputs[0]: tensor 'x': dtype 'string' cannot travel",
    ),
    "a bad output": ([("outputs", 0, "shape", [-1])], "outputs[0]: tensor 'y': shape [-1] has a negative"),
    "an input twice": ([("inputs", 1, spec("x"))], "inputs[1]: 'x' stands there twice"),
    "an output twice": ([("outputs", 1, spec("y"))], "outputs[1]: 'y' stands there twice"),
    "a bad stage input": (
        [(STAGES, 1, "inputs", 0, "shape", [1] * 9)],
        "stages[1] (tail).inputs[0]: tensor 'h': rank 9 is over 8",
    ),
    "a bad stage output": (
        [(STAGES, 1, "outputs", 0, "name", "")],
        "stages[1] (tail).outputs[0]: tensor name '': use 1 to 1024 bytes",
    ),
    "a stage output twice": (
        [(STAGES, 1, "outputs", 1, spec("y"))],
        "stages[1] (tail).outputs[1]: 'y' stands",
    ),
    "a text that is none": ([("inputs", 0, "name", "\udc80")], "inputs[0]: tensor name '\\udc80': not valid"),
    # limits
    "no stage": ([(STAGES, [])], "stages: 0 of them; a plan has 1 to 256"),
    "no credit": ([("credits", 0)], "credits: 0; give 1 to 4096"),
    "too many credits": ([("credits", 4097)], "credits: 4097; give 1 to 4096"),
    "a negative tolerance": ([("tolerance", {"atol": -1.0})], "tolerance.atol: -1.0 is not a finite number"),
    "a tolerance that is none": ([("tolerance", {"rtol": math.nan})], "tolerance.rtol: nan is not a finite"),
    "a boundless tolerance": ([("tolerance", {"rtol": math.inf})], "tolerance.rtol: inf is not a finite"),
    # stages
    "a stage nowhere": ([(STAGES, 0, "nodes", [])], "stages[0] (head).nodes: empty; place the stage"),
    "a stage on an unknown node": (
        [(STAGES, 1, "nodes", ["b", "c"])],
        "stages[1] (tail).nodes: 'c' is not listed",
    ),
    "a node twice in a stage": (
        [(STAGES, 0, "nodes", ["a", "a"])],
        "stages[0] (head).nodes: a node is named twice",
    ),
    "no thread": ([(STAGES, 0, "threads", 0)], "stages[0] (head).threads: 0; give 1 to 256"),
    "too many threads": ([(STAGES, 0, "threads", 257)], "stages[0] (head).threads: 257; give 1 to 256"),
    "negative bytes": ([(STAGES, 0, "bytes", -1)], "stages[0] (head).bytes: -1 is negative"),
    "no operators": ([(STAGES, 0, "ops", DELETE)], "stages[0] (head): needs ops and sha256, or combine"),
    "no digest": ([(STAGES, 0, "sha256", DELETE)], "stages[0] (head): needs ops and sha256, or combine"),
    "operators and a combiner": (
        [(STAGES, 0, "combine", "mean")],
        "stages[0] (head): combine stands for operators; leave ops and sha256 out",
    ),
    "an unknown model": ([(STAGES, 0, "model", "other")], "stages[0] (head).model: 'other' is not listed"),
    "a stage that makes nothing": ([(STAGES, 0, "outputs", [])], "stages[0] (head).outputs: empty"),
    "no way in": ([(EDGES, 1, DELETE)], "stages[1] (tail): no edge leads to it"),
    "a state": (
        [(STAGES, 0, "state", [{"output": "h", "input": "x"}])],
        "stages[0] (head).state: stages that keep state are not supported yet; leave it out",
    ),
    "an unknown codec": (
        [(EDGES, 1, "codec", "zip")],
        "edges[1].codec: codec 'zip' is not known here; use one of raw, raw+lz4",
    ),
    "a lossy codec without a stated error": (
        [(EDGES, 1, "codec", "int8+zstd")],
        "edges[1].codec: 'int8+zstd' loses digits and the plan allows no error; "
        "set codec_error, such as 0.01, or use raw+zstd",
    ),
    "an error of nothing": ([("codec_error", 0.0)], "codec_error: 0.0 is not a share above 0"),
    "an error of more than everything": ([("codec_error", 1.5)], "codec_error: 1.5 is not a share"),
    "a model stage that does not wait": (
        [(STAGES, 1, "fires", {"rule": "any"})],
        "stages[1] (tail).fires: only a combiner can fire without all",
    ),
    # coverage
    "a gap at the start": (
        [(STAGES, 0, "ops", [1, 2])],
        "stages (head).ops: gap, operators [0, 1) are in no",
    ),
    "a gap between": (
        [(STAGES, 1, "ops", [3, 5])],
        "stages (tail).ops: gap, operators [2, 3) are in no stage",
    ),
    "a gap at the end": ([("models", 0, "ops", 9)], "stages.ops: gap, operators [5, 9) of model 'model'"),
    "an overlap": ([(STAGES, 0, "ops", [0, 3])], "stages (tail).ops: overlap, operators [2, 3) are in two"),
    "past the end": ([("models", 0, "ops", 4)], "stages.ops: past the model's end, operators [4, 5)"),
    "an empty range": ([(STAGES, 0, "ops", [0, 0])], "stages (head).ops: [0, 0) is empty or reversed"),
    "a reversed range": ([(STAGES, 1, "ops", [5, 2])], "stages (tail).ops: [5, 2) is empty or reversed"),
    "a negative range": ([(STAGES, 0, "ops", [-1, 2])], "stages (head).ops: overlap, operators [-1, 0)"),
    # edges
    "an edge from nowhere": (
        [(EDGES, 3, edge("no", "tail", "h"))],
        "edges[3].source: 'no' is neither a stage",
    ),
    "an edge to nowhere": ([(EDGES, 3, edge("head", "no", "h"))], "edges[3].target: 'no' is neither a stage"),
    "an edge to itself": (
        [(EDGES, 3, edge("head", "head", "h"))],
        "edges[3]: cycle, it leads from 'head' to",
    ),
    "straight back": ([(EDGES, 3, edge(Q, Q, "x"))], "edges[3]: cycle, it leads from '@requester' to itself"),
    "an edge twice": (
        [(EDGES, 3, edge("head", "tail", "x"))],
        "edges[3]: a second edge from 'head' to 'tail'",
    ),
    "an unknown relay": ([(EDGES, 1, "via", ["c"])], "edges[1].via: 'c' is not listed under nodes"),
    "a relay twice": ([(EDGES, 1, "via", ["a", "a"])], "edges[1].via: cycle, a node is named twice"),
    "an empty edge": ([(EDGES, 1, "tensors", [])], "edges[1].tensors: empty; an edge carries at least one"),
    "a tensor twice": ([(EDGES, 1, "tensors", ["h", "h"])], "edges[1].tensors: a tensor is named twice"),
    "no answer": ([(EDGES, 2, DELETE)], "edges: none leads to '@requester'; nobody would get the answer"),
    "two answers": ([(EDGES, 3, edge("head", Q, "h"))], "edges: several lead to '@requester'; join them"),
    "a circle": ([(EDGES, 3, edge("tail", "head", "y"))], "edges: cycle "),
    # guards
    "a guarded input": (
        [(EDGES, 0, "guard", AMPLE["guard"])],
        "edges[0].guard: '@requester' measures nothing",
    ),
    "a guard on nothing": (
        [(EDGES, 1, {**AMPLE, "guard": {**AMPLE["guard"], "tensor": "x"}})],
        "edges[1].guard.tensor: 'head' makes no tensor 'x'",
    ),
    "a guard at no threshold": (
        [(EDGES, 1, {**AMPLE, "guard": {**AMPLE["guard"], "threshold": math.nan}})],
        "edges[1].guard.threshold: nan is not a finite number",
    ),
    # flow
    "a tensor from nowhere": (
        [(EDGES, 1, "tensors", ["h", "z"])],
        "edges[1] (head -> tail).tensors: 'head' has no tensor 'z'",
    ),
    "an input that is not there": ([(EDGES, 0, "tensors", ["y"])], "edges[0] (@requester -> head).tensors: "),
    "a missing tensor": (
        [(STAGES, 1, "inputs", 1, spec("x"))],
        "tail: tensor 'x' float32[1, 4] does not reach it",
    ),
    "another shape": (
        [(STAGES, 1, "inputs", 0, "shape", [4])],
        "tail: tensor 'h' float32[4] arrives as float32[1, 4]",
    ),
    "another dtype": (
        [("outputs", 0, "dtype", "int8")],
        "@requester: tensor 'y' int8[1, 4] arrives as float32[1, 4]",
    ),
    "an output that nobody makes": (
        [("outputs", 0, "name", "z")],
        "@requester: tensor 'z' float32[1, 4] does not reach it",
    ),
    "a tensor from two sides": (
        [(EDGES, 1, "tensors", ["h", "x"]), (EDGES, 3, edge(Q, "tail", "x"))],
        "edges[3] (@requester -> tail).tensors: 'x' comes over another edge too; only combiners merge",
    ),
}


@pytest.mark.parametrize(("changes", "message"), RULES.values(), ids=RULES)
def test_a_broken_rule_is_named_with_its_field(changes, message):
    with pytest.raises(PlanError, match="^" + re.escape(message)) as caught:
        convert_plan(changed(chain(), *changes))
    assert "\n" not in str(caught.value)


def predicted(**changes: Any) -> dict[str, Any]:
    """A prediction of the chain, with some fields changed."""
    return {"latency_ms": 2.0, "bottleneck_ms": 1.0, **changes}


PREDICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no time": (predicted(latency_ms=math.nan), "predicted.latency_ms: nan is not a finite time"),
    "a negative time": (predicted(bottleneck_ms=-1.0), "predicted.bottleneck_ms: -1.0 is not a finite"),
    "an endless stage": (
        predicted(stages=[{"stage": "head", "nodes": ["a"], "ms": math.inf}]),
        "predicted.stages[0].ms: inf is not a finite time",
    ),
    "an unknown stage": (
        predicted(stages=[{"stage": "neck", "nodes": [], "ms": 1.0}]),
        "predicted.stages[0].stage: the plan has no stage 'neck'",
    ),
    "a stage elsewhere": (
        predicted(stages=[{"stage": "head", "nodes": ["b"], "ms": 1.0}]),
        "predicted.stages[0].nodes: 'head' is not on 'b'",
    ),
    "an unknown edge": (
        predicted(edges=[{"source": "tail", "target": "head", "ms": 1.0, "occupied_ms": 0.0}]),
        "predicted.edges[0]: the plan has no edge tail -> head",
    ),
    "an endless edge": (
        predicted(edges=[{"source": "head", "target": "tail", "ms": 1.0, "occupied_ms": math.inf}]),
        "predicted.edges[0].occupied_ms: inf is not a finite time",
    ),
    "no digest": (predicted(profile="p.json"), "predicted.profile: 'p.json': not a SHA-256"),
    "a long story": (predicted(basis="x" * 2000), "predicted.basis: has over 1000 bytes"),
    "no text": (predicted(basis="\ud800"), "plan: a text in it is not valid Unicode"),
}


@pytest.mark.parametrize(("given_", "message"), PREDICTIONS.values(), ids=PREDICTIONS)
def test_a_prediction_that_cannot_be_is_refused(given_, message):
    with pytest.raises(PlanError, match="^" + re.escape(message)):
        convert_plan({**chain(), "predicted": given_})


QUORUMS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"k": 0}, "stages[2] (merge).fires.k: 0; the stage has 2 in-edges"),
    "too many": ({"k": 3}, "stages[2] (merge).fires.k: 3; the stage has 2 in-edges"),
    "a negative wait": (
        {"k": 1, "wait_ms": -1},
        "stages[2] (merge).fires.wait_ms: -1.0 is not a finite time",
    ),
    "no wait": ({"k": 1, "wait_ms": math.nan}, "stages[2] (merge).fires.wait_ms: nan is not a finite time"),
    "an endless wait": ({"k": 1, "wait_ms": math.inf}, "stages[2] (merge).fires.wait_ms: inf is not"),
}


@pytest.mark.parametrize(("fires", "message"), QUORUMS.values(), ids=QUORUMS)
def test_a_quorum_that_cannot_be_is_refused(fires, message):
    with pytest.raises(PlanError, match="^" + re.escape(message)):
        convert_plan(changed(cascade(), ("stages", 2, "fires", {"rule": "quorum", **fires})))


@pytest.mark.parametrize("k", [1, 2])
def test_a_quorum_of_some_or_all_edges_is_taken(k):
    plan = convert_plan(changed(cascade(), ("stages", 2, "fires", {"rule": "quorum", "k": k})))
    assert plan.stages[2].fires == FireQuorum(k=k)


@pytest.mark.parametrize(
    ("place", "weights", "message"),
    [
        (2, [1.0], "stages[2] (merge).weights: 1 for 2 in-edges; give one for each"),
        (2, [1.0, -0.5], "stages[2] (merge).weights[1]: -0.5 is not a finite number of at least 0"),
        (2, [1.0, math.inf], "stages[2] (merge).weights[1]: inf is not a finite number of at least 0"),
        (2, [math.nan, 1.0], "stages[2] (merge).weights[0]: nan is not a finite number of at least 0"),
        (2, [0.0, 0.0], "stages[2] (merge).weights: sum up to 0.0; some member must count"),
        (2, [1e308, 1e308], "stages[2] (merge).weights: sum up to inf; some member must count"),
        (0, [1.0], "stages[0] (s).weights: only a combiner weighs; leave them out"),
    ],
)
def test_weights_that_cannot_be_are_refused(place, weights, message):
    with pytest.raises(PlanError, match=re.escape(message)):
        convert_plan(changed(cascade(), (STAGES, place, "weights", weights)))


def test_a_combiners_weights_are_kept_and_are_part_of_its_digest():
    plan = convert_plan(changed(cascade(), (STAGES, 2, "weights", [0.0, 2])))
    assert plan.stage("merge").weights == (0, 2)
    assert plan.digest != convert_plan(cascade()).digest


@pytest.mark.parametrize(
    ("place", "names", "message"),
    [
        (0, [("q", "y")], "stages[0] (s).file_names[0].tensor: the stage has no tensor 'q'"),
        (0, [("p", "y"), ("p", "z")], "stages[0] (s).file_names[1].tensor: 'p' stands there twice"),
        (0, [("p", "")], "stages[0] (s).file_names of outputs[0]: tensor name ''"),
        (2, [("p", "y")], "stages[2] (merge).file_names: a combiner has no file; leave them out"),
    ],
)
def test_names_in_a_file_that_cannot_be_are_refused(place, names, message):
    entries = [{"tensor": tensor, "file": file} for tensor, file in names]
    with pytest.raises(PlanError, match=re.escape(message)):
        convert_plan(changed(cascade(), (STAGES, place, "file_names", entries)))


def test_a_stage_may_call_its_tensors_otherwise_than_the_plan():
    entries = [{"tensor": "p", "file": "Identity"}, {"tensor": "x", "file": "p"}]
    small = convert_plan(changed(cascade(), (STAGES, 0, "file_names", entries))).stage("s")
    assert [spec.name for spec in small.in_file(small.inputs)] == ["p"]
    assert [spec.name for spec in small.in_file(small.outputs)] == ["Identity"]
    assert small.in_file(small.outputs)[0].shape == small.outputs[0].shape


def test_a_combiner_may_get_one_tensor_from_several_members():
    tree = changed(cascade(), ("stages", 2, "inputs", [spec("p")]))
    assert convert_plan(tree).stages[2].inputs[0].name == "p"


def test_a_long_circle_is_named_in_full():
    tree = chain()
    tree["models"] = []
    tree["stages"] = [
        {"id": name, "nodes": ["a"], "combine": "mean", "inputs": [], "outputs": [spec(name)]}
        for name in "pqrs"
    ]
    tree["edges"] = [
        edge(Q, "p", "x"),
        *(edge(one, other, one) for one, other in ("pq", "qr", "rs", "sq")),
        edge("s", Q, "s"),
    ]
    with pytest.raises(
        PlanError, match=r"^edges: cycle (q -> r -> s -> q|r -> s -> q -> r|s -> q -> r -> s)"
    ):
        convert_plan(tree)


def test_too_many_stages_and_edges_are_refused_before_anything_is_walked():
    tree = chain()
    tree["stages"] = [stage(f"s{i}", "a", [i, i + 1], [], ["h"]) for i in range(MAX_STAGES + 1)]
    with pytest.raises(PlanError, match=f"^stages: {MAX_STAGES + 1} of them; a plan has 1 to {MAX_STAGES}"):
        convert_plan(tree)
    tree = chain()
    tree["edges"] = [edge("head", "tail", "h")] * (MAX_EDGES + 1)
    with pytest.raises(PlanError, match=f"^edges: {MAX_EDGES + 1} of them; a plan has at most {MAX_EDGES}"):
        convert_plan(tree)


def largest() -> dict[str, Any]:
    """As many stages and edges as a plan may have; every stage reads from up to 16 before it."""
    edges = [edge(Q, "s0", "x"), edge(f"s{MAX_STAGES - 1}", Q, f"t{MAX_STAGES - 1}")]
    reads: list[list[str]] = [["x"], *([] for _ in range(MAX_STAGES - 1))]
    for distance in range(1, MAX_STAGES):
        for i in range(distance, MAX_STAGES):
            if len(edges) == MAX_EDGES:
                break
            edges.append(edge(f"s{i - distance}", f"s{i}", f"t{i - distance}"))
            reads[i].append(f"t{i - distance}")
    nodes = [f"n{i}" for i in range(MAX_STAGES)]
    stages = [stage(f"s{i}", nodes[i], [i, i + 1], reads[i], [f"t{i}"]) for i in range(MAX_STAGES)]
    return {
        **chain(),
        "models": [{"sha256": SHA, "ops": MAX_STAGES}],
        "outputs": [spec(f"t{MAX_STAGES - 1}")],
        "stages": stages,
        "edges": edges,
        "nodes": [{"name": name} for name in nodes],
    }


def test_the_largest_plan_is_checked_in_well_under_two_seconds():
    tree = largest()
    assert len(tree["stages"]) == MAX_STAGES
    assert len(tree["edges"]) == MAX_EDGES
    start = time.process_time()
    plan = convert_plan(tree)
    assert time.process_time() - start < 1.0
    assert [int(s[1:]) for s in order(plan)] == list(range(MAX_STAGES))


def test_the_flow_says_what_every_edge_carries_in_the_edges_order():
    plan = convert_plan(changed(chain(), ("edges", 1, "tensors", ["x", "h"])))
    carried = {edge_id: [t.name for t in tensors.values()] for edge_id, tensors in flow(plan).items()}
    assert carried == {0: ["x"], 1: ["x", "h"], 2: ["y"]}


def test_a_stage_hands_on_what_it_received_and_what_it_made_wins():
    tree = changed(
        chain(),
        ("stages", 0, "outputs", 1, spec("x", [7])),
        ("edges", 1, "tensors", ["h", "x"]),
    )
    assert flow(convert_plan(tree))[EdgeId(1)]["x"].shape == (7,)


# --- reading -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "plan: Input data was truncated"),
        (b"{", "plan: Input data was truncated"),
        (b"[]", "plan: Expected `object`, got `array`"),
        (b"null", "plan: Expected `object`, got `null`"),
        (b'{"name": "\xff"}', "plan: "),
        (b'{"name": "\\ud800"}', "plan: "),
        (b'{"name": "a", "name": 1}', "name: Expected `str`, got `int`"),
        (b"[" * 100_000, "plan: "),
        (b'{"colour":' * 100_000, "plan: "),
    ],
)
def test_json_that_is_no_plan_is_a_plan_error(data, message):
    with pytest.raises(PlanError, match="^" + re.escape(message)):
        decode_plan(data)


@pytest.mark.parametrize("tree", [None, 1, "plan", [], [chain()], {}, {1: 2}, {None: None}])
def test_a_tree_that_is_no_plan_is_a_plan_error(tree):
    with pytest.raises(PlanError, match=r"^plan: "):
        convert_plan(tree)


def test_a_tree_that_contains_itself_is_a_plan_error():
    tree = chain()
    tree["stages"][0]["fires"] = tree
    with pytest.raises(PlanError):
        convert_plan(tree)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(PlanError):
        convert_plan(changed(chain(), ("inputs", 0, "shape", loop)))


def test_text_that_cannot_be_written_is_refused_wherever_it_stands():
    for path in (
        ("stages", 0, "backend"),
        ("edges", 1, "codec"),
        ("models", 0, "path"),
        ("models", 0, "signature"),
    ):
        with pytest.raises(PlanError, match="not valid Unicode"):
            convert_plan(changed(chain(), (*path, "a\udcff")))
    for tree in ("\udcff", {"\udcff": 1}):
        with pytest.raises(PlanError, match="not valid Unicode"):
            convert_plan(tree)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 10),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["a", "b", "head", "x", "h", Q, SHA, "all", "quorum", "max", "below", "\udcff"]),
    st.dates(),
    st.binary(max_size=3),
)
keys = st.one_of(
    st.sampled_from(sorted({*chain(), *cascade()["stages"][2], *chain()["edges"][0], "rule", "k", "guard"})),
    st.text(max_size=3),
    st.integers(0, 3),
    st.none(),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=200)
@given(trees)
def test_any_tree_is_a_plan_error(tree):
    with pytest.raises(PlanError, match=r"^[a-z]"):
        convert_plan(tree)


@st.composite
def damaged(draw) -> Any:
    """A valid tree in which a few places hold something else."""
    tree = copy.deepcopy(draw(st.sampled_from([chain(), cascade()])))
    for _ in range(draw(st.integers(1, 3))):
        at: Any = tree
        while True:
            places = sorted(at, key=str) if isinstance(at, dict) else range(len(at))
            if not places:
                break
            place = draw(st.sampled_from(list(places)))
            if isinstance(at[place], (dict, list)) and draw(st.integers(0, 4)):
                at = at[place]
                continue
            what = draw(st.sampled_from(["set", "set", "drop", "again"]))
            if what == "drop":
                del at[place]
            elif what == "again" and isinstance(at, list):
                at.append(copy.deepcopy(at[place]))
            else:
                at[place] = draw(trees)
            break
    return tree


@settings(max_examples=400)
@given(damaged())
def test_a_damaged_plan_is_a_plan_error_or_still_a_plan(tree):
    try:
        plan = convert_plan(tree)
    except PlanError as error:
        message = str(error)
    else:
        assert validate(plan) is plan
        assert from_json(json.dumps(yaml_round(plan)).encode()) == plan
        return
    assert "\n" not in message
    assert re.match(r"(@?[\w.-]+(\[\d+\])?[ .:])", message)


def yaml_round(plan) -> Any:
    """The tree that a person would read back after the plan was written as YAML."""
    import msgspec

    return yaml.safe_load(yaml.safe_dump(msgspec.to_builtins(plan)))
