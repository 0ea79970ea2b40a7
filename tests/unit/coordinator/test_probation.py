"""What nodes say after a commit, and when that means going back."""

from __future__ import annotations

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.probation import Standing
from tests.integration.models import Reference


def test_a_node_that_is_started_again_and_again_takes_the_plan_back():
    plan, _ = Reference.of("digits").chain([10], ["a", "b"], {"a": "", "b": ""})
    standing = Standing(plan, 7)
    ups = {"a": (100, 5_000, 200, 900, 100), "b": (100, 900, 1_800, 2_700, 50)}
    said = [
        (standing.told(node, pb.StatusReply(uptime_ms=up)), node)
        for pair in zip(*ups.values(), strict=True)
        for node, up in zip(ups, pair, strict=True)
    ]
    reasons = [text for text, _ in said if text]
    assert reasons == ["node 'a' was started anew 2 times since epoch 7 came"], "b was started once"


def test_a_fault_that_a_node_names_takes_its_plan_back_and_no_other():
    plan, _ = Reference.of("digits").chain([10], ["a", "b"], {"a": "", "b": ""})
    standing = Standing(plan, 7)

    def said(name: str, fault: str, epoch: int = 7) -> str:
        loaded = pb.LoadedPlan(plan=name, epoch=epoch, fault=fault)
        return standing.told("a", pb.StatusReply(uptime_ms=1, plans=[loaded]))

    assert said("other", "epoch 7 ended the process 3 times") == ""
    assert said("digits", "") == ""
    assert said("digits", "epoch 6 ended the process 3 times", 6) == "", "it ran before"
    assert said("digits", "epoch 7 ended the process 3 times") == (
        "node 'a': epoch 7 ended the process 3 times"
    )
