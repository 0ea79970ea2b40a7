"""The profile of hosts as a run has seen them: what was measured before, at the speed of the run.  Pure.

The speed of a machine drifts; so the profile of an emulated run is that of its own requests.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from collab.core.plan import Plan
from collab.core.profile import DeviceProfile, Profile
from collab.emulation.results import Results
from collab.emulation.summary import percentile

_SHARES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_LEAST: Final = 20
"""Runs of a stage from which its median is told."""
_LONG: Final = 3
"""Stages tell of the spread that take this part of a host's longest at least."""


def profile_as_seen(profile: Profile, plans: Sequence[Plan], results: Results) -> Profile:
    """A profile whose hosts take as long, in the median, and spread as much as they did in a run.

    One factor for all operators of a host, by the sum of the medians of its stages.
    """
    runs: defaultdict[str, dict[tuple[int, int], list[float]]] = defaultdict(dict)
    for plan in plans:
        ops = {str(stage.id): stage.ops for stage in plan.stages}
        for asking in results.of(plan.name):
            for hop in asking.hops:
                span = ops.get(hop.stage)
                if span is not None:
                    runs[hop.node].setdefault(span, []).append(hop.compute_ms)
    return replace(profile, devices=tuple(_as_seen(device, runs[device.name]) for device in profile.devices))


def _as_seen(device: DeviceProfile, runs: dict[tuple[int, int], list[float]]) -> DeviceProfile:
    medians = {span: statistics.median(ms) for span, ms in runs.items() if len(ms) >= _LEAST}
    known_ms = sum(sum(device.op_ms[slice(*span)]) for span in medians)
    if not known_ms:
        return device
    factor = sum(medians.values()) / known_ms
    least_ms = max(medians.values()) / _LONG
    spread = sorted(
        ms / typical for span, typical in medians.items() if typical >= least_ms for ms in runs[span]
    )
    return replace(
        device,
        op_ms=tuple(round(ms * factor, 6) for ms in device.op_ms),
        run_quantiles=tuple((share, round(percentile(spread, 100 * share), 4)) for share in _SHARES),
    )
