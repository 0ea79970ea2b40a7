"""Plans of several models: how their stages, names and edges are laid."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from msgspec.structs import replace

from collab.client.wiring import wire
from collab.core.ids import REQUESTER
from collab.core.plan import FileName, FireAll, FireAny, FireQuorum, ModelRef, NodeRef, Plan, StageSpec
from collab.core.tensor import TensorSpec
from collab.core.validate import convert_plan
from collab.errors import PlanError
from collab.planner.ensemble import Doubt, Member, Merging, cascade, ensemble, matched, traffic
from tests.unit.core.trees import SHA

NODES = tuple(NodeRef(name=name, endpoints=(f"grpc://127.0.0.1:{i}",)) for i, name in enumerate("abcde"))
REPORTS = ("members", "agreement", "confidence")


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape or (1, 4), dtype)


def member(
    *places: tuple[str, ...], x: str = "x", y: str = "y", dtype: str = "float32", inner: str = "h"
) -> Member:
    """A chain over places; what travels within is ``inner0``, ``inner1``, ..."""
    names = [x, *(f"{inner}{i}" for i in range(len(places) - 1)), y]
    kinds = [spec(x, 1, 8, dtype=dtype), *(spec(n, 2) for n in names[1:-1]), spec(y, dtype=dtype)]
    stages = tuple(
        StageSpec(
            id=f"stage-{i}",
            nodes=nodes,
            inputs=(kinds[i],),
            outputs=(kinds[i + 1],),
            ops=(i, i + 1),
            sha256=SHA,
        )
        for i, nodes in enumerate(places)
    )
    model = ModelRef(sha256=SHA, ops=len(places), path="/models/m.tflite")
    return Member(model, stages, tuple((n,) for n in names[1:-1]), (kinds[0],), (kinds[-1],))


def ways(plan: Plan) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(edge.source, edge.target, edge.tensors) for edge in plan.edges]


def test_an_ensemble_of_all_is_fed_by_the_requester_and_waits_for_everybody():
    plan = ensemble("e", [member(("a",)), member(("b", "c"))], Merging("mean", ("d",)), NODES)
    assert ways(plan) == [
        (REQUESTER, "member-0", ("x",)),
        ("member-0", "answer", ("y",)),
        (REQUESTER, "member-1", ("x",)),
        ("member-1", "answer", ("y",)),
        ("answer", REQUESTER, ("y", *REPORTS)),
    ]
    answer = plan.stage("answer")
    assert (answer.combine, answer.nodes, answer.fires, answer.weights) == ("mean", ("d",), FireAll(), ())
    assert [(o.name, o.shape, o.dtype) for o in answer.outputs] == [
        ("y", (1, 4), "float32"),
        ("members", (2,), "int32"),
        ("agreement", (2,), "float32"),
        ("confidence", (), "float32"),
    ]
    assert [o.name for o in plan.outputs] == ["y"]
    assert plan.stage("member-1").nodes == ("b", "c")
    assert [model.id for model in plan.models] == ["member-0", "member-1"]
    assert [ref.name for ref in plan.nodes] == list("abcd")


def test_where_a_quorum_is_enough_no_member_is_missed():
    merging = Merging("weighted", ("d",), weights=(0.5, 0.3, 0.2), quorum=2, wait_ms=20)
    plan = ensemble("e", [member((n,)) for n in "abc"], merging, NODES)
    assert ways(plan)[:3] == [
        (REQUESTER, "input", ("x",)),
        ("input", "member-0", ("x",)),
        ("member-0", "answer", ("y",)),
    ]
    answer = plan.stage("answer")
    assert answer.fires == FireQuorum(k=2, wait_ms=20)
    assert answer.weights == (0.5, 0.3, 0.2)
    guards = [edge.guard for edge in plan.edges if edge.target == "answer"]
    assert [(g.measure, g.when, g.threshold, g.tensor) for g in guards] == [
        ("finite", "at_least", 1, "y")
    ] * 3
    wiring, route = wire(plan), tuple(stage.nodes[0] for stage in plan.stages)
    for lost in "abc":
        assert wiring.survives("me", route, {lost})
    assert not wiring.survives("me", route, {"a", "b"})
    assert not wiring.survives("me", route, {"d"})


def test_members_may_be_chains_and_call_their_tensors_as_they_like():
    other = member(("b",), ("c",), x="serving_input", y="Identity", inner="h")
    plan = ensemble("e", [member(("a",)), other], Merging("mean", ("a",)), NODES)
    assert ways(plan)[2:5] == [
        (REQUESTER, "member-1-0", ("x",)),
        ("member-1-0", "member-1-1", ("h0",)),
        ("member-1-1", "answer", ("y",)),
    ]
    first, last = plan.stage("member-1-0"), plan.stage("member-1-1")
    assert first.file_names == (FileName(tensor="x", file="serving_input"),)
    assert last.file_names == (FileName(tensor="y", file="Identity"),)
    assert first.in_file(first.inputs) == other.stages[0].inputs
    assert last.in_file(last.outputs) == other.stages[1].outputs
    assert plan.stage("member-0").file_names == ()


def test_a_tensor_within_a_member_that_is_called_as_an_end_gets_another_name():
    other = member(("b",), ("c",), x="given", y="h1", inner="y")
    other = Member(other.model, other.stages, (("y0",),), other.inputs, other.outputs)
    like = member(("a",), y="y0")
    plan = ensemble("e", [like, other], Merging("mean", ("a",)), NODES)
    first, last = plan.stage("member-1-0"), plan.stage("member-1-1")
    assert [t.name for t in first.outputs] == ["y0~0"] == [t.name for t in last.inputs]
    assert [t.name for t in last.outputs] == ["y0"]
    assert first.in_file(first.outputs) == other.stages[0].outputs
    assert last.in_file(last.outputs) == other.stages[1].outputs
    assert ("member-1-0", "member-1-1", ("y0~0",)) in ways(plan)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (member(("b",), dtype="int8"), r"input 'x' is int8\[1, 8\], the first model's 'x' float32\[1, 8\]"),
        (
            dataclasses.replace(member(("b",)), outputs=()),
            r"has 0 outputs, the first model 1",
        ),
    ],
)
def test_members_of_other_kinds_are_refused_by_name(other, message):
    with pytest.raises(PlanError, match=rf"member-1 \(/models/m.tflite\): {message}"):
        ensemble("e", [member(("a",)), other], Merging("mean", ("a",)), NODES)


def test_tensors_are_matched_by_name_before_they_are_by_position():
    one, two = spec("a", 1), spec("b", 2)
    assert matched("m", ((two, one), (one,)), ((one, two), (one,))) == {"a": "a", "b": "b"}
    swapped = ((spec("p", 1), spec("q", 2)), (spec("r"),))
    assert matched("m", swapped, ((one, two), (spec("y"),))) == {"p": "a", "q": "b", "r": "y"}


def test_one_member_is_no_ensemble():
    with pytest.raises(PlanError, match="an ensemble has 2 at least"):
        ensemble("e", [member(("a",))], Merging("mean", ("a",)), NODES)


def test_a_report_is_left_out_where_a_model_has_its_name_or_there_are_no_classes():
    named = [member((n,), y="agreement") for n in "ab"]
    plan = ensemble("e", named, Merging("mean", ("a",)), NODES)
    assert plan.edges[-1].tensors == ("agreement", "members", "confidence")
    single = member(("a",))
    made = replace(single.outputs[0], shape=(4, 1))
    stages = (replace(single.stages[0], outputs=(made,)),)
    single = Member(single.model, stages, (), single.inputs, (made,))
    plan = ensemble("e", [single, single], Merging("mean", ("a",)), NODES)
    assert plan.edges[-1].tensors == ("y", "members")


# --- cascades ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "unsure", "sure"),
    [("max", "below", "at_least"), ("margin", "below", "at_least"), ("entropy", "at_least", "below")],
)
def test_a_cascade_goes_one_of_two_ways(measure, unsure, sure):
    plan = cascade("c", member(("a",)), member(("b",), x="u", y="v"), Doubt(measure, 0.7), ("a",), NODES)
    assert ways(plan) == [
        (REQUESTER, "small", ("x",)),
        ("small", "large", ("x",)),
        ("small", "answer", ("y",)),
        ("large", "answer", ("y",)),
        ("answer", REQUESTER, ("y", "members")),
    ]
    guards = [edge.guard for edge in plan.edges]
    assert [(g.when, g.measure, g.threshold, g.tensor) if g else None for g in guards] == [
        None,
        (unsure, measure, 0.7, "y"),
        (sure, measure, 0.7, "y"),
        None,
        None,
    ]
    assert plan.stage("answer").fires == FireAny()
    assert not wire(plan).races


def test_the_input_goes_along_a_small_chain_to_where_it_may_be_needed():
    small, large = member(("a",), ("b",), ("c",)), member(("d",), ("e",), inner="k")
    plan = cascade("c", small, large, Doubt("max", 0.5), ("c",), NODES)
    assert ways(plan)[:6] == [
        (REQUESTER, "small-0", ("x",)),
        ("small-0", "small-1", ("h0", "x")),
        ("small-1", "small-2", ("h1", "x")),
        ("small-2", "large-0", ("x",)),
        ("large-0", "large-1", ("k0",)),
        ("small-2", "answer", ("y",)),
    ]


def test_what_a_cascade_moves_depends_on_who_answers():
    plan = cascade("c", member(("a",)), member(("b",)), Doubt("max", 0.5), ("a",), NODES)
    moved = traffic(plan)
    input_, output, told = 32, 16, 8
    assert moved.sure == input_ + output + told
    assert moved.unsure == input_ + input_ + output + output + told
    assert moved.expected(0.25) == moved.sure + 0.25 * (moved.unsure - moved.sure)
    apart = cascade("c", member(("a",)), member(("b",)), Doubt("max", 0.5), ("c",), NODES)
    assert traffic(apart).sure == moved.sure + output


def test_a_cascade_needs_classes_and_entropy_needs_floats():
    whole = member(("a",), dtype="int8")
    with pytest.raises(PlanError, match="entropy needs probabilities as floats"):
        cascade("c", whole, whole, Doubt("entropy", 0.5), ("a",), NODES)
    cascade("c", whole, whole, Doubt("margin", 5), ("a",), NODES)
    single = member(("a",))
    made = replace(single.outputs[0], shape=(1,))
    single = Member(single.model, (replace(single.stages[0], outputs=(made,)),), (), single.inputs, (made,))
    with pytest.raises(PlanError, match="a cascade needs a classifier"):
        cascade("c", single, single, Doubt("max", 0.5), ("a",), NODES)


def test_the_plans_are_plans_as_a_file_has_them():
    for plan in (
        ensemble("e", [member(("a",)), member(("b",), y="z")], Merging("vote", ("c",), quorum=1), NODES),
        cascade("c", member(("a",)), member(("b",)), Doubt("max", 0.5), ("a",), NODES),
    ):
        back = convert_plan(msgspec.to_builtins(plan))
        assert back == plan
        assert back.digest == plan.digest
