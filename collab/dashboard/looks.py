"""One look at a node, from what it answered; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from collab.codec.pb import control_pb2 as pb
from collab.telemetry.histogram import BOUNDS_US

MAX_PLANS: Final = 32
"""Plans and links of one node that are looked at, and characters of a text of its."""
MAX_LINKS: Final = 128
MAX_TEXT: Final = 200
_MAX_COUNTERS: Final = 2_048


@dataclass(frozen=True)
class LinkLook:
    """A link as one of its ends counts it."""

    peer: str
    transport: str
    rtt_ms: float
    sent_bytes: int
    received_bytes: int
    relayed: bool = False


@dataclass(frozen=True)
class PlanLook:
    """An epoch of a plan on a node."""

    plan: str
    epoch: int
    digest: str
    state: str
    stages: tuple[str, ...] = ()
    in_flight: int = 0
    primary: str = ""
    release: str = ""
    trial: str = ""
    """Phase of a new model's trial."""


@dataclass(frozen=True)
class AnswersLook:
    """What a node's stages have sent to requesters of a plan."""

    plan: str
    failed: int = 0
    buckets: tuple[int, ...] = ()
    """Times in nodes, by `BOUNDS_US`; empty where the node counts by others."""


@dataclass(frozen=True)
class About:
    """What a node is; it seldom changes."""

    address: str = ""
    device: str = ""
    software: str = ""
    memory_bytes: int = 0
    cores: int = 0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeLook:
    """What a node is doing."""

    name: str
    state: str
    uptime_ms: int = 0
    resident_bytes: int = 0
    links: tuple[LinkLook, ...] = ()
    requesters: int = 0
    """Links of others than nodes."""
    plans: tuple[PlanLook, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    answers: tuple[AnswersLook, ...] = ()


def about_of(reply: pb.DescribeReply, address: str) -> About:
    """What a node said it is."""
    return About(
        address=address[:MAX_TEXT],
        device=reply.device[:MAX_TEXT],
        software=reply.software[:MAX_TEXT],
        memory_bytes=reply.memory_bytes,
        cores=reply.cores,
        remarks=tuple(remark[:MAX_TEXT] for remark in reply.remarks[:8]),
    )


def look_of(name: str, reply: pb.StatusReply) -> NodeLook:
    """What a node said it is doing; of more than the bounds the rest is left out."""
    nodes = [peer for peer in reply.peers if peer.role == "node"]
    return NodeLook(
        name=name,
        state=reply.state[:MAX_TEXT] or "serving",
        uptime_ms=reply.uptime_ms,
        resident_bytes=reply.resident_bytes,
        links=tuple(
            LinkLook(
                peer.name[:MAX_TEXT],
                peer.kind[:MAX_TEXT],
                peer.rtt_us / 1000,
                peer.sent_bytes,
                peer.received_bytes,
                peer.relayed,
            )
            for peer in nodes[:MAX_LINKS]
        ),
        requesters=len({peer.name for peer in reply.peers if peer.role != "node"}),
        plans=tuple(
            PlanLook(
                plan.plan[:MAX_TEXT],
                plan.epoch,
                plan.digest,
                plan.state,
                tuple(plan.stages[:64]),
                plan.in_flight,
                plan.primary[:MAX_TEXT],
                plan.release[:MAX_TEXT],
                plan.trial[:MAX_TEXT],
            )
            for plan in reply.plans[:MAX_PLANS]
        ),
        answers=tuple(
            AnswersLook(
                answer.plan[:MAX_TEXT],
                answer.failed,
                tuple(answer.buckets) if tuple(reply.bounds_us) == BOUNDS_US else (),
            )
            for answer in reply.answers[:MAX_PLANS]
        ),
        counters={counter.name: counter.value for counter in reply.counters[:_MAX_COUNTERS]},
    )
