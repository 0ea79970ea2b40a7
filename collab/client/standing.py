"""What a requester knows of the nodes it may choose: who failed lately, who is slow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from collab.core.ids import NodeName

SHUN_US: Final = 200_000
"""How long a node is not chosen after it failed once, where another can be."""
MAX_SHUN_US: Final = 5_000_000
"""The same after it failed again and again; each time the span doubles."""
HALF_LIFE_US: Final = 1_000_000
"""A reported queue counts half after this time: it was not seen since."""
STALE_US: Final = 5_000_000
"""What was measured longer ago says nothing, so that a node which was slow is tried again."""
_SMOOTH: Final = 0.2
"""Weight of the newest measurement."""


@dataclass(slots=True)
class _Failing:
    count: int
    last_us: int
    until_us: int


@dataclass(slots=True)
class _Speed:
    queue_us: float
    service_us: float
    at_us: int


class Standing:
    """Failures by node, and speed by stage and node.

    A node that failed is shunned for a while.  Then one attempt at a time tries it, until an
    attempt that was started later succeeds.
    """

    def __init__(self) -> None:
        self._failing: dict[NodeName, _Failing] = {}
        self._speed: dict[tuple[int, NodeName], _Speed] = {}

    # --- failures ------------------------------------------------------------

    def failed(self, node: NodeName, now_us: int) -> None:
        """An attempt failed because of a node; while it is shunned, more failures say nothing new."""
        known = self._failing.get(node)
        if known is None:
            self._failing[node] = _Failing(1, now_us, now_us + SHUN_US)
            return
        known.last_us = now_us
        if now_us >= known.until_us:
            known.until_us = now_us + min(SHUN_US << min(known.count, 16), MAX_SHUN_US)
            known.count += 1

    def succeeded(self, node: NodeName, started_us: int) -> None:
        """An attempt that was started at a time went well on a node."""
        known = self._failing.get(node)
        if known is not None and started_us > known.last_us:
            del self._failing[node]

    def forgive(self, node: NodeName) -> None:
        """A node has come back: what it did before counts no more, nor does its queue of then."""
        self._failing.pop(node, None)
        for key in [key for key in self._speed if key[1] == node]:
            del self._speed[key]

    @property
    def flawless(self) -> bool:
        """Whether no node failed lately."""
        return not self._failing

    def failing(self, nodes: Iterable[NodeName]) -> set[NodeName]:
        """Those that failed, and have neither come back nor done well since."""
        return {node for node in nodes if node in self._failing}

    def shunned(self, node: NodeName, in_flight: int, now_us: int) -> bool:
        """Whether another node is to be preferred, whatever its load."""
        known = self._failing.get(node)
        return known is not None and (now_us < known.until_us or in_flight > 0)

    # --- speed ---------------------------------------------------------------

    def measured(self, stage: int, node: NodeName, queue_us: int, service_us: int, now_us: int) -> None:
        """An answer says how long it waited on a node, and how long that worked on it."""
        known = self._speed.get((stage, node))
        if known is None or now_us - known.at_us > STALE_US:
            self._speed[stage, node] = _Speed(queue_us, service_us, now_us)
            return
        known.queue_us += _SMOOTH * (queue_us - known.queue_us)
        known.service_us += _SMOOTH * (service_us - known.service_us)
        known.at_us = now_us

    def slow(self, stage: int, node: NodeName, waited_us: int, now_us: int) -> None:
        """Nothing came from a way over a node in this time, while another way answered."""
        known = self._speed.get((stage, node))
        service_us = known.service_us if known is not None else float(waited_us)
        self._speed[stage, node] = _Speed(float(waited_us), service_us, now_us)

    def wait_us(self, stage: int, node: NodeName, in_flight: int, now_us: int) -> float | None:
        """How long one more attempt would take there; None where nothing was measured lately.

        The queue that it reported, fading, and the work of what this requester has in flight
        (C3: Suresh et al., NSDI 2015, with a linear queue).
        """
        known = self._speed.get((stage, node))
        if known is None:
            return None
        age_us = now_us - known.at_us
        if age_us > STALE_US:
            return None
        fading = 0.5 ** (max(0, age_us) / HALF_LIFE_US)
        return float(known.queue_us * fading + (in_flight + 1) * known.service_us)
