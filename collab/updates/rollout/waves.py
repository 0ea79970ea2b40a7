"""Which target has its turn in which wave, and when updates may begin.  Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from collab.updates.policies.windows import minutes_of, openings, zone
from collab.updates.rollout.definition import Labels, Open, Rollout, count_of

NO_WAVE = -1


def in_waves(rollout: Rollout, targets: Mapping[str, Labels]) -> dict[str, int]:
    """The wave of each target, from 0, in their order; `NO_WAVE` for those that no wave reaches.

    The order is drawn from the seed and the names, so one that is added leaves that of the others.
    """
    order = sorted(targets, key=lambda name: hashlib.sha256(f"{rollout.seed}/{name}".encode()).digest())
    found: dict[str, int] = {}
    for number, wave in enumerate(rollout.selections):
        chosen = [name for name in order if wave.where.items() <= targets[name].items()]
        wanted = count_of(wave.to, len(chosen)) - sum(name in found for name in chosen)
        for name in [name for name in chosen if name not in found][: max(0, wanted)]:
            found[name] = number
    return {**found, **{name: NO_WAVE for name in order if name not in found}}


def opens_at(windows: Iterable[Open], now_s: float) -> float:
    """When updates may begin next, in seconds since 1970: now within a window, or without any."""
    found: list[float] = []
    for window in windows:
        start, stop, place = minutes_of(window.start), minutes_of(window.to), zone(window.zone)
        if start is None or stop is None or place is None:
            continue
        found += [
            max(now_s, opens)
            for opens, closes in openings(now_s, place, window.days, start, stop)
            if now_s < closes
        ]
    return min(found, default=now_s)
