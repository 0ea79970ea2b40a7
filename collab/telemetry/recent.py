"""How one answered request went, as its requester keeps it for whoever shows it."""

from __future__ import annotations

from typing import NamedTuple

from collab.core.ids import Epoch, NodeName, PlanName


class Recent(NamedTuple):
    """Times in ms."""

    plan: PlanName
    epoch: Epoch
    at_s: float
    """When the answer came, Unix time."""
    total_ms: float
    encode_ms: float
    decode_ms: float
    wire_ms: float
    own: bool
    """Whether the plan itself answered, and not an alternative or the whole model."""
    attempts: int
    hops: tuple[tuple[int, NodeName, float], ...]
    """Stage, node and time in it, on the critical path."""
