"""One state of several plans that run one family: of each thing the plan that is worst off.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from collab.updates.policies.drift import psi
from collab.updates.policies.measures import MEASURES
from collab.updates.policies.state import (
    MAX_FEATURES,
    MAX_TALLIES,
    DeviceState,
    FeatureCounts,
    Labelled,
    Tally,
)

T = TypeVar("T")
Number = float | None


def worst_of(states: Sequence[DeviceState], device: str, time_s: float) -> DeviceState:
    """Least battery, any metered link, hottest, least memory, worst drift; labels are added up.

    What no plan reports stays unknown; what some report counts for all.  The time zone is the first
    plan's.  Versions and offers are left to who knows them.
    """
    if not states:
        return DeviceState(time_s=time_s, device=device)
    latest = _worst(states, lambda state: MEASURES["latency_ratio"](state))
    return DeviceState(
        time_s=time_s,
        device=device,
        time_zone=states[0].time_zone,
        battery=_told(min, (s.battery for s in states)),
        charging=_told(all, (s.charging for s in states)),
        metered=_told(any, (s.metered for s in states)),
        rate_mbit_s=_told(min, (s.rate_mbit_s for s in states)),
        idle=_told(min, (s.idle for s in states)),
        free_memory_bytes=_told(min, (s.free_memory_bytes for s in states)),
        free_disk_bytes=_told(min, (s.free_disk_bytes for s in states)),
        temperature_c=_told(max, (s.temperature_c for s in states)),
        inputs=_inputs(states),
        labelled=_labelled([s.labelled for s in states if s.labelled is not None]),
        confidence=_worst(states, lambda s: MEASURES["confidence_drop"](s)).confidence,
        agreement=_worst(states, lambda s: MEASURES["agreement_drop"](s)).agreement,
        latency=latest.latency,
        answers=sum(s.answers for s in states),
        corrections=sum(s.corrections for s in states),
    )


def _told(judge: Callable[[Iterable[T]], T], values: Iterable[T | None]) -> T | None:
    told = [value for value in values if value is not None]
    return judge(told) if told else None


def _worst(states: Sequence[DeviceState], of: Callable[[DeviceState], Number]) -> DeviceState:
    """The state in which a measure is largest; the first where none knows it."""
    known = [(value, state) for state in states if (value := of(state)) is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else states[0]


def _inputs(states: Sequence[DeviceState]) -> tuple[FeatureCounts, ...]:
    """The features that moved most, each plan's by itself: drift at one place must not drown in others."""
    found = [
        msgspec.structs.replace(
            feature, name=f"{number}: {feature.name}" if len(states) > 1 else feature.name
        )
        for number, state in enumerate(states)
        for feature in state.inputs
    ]
    found.sort(key=lambda feature: psi(feature) or 0.0, reverse=True)
    return tuple(found[:MAX_FEATURES])


def _labelled(found: Sequence[Labelled]) -> Labelled | None:
    """Labels by period, counted from the last one, which is now for all."""
    if not found:
        return None
    periods = max(len(one.tallies) for one in found)
    padded = [(Tally(labelled=0, correct=0),) * (periods - len(one.tallies)) + one.tallies for one in found]
    tallies = tuple(
        Tally(labelled=sum(t.labelled for t in row), correct=sum(t.correct for t in row))
        for row in zip(*padded, strict=True)
    )
    return Labelled(baseline=max(one.baseline for one in found), tallies=tallies[-MAX_TALLIES:])
