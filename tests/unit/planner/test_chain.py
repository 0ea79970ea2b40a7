"""Assignments as people write them, and plans that are chains."""

from __future__ import annotations

import re
from typing import Any

import pytest

from collab.core.plan import ModelRef, NodeRef, StageSpec
from collab.core.tensor import TensorSpec
from collab.errors import PlanError, UsageError
from collab.planner.chain import chain, parse_assignment

KNOWN: Any = ["a", "b", "c", "d"]
SHA: Any = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", [["a"]]),
        ("a,b,c", [["a"], ["b"], ["c"]]),
        ("a,b+d,c", [["a"], ["b", "d"], ["c"]]),
        (" a , b + d ", [["a"], ["b", "d"]]),
        ("a,b,a", [["a"], ["b"], ["a"]]),
        ("a+b+c+d", [["a", "b", "c", "d"]]),
    ],
)
def test_one_entry_a_stage_and_a_plus_between_replicas(text, expected):
    made = parse_assignment(text, len(expected), KNOWN)
    assert [list(nodes) for nodes in made.stages] == expected


@pytest.mark.parametrize(
    ("text", "stages", "known", "message"),
    [
        ("a,b", 3, KNOWN, "--assign 'a,b': 2 entries for 3 stages; give one for each"),
        ("a,b", 1, KNOWN, "--assign 'a,b': 2 entries for 1 stages"),
        ("", 2, KNOWN, "--assign '': 1 entries for 2 stages"),
        ("", 1, KNOWN, "--assign: no node '' among the peers; there are a, b, c, d"),
        ("a,", 2, KNOWN, "--assign: no node '' among the peers"),
        ("a,z", 2, KNOWN, "--assign: no node 'z' among the peers; there are a, b, c, d"),
        ("a,b+z", 2, KNOWN, "--assign: no node 'z' among the peers"),
        ("a,b+", 2, KNOWN, "--assign: no node '' among the peers"),
        ("A", 1, KNOWN, "--assign: no node 'A' among the peers"),
        ("a", 1, [], "--assign: no node 'a' among the peers; there are none"),
        ("a,b+c+b", 2, KNOWN, "--assign: 'b+c+b' names a node twice; replicas must differ"),
    ],
)
def test_an_assignment_that_cannot_be_is_a_usage_error(text, stages, known, message):
    with pytest.raises(UsageError, match="^" + re.escape(message)):
        parse_assignment(text, stages, known)


def spec(name: str) -> TensorSpec:
    return TensorSpec(name, (1,), "float32")


def stages(*placed: tuple[str, ...]) -> list[StageSpec]:
    last = len(placed) - 1
    return [
        StageSpec(
            id=f"s{i}",
            nodes=nodes,
            ops=(i, i + 1),
            sha256=SHA,
            inputs=(spec("x" if i == 0 else f"t{i}"),),
            outputs=(spec("y" if i == last else f"t{i + 1}"),),
        )
        for i, nodes in enumerate(placed)
    ]


def make(*placed: tuple[str, ...], **more: Any) -> Any:
    count = len(placed)
    more.setdefault("boundaries", [[f"t{i}"] for i in range(1, count)])
    return chain(
        "p",
        ModelRef(sha256=SHA, ops=count),
        stages(*placed),
        inputs=[spec("x")],
        outputs=[spec("y")],
        nodes=[NodeRef(name=n, endpoints=(f"grpc://{n}:1",)) for n in KNOWN],
        **more,
    )


def test_a_chain_leads_from_the_requester_through_all_stages_and_back():
    plan = make(("a",), ("b", "d"), ("c",))
    assert [(e.source, e.target, e.tensors) for e in plan.edges] == [
        ("@requester", "s0", ("x",)),
        ("s0", "s1", ("t1",)),
        ("s1", "s2", ("t2",)),
        ("s2", "@requester", ("y",)),
    ]
    assert all(e.via == () and e.codec == "raw" for e in plan.edges)


def test_only_nodes_that_run_something_are_listed_with_their_endpoints():
    plan = make(("c",), ("a",))
    assert plan.endpoints() == {"a": ("grpc://a:1",), "c": ("grpc://c:1",)}


def test_codecs_are_those_of_the_edges_in_their_order_and_raw_where_none_is_given():
    assert [e.codec for e in make(("a",), ("b",), codecs=["raw", "fp16"], codec_error=0.01).edges] == [
        "raw",
        "fp16",
        "raw",
    ]


@pytest.mark.parametrize(
    ("placed", "back"),
    [
        ([("a",)], ()),
        ([("a",), ("b",)], ("a",)),
        ([("a",), ("b",), ("c",)], ("b", "a")),
        ([("a",), ("b", "d"), ("c",)], ("b", "a")),
        ([("a",), ("a",), ("b",)], ("a",)),
        ([("a",), ("b",), ("a",)], ("b",)),
    ],
)
def test_an_answer_that_cannot_go_straight_goes_back_through_the_chain(placed, back):
    plan = make(*placed, return_by_chain=True)
    assert plan.edges[-1].via == back
    assert all(e.via == () for e in plan.edges[:-1])


def test_a_chain_that_does_not_hold_together_is_a_plan_error():
    with pytest.raises(PlanError, match=r"edges\[1\] \(s0 -> s1\)\.tensors: 's0' has no tensor 'wrong'"):
        make(("a",), ("b",), boundaries=[["wrong"]])
    with pytest.raises(PlanError, match=r"stages\[0\] \(s0\)\.nodes: 'z' is not listed under nodes"):
        make(("z",))
