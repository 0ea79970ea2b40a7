"""One attempt's paths as one node sees them: who hands it each edge's tokens, and to whom it passes them."""

from __future__ import annotations

from typing import NamedTuple

from collab.client.wiring import OUTSIDE, Route, Wiring
from collab.core.ids import EdgeId, NodeName


class Lane(NamedTuple):
    """A node's place on an edge's path."""

    upstream: NodeName | None
    """Who hands tokens to this node; None if it makes them."""
    downstream: NodeName | None
    """Whom it hands them to; None if it takes them."""


class Lanes:
    """All lanes of one node in attempts of one requester along one route."""

    __slots__ = ("_fatal", "_wiring", "by_edge", "neighbours", "nodes", "requester", "route")

    def __init__(self, wiring: Wiring, node: NodeName, requester: NodeName, route: Route) -> None:
        self._wiring = wiring
        self._fatal: dict[NodeName, bool] = {}
        self.requester = requester
        self.route = route
        paths = [wiring.path(EdgeId(i), requester, route) for i in range(len(wiring.edges))]
        self.by_edge = tuple(
            _lane(path, node, edge.source == OUTSIDE, edge.target == OUTSIDE)
            for path, edge in zip(paths, wiring.edges, strict=True)
        )
        """None where the node has no part in an edge."""
        self.nodes: frozenset[NodeName] = frozenset().union(*paths)
        self.neighbours = frozenset(end for lane in self.by_edge if lane for end in lane if end is not None)

    def lane(self, edge: EdgeId) -> Lane | None:
        """The node's place on an edge; None if it has none there, or there is no such edge."""
        return self.by_edge[edge] if 0 <= edge < len(self.by_edge) else None

    def upstream(self, stage: int) -> tuple[EdgeId, NodeName]:
        """The edge and the peer by which a failure of this node's stage goes back to the requester.

        Always the lowest in-edge, past stages that are on this node, too.
        """
        while True:
            edge = self._wiring.stages[stage].in_edges[0]
            lane = self.by_edge[edge]
            assert lane is not None
            if lane.upstream is not None:
                return edge, lane.upstream
            stage = self._wiring.edges[edge].source

    def fatal(self, node: NodeName) -> bool:
        """Whether no answer is possible without ``node``; true for a name that has no part in the attempt."""
        known = self._fatal.get(node)
        if known is None:
            if node not in self.nodes:
                return True
            known = self._fatal[node] = not self._wiring.survives(self.requester, self.route, (node,))
        return known


def _lane(path: tuple[NodeName, ...], node: NodeName, from_outside: bool, to_outside: bool) -> Lane | None:
    """The requester's end of a path is not this node, even if a client has a node's name."""
    if node not in path:
        return None
    start = 1 if from_outside else 0
    stop = len(path) - 1 if to_outside else len(path)
    if node not in path[start:stop]:
        return None
    at = path.index(node, start, stop)
    return Lane(path[at - 1] if at else None, path[at + 1] if at + 1 < len(path) else None)
