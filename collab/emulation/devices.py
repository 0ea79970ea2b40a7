"""How slow devices are made, and where that cannot be trusted.  Pure.

`stretch` (an option of nodes) makes each invocation last so many times its own time: a
speed.  A CPU quota is a budget per period: a short stage after a pause runs at full speed,
and the same one back to back waits for the next period.  So a device has a stretch, and a
quota as a cap on all that it does besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from collab.errors import ConfigError

PERIOD_US: Final = 10_000
"""Short, so that a host that has used up its budget waits little; the kernel takes 1 ms to 1 s."""
MIN_QUOTA_US: Final = 1000
"""The kernel's least."""
MIN_MEMORY: Final = 1 << 20
PERIODS: Final = 5
"""A stage that lasts less has times that depend on where in a period it begins."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a host may use; None is no limit."""

    cpu: float | None = None
    """Cores; a quarter of one is 0.25."""
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        least = MIN_QUOTA_US / PERIOD_US
        if self.cpu is not None and not least <= self.cpu <= 1024:
            raise ConfigError(
                f"cpu: {self.cpu:g} cores; give {least:g} to 1024, or slow the device by `stretch`"
            )
        if self.memory_bytes is not None and self.memory_bytes < MIN_MEMORY:
            raise ConfigError(f"memory_bytes: {self.memory_bytes}; give {MIN_MEMORY} or more, in bytes")

    @property
    def controllers(self) -> list[str]:
        """What has to be there for them."""
        return [
            name for name, value in (("cpu", self.cpu), ("memory", self.memory_bytes)) if value is not None
        ]


def settings(version: int, limits: Limits) -> list[tuple[str, str, str, bool]]:
    """Controller, file, what to write, and whether the file has to exist, in order."""
    found: list[tuple[str, str, str, bool]] = []
    if limits.cpu is not None:
        quota = round(limits.cpu * PERIOD_US)
        if version == 1:
            found.append(("cpu", "cpu.cfs_period_us", str(PERIOD_US), True))
            found.append(("cpu", "cpu.cfs_quota_us", str(quota), True))
        else:
            found.append(("cpu", "cpu.max", f"{quota} {PERIOD_US}", True))
    if limits.memory_bytes is not None:
        if version == 1:
            found.append(("memory", "memory.limit_in_bytes", str(limits.memory_bytes), True))
            found.append(("memory", "memory.memsw.limit_in_bytes", str(limits.memory_bytes), False))
        else:
            found.append(("memory", "memory.max", str(limits.memory_bytes), True))
            found.append(("memory", "memory.swap.max", "0", False))
    return found


def untrustworthy_stages(
    limits: Limits, stretch: float, stage_ms: Mapping[str, float], period_us: int = PERIOD_US
) -> list[str]:
    """A line for each stage of a host whose time under its quota says little about a slow device.

    Args:
        limits: of the host.
        stretch: of its node; above 1 it makes the speed, and the quota only caps.
        stage_ms: how long each stage computes at full speed.
        period_us: of the quota.
    """
    if limits.cpu is None or limits.cpu >= 1 or stretch > 1:
        return []
    least_ms = PERIODS * period_us / 1000
    return [
        f"stage {stage}: {ms / limits.cpu:.3g} ms under a quota of {limits.cpu:g} cores is less than "
        f"{PERIODS} periods of {period_us / 1000:g} ms, so its time depends on pauses between requests; "
        f"slow the device by stretch {1 / limits.cpu:.3g} instead"
        for stage, ms in stage_ms.items()
        if ms / limits.cpu < least_ms
    ]
