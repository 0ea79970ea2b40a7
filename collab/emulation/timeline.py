"""What happens to links and nodes at which time of a run.  Pure.

Schedules and faults may overlap: a link carries nothing while any of them cuts it, and a
change of its profile counts once nothing does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from collab.emulation.layout import LinkChange
from collab.emulation.network import Network, NetworkLink, without_service
from collab.emulation.profile import LinkProfile
from collab.emulation.scenario import FaultSpec

Verb = Literal["kill", "start", "stop", "continue"]


@dataclass(frozen=True)
class SetLink:
    """A link is like that from now on."""

    one: str
    other: str
    profile: LinkProfile


@dataclass(frozen=True)
class ToNode:
    """A node's process is killed, started, frozen, or let go on."""

    host: str
    verb: Verb


Happening = SetLink | ToNode


@dataclass
class _Link:
    link: NetworkLink
    profile: LinkProfile
    scheduled_cut: bool = False
    faults: int = 0

    @property
    def set(self) -> SetLink:
        cut = self.scheduled_cut or self.faults > 0
        return SetLink(self.link.one, self.link.other, without_service(self.profile) if cut else self.profile)


@dataclass
class _Node:
    kills: int = 0
    stops: int = 0


@dataclass
class _State:
    links: dict[frozenset[str], _Link]
    nodes: dict[str, _Node] = field(default_factory=dict)

    def change(self, change: LinkChange) -> SetLink:
        known = self.links[frozenset((change.link.one, change.link.other))]
        known.profile, known.scheduled_cut = change.profile, change.cut
        return known.set

    def fault(self, fault: FaultSpec, begins: bool) -> Happening | None:
        """What a fault that begins or ends does; None where another holds its victim as it is."""
        by = 1 if begins else -1
        if fault.cut is not None:
            known = self.links[frozenset(fault.cut)]
            known.faults += by
            return known.set
        host = fault.kill or fault.stop or ""
        node = self.nodes.setdefault(host, _Node())
        if fault.kill is not None:
            node.kills += by
            if node.kills == 1 and begins:
                return ToNode(host, "kill")
            return ToNode(host, "start") if not node.kills else None
        node.stops += by
        if node.stops == 1 and begins:
            return ToNode(host, "stop")
        return ToNode(host, "continue") if not node.stops else None


def timeline(
    network: Network, changes: Iterable[LinkChange], faults: Iterable[FaultSpec]
) -> Iterator[tuple[float, Happening]]:
    """Times in s from the begin of a run, ascending, and what happens then."""
    events: list[tuple[float, LinkChange | tuple[FaultSpec, bool]]] = []
    events += [(change.at_s, change) for change in changes]
    for fault in faults:
        events.append((fault.at_s, (fault, True)))
        if fault.for_s is not None:
            events.append((fault.at_s + fault.for_s, (fault, False)))
    state = _State({frozenset((link.one, link.other)): _Link(link, link.profile) for link in network.links})
    for at_s, event in sorted(events, key=lambda entry: entry[0]):
        happening = state.change(event) if isinstance(event, LinkChange) else state.fault(*event)
        if happening is not None:
            yield at_s, happening
