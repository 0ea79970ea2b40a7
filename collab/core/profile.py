"""What is known of links."""

from __future__ import annotations

import msgspec


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One direction of a link: one-way delay in ms and rate in Mbit/s."""

    latency_ms: float
    mbit_s: float
