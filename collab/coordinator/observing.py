"""What a running plan's stages and links do, asked from its nodes."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from collab.client.measuring import Sample, probe_link
from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import Cluster
from collab.core.ids import Digest, Epoch, NodeName, PlanName, StageId
from collab.core.plan import NodeRef
from collab.errors import CollabError
from collab.planner.drift import LinkFigures, LinkKey

log = logging.getLogger("collab.replan")

PROBE_MS: Final = 25.0
"""What a probe's body should take on its link."""
_LEAST_BYTES: Final = 8 << 10
_MOST_BYTES: Final = 1 << 20
_BUDGET_MS: Final = 3000.0
_PROBE_TIMEOUT_S: Final = 10.0
_REST: Final = 3.0
"""Rest after a probe, by what it took."""
_LEAST_PAUSE_S: Final = 0.1
_MOST_PAUSE_S: Final = 1.0
_PATIENCE_MS: Final = 200.0
_PATIENCE_TRIPS: Final = 20
"""Round trips that a probe may take on a link that does as it is known to, and as many again."""
_IDLE_RUNS: Final = 3
_BUSY: Final = 0.5
"""Share of a probe's bytes that others may send beside it; beyond it a round trip waits in their queue."""
_LEAST_MS: Final = 1e-3

Counts = tuple[int, int]
"""Time in µs and runs, both since the node started."""


class StageClock:
    """Mean time of stages between one look at a node's counters and the next."""

    def __init__(self, plan: PlanName, epoch: Epoch) -> None:
        self._prefix = f"{plan}/{epoch}/"
        self._seen: dict[tuple[NodeName, str], Counts] = {}

    def take(self, node: NodeName, counters: Mapping[str, int]) -> dict[StageId, float]:
        """Mean time in ms of each stage that ran on a node since the last look."""
        times: dict[StageId, float] = {}
        for name, total_us in counters.items():
            kind, _, stage = name.partition(":" + self._prefix)
            if kind != "stage_us" or not stage:
                continue
            runs = counters.get(f"stage_runs:{self._prefix}{stage}", 0)
            before_us, before = self._seen.get((node, stage), (0, 0))
            self._seen[node, stage] = (total_us, runs)
            if runs > before and total_us >= before_us:
                times[StageId(stage)] = (total_us - before_us) / (runs - before) / 1000
        return times


@dataclass(frozen=True)
class Carried:
    """Bytes that a link carried while it was probed, and how long that was; probes included."""

    up_bytes: int
    down_bytes: int
    ms: float


def figures_of(
    samples: Iterable[Sample], known: tuple[LinkFigures, LinkFigures], carried: Carried | None = None
) -> tuple[LinkFigures, LinkFigures]:
    """A link there and back, from probes without bytes and with some in one direction.

    A plan's own tensors share the link with the probe, so the rate is that of all bytes
    which it carried meanwhile, where that is more.  A round trip that may have waited
    behind them says nothing of the delay: what was ``known`` stays then.
    """
    taken = list(samples)
    round_trip_ms = min((s.ms for s in taken if not s.up_bytes and not s.down_bytes), default=None)
    bodies = (
        [(s.up_bytes, s.ms) for s in taken if s.up_bytes > s.down_bytes],
        [(s.down_bytes, s.ms) for s in taken if s.down_bytes > s.up_bytes],
    )
    totals = (carried.up_bytes, carried.down_bytes) if carried is not None else (0, 0)
    own = [sum(size for size, _ in sent) for sent in bodies]
    quiet = all(total - mine <= _BUSY * mine for total, mine in zip(totals, own, strict=True))
    found = []
    for before, sent, total in zip(known, bodies, totals, strict=True):
        empty_ms = round_trip_ms if round_trip_ms is not None else 2 * before.latency_ms
        rates = [8 * size / (1000 * max(ms - empty_ms, _LEAST_MS)) for size, ms in sent]
        mbit_s = statistics.median(rates) if rates else before.mbit_s
        if carried is not None and carried.ms > 0:
            mbit_s = max(mbit_s, 8 * total / (1000 * carried.ms))
        latency_ms = empty_ms / 2 if quiet else min(before.latency_ms, empty_ms / 2)
        found.append(LinkFigures(latency_ms, mbit_s))
    return found[0], found[1]


def probe_bytes(figures: LinkFigures) -> int:
    """A body that takes about `PROBE_MS`."""
    return int(min(max(figures.mbit_s * PROBE_MS * 125, _LEAST_BYTES), _MOST_BYTES))


@dataclass
class _Pending:
    """A probe that has not come back yet."""

    pair: LinkKey
    known: tuple[LinkFigures, LinkFigures]
    since_s: float
    arrived: list[int] = field(default_factory=list)
    """Bytes there and back when it was first looked at."""
    waiting: list[int] = field(default_factory=lambda: [0, 0])
    """Bytes under way there and back, of all looks together."""


class LinkProber:
    """Probes links in turn, one at a time; run `run` as a task.

    ``turns`` gives the links of one round, ``known`` what is known of one there and back,
    ``found`` is told what was measured.  ``refs`` are the nodes by name; the end named
    ``here`` is this process.
    """

    def __init__(
        self,
        cluster: Cluster,
        refs: Mapping[NodeName, NodeRef],
        here: NodeName | None,
        turns: Callable[[], Iterable[LinkKey]],
        known: Callable[[LinkKey], tuple[LinkFigures, LinkFigures] | None],
        found: Callable[[LinkKey, LinkFigures], None],
    ) -> None:
        self._cluster = cluster
        self._refs = refs
        self._here = here
        self._turns = turns
        self._known = known
        self._found = found
        self._pending: _Pending | None = None

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            begun_s = time.monotonic()
            for pair in self._turns():
                start_s = time.monotonic()
                try:
                    await self._probe(pair)
                except CollabError as error:
                    log.info("link %s → %s is not measured: %s", pair[0], pair[1], error)
                finally:
                    self._pending = None
                taken_s = time.monotonic() - start_s
                await asyncio.sleep(min(max(_REST * taken_s, _LEAST_PAUSE_S), _MOST_PAUSE_S))
            if time.monotonic() - begun_s < _LEAST_PAUSE_S:
                await asyncio.sleep(_LEAST_PAUSE_S)

    def look(self, replies: Mapping[NodeName, pb.StatusReply]) -> None:
        """Judge a link whose probe should be back by now.

        Bytes wait for such a link without a pause, so what arrives is its rate.  Of its two
        directions that is true of the one in which more is under way: sent, and not arrived.
        Until the probe is back the other one is taken to have lost as much: what slows a link
        down seldom has a direction, and a plan that counts on it would have to move once more.
        """
        pending = self._pending
        if pending is None:
            return
        now_s, pairs = time.monotonic(), (pending.pair, _back(pending.pair))
        sent = [self._bytes(replies, pair, "sent_bytes") for pair in pairs]
        arrived = [self._bytes(replies, pair, "received_bytes") for pair in pairs]
        if not pending.arrived:
            pending.arrived, pending.since_s = arrived, now_s
            return
        for way in (0, 1):
            pending.waiting[way] += max(0, sent[way] - arrived[way])
        taken_ms = (now_s - pending.since_s) * 1000
        if taken_ms < _PATIENCE_MS + _PATIENCE_TRIPS * sum(known.latency_ms for known in pending.known):
            return
        way = 0 if pending.waiting[0] >= pending.waiting[1] else 1
        size = arrived[way] - pending.arrived[way]
        if size > 0:
            judged, other = pending.known[way], pending.known[1 - way]
            mbit_s = 8 * size / (1000 * taken_ms)
            self._found(pairs[way], LinkFigures(judged.latency_ms, mbit_s))
            left = min(1.0, mbit_s / judged.mbit_s)
            self._found(pairs[1 - way], LinkFigures(other.latency_ms, other.mbit_s * left))

    def _bytes(self, replies: Mapping[NodeName, pb.StatusReply], pair: LinkKey, way: str) -> int:
        """Bytes of one direction so far, as its sender or its receiver counts; the other where it cannot."""
        source, target, transport = pair
        sender, receiver = (source, target, "sent_bytes"), (target, source, "received_bytes")
        for asked, other, counter in (sender, receiver) if way == "sent_bytes" else (receiver, sender):
            reply = replies.get(asked)
            if reply is not None:
                name = self._cluster.links.identity.name if other == self._here else other
                peers = [p for p in reply.peers if p.name == name and p.kind == transport]
                # Where both ends dialled, one may list the link that nothing goes over.
                if any(peer.sent_bytes or peer.received_bytes for peer in peers):
                    return sum(int(getattr(peer, counter)) for peer in peers)
        return 0

    async def _probe(self, pair: LinkKey) -> None:
        """Measure a link both ways, if its ends can be asked."""
        source, target, transport = pair
        known = self._known(pair)
        asker = target if source == self._here else source
        ends = [name for name in (source, target) if name != self._here]
        if known is None or any(n not in self._refs or self._cluster.links.get(n) is None for n in ends):
            return
        before = await statuses(self._cluster, ends)
        start_s = time.monotonic()
        self._pending = _Pending(pair, known, start_s)
        size = probe_bytes(LinkFigures(0.0, min(f.mbit_s for f in known)))
        if source == self._here:
            link = self._cluster.control(asker).link
            samples = (await probe_link(link, sizes=[size], rounds=1, budget_ms=_BUDGET_MS)).samples
        else:
            request = pb.ProbePeerRequest(
                peer=target,
                endpoints=self._refs[target].endpoints,
                kind=transport,
                sizes=[size],
                rounds=1,
                budget_ms=_BUDGET_MS,
                share=1.0,
            )
            call = self._cluster.control(asker).call("ProbePeer", request, timeout_s=_PROBE_TIMEOUT_S)
            samples = [Sample(s.up_bytes, s.down_bytes, s.ms) for s in (await call).samples]
        self._pending = None
        after = await statuses(self._cluster, ends)
        taken_ms = (time.monotonic() - start_s) * 1000
        there, back = (
            self._bytes(after, p, "received_bytes") - self._bytes(before, p, "received_bytes")
            for p in (pair, _back(pair))
        )
        figures = figures_of(samples, known, Carried(max(0, there), max(0, back), taken_ms))
        for key, measured in zip((pair, _back(pair)), figures, strict=True):
            self._found(key, measured)


def _back(pair: LinkKey) -> LinkKey:
    return pair[1], pair[0], pair[2]


async def time_stage(cluster: Cluster, name: NodeName, sha256: Digest, threads: int) -> float:
    """Time in ms of a stage that a node has in its store, run there beside everything else."""
    request = pb.ProfileRequest(sha256=sha256, runs=_IDLE_RUNS, threads=threads)
    reply = await cluster.control(name).call("Profile", request, timeout_s=_PROBE_TIMEOUT_S)
    return float(statistics.median(reply.run_ms))


async def statuses(cluster: Cluster, names: Iterable[NodeName]) -> dict[NodeName, pb.StatusReply]:
    """What nodes are doing, of those that answer."""
    linked = [name for name in names if cluster.links.get(name) is not None]
    replies = await asyncio.gather(
        *(cluster.control(name).status() for name in linked), return_exceptions=True
    )
    return {
        name: reply for name, reply in zip(linked, replies, strict=True) if isinstance(reply, pb.StatusReply)
    }
