"""Hosts of a test joined by emulated links of a given delay, rate and harm; needs root and TUN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from collab.emulation.emulator import EmulatedNetwork
from collab.emulation.network import mesh
from collab.emulation.profile import DirectionProfile, LinkProfile

MTU: Final = 9000
"""Large packets, so that there are few of them."""
QUEUE_BYTES: Final = 1 << 20
LATER_MS: Final = 10.0
"""For packets that are overtaken."""


@dataclass(frozen=True)
class Shape:
    """One direction between two hosts."""

    delay_ms: float
    mbit_s: float
    """Rate of IP packets, in 10⁶ bit/s."""
    queue_bytes: int = QUEUE_BYTES
    """What may wait for its turn; more is dropped."""
    loss: float = 0.0
    """Share of packets that are dropped, each by itself."""
    duplicate: float = 0.0
    """Share that arrives twice."""
    reorder: float = 0.0
    """Share that is held back for `LATER_MS`, so that those behind it overtake."""
    corrupt: float = 0.0
    """Share in whose payload one bit is turned, under a checksum that is put right."""

    @property
    def profile(self) -> DirectionProfile:
        """As the emulator takes it."""
        return DirectionProfile(
            delay_ms=self.delay_ms,
            rate_mbit_s=self.mbit_s,
            queue_bytes=self.queue_bytes,
            loss=self.loss,
            duplicate=self.duplicate,
            reorder=self.reorder,
            reorder_ms=LATER_MS,
            corrupt=self.corrupt,
        )


def link(up: Shape, down: Shape) -> LinkProfile:
    """A link of two directions."""
    return LinkProfile(name="shaped", up=up.profile, down=down.profile)


class ShapedNetwork(EmulatedNetwork):
    """Hosts with direct links.

    A link holds for both directions where only one of them is listed; pairs that are not
    listed have ``others``, or no connection.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        links: Mapping[tuple[str, str], Shape],
        others: Shape | None = None,
        seed: int = 0,
    ) -> None:
        pairs = [(a, b) for a in hosts for b in hosts if a != b]
        found = {pair: links.get(pair) or links.get(pair[::-1]) or others for pair in pairs}
        self.shapes = {pair: shape for pair, shape in found.items() if shape is not None}
        joined = {(a, b): link(shape, self.shapes[b, a]) for (a, b), shape in self.shapes.items() if a < b}
        super().__init__(mesh(hosts, joined), seed=seed, backend="userspace", mtu=MTU)

    def shape(self, source: str, target: str, **changes: Any) -> None:
        """Change fields of one direction's `Shape`, for what is sent after this returns."""
        self.shapes[source, target] = replace(self.shapes[source, target], **changes)
        up, down = self.shapes[source, target], self.shapes[target, source]
        if self.network.link(source, target).one != source:
            up, down = down, up
        self.change(source, target, link(up, down))
