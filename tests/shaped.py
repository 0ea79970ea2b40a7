"""Hosts of a test as network namespaces, joined by links of a given delay and rate; needs root and TUN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from collab.emulation.emulator import EmulatedNetwork
from collab.emulation.network import mesh
from collab.emulation.profile import DirectionProfile, LinkProfile

QUEUE_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Shape:
    """One direction between two hosts."""

    delay_ms: float
    mbit_s: float
    """Rate of IP packets, in 10⁶ bit/s."""
    queue_bytes: int = QUEUE_BYTES
    """What may wait for its turn; more is dropped."""

    @property
    def profile(self) -> DirectionProfile:
        """As the emulator takes it."""
        return DirectionProfile(delay_ms=self.delay_ms, rate_mbit_s=self.mbit_s, queue_bytes=self.queue_bytes)


def link(up: Shape, down: Shape) -> LinkProfile:
    """A link of two directions."""
    return LinkProfile(name="shaped", up=up.profile, down=down.profile)


class ShapedNetwork(EmulatedNetwork):
    """Hosts with direct links.

    A link holds for both directions where only one of them is listed; pairs that are not
    listed have ``others``, or no connection.
    """

    def __init__(
        self, hosts: Sequence[str], links: Mapping[tuple[str, str], Shape], others: Shape | None = None
    ) -> None:
        pairs = [(a, b) for a in hosts for b in hosts if a != b]
        found = {pair: links.get(pair) or links.get(pair[::-1]) or others for pair in pairs}
        self.shapes = {pair: shape for pair, shape in found.items() if shape is not None}
        joined = {(a, b): link(shape, self.shapes[b, a]) for (a, b), shape in self.shapes.items() if a < b}
        super().__init__(mesh(hosts, joined), backend="userspace")

    def shape(self, source: str, target: str, **changes: Any) -> None:
        """Change fields of one direction's `Shape`, for what is sent after this returns."""
        self.shapes[source, target] = replace(self.shapes[source, target], **changes)
        up, down = self.shapes[source, target], self.shapes[target, source]
        if self.network.link(source, target).one != source:
            up, down = down, up
        self.change(source, target, link(up, down))
