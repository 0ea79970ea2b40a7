"""Telling nodes whether their answers were right."""

from __future__ import annotations

from dataclasses import dataclass

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.core.ids import RequestId
from collab.core.plan import Plan
from collab.errors import InputError, NotLoaded, PeerError


@dataclass(frozen=True)
class Judgement:
    """What somebody says of an answer.

    Attributes:
        correct: whether it was right; None where ``label`` says it, or nobody knows.
        label: the class that it should have been.
        corrected: whether a user changed it.
    """

    correct: bool | None = None
    label: int | None = None
    corrected: bool = False

    def check(self) -> Judgement:
        """Return self, or raise `InputError` where it says nothing, or two things."""
        if self.correct is None and self.label is None and not self.corrected:
            raise InputError("feedback: says nothing; give correct, label or corrected")
        if self.correct is not None and self.label is not None:
            raise InputError("feedback: correct and label are given; give one of them")
        return self


async def judge(cluster: Cluster, plan: Plan, request: RequestId, judgement: Judgement) -> bool | None:
    """Count a judgement on the node that gave the answer; whether the answer was right, where that is known.

    Raises:
        NotLoaded: no node remembers the answer, or the same has been said of it before.
        PeerUnreachable: no node of the plan can be reached.
    """
    judgement.check()
    message = pb.FeedbackRequest(plan=plan.name, request=request, corrected=judgement.corrected)
    if judgement.correct is not None:
        message.correct = judgement.correct
    if judgement.label is not None:
        message.label = judgement.label
    reasons: list[str] = []
    errors: list[PeerError] = []
    for name in dict.fromkeys(ref.name for one in plan.family for ref in one.nodes):
        try:
            await cluster.reach_plan(plan, [name])
            reply = await cluster.control(name).feedback(message)
        except PeerError as error:
            errors.append(error)
            continue
        if reply.counted:
            return reply.correct if reply.HasField("correct") else None
        reasons.append(f"{name}: {reply.reason}")
    if errors and not reasons:
        raise errors[0]
    raise NotLoaded(f"request {request.hex()[:32]}: not counted: {'; '.join(reasons)}")
