"""What one stage does with payloads: decode, compute, encode, guard, forward, blame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from collab.codec.tensors import Array, decode, encode
from collab.core.ids import EdgeId, NodeName
from collab.core.plan import Guard, Plan
from collab.core.tensor import TensorSpec
from collab.core.token import Fault
from collab.core.validate import validate
from collab.node.program import Program
from collab.node.session import Computed
from collab.runtime.function import Functions
from tests.unit.functions import X, chain, compute, data, functions, spec
from tests.unit.node.plans import ensemble

LATER_US = 1_000_000


class Clock:
    """Advances by the steps given, one at each reading."""

    def __init__(self, *steps_us: int) -> None:
        self._steps = iter(steps_us)
        self.now_us = 0

    def __call__(self) -> int:
        self.now_us += next(self._steps, 0)
        return self.now_us


def payload(*named: tuple[TensorSpec, Array]) -> Any:
    return tuple(encode(spec, array) for spec, array in named)


def build(plan: Plan, index: int, backend: Functions) -> Program:
    return Program(plan, plan.stages[index], NodeName("a"), backend.load(data(index)))


def values(result: Computed | Fault, edge: int) -> dict[str, Array]:
    assert isinstance(result, Computed), result
    return {tensor.spec.name: decode(tensor) for tensor in result.payloads[EdgeId(edge)]}


def test_a_stage_computes_and_says_how_long_each_part_took():
    plan, _ = chain("a", "b")
    inputs = ((EdgeId(1), payload((spec(1), X))),)
    result = build(plan, 1, functions()).run(inputs, 100, LATER_US, Clock(150, 7, 30, 4))
    assert isinstance(result, Computed)
    assert values(result, 2)["t2"].tolist() == compute(1, X).tolist()
    assert result.skipped == frozenset()
    hop = result.hop
    assert (hop.stage, hop.node) == (1, "a")
    assert (hop.queue_us, hop.decode_us, hop.compute_us, hop.encode_us) == (50, 7, 30, 4)
    assert hop.total_us == 91


def test_what_waited_past_its_deadline_is_not_computed():
    calls = []

    def run(arrays: Sequence[Array]) -> Sequence[Array]:
        calls.append(arrays)
        return arrays

    backend = Functions({data(0): (run, (spec(0),), (spec(1),))})
    plan, _ = chain("a")
    inputs = ((EdgeId(0), payload((spec(0), X))),)
    fault = build(plan, 0, backend).run(inputs, 0, 99, Clock(100))
    assert isinstance(fault, Fault)
    assert (fault.code, fault.node, fault.stage) == ("deadline", "a", "s0")
    assert not calls


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda arrays: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda arrays: [arrays[0].astype("float64")], "float64"),
        (lambda arrays: [], "gave 0 tensors"),
        (lambda arrays: (_ for _ in ()).throw(RuntimeError("two\nlines  " + "x" * 500)), "two lines xxx"),
    ],
)
def test_whatever_a_stage_raises_becomes_a_fault_that_names_node_and_stage(
    function: Callable[[Sequence[Array]], Any], words: str
):
    backend = Functions({data(0): (function, (spec(0),), (spec(1),))})
    plan, _ = chain("a")
    fault = build(plan, 0, backend).run(((EdgeId(0), payload((spec(0), X))),), 0, LATER_US, Clock())
    assert isinstance(fault, Fault)
    assert (fault.code, fault.node, fault.stage) == ("stage_failed", "a", "s0")
    assert words in fault.message
    assert "\n" not in fault.message
    assert len(fault.message) < 300


def test_a_payload_that_cannot_be_decoded_is_a_fault_and_not_the_end():
    plan, _ = chain("a")
    program = build(plan, 0, functions())
    (short,) = payload((spec(0), X))
    for broken in ((), (short._replace(data=short.data[:-1]),), (short._replace(codec="unknown"),)):
        fault = program.run(((EdgeId(0), broken),), 0, LATER_US, Clock())
        assert isinstance(fault, Fault)
        assert fault.stage == "s0"
    good = program.run(((EdgeId(0), payload((spec(0), X))),), 0, LATER_US, Clock())
    assert values(good, 1)["t1"].tolist() == compute(0, X).tolist()


def test_a_guard_keeps_a_value_back_on_its_edge_alone():
    plan, _ = chain("a", "b")
    for threshold, passes in ((6.0, True), (6.5, False)):
        guard = Guard(tensor="t1", measure="max", when="at_least", threshold=threshold)
        middle = replace(plan.edges[1], guard=guard)
        guarded = validate(plan.replace(edges=(plan.edges[0], middle, plan.edges[2])))
        result = build(guarded, 0, functions()).run(
            ((EdgeId(0), payload((spec(0), X))),), 0, LATER_US, Clock()
        )
        assert isinstance(result, Computed)
        assert compute(0, X).max() == 6.0
        assert (EdgeId(1) in result.payloads) is passes
        assert result.skipped == (frozenset() if passes else {EdgeId(1)})


def test_what_a_stage_does_not_read_is_handed_on_as_it_came():
    plan, _ = chain("a", "b")
    first, between, last = plan.edges
    forwarding = validate(plan.replace(edges=(first, replace(between, tensors=("t0", "t1")), last)))
    came = payload((spec(0), X))
    result = build(forwarding, 0, functions()).run(((EdgeId(0), came),), 0, LATER_US, Clock())
    assert isinstance(result, Computed)
    handed_on, made = result.payloads[EdgeId(1)]
    assert handed_on is came[0], "not even decoded"
    assert decode(made).tolist() == compute(0, X).tolist()


def test_a_combiner_merges_the_members_that_answered_and_tells_which():
    plan = ensemble()
    t = TensorSpec("t-a", (1,), "float32")
    same = [replace(s, outputs=(t,)) for s in plan.stages if s.id != "d"]
    told = replace(t, name="members", shape=(3,), dtype="int32")
    merges = plan.stage("d")
    merges = replace(merges, inputs=(), outputs=(t, told), weights=(5.0, 1.0, 3.0), combine="weighted")
    named = {"d": ("t-a",), "@requester": ("t-a", "members")}
    edges = tuple(replace(e, tensors=named.get(e.target, e.tensors)) for e in plan.edges)
    plan = validate(plan.replace(outputs=(t,), stages=(*same, merges), edges=edges))
    program = Program(plan, plan.stage("d"), NodeName("d"), None)
    made = [payload((t, np.full(1, value, np.float32))) for value in (100, 2, 4)]
    into, (out,) = plan.edges_into("d"), plan.edges_from("d")
    result = program.run(((into[2], made[2]), (into[0], None), (into[1], made[1])), 0, LATER_US, Clock())
    assert values(result, out)["t-a"].tolist() == [3.5]
    assert values(result, out)["members"].tolist() == [0, 1, 1]
    program.close()


def test_a_combiner_without_enough_members_is_a_fault_of_its_stage():
    plan, _ = chain("a")
    gate = replace(plan.stages[0], combine="mean", ops=None, sha256=None, outputs=(spec(0),))
    back = replace(plan.edges[1], tensors=(spec(0).name,))
    other = plan.replace(stages=(gate,), edges=(plan.edges[0], back), outputs=(spec(0),), models=())
    program = Program(validate(other), gate, NodeName("a"), None)
    fault = program.run(((EdgeId(0), payload((spec(0), np.full_like(X, np.nan)))),), 0, LATER_US, Clock())
    assert isinstance(fault, Fault)
    assert (fault.code, fault.node, fault.stage) == ("stage_failed", "a", "s0")
    assert "0 of 1 members gave finite numbers" in fault.message


def test_closing_frees_the_stage():
    plan, _ = chain("a")
    closed = []
    loaded = functions().load(data(0))
    loaded.close = lambda: closed.append(True)  # type: ignore[method-assign]
    Program(plan, plan.stages[0], NodeName("a"), loaded).close()
    assert closed == [True]
