"""A node's metrics: what it has counted and what it is like now, as series."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from collab import __version__
from collab.core.ids import PlanName
from collab.link.suspicion import Health
from collab.node.program import monotonic_us
from collab.node.tally import PARTS, peer_label
from collab.telemetry import catalogue as metrics
from collab.telemetry.catalogue import REFUSAL_CAUSES, Value

if TYPE_CHECKING:
    from collab.node.service import NodeService

STATES: Final = ("serving", "draining", "offline")


class NodeMetrics:
    """Takes a node's series; in its event loop, without waiting for anything."""

    def __init__(self, node: NodeService, spans_dropped: Callable[[], int] | None = None) -> None:
        self._node = node
        self._spans_dropped = spans_dropped
        self._started = time.monotonic()

    def values(self) -> list[Value]:
        """All of them as they are now."""
        return [
            *self._device(),
            *self._plans(),
            *self._stages(),
            *self._counters(),
            *self._links(),
            *self._streams(),
        ]

    def _device(self) -> Iterator[Value]:
        node = self._node
        yield metrics.NODE_INFO.at(node.name, __version__)
        state = node.state
        yield from (metrics.STATE.at(known, value=int(known == state)) for known in STATES)
        yield metrics.UPTIME.at(value=time.monotonic() - self._started)
        yield metrics.REPORTS.at(value=node.reporter.waiting)
        yield metrics.REPORTS_DROPPED.at(value=node.reporter.dropped)
        if node.training.round is not None:
            yield metrics.ROUND.at(value=node.training.round)
        for cause, count in node.training.declined.items():
            yield metrics.TRAINING_DECLINED.at(cause, value=count)
        if node.security is not None:
            yield metrics.CERTIFICATE.at(value=node.security.leaf.not_after.timestamp())
        if self._spans_dropped is not None:
            yield metrics.SPANS_DROPPED.at(value=self._spans_dropped())

    def _plans(self) -> Iterator[Value]:
        node = self._node
        in_flight: dict[str, int] = {}
        for info in node.session.plans():
            plan = node.stages.plan(info.plan, info.epoch)
            if plan is None:
                continue
            for model in plan.models:
                yield metrics.PLAN_INFO.at(info.plan, str(info.epoch), info.state, model.sha256, info.release)
            in_flight[info.plan] = in_flight.get(info.plan, 0) + info.in_flight
        for name, live in in_flight.items():
            yield metrics.IN_FLIGHT.at(name, value=live)
        for name, credits in node.session.credits(monotonic_us()).items():
            for kind, number in zip(("all", "leased", "used"), credits, strict=True):
                yield metrics.CREDITS.at(name, kind, value=number)
            if phase := node.trials.phase(PlanName(name)):
                yield metrics.TRIAL.at(name, phase)
        for name, tally in node.tally.plans.items():
            for outcome, count in tally.outcomes.items():
                yield metrics.REQUESTS.at(name, outcome, value=count)
            for cause, count in tally.causes.items():
                yield metrics.FAILURES.at(name, cause, value=count)
            yield metrics.REQUEST_SECONDS.at(name, value=tally.seconds.counts)

    def _stages(self) -> Iterator[Value]:
        node = self._node
        for (plan, stage), queued in node.stages.queued().items():
            yield metrics.QUEUE.at(plan, stage, value=queued)
        for (plan, stage), tally in node.tally.stages.items():
            for part, histogram in zip(PARTS, tally.parts, strict=True):
                yield metrics.STAGE_SECONDS.at(plan, stage, part, value=histogram.counts)
            yield metrics.STAGE_FAILURES.at(plan, stage, value=tally.failed)
            yield metrics.CODEC_RAW.at(plan, stage, value=tally.raw_bytes)
            yield metrics.CODEC_SENT.at(plan, stage, value=tally.sent_bytes)
        for where, count in node.stages.left_out().items():
            plan_name, stage_id, member = where.split("/", 2)
            yield metrics.QUARANTINED.at(plan_name, stage_id, member, value=count)
        yield metrics.CODEC_FALLBACKS.at(value=node.stages.codec_fallbacks)

    def _counters(self) -> Iterator[Value]:
        for name, count in {**self._node.session.counters, **self._node.tally.counters}.items():
            metric = metrics.REFUSALS if name in REFUSAL_CAUSES else metrics.DROPS
            yield metric.at(name, value=count)

    def _streams(self) -> Iterator[Value]:
        if self._node.streams is None:
            return
        for state in self._node.streams.states():
            names = (state.plan, state.id)
            for outcome in ("answered", "dropped", "failed"):
                yield metrics.STREAM_FRAMES.at(*names, outcome, value=getattr(state, outcome))
            yield metrics.STREAM_WAITING.at(*names, value=state.waiting)
            yield metrics.STREAM_UP.at(*names, value=int(state.state == "running"))
            for sink in state.sinks:
                yield metrics.STREAM_ANSWERS.at(*names, sink.name, "delivered", value=sink.delivered)
                yield metrics.STREAM_ANSWERS.at(*names, sink.name, "lost", value=sink.lost)
        for names, seconds in self._node.streams.seconds().items():
            yield metrics.STREAM_SECONDS.at(*names, value=seconds)

    def _links(self) -> Iterator[Value]:
        carried = dict(self._node.tally.ended_bytes)
        live: dict[tuple[str, str], list[tuple[bool, int, int]]] = {}
        for link in self._node.links.all():
            key = (peer_label(link), link.kind)
            sent, received = carried.get(key, (0, 0))
            more_sent, more_received = link.carried_bytes
            carried[key] = (sent + more_sent, received + more_received)
            well = link.health is not Health.SUSPECTED
            live.setdefault(key, []).append((well, link.rtt_us, link.queued_bytes))
        for key, (sent, received) in carried.items():
            yield metrics.LINK_BYTES.at(*key, "sent", value=sent)
            yield metrics.LINK_BYTES.at(*key, "received", value=received)
        for key, links in live.items():
            yield metrics.LINK_UP.at(*key, value=int(any(well for well, _, _ in links)))
            if trips := [rtt_us for _, rtt_us, _ in links if rtt_us]:
                yield metrics.LINK_RTT.at(*key, value=min(trips) / 1e6)
            yield metrics.LINK_QUEUED.at(*key, value=sum(queued for _, _, queued in links))
