"""Which nodes an attempt runs on, chosen by the requester for all stages at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from collab.client.wiring import Route, Wiring
from collab.core.ids import EdgeId, NodeName
from collab.errors import NodeLost, Overloaded

_KEPT: Final = 256
"""Ways that are kept worked out; there are more only with many replicated stages."""


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


class Router:
    """Picks the least loaded of the nodes that are there, in turns."""

    def __init__(self, name: NodeName, wiring: Wiring) -> None:
        self.lost: set[NodeName] = set()
        self._name = name
        self._wiring = wiring
        self._load: dict[NodeName, int] = {}
        self._ways: dict[Route, Way] = {}
        self._turn = 0

    def pick(self, free: Callable[[NodeName], int], avoid: Collection[NodeName] = ()) -> Way:
        """Choose a node for every stage; at the entry only one where ``free`` credits are left.

        A stage whose nodes are all lost keeps one of them if there can be an answer without it.

        Raises:
            Overloaded: no credit is free.
            NodeLost: no answer is possible with the nodes that are left.
        """
        out = self.lost.union(avoid)
        self._turn += 1
        nodes = []
        for stage in self._wiring.stages:
            left = [node for node in stage.nodes if node not in out] if out else stage.nodes
            if stage.index == self._wiring.entry:
                if not left:
                    raise self._nobody_left(stage.id, stage.nodes)
                left = [node for node in left if free(node) > 0]
                if not left:
                    raise Overloaded(
                        f"no credit is free for stage {stage.id!r} on {', '.join(stage.nodes)}; "
                        "try again later or lower the concurrency"
                    )
            nodes.append(self._least_loaded(left or stage.nodes))
        route = tuple(nodes)
        if out and not self._wiring.survives(self._name, route, out):
            gone = [stage for stage, node in zip(self._wiring.stages, route, strict=True) if node in out]
            if gone:
                raise self._nobody_left(gone[0].id, gone[0].nodes)
            raise NodeLost(f"a relay is gone ({', '.join(sorted(out))}) and no other way is in the plan")
        return self._way(route)

    def start(self, way: Way) -> None:
        """An attempt is on this way."""
        for node in way.route:
            self._load[node] = self._load.get(node, 0) + 1

    def end(self, way: Way) -> None:
        """It is no longer."""
        for node in way.route:
            self._load[node] -= 1

    def _least_loaded(self, nodes: Collection[NodeName]) -> NodeName:
        ordered = tuple(nodes)
        if len(ordered) == 1:
            return ordered[0]
        at = self._turn % len(ordered)
        return min(ordered[at:] + ordered[:at], key=lambda node: self._load.get(node, 0))

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
        return Way(route, frozenset(relays.union(route)), first, paths[wiring.output_edge][-2])

    @staticmethod
    def _nobody_left(stage: str, nodes: Collection[NodeName]) -> NodeLost:
        names = ", ".join(sorted(nodes))
        return NodeLost(f"stage {stage!r}: of its nodes ({names}) none is left; deploy an alternative")
