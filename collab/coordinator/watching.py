"""What nodes do from one look to the next: rates, latencies, events.  `compare` is pure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from collab.client.control import Control
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.core.ids import NodeName
from collab.errors import CollabError
from collab.telemetry.histogram import BOUNDS_US, quantile_us

UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Look:
    """What every node said at a time; None for one that did not answer."""

    at_s: float
    """On a clock that only differences are taken of."""
    replies: Mapping[str, pb.StatusReply | None]


@dataclass(frozen=True)
class NodeRow:
    """One node; rates are means since the look before, 0 where there is none."""

    name: str
    state: str
    cpu: float = 0.0
    """Processors in use: 1 is one core."""
    resident_bytes: int = 0
    in_flight: int = 0
    queued: int = 0
    links: int = 0
    uptime_s: float = 0.0


@dataclass(frozen=True)
class PlanRow:
    """One plan over all nodes that were looked at."""

    plan: str
    epochs: tuple[int, ...]
    """Those that serve."""
    digest: str
    """Of the newest of them."""
    stages: Mapping[str, tuple[str, ...]]
    """Nodes by stage."""
    in_flight: int = 0
    answers_s: float = 0.0
    failures_s: float = 0.0
    p50_ms: float | None = None
    """In nodes, the network left out; None without answers since the look before."""
    p95_ms: float | None = None
    release: str = ""
    """What serves, as FAMILY:VERSION; several where nodes differ."""
    trial: str = ""
    """Phase of a new model's trial in it."""
    notes: tuple[str, ...] = ()
    """That it answers in place of another plan, who is left out of ensembles, why an epoch is not loaded."""


@dataclass(frozen=True)
class LinkRow:
    """One link as a node sees it."""

    node: str
    peer: str
    transport: str
    rtt_ms: float
    sent_s: float = 0.0
    """Bytes a second."""
    received_s: float = 0.0


@dataclass(frozen=True)
class View:
    """What can be said of two looks."""

    nodes: tuple[NodeRow, ...] = ()
    plans: tuple[PlanRow, ...] = ()
    links: tuple[LinkRow, ...] = ()
    events: tuple[str, ...] = field(default=())
    """What has become different."""


class Watch:
    """Looks at nodes again and again, also at those that went away and came back."""

    def __init__(self, cluster: Cluster, addresses: Mapping[NodeName, str]) -> None:
        self._cluster = cluster
        self._addresses = addresses

    async def look(self, within_s: float) -> Look:
        """What the nodes say; who does not answer in time is not waited for."""
        names = list(self._addresses)
        replies = await asyncio.gather(*(self._status(name, within_s) for name in names))
        return Look(time.monotonic(), dict(zip(names, replies, strict=True)))

    async def _status(self, name: NodeName, within_s: float) -> pb.StatusReply | None:
        async def ask() -> pb.StatusReply:
            links = self._cluster.links
            link = links.get(name) or await links.connect(self._addresses[name], name)
            return await Control(link).status()

        with suppress(CollabError, TimeoutError, asyncio.TimeoutError):
            return await asyncio.wait_for(ask(), within_s)
        return None


def compare(before: Look | None, after: Look) -> View:
    """What the nodes do, and what has become different since the look before."""
    seconds = after.at_s - before.at_s if before is not None else 0.0
    earlier = before.replies if before is not None else {}
    nodes = tuple(_node(name, reply, earlier.get(name), seconds) for name, reply in after.replies.items())
    links = tuple(
        row
        for name, reply in after.replies.items()
        if reply is not None
        for row in _links(name, reply, earlier.get(name), seconds)
    )
    events = () if before is None else tuple(_events(before, after))
    return View(nodes, tuple(_plans(earlier, after, seconds)), links, events)


def _rate(now: int, then: int | None, seconds: float) -> float:
    """Of what only grows; one that has become less began anew."""
    if then is None or seconds <= 0:
        return 0.0
    return (now - then if now >= then else now) / seconds


def _node(name: str, reply: pb.StatusReply | None, then: pb.StatusReply | None, seconds: float) -> NodeRow:
    if reply is None:
        return NodeRow(name, UNREACHABLE)
    return NodeRow(
        name,
        reply.state,
        _rate(reply.cpu_us, then.cpu_us if then is not None else None, seconds) / 1e6,
        reply.resident_bytes,
        sum(plan.in_flight for plan in reply.plans),
        sum(stage.queued for stage in reply.stages),
        len(reply.peers),
        reply.uptime_ms / 1000,
    )


def _links(
    name: str, reply: pb.StatusReply, then: pb.StatusReply | None, seconds: float
) -> Sequence[LinkRow]:
    earlier = {(p.name, p.kind, p.address): p for p in then.peers} if then is not None else {}
    rows = []
    for peer in reply.peers:
        if peer.role != "node":
            continue
        old = earlier.get((peer.name, peer.kind, peer.address))
        sent, received = (old.sent_bytes, old.received_bytes) if old is not None else (None, None)
        rates = (_rate(peer.sent_bytes, sent, seconds), _rate(peer.received_bytes, received, seconds))
        rows.append(LinkRow(name, peer.name, peer.kind, peer.rtt_us / 1000, *rates))
    return rows


def _plans(earlier: Mapping[str, pb.StatusReply | None], after: Look, seconds: float) -> Sequence[PlanRow]:
    names = sorted({p.plan for r in after.replies.values() if r is not None for p in r.plans if p.stages})
    return [_plan(name, earlier, after, seconds) for name in names]


def _plan(name: str, earlier: Mapping[str, pb.StatusReply | None], after: Look, seconds: float) -> PlanRow:
    stages: dict[str, list[str]] = {}
    serving: dict[int, str] = {}
    in_flight = 0
    rates = [0.0, 0.0]
    about = _About()
    buckets = [0] * (len(BOUNDS_US) + 1)
    for node, reply in after.replies.items():
        if reply is None:
            continue
        for plan in reply.plans:
            if plan.plan != name:
                continue
            in_flight += plan.in_flight
            about.take(plan)
            if plan.state == "serving":
                serving[plan.epoch] = plan.digest
                for stage in plan.stages:
                    stages.setdefault(stage, []).append(node)
        about.quarantined(name, reply, earlier.get(node))
        now, then = _answers(reply, name), _answers(earlier.get(node), name)
        if now is None or earlier.get(node) is None:
            continue
        then = then or pb.PlanAnswers()
        rates[0] += _rate(now.ok + now.absent, then.ok + then.absent, seconds)
        rates[1] += _rate(now.failed, then.failed, seconds)
        if tuple(reply.bounds_us) == BOUNDS_US:  # a newer node may have others
            old = then.buckets or [0] * len(now.buckets)
            fresh = [n - o for n, o in zip(now.buckets, old, strict=True)]
            buckets = [b + f for b, f in zip(buckets, fresh if min(fresh) >= 0 else now.buckets, strict=True)]
    p50, p95 = quantile_us(buckets, 0.5), quantile_us(buckets, 0.95)
    return PlanRow(
        name,
        tuple(sorted(serving)),
        serving[max(serving)] if serving else "",
        {stage: tuple(dict.fromkeys(at)) for stage, at in sorted(stages.items())},
        in_flight,
        rates[0],
        rates[1],
        None if p50 is None else p50 / 1000,
        None if p95 is None else p95 / 1000,
        ", ".join(sorted(about.releases)),
        ", ".join(sorted(about.trials)),
        about.notes(rates[0] > 0),
    )


class _About:
    """What nodes say of a plan beside its numbers."""

    def __init__(self) -> None:
        self.releases: set[str] = set()
        self.trials: set[str] = set()
        self._primary = ""
        self._faults: set[str] = set()
        self._left_out: dict[str, int] = {}

    def take(self, plan: pb.LoadedPlan) -> None:
        if plan.state == "serving":
            self.releases |= {plan.release} - {""}
            self.trials |= {plan.trial} - {""}
        self._primary = self._primary or plan.primary
        self._faults |= {plan.fault} - {""}

    def quarantined(self, name: str, reply: pb.StatusReply, then: pb.StatusReply | None) -> None:
        """Members of its ensembles that were left out of requests since the look before."""
        prefix = f"quarantined:{name}/"
        old = {c.name: c.value for c in then.counters if c.name.startswith(prefix)} if then else None
        for counter in reply.counters:
            if old is not None and counter.name.startswith(prefix):
                more = counter.value - old.get(counter.name, 0)
                where = counter.name[len(prefix) :]
                if more > 0:
                    self._left_out[where] = self._left_out.get(where, 0) + more

    def notes(self, answers: bool) -> tuple[str, ...]:
        found = []
        if self._primary:
            found.append(f"failover: answers for {self._primary}" if answers else f"for {self._primary}")
        found += [f"quarantine: {where} out of {n}" for where, n in sorted(self._left_out.items())]
        return (*found, *sorted(self._faults))


def _answers(reply: pb.StatusReply | None, plan: str) -> pb.PlanAnswers | None:
    return next((a for a in reply.answers if a.plan == plan), None) if reply is not None else None


def _events(before: Look, after: Look) -> Sequence[str]:
    events: list[str] = []
    for name, reply in after.replies.items():
        then = before.replies.get(name)
        if reply is None or then is None:
            if reply is not None:
                events.append(f"node {name} is back")
            elif then is not None:
                events.append(f"node {name} does not answer")
            continue
        if reply.uptime_ms < then.uptime_ms:
            events.append(f"node {name} has restarted")
        if reply.state != then.state:
            events.append(f"node {name} is {reply.state}, was {then.state}")
        events += _differences(f"node {name}: link with ", _peers(then), _peers(reply), ("is gone", "is up"))
        events += _differences(f"node {name}: plan ", _served(then), _served(reply), ("has left", "serves"))
    return events


def _differences(what: str, before: set[str], after: set[str], words: tuple[str, str]) -> Sequence[str]:
    gone, new = words
    return [f"{what}{one} {gone}" for one in sorted(before - after)] + [
        f"{what}{one} {new}" for one in sorted(after - before)
    ]


def _peers(reply: pb.StatusReply) -> set[str]:
    return {f"{peer.name} over {peer.kind}" for peer in reply.peers if peer.role == "node"}


def _served(reply: pb.StatusReply) -> set[str]:
    return {f"{plan.plan} epoch {plan.epoch}" for plan in reply.plans if plan.state == "serving"}
