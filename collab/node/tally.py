"""What a node counts while it works: in the event loop, in plain integers, for whoever asks later."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from collab.core.ids import REQUESTER, NodeName, PlanName, StageId
from collab.core.plan import Plan
from collab.core.token import Fault, Kind, Token
from collab.errors import BY_CODE
from collab.link.link import Link
from collab.node.actions import Computed, Work
from collab.telemetry.catalogue import CLIENTS, OTHERS
from collab.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from collab.telemetry.export import Tracer

log = logging.getLogger("collab.node")

MAX_STAGES: Final = 1_024
"""Stages whose times are kept, those of plans that came and went included; the oldest go first."""
MAX_PEERS: Final = 256
"""Nodes whose ended links are counted apart; the rest are counted together."""
PARTS: Final = ("queue", "decode", "compute", "encode")
_OUTCOMES: Final = {Kind.VALUE: "ok", Kind.ABSENT: "absent", Kind.ERROR: "failed"}


class StageTally:
    """Runs of one stage of one plan, over its epochs."""

    def __init__(self) -> None:
        self.parts = tuple(Histogram() for _ in PARTS)
        self.failed = 0
        self.raw_bytes = 0
        self.sent_bytes = 0


class PlanTally:
    """Answers of one plan that left this node."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(_OUTCOMES.values(), 0)
        self.causes: dict[str, int] = {}
        self.seconds = Histogram()


class Tally:
    """All that a node counts beside its session."""

    def __init__(self, name: NodeName) -> None:
        self._name = name
        self.tracer: Tracer | None = None
        """Takes the spans of what stages do, where they are wanted."""
        self.counters: dict[str, int] = {}
        self.stages: dict[tuple[PlanName, StageId], StageTally] = {}
        self.plans: dict[PlanName, PlanTally] = {}
        self.ended_bytes: dict[tuple[str, str], tuple[int, int]] = {}
        """Sent and received over links that have ended, by peer and transport."""

    def count(self, name: str) -> None:
        """Count one of something rare."""
        self.counters[name] = self.counters.get(name, 0) + 1

    def computed(self, work: Work, result: Computed | Fault, plan: Plan, trace: bytes = b"") -> None:
        """A stage of a loaded plan has run."""
        if self.tracer is not None:
            from collab.node.tracing import run_spans  # most nodes make no spans: it takes memory

            self.tracer.record(run_spans(trace, work, result, plan, self._name, time.time_ns()))
        name = (plan.name, plan.stages[work.stage].id)
        stage = self.stages.get(name)
        if stage is None:
            if len(self.stages) >= MAX_STAGES:
                del self.stages[next(iter(self.stages))]
            stage = self.stages[name] = StageTally()
        if isinstance(result, Fault):
            stage.failed += 1
            about = {"plan": plan.name, "epoch": work.key.epoch, "request": work.key.request.hex()}
            log.info("stage %s failed: %s", name[1], result.message, extra={**about, "stage": name[1]})
            return
        hop = result.hop
        queue, decode, compute, encode = stage.parts
        queue.observe(hop.queue_us)
        decode.observe(hop.decode_us)
        compute.observe(hop.compute_us)
        encode.observe(hop.encode_us)
        stage.raw_bytes += hop.raw_bytes
        stage.sent_bytes += hop.sent_bytes

    def sent(self, token: Token, plan: Plan | None) -> None:
        """A link took a token; counted where it answers a requester and was made here."""
        outcome = _OUTCOMES.get(token.kind)
        if plan is None or outcome is None:
            return
        edge = plan.edges[token.edge]
        if edge.target != REQUESTER or token.route[plan.stage_index(edge.source)] != self._name:
            return
        tally = self.plans.get(plan.name)
        if tally is None:
            tally = self.plans[plan.name] = PlanTally()
        tally.outcomes[outcome] += 1
        if token.fault is not None:
            # Codes of a newer peer are not ours to name: whoever sends them could make any number.
            cause = token.fault.code if token.fault.code in BY_CODE else OTHERS
            tally.causes[cause] = tally.causes.get(cause, 0) + 1
        elif token.kind is Kind.VALUE:
            tally.seconds.observe(sum(hop.total_us for hop in token.hops))

    def link_ended(self, link: Link) -> None:
        """Keep what a link carried."""
        key = (peer_label(link), link.kind)
        if key not in self.ended_bytes and len(self.ended_bytes) >= MAX_PEERS:
            key = (OTHERS, link.kind)
        sent, received = self.ended_bytes.get(key, (0, 0))
        more_sent, more_received = link.carried_bytes
        self.ended_bytes[key] = (sent + more_sent, received + more_received)

    def unloaded(self, plan: PlanName) -> None:
        """The last epoch of a plan is gone, and with it what was counted of it."""
        self.plans.pop(plan, None)
        self.stages = {key: stage for key, stage in self.stages.items() if key[0] != plan}


def peer_label(link: Link) -> str:
    """The peer's name where it is a node."""
    return link.peer.name if link.peer.role == "node" else CLIENTS
