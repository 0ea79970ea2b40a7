"""Numbers and flags that a clause may ask for, each from a state alone; None where it was not measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Final, Literal

from collab.updates.policies.drift import ks, psi, worst_p_value
from collab.updates.policies.state import Compared, DeviceState, FeatureCounts

Measure = Literal[
    "battery",
    "idle",
    "rate_mbit_s",
    "free_memory_mb",
    "free_disk_mb",
    "temperature_c",
    "offered_mb",
    "benefit",
    "versions_behind",
    "hours_since_check",
    "psi",
    "ks",
    "ks_p_value",
    "confidence_drop",
    "agreement_drop",
    "latency_ratio",
    "correction_share",
]
Flag = Literal["charging", "metered", "newer", "can_go_back"]

LEAST_ANSWERS: Final = 20
"""A share of fewer answers is chance."""
_LATENCIES: Final = 3
"""Fewer latencies have no median worth the name."""


def _scaled(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _behind(state: DeviceState) -> float | None:
    return None if state.offered is None else float(max(0, state.offered - state.running))


def _since_check(state: DeviceState) -> float | None:
    return None if state.checked_s is None else (state.time_s - state.checked_s) / 3600


def _worst(state: DeviceState, statistic: Callable[[FeatureCounts], float | None]) -> float | None:
    return max((x for x in map(statistic, state.inputs) if x is not None), default=None)


def _drop(pair: Compared | None) -> float | None:
    return None if pair is None else pair.baseline - pair.now


def _latency(state: DeviceState) -> float | None:
    times = state.latency
    if times is None or len(times.recent_ms) < _LATENCIES:
        return None
    return statistics.median(times.recent_ms) / times.baseline_ms


def _corrected(state: DeviceState) -> float | None:
    return state.corrections / state.answers if state.answers >= LEAST_ANSWERS else None


MEASURES: Final[Mapping[Measure, Callable[[DeviceState], float | None]]] = {
    "battery": lambda state: state.battery,
    "idle": lambda state: state.idle,
    "rate_mbit_s": lambda state: state.rate_mbit_s,
    "free_memory_mb": lambda state: _scaled(state.free_memory_bytes),
    "free_disk_mb": lambda state: _scaled(state.free_disk_bytes),
    "temperature_c": lambda state: state.temperature_c,
    "offered_mb": lambda state: _scaled(state.offered_bytes),
    "benefit": lambda state: state.benefit,
    "versions_behind": _behind,
    "hours_since_check": _since_check,
    "psi": lambda state: _worst(state, psi),
    "ks": lambda state: _worst(state, ks),
    "ks_p_value": lambda state: worst_p_value(state.inputs),
    "confidence_drop": lambda state: _drop(state.confidence),
    "agreement_drop": lambda state: _drop(state.agreement),
    "latency_ratio": _latency,
    "correction_share": _corrected,
}

FLAGS: Final[Mapping[Flag, Callable[[DeviceState], bool | None]]] = {
    "charging": lambda state: state.charging,
    "metered": lambda state: state.metered,
    "newer": lambda state: None if state.offered is None else state.offered > state.running,
    "can_go_back": lambda state: state.previous is not None,
}
