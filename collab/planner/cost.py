"""What a placed chain is predicted to cost.

A stage costs the sum of its node's operator times; moving ``b`` bytes over a link
costs ``latency_ms + 8 b / (1000 mbit_s)`` ms, nothing within one node, and is
impossible where no link is listed.
"""

from __future__ import annotations

import math
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
        occupied = 8 * size / (1000 * link.mbit_s)
        return link.latency_ms + occupied, occupied

    def predict(self, ranges: Ranges, nodes: Sequence[Sequence[NodeName]]) -> Prediction:
        """Latency and bottleneck of a chain.

        With replicas, a stage's latency is the slowest's and its rate the sum of rates;
        moves are those between the first replicas.
        """
        latency = bottleneck = 0.0
        previous = self.requester
        for i, ((start, stop), replicas) in enumerate(zip(ranges, nodes)):
            size = self.input_bytes if i == 0 else self.cut_bytes[start]
            moved, occupied = self._move(previous, replicas[0], size)
            times = [sum(self.op_ms[node][start:stop]) for node in replicas]
            rate = sum(math.inf if t == 0 else 1 / t for t in times)
            latency += moved + max(times)
            bottleneck = max(bottleneck, occupied, 1 / rate if rate else 0.0)
            previous = replicas[0]
        moved, occupied = self._move(previous, self.requester, self.output_bytes)
        return Prediction(latency + moved, max(bottleneck, occupied))
