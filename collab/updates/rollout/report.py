"""What people and scripts are told of a rollout.  Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from collab.updates.rollout.state import RolloutState, Target


class WaveReport(msgspec.Struct, frozen=True, kw_only=True):
    """A wave's targets, counted.

    Attributes:
        wave: from 1.
        decided: those that have the release, will not get it, or have gone back.
        statuses: how many have which status.
    """

    wave: int
    targets: int
    decided: int
    statuses: dict[str, int]


def waves_of(state: RolloutState) -> list[WaveReport]:
    """Waves that have targets, in order."""
    by_wave: dict[int, list[Target]] = {}
    for one in state.targets:
        if one.wave >= 0:
            by_wave.setdefault(one.wave, []).append(one)
    return [
        WaveReport(
            wave=number + 1,
            targets=len(targets),
            decided=sum(one.decided for one in targets),
            statuses=dict(Counter(one.status for one in targets)),
        )
        for number, targets in sorted(by_wave.items())
    ]


def changes(before: RolloutState, after: RolloutState) -> list[dict[str, Any]]:
    """What changed from one state to the next, as events for people and scripts.

    A target that is offline is told once, not each time that it is looked for.
    """
    known = {one.name: one for one in before.targets}
    told: list[dict[str, Any]] = [
        {
            "event": "target",
            "target": one.name,
            "wave": one.wave + 1,
            "status": one.status,
            "version": one.version,
            "epoch": one.epoch,
            "reason": one.reason,
        }
        for one in after.targets
        if one.status != known[one.name].status and not _again(known[one.name], one)
    ]
    if after.wave != before.wave:
        told.append({"event": "wave", "wave": after.wave + 1})
    if after.rests_until_s and not before.rests_until_s:
        told.append({"event": "rest", "wave": after.wave + 1, "until_s": after.rests_until_s})
    if after.paused_by != before.paused_by:
        told.append({"event": "paused" if after.paused_by else "resumed", "by": after.paused_by})
    if after.phase != before.phase:
        told.append({"event": "phase", "phase": after.phase, "reason": after.reason})
    return told


def _again(before: Target, after: Target) -> bool:
    """Whether an offline target is looked for once more, or was in vain."""
    return bool(before.tries and after.tries) and {before.status, after.status} in (
        {"offline", "updating"},
        {"to go back", "going back"},
    )
