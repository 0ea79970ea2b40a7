"""What to expect of a link without running it: quantiles of delay, rates, a planner's view."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from collab.core.ids import NodeName
from collab.core.profile import LinkEntry
from collab.emulation.build import build_rate, shape_of
from collab.emulation.models.queue import MTU_BYTES
from collab.emulation.profile import DirectionProfile, LinkProfile
from collab.emulation.traces import Trace

_STEPS: Final = 2_000
"""Of the sums over all ranks."""
_MOST_MBIT_S: Final = 1e6
"""What stands for no limit, as fits of measured links have it."""
_NO_TRACES: Mapping[str, Trace] = {}


@dataclass(frozen=True)
class Expected:
    """One direction that is connected, up and otherwise unused."""

    delay_ms: Mapping[float, float]
    """One way of a small packet, by probability."""
    mean_ms: float
    deviation_ms: float
    mbit_s: float
    """Of IP packets of 1,500 bytes over a long time, outages and framing taken off."""
    loss: float


def expected(
    profile: LinkProfile,
    direction: DirectionProfile,
    quantiles: tuple[float, ...] = (0.5, 0.95, 0.99),
    traces: Mapping[str, Trace] = _NO_TRACES,
) -> Expected:
    """Figures of one direction of a profile; exact but for sums over the distribution."""
    shape = shape_of(direction)
    sample = [shape((i + 0.5) / _STEPS) / 1e3 for i in range(_STEPS)]
    rate = min(build_rate(direction, traces).mean_mbit_s, _MOST_MBIT_S)
    return Expected(
        delay_ms={q: shape(1.0 - q) / 1e3 for q in quantiles},
        mean_ms=statistics.fmean(sample),
        deviation_ms=statistics.pstdev(sample),
        mbit_s=rate * MTU_BYTES / (MTU_BYTES + direction.overhead_bytes) * _available(profile),
        loss=direction.loss,
    )


def _available(profile: LinkProfile) -> float:
    """Share of the time with service, scheduled outages left out."""
    if profile.outage_every_s is None:
        return 1.0
    return profile.outage_every_s / (profile.outage_every_s + profile.outage_ms / 1e3)


def link_entries(
    profile: LinkProfile, device: NodeName, other: NodeName, traces: Mapping[str, Trace] = _NO_TRACES
) -> tuple[LinkEntry, LinkEntry]:
    """A link for the planner, up and down, as if it had been measured: medians, long-run rates."""

    def entry(direction: DirectionProfile, source: NodeName, target: NodeName) -> LinkEntry:
        found = expected(profile, direction, (0.5,), traces)
        return LinkEntry(
            source=source,
            target=target,
            latency_ms=float(f"{found.delay_ms[0.5]:.5g}"),
            mbit_s=float(f"{found.mbit_s:.5g}"),
            jitter_ms=float(f"{found.deviation_ms:.4g}"),
            loss=found.loss,
        )

    return entry(profile.up, device, other), entry(profile.down, other, device)
