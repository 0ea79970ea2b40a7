"""The link models of a whole network, with the rates that links share, from one seed.  Pure."""

from __future__ import annotations

from collections.abc import Mapping

from collab.emulation.base import LinkModel
from collab.emulation.build import Link, build_link
from collab.emulation.models.cell import FairCell
from collab.emulation.models.rate import ConstantRate
from collab.emulation.models.server import FifoCell
from collab.emulation.network import Cell, Leg, Network, NetworkLink
from collab.emulation.profile import LinkProfile
from collab.emulation.traces import Trace

Sharing = FairCell | FifoCell


class AssembledLinks:
    """Models of every leg of a network; times count from 0.

    Args:
        network: whose links they are.
        seed: of the run; the same one and the same packets give the same fates.
        traces: what the files that profiles name hold.
    """

    def __init__(self, network: Network, seed: int, traces: Mapping[str, Trace]) -> None:
        self._network, self._seed, self._traces = network, seed, traces
        self._cells = {name: _sharing(cell) for name, cell in network.cells.items()}
        self._links = {frozenset((link.one, link.other)): self._build(link, None) for link in network.links}

    def models(self) -> dict[Leg, LinkModel]:
        """What decides about packets, for each leg."""
        made: dict[Leg, LinkModel] = {}
        for link in self._network.links:
            both = self._links[frozenset((link.one, link.other))]
            made |= zip(_both(link), (both.up, both.down), strict=True)
        return made

    def fair_cells(self) -> dict[Leg, FairCell]:
        """The cell that decides when packets leave, for each leg that is in a fair one."""
        shared = {
            leg: cell
            for link in self._network.links
            if link.cell is not None
            for leg, cell in zip(_both(link), self._cells[link.cell], strict=True)
        }
        return {leg: cell for leg, cell in shared.items() if isinstance(cell, FairCell)}

    def change(self, one: str, other: str, profile: LinkProfile) -> None:
        """Another profile for the link of two places; what is under way keeps its times.

        Raises:
            ConfigError: there is no such link, or a trace is missing; nothing was changed.
        """
        network = self._network.changed(one, other, profile)
        pair = frozenset((one, other))
        self._links[pair] = self._build(network.link(one, other), self._links[pair])
        self._network = network

    def _build(self, link: NetworkLink, before: Link | None) -> Link:
        up = down = None
        if link.cell is not None:
            if before is not None:
                up, down = before.up.parts.server, before.down.parts.server
            else:
                up, down = (sharing.member() for sharing in self._cells[link.cell])
        return build_link(
            link.profile, self._seed, link.name, traces=self._traces, up=up, down=down, before=before
        )


def _sharing(cell: Cell) -> tuple[Sharing, Sharing]:
    kind = FairCell if cell.share == "fair" else FifoCell
    return kind(ConstantRate(cell.up_mbit_s)), kind(ConstantRate(cell.down_mbit_s))


def _both(link: NetworkLink) -> tuple[Leg, Leg]:
    """The up and the down leg."""
    return Leg(link.one, link.other), Leg(link.other, link.one)
