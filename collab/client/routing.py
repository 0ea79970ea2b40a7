"""Which nodes an attempt runs on, chosen by the requester for all stages at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from collab.client.standing import Standing
from collab.client.wiring import Route, Wiring
from collab.core.ids import EdgeId, NodeName
from collab.core.token import Hop, Kind, Token
from collab.errors import NodeLost, Overloaded

_KEPT: Final = 256
"""Ways that are kept worked out; there are more only with many replicated stages."""
_STARTS: Final = 1 << 16
"""Places at which a requester's turn through replicas may begin; of many times more than the replicas each
comes about as often."""


@dataclass(frozen=True, slots=True)
class Way:
    """A route with what follows from it for one requester."""

    route: Route
    nodes: frozenset[NodeName]
    """Those of the route and the relays between them."""
    first: tuple[tuple[EdgeId, NodeName], ...]
    """The edges from the requester, and whom it hands their tokens to."""
    last: NodeName
    """Who hands the answer to the requester."""
    output_edge: EdgeId
    """On this edge."""

    def gives(self, peer: NodeName, token: Token) -> bool:
        """Whether an attempt on this way may get a token from a peer."""
        if token.kind is Kind.FAILED:
            return (token.edge, peer) in self.first
        return token.edge == self.output_edge and peer == self.last


class Router:
    """Picks nodes that are there, have not failed lately, and are likely to be soonest.

    Of a stage's replicas two are compared, one in turn and one by chance: with more it would be
    the same answer from all requesters at once, and all would go to it (power of two choices:
    Mitzenmacher, IEEE TPDS 2001).
    """

    def __init__(self, name: NodeName, wiring: Wiring, chance: Random) -> None:
        self.lost: set[NodeName] = set()
        self.draining: set[NodeName] = set()
        """Nodes that go on with what they have and take nothing new."""
        self.standing = Standing()
        self._name = name
        self._wiring = wiring
        self._chance = chance
        self._load: dict[NodeName, int] = {}
        self._ways: dict[Route, Way] = {}
        self._replicated = [len(stage.nodes) > 1 for stage in wiring.stages]
        # Requesters that come in step must not begin at the same replica.
        self._turn = chance.randrange(_STARTS) if any(self._replicated) else 0

    def pick(
        self,
        free: Callable[[NodeName], int],
        now_us: int,
        avoid: Collection[NodeName] = (),
        shun: Collection[NodeName] = (),
    ) -> Way:
        """Choose a node for every stage; at the entry only one where ``free`` credits are left.

        Nodes in ``avoid`` are as good as lost; those that drain or are in ``shun`` are taken where no
        other is left.
        A stage whose nodes are all lost keeps one of them if there can be an answer without it.

        Raises:
            Overloaded: no credit is free.
            NodeLost: no answer is possible with the nodes that are left.
        """
        out = self.lost.union(avoid)
        self._turn += 1
        nodes = []
        for stage in self._wiring.stages:
            left: Sequence[NodeName] = [n for n in stage.nodes if n not in out] if out else stage.nodes
            if self.draining:
                left = [n for n in left if n not in self.draining] or left
            if stage.index == self._wiring.entry:
                if not left:
                    raise self._nobody_left(stage.id, stage.nodes)
                left = list(filter(free, left))
                if not left:
                    raise Overloaded(
                        f"no credit is free for stage {stage.id!r} on {', '.join(stage.nodes)}; "
                        "try again later or lower the concurrency"
                    )
            left = left or stage.nodes
            nodes.append(left[0] if len(left) == 1 else self._choose(stage.index, left, shun, now_us))
        route = tuple(nodes)
        if out and not self._wiring.survives(self._name, route, out):
            gone = [stage for stage, node in zip(self._wiring.stages, route, strict=True) if node in out]
            if gone:
                raise self._nobody_left(gone[0].id, gone[0].nodes)
            raise NodeLost(f"a relay is gone ({', '.join(sorted(out))}) and no other way is in the plan")
        return self._way(route)

    def enterable(self) -> Sequence[NodeName]:
        """Entry nodes that new attempts may go to, if they have credits."""
        nodes = [n for n in self._wiring.entry_stage.nodes if n not in self.lost]
        return [n for n in nodes if n not in self.draining] or nodes

    def possible(self) -> bool:
        """Whether there can be an answer with the nodes that are not lost."""
        if not self.lost:
            return True
        stages = self._wiring.stages
        route = tuple(next((n for n in s.nodes if n not in self.lost), s.nodes[0]) for s in stages)
        entry = route[self._wiring.entry]
        return entry not in self.lost and self._wiring.survives(self._name, route, self.lost)

    def pick_other(
        self,
        free: Callable[[NodeName], int],
        now_us: int,
        avoid: Collection[NodeName],
        shun: Collection[NodeName],
        unreached: Collection[Way],
    ) -> Way:
        """As `pick`; where no way is left, one on which others lead to the nodes to avoid.

        ``unreached`` are ways on which a node did not reach another: a third may.
        """
        try:
            return self.pick(free, now_us, avoid, shun)
        except NodeLost:
            around = unreached and self.pick(free, now_us, (), {n for way in unreached for n in way.nodes})
            if not around or around in unreached:
                raise
            return around

    def start(self, way: Way) -> None:
        """An attempt is on this way."""
        for node in way.route:
            self._load[node] = self._load.get(node, 0) + 1

    def end(self, way: Way) -> None:
        """It is no longer."""
        for node in way.route:
            self._load[node] -= 1

    def answered(self, way: Way, hops: Sequence[Hop], started_us: int, now_us: int) -> None:
        """Learn from the hops of an answer, as far as there is a choice."""
        if not self.standing.flawless:
            for node in way.nodes:
                self.standing.succeeded(node, started_us)
        for hop in hops:
            at = hop.stage
            if 0 <= at < len(way.route) and way.route[at] == hop.node and self._replicated[at]:
                self.standing.measured(at, hop.node, hop.queue_us, hop.total_us - hop.queue_us, now_us)

    def beaten(self, way: Way, by: Way, waited_us: int, now_us: int) -> None:
        """A later attempt was sooner: the nodes that it did without are slow."""
        for at, (node, other) in enumerate(zip(way.route, by.route, strict=True)):
            if node != other:
                self.standing.slow(at, node, waited_us, now_us)

    def _choose(
        self, stage: int, nodes: Sequence[NodeName], shun: Collection[NodeName], now_us: int
    ) -> NodeName:
        if shun:
            nodes = [node for node in nodes if node not in shun] or nodes
        if not self.standing.flawless:
            shunned = self.standing.shunned
            nodes = [n for n in nodes if not shunned(n, self._load.get(n, 0), now_us)] or nodes
        count = len(nodes)
        if count == 1:
            return nodes[0]
        first = self._turn % count
        one, other = nodes[first], nodes[(first + 1 + self._chance.randrange(count - 1)) % count]
        loads = self._load.get(one, 0), self._load.get(other, 0)
        waits = [
            self.standing.wait_us(stage, node, load, now_us)
            for node, load in zip((one, other), loads, strict=True)
        ]
        if waits[0] is None or waits[1] is None or waits[0] == waits[1]:
            return one if loads[0] <= loads[1] else other
        return one if waits[0] < waits[1] else other

    def _way(self, route: Route) -> Way:
        known = self._ways.get(route)
        if known is None:
            if len(self._ways) >= _KEPT:
                self._ways.clear()
            known = self._ways[route] = self._work_out(route)
        return known

    def _work_out(self, route: Route) -> Way:
        wiring = self._wiring
        paths = [wiring.path(EdgeId(i), self._name, route) for i in range(len(wiring.edges))]
        relays = {node for path in paths for node in path[1:-1]}
        first = tuple((edge, paths[edge][1]) for edge in wiring.entry_edges)
        return Way(
            route, frozenset(relays.union(route)), first, paths[wiring.output_edge][-2], wiring.output_edge
        )

    @staticmethod
    def _nobody_left(stage: str, nodes: Collection[NodeName]) -> NodeLost:
        names = ", ".join(sorted(nodes))
        return NodeLost(f"stage {stage!r}: of its nodes ({names}) none is left; deploy an alternative")
