"""A radio that sleeps: after a pause the next packet waits until it is connected again (RRC)."""

from __future__ import annotations

from math import inf


class Radio:
    """Idle or connected, for both directions of a device's link.

    Args:
        promotion_us: from idle to connected.
        idle_after_us: of silence in both directions.
        active_us: when it was last active.
    """

    def __init__(self, promotion_us: float, idle_after_us: float, active_us: float = -inf) -> None:
        self._promotion = promotion_us
        self._idle_after = idle_after_us
        self._connected_us = -inf
        self.active_us = active_us

    def ready(self, now_us: float) -> float:
        """When a packet that comes now may be sent: at once, or when the radio is connected."""
        if now_us - self.active_us > self._idle_after:
            self._connected_us = now_us + self._promotion
        ready = max(now_us, self._connected_us)
        self.active_us = max(self.active_us, ready)
        return ready

    def busy(self, until_us: float) -> None:
        """A packet was sent until then."""
        self.active_us = max(self.active_us, until_us)
