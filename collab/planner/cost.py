"""What a placed chain is predicted to cost.

A stage costs the sum of its node's operator times; moving ``b`` bytes over a link
costs ``latency_ms + 8 b / (1000 mbit_s)`` ms, nothing within one node, and is
impossible where no link is listed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from collab.core.ids import NodeName
from collab.core.profile import LinkProfile

Ranges = Sequence[tuple[int, int]]


class Prediction(msgspec.Struct, frozen=True):
    """Predicted times of a plan in ms."""

    latency_ms: float
    bottleneck_ms: float


@dataclass(frozen=True)
class ChainCosts:
    """Everything that the cost of a chain depends on."""

    op_ms: Mapping[NodeName, Sequence[float]]
    cut_bytes: Mapping[int, int]
    """Bytes that live across each cut."""
    links: Mapping[tuple[NodeName, NodeName], LinkProfile]
    input_bytes: int
    output_bytes: int
    requester: NodeName | None = None

    def _move(self, source: NodeName | None, target: NodeName | None, size: int) -> tuple[float, float]:
        """Time and link occupancy in ms of moving bytes."""
        if source is None or target is None or source == target:
            return 0.0, 0.0
        link = self.links.get((source, target))
        if link is None:
            return math.inf, math.inf
        occupied = 8 * size / (1000 * link.mbit_s) if link.mbit_s > 0 else math.inf
        return link.latency_ms + occupied, occupied

    def predict(self, ranges: Ranges, nodes: Sequence[Sequence[NodeName]]) -> Prediction:
        """Latency and bottleneck of a chain.

        The bottleneck is the busiest node or directed link: what one request costs it
        over all stages and moves.  With replicas, a stage's latency is the slowest's and
        its rate the sum of rates; moves are those between the first replicas.
        """
        latency = 0.0
        busy: defaultdict[object, float] = defaultdict(float)
        previous = self.requester
        for i, ((start, stop), replicas) in enumerate(zip(ranges, nodes, strict=True)):
            size = self.input_bytes if i == 0 else self.cut_bytes[start]
            moved, occupied = self._move(previous, replicas[0], size)
            busy[previous, replicas[0]] += occupied
            times = [sum(self.op_ms[node][start:stop]) for node in replicas]
            for node in replicas:
                # Requests go to replicas in proportion to their rates, so each is as busy.
                busy[node] += _shared_ms(times)
            latency += moved + max(times)
            previous = replicas[0]
        moved, occupied = self._move(previous, self.requester, self.output_bytes)
        busy[previous, self.requester] += occupied
        return Prediction(latency + moved, max(busy.values()))


def _shared_ms(times_ms: Sequence[float]) -> float:
    """Time of each of several replicas per request to all of them: 1 / Σ 1/tᵢ."""
    if 0 in times_ms:
        return 0.0
    rate = sum(1 / t for t in times_ms)
    return 1 / rate if rate else math.inf
