"""Settings of what a node reports of its device and its models."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


class ConditionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[condition]`` of a node's settings."""

    metered: Literal["auto", "yes", "no"] = "auto"
    """Whether the network costs by the byte; ``auto`` asks NetworkManager, else goes by the names of
    ``training.metered_devices``."""
    time_zone: str = ""
    """IANA name, such as ``Europe/Berlin``; empty takes the system's."""
    samples_s: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 5.0
    """Requests a second, at most, of which each stage's features, confidence and times are taken; 0: none."""
    window: Annotated[int, msgspec.Meta(ge=100, le=1_000_000)] = 1000
    """Sampled requests after which the older half of what was counted is forgotten."""

    def __post_init__(self) -> None:
        if not self.time_zone:
            return
        # Time zones take memory, and few nodes are told theirs.
        from collab.updates.policies.windows import zone

        if zone(self.time_zone) is None:
            raise ValueError(
                f"time_zone: {self.time_zone[:40]!r} is not known here; write a name such as Europe/Berlin"
            )
