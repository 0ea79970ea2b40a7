"""Status of some plans alone."""

from __future__ import annotations

import pytest

from collab.cli.deploying import _keep
from collab.codec.pb import control_pb2 as pb
from collab.errors import NotLoaded


def reply() -> pb.StatusReply:
    return pb.StatusReply(
        plans=[pb.LoadedPlan(plan=name, epoch=1) for name in ("p", "q")],
        stages=[pb.StageLoad(plan=name, stage="s0") for name in ("p", "q")],
        answers=[pb.PlanAnswers(plan=name, ok=1) for name in ("p", "q")],
    )


def test_other_plans_are_left_out():
    replies = {"a": reply(), "b": pb.StatusReply(state="serving")}
    _keep(replies, ["q"])
    kept = replies["a"]
    assert [plan.plan for plan in kept.plans] == ["q"]
    assert [stage.plan for stage in kept.stages] == ["q"]
    assert [answer.plan for answer in kept.answers] == ["q"]
    assert replies["b"].state == "serving"


def test_a_plan_that_no_node_has_is_an_error():
    with pytest.raises(NotLoaded, match="plan 'r': none of these nodes has one of that name"):
        _keep({"a": reply()}, ["p", "r"])
