"""What a placed chain costs: the one definition that every planner and prediction goes by.

A stage costs its node's ``stage_ms`` and operator times, and the time to decode what
comes and to encode what goes where a codec is not raw.  Moving ``b`` bytes over a link
costs ``latency_ms + 8 b / (1000 mbit_s)`` ms, nothing within one node, and is impossible
where no link is listed.  Of replicas, a stage's latency is the slowest's and its rate the
sum of rates; each is asked in proportion to its rate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from collab.core.codecs import RAW
from collab.core.ids import NodeName
from collab.core.profile import CodecAt, DeviceProfile, LinkEntry, Profile
from collab.planner.chains import Chain, Costs, Move, StageChoice


@dataclass(frozen=True)
class Span:
    """A piece of one request's time on one resource."""

    what: str
    """``move``, ``decode``, ``compute`` or ``encode``."""
    stage: int
    """The stage it belongs to, or that a move leads to; the number of stages for the answer's."""
    where: str
    """A node, or ``a → b`` for a link."""
    start_ms: float
    duration_ms: float
    occupied_ms: float
    """How long it keeps its resource: less than it lasts on a link with a delay."""


@dataclass(frozen=True)
class Evaluation:
    """A chain's costs and where one request's time goes, on the slowest replicas."""

    costs: Costs
    spans: tuple[Span, ...]
    busy_ms: Mapping[str, float]
    """Time for each request by node or directed link."""


class Evaluator:
    """Costs of chains in one profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.devices = {device.name: device for device in profile.devices}
        self._cuts = {cut.at: cut for cut in profile.cuts}
        self._links = {(e.source, e.target, e.transport): e for e in profile.links}
        self._speeds = {
            (device.name, speed.codec): speed for device in profile.devices for speed in device.codecs
        }
        if profile.requester is not None and profile.requester not in self.devices:
            self._speeds |= {(profile.requester, speed.codec): speed for speed in profile.requester_codecs}

    @cached_property
    def op_count(self) -> int:
        """Operators of the model."""
        return len(self.profile.devices[0].op_ms)

    def stage_ms(self, device: DeviceProfile, start: int, stop: int, threads: int = 0) -> float:
        """Time of a stage on a device, without codecs; infinite for an unknown number of threads."""
        totals, fixed = self._times.get((device.name, threads or device.threads), ((), math.inf))
        return totals[stop] - totals[start] + fixed if totals else math.inf

    def stage_bytes(self, device: DeviceProfile, start: int, stop: int) -> int:
        """Memory of a stage on a device."""
        totals = self._sizes[device.name]
        return totals[stop] - totals[start] + device.stage_bytes

    @cached_property
    def _times(self) -> dict[tuple[NodeName, int], tuple[tuple[float, ...], float]]:
        found = {}
        for device in self.profile.devices:
            for threads, op_ms, fixed in (
                *((more.threads, more.op_ms, more.stage_ms) for more in device.more_threads),
                (device.threads, device.op_ms, device.stage_ms),
            ):
                found[device.name, threads] = (tuple(accumulate(op_ms, initial=0.0)), fixed)
        return found

    @cached_property
    def _sizes(self) -> dict[NodeName, tuple[int, ...]]:
        return {d.name: tuple(accumulate(d.op_bytes, initial=0)) for d in self.profile.devices}

    # --- moves ---------------------------------------------------------------------

    def raw_bytes(self, at: int) -> int:
        """Bytes over cut ``at``; 0 is the input, the number of operators the output."""
        if at == 0:
            return self.profile.input_bytes
        return self.profile.output_bytes if at == self.op_count else self._cuts[at].bytes

    def codec_at(self, at: int, codec: str) -> CodecAt | None:
        """What a codec does at a cut, None where that is not known."""
        if codec == RAW:
            return CodecAt(codec=RAW, ratio=1.0)
        known = self.profile.input_codecs if at == 0 else self.profile.output_codecs
        if 0 < at < self.op_count:
            known = self._cuts[at].codecs
        return next((entry for entry in known if entry.codec == codec), None)

    def link(self, source: NodeName, target: NodeName, transport: str) -> LinkEntry | None:
        """An entry of the profile."""
        return self._links.get((source, target, transport))

    def codec_ms(self, node: NodeName | None, at: int, codec: str) -> tuple[float, float]:
        """Times to encode and decode what crosses a cut; infinite where the node cannot, or it is unknown."""
        if codec == RAW or node is None:
            return 0.0, 0.0
        speed = self._speeds.get((node, codec))
        if speed is None:
            return math.inf, math.inf
        size = self.raw_bytes(at) / 1000
        return size / speed.encode_mb_s, size / speed.decode_mb_s

    def move_ms(
        self, source: NodeName | None, target: NodeName | None, at: int, move: Move
    ) -> tuple[float, float]:
        """Time and link occupancy of moving what crosses a cut; infinite where there is no link."""
        if source is None or target is None or source == target:
            return 0.0, 0.0
        link, codec = self._links.get((source, target, move.transport)), self.codec_at(at, move.codec)
        if link is None or codec is None:
            return math.inf, math.inf
        occupied = 8 * self.raw_bytes(at) / codec.ratio / (1000 * link.mbit_s)
        return link.latency_ms + occupied, occupied

    # --- chains --------------------------------------------------------------------

    def evaluate(self, chain: Chain) -> Evaluation:
        """Costs of a chain and where its time goes.

        Impossible chains cost infinitely much: a stage that does not fit its node's memory,
        a link or codec that the profile does not have.  Raises KeyError for a cut or a
        device that it does not have.
        """
        return _Walk(self, chain).evaluation()


class _Walk:
    """One chain from the requester and back."""

    def __init__(self, costs: Evaluator, chain: Chain) -> None:
        self.costs, self.chain = costs, chain
        self.now, self.energy, self.metered = 0.0, 0.0, 0.0
        self.spans: list[Span] = []
        self.busy: defaultdict[str, float] = defaultdict(float)
        self.memory: defaultdict[NodeName, int] = defaultdict(int)

    def evaluation(self) -> Evaluation:
        requester = self.costs.profile.requester
        ends: dict[NodeName, float] | None = {requester: 1.0} if requester is not None else None
        before = ends
        for index, stage in enumerate(self.chain.stages):
            shares = self.shares(index, stage)
            self.move(index, before, shares, stage.start)
            self.compute(index, stage, shares)
            before = shares
        self.move(len(self.chain.stages), before, ends, self.chain.stages[-1].stop)
        devices = self.costs.devices
        if any(size > devices[name].memory_bytes for name, size in self.memory.items()):
            self.now = math.inf
        bottleneck = max(self.busy.values(), default=0.0) if self.now < math.inf else math.inf
        found = Costs(self.now, bottleneck, max(self.memory.values(), default=0), self.energy, self.metered)
        return Evaluation(found, tuple(self.spans), dict(self.busy))

    def times(self, index: int, stage: StageChoice, name: NodeName) -> tuple[float, float, float]:
        """Decoding, computing and encoding of one replica."""
        costs, moves = self.costs, self.chain.moves
        decode = costs.codec_ms(name, stage.start, moves[index].codec)[1]
        encode = costs.codec_ms(name, stage.stop, moves[index + 1].codec)[0]
        if not self.moves_anything(index, name):
            decode = 0.0
        if not self.moves_anything(index + 1, name):
            encode = 0.0
        return decode, costs.stage_ms(costs.devices[name], stage.start, stage.stop, stage.threads), encode

    def moves_anything(self, move: int, name: NodeName) -> bool:
        """Whether a move leaves this node at all; within one node nothing is encoded."""
        requester = (self.costs.profile.requester,)
        stages = self.chain.stages
        source = stages[move - 1].nodes if move else requester
        target = stages[move].nodes if move < len(stages) else requester
        return {*source, *target} != {name} and None not in (*source, *target)

    def shares(self, index: int, stage: StageChoice) -> dict[NodeName, float]:
        """Share of requests that each replica gets."""
        totals = {name: sum(self.times(index, stage, name)) for name in stage.nodes}
        if min(totals.values()) == 0 or max(totals.values()) == math.inf:
            return dict.fromkeys(totals, 1 / len(totals))
        rate = sum(1 / total for total in totals.values())
        return {name: 1 / total / rate for name, total in totals.items()}

    def compute(self, index: int, stage: StageChoice, shares: Mapping[NodeName, float]) -> None:
        """Add a stage on its replicas."""
        slowest = max(stage.nodes, key=lambda name: sum(self.times(index, stage, name)))
        for name, share in shares.items():
            total = sum(self.times(index, stage, name))
            self.busy[name] += total * share if total < math.inf else math.inf
            device = self.costs.devices[name]
            self.memory[name] += self.costs.stage_bytes(device, stage.start, stage.stop)
            self.energy += device.watts * share * total / 1000 if device.watts else 0.0
        parts = zip(("decode", "compute", "encode"), self.times(index, stage, slowest), strict=True)
        for what, duration in parts:
            if duration or what == "compute":
                self.spans.append(Span(what, index, slowest, self.now, duration, duration))
                self.now += duration

    def move(
        self,
        index: int,
        sources: Mapping[NodeName, float] | None,
        targets: Mapping[NodeName, float] | None,
        at: int,
    ) -> None:
        """Add a move between replicas; the slowest pair counts for the latency."""
        if sources is None or targets is None:
            return
        move, longest = self.chain.moves[index], Span("move", index, "", self.now, 0.0, 0.0)
        for source, share in sources.items():
            for target, other in targets.items():
                taken, occupied = self.costs.move_ms(source, target, at, move)
                # The requester's own part of a codec belongs to no stage.
                if source != target and index == 0:
                    taken += self.costs.codec_ms(source, at, move.codec)[0]
                if source != target and index == len(self.chain.stages):
                    taken += self.costs.codec_ms(target, at, move.codec)[1]
                where = f"{source} → {target}"
                if source != target:
                    self.busy[where] += occupied * share * other if occupied < math.inf else math.inf
                    self.charge(source, target, at, move, share * other)
                if taken >= longest.duration_ms:
                    longest = Span("move", index, where, self.now, taken, occupied)
        if longest.duration_ms or longest.occupied_ms:
            self.spans.append(longest)
            self.now += longest.duration_ms

    def charge(self, source: NodeName, target: NodeName, at: int, move: Move, share: float) -> None:
        """Count energy and metered bytes of a move."""
        link, codec = self.costs.link(source, target, move.transport), self.costs.codec_at(at, move.codec)
        if link is None or codec is None:
            return
        sent = self.costs.raw_bytes(at) / codec.ratio * share
        self.energy += (link.joules_per_mb or 0.0) * sent / 1e6
        self.metered += sent if link.metered else 0.0
