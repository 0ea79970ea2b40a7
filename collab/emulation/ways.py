"""The way of a packet between two hosts, found when it is asked for: networks of thousands of hosts."""

from __future__ import annotations

from collections import deque

from collab.emulation.network import Leg, Network

Way = tuple[Leg, ...]


class Ways:
    """The ways of `Network.ways`, one at a time."""

    def __init__(self, network: Network) -> None:
        hosts = set(network.hosts)
        self._neighbours: dict[str, list[str]] = {name: [] for name in (*network.hosts, *network.junctions)}
        for link in network.links:
            self._neighbours[link.one].append(link.other)
            self._neighbours[link.other].append(link.one)
        self._adjacent = {name: set(around) for name, around in self._neighbours.items()}
        self._junctions = {
            name: [n for n in around if n not in hosts] for name, around in self._neighbours.items()
        }
        self._found: dict[tuple[str, str], Way | None] = {}
        self._reached: dict[str, dict[str, Way]] = {}

    def between(self, source: str, target: str) -> Way | None:
        """What a packet passes: nothing within one host, None where it cannot get there."""
        if source == target:
            return ()
        key = (source, target)
        if key not in self._found:
            adjacent = self._adjacent[target]
            reached = self._from(source).items()
            self._found[key] = next(
                ((*way, Leg(place, target)) for place, way in reached if place in adjacent), None
            )
        return self._found[key]

    def _from(self, source: str) -> dict[str, Way]:
        """The source and all junctions that it reaches, in the order in which a search meets them."""
        known = self._reached.get(source)
        if known is None:
            known = self._reached[source] = {source: ()}
            todo = deque([source])
            while todo:
                place = todo.popleft()
                for junction in self._junctions[place]:
                    if junction not in known:
                        known[junction] = (*known[place], Leg(place, junction))
                        todo.append(junction)
        return known
