"""What goes wrong in a simulated run, and how and when the others notice."""

from __future__ import annotations

from typing import Final

from collab.core.ids import NodeName
from collab.emulation.layout import LinkChange
from collab.emulation.network import Leg
from collab.emulation.scenario import FaultSpec
from collab.emulation.world import World

SUSPECTED_US: Final = 400_000
"""Silence after which a peer is suspected where somebody waits for it: see the decision on suspicion."""
DEAD_US: Final = 10_000_000
REDIALLED_US: Final = 300_000
"""Starting again, or dialling again, until the link is back: in the middle of the back-off."""


class Faults:
    """Puts faults and changes of links into a world's time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._clock = world.clock

    def add(self, fault: FaultSpec) -> None:
        """One fault, and its end."""
        begin_us = fault.at_s * 1e6
        end_us = None if fault.for_s is None else begin_us + fault.for_s * 1e6
        world = self._world
        if fault.cut is not None:
            self._clock.at(begin_us, self._cut, fault.cut, True)
            self._silence(self._pairs_over(fault.cut), begin_us, end_us)
            if end_us is not None:
                self._clock.at(end_us, self._cut, fault.cut, False)
            return
        name = NodeName(fault.kill or fault.stop or "")
        if name not in world.nodes:
            return  # the plan does not use that host
        if fault.kill is not None:
            self._clock.at(begin_us, self._kill, name)
            if end_us is not None:
                self._clock.at(end_us, self._revive, name)
            return
        self._clock.at(begin_us, self._freeze, name)
        self._silence([(name, other) for other in self._linked(name)], begin_us, end_us)
        if end_us is not None:
            self._clock.at(end_us, world.nodes[name].loop.thaw)

    def change(self, change: LinkChange) -> None:
        """A link that becomes another."""
        self._clock.at(change.at_s * 1e6, self._world.change_link, change.link, change.profile, change.cut)

    # --- who has to do with whom ---------------------------------------------------------

    def _linked(self, name: NodeName) -> list[str]:
        """Processes with a link to a node: its neighbours in the plan, and all clients."""
        return [*self._world.plan.neighbours(name), *(asker.name for asker in self._world.askers)]

    def _pairs_over(self, ends: tuple[str, str]) -> list[tuple[str, str]]:
        """Linked processes whose packets pass a link."""
        legs = {Leg(*ends), Leg(ends[1], ends[0])}
        pairs = {
            (min(name, other), max(name, other)) for name in self._world.nodes for other in self._linked(name)
        }
        return [pair for pair in sorted(pairs) if legs & set(self._way(*pair))]

    def _way(self, one: str, other: str) -> tuple[Leg, ...]:
        return self._world.field.way(one.strip("@"), other.strip("@")) or ()

    def _delay_us(self, one: str, other: str) -> float:
        return sum(self._world.pipes[leg].usual_us for leg in self._way(one, other))

    # --- a process dies ------------------------------------------------------------------

    def _kill(self, name: NodeName) -> None:
        """The connections of a process end with it, and its peers see that."""
        self._world.nodes[name].kill()
        now = self._clock.now_us
        for other in self._linked(name):
            self._world.reset(name, other)
            self._clock.at(now + self._delay_us(name, other), self._lost, name, other)

    def _revive(self, name: NodeName) -> None:
        self._world.nodes[name].revive()
        for other in self._linked(name):
            self._clock.at(self._clock.now_us + REDIALLED_US, self._back, name, other)

    # --- silence -------------------------------------------------------------------------

    def _freeze(self, name: NodeName) -> None:
        self._world.nodes[name].loop.frozen = True

    def _cut(self, ends: tuple[str, str], cut: bool) -> None:
        for leg in (Leg(*ends), Leg(ends[1], ends[0])):
            self._world.pipes[leg].cut = cut

    def _silence(self, pairs: list[tuple[str, str]], begin_us: float, end_us: float | None) -> None:
        """Both ends suspect each other; after ten seconds the link ends on both sides."""
        for one, other in pairs:
            round_us = 2 * self._delay_us(one, other)
            noticed_us = begin_us + SUSPECTED_US + round_us
            if end_us is None or end_us > noticed_us:
                self._clock.at(noticed_us, self._suspect, one, other)
            if end_us is None or end_us > begin_us + DEAD_US:
                self._clock.at(begin_us + DEAD_US, self._part, one, other)
                if end_us is not None:
                    self._clock.at(end_us + REDIALLED_US, self._back, one, other)
            elif end_us > noticed_us:
                self._clock.at(end_us + round_us, self._back, one, other)

    def _suspect(self, one: str, other: str) -> None:
        self._world.suspected.add(frozenset((one, other)))
        for end, peer in ((one, other), (other, one)):
            self._world.processes[end].peer_suspected(NodeName(peer))

    def _part(self, one: str, other: str) -> None:
        self._world.reset(one, other)
        self._lost(one, other)
        self._lost(other, one)

    def _lost(self, gone: str, end: str) -> None:
        """One end sees that its link is gone."""
        self._world.broken.add(frozenset((gone, end)))
        process = self._world.processes[end]
        process.peer_lost(NodeName(gone))

    def _back(self, one: str, other: str) -> None:
        """The link is there again."""
        self._world.broken.discard(frozenset((one, other)))
        self._world.suspected.discard(frozenset((one, other)))
        for asker in self._world.askers:
            if asker.name in (one, other):
                asker.peer_back(NodeName(other if asker.name == one else one))
