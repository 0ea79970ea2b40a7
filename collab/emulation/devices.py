"""How slow devices are made, and where that cannot be trusted.  Pure.

`stretch` (an option of nodes) makes each invocation last so many times its own time: a
speed.  A CPU quota is a budget per period: a short stage after a pause runs at full speed,
and the same one back to back waits for the next period.  So a device has a stretch, and a
quota as a cap on all that it does besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from collab.emulation.cgroups import PERIOD_US, Limits

PERIODS: Final = 5
"""A stage that lasts less has times that depend on where in a period it begins."""


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
