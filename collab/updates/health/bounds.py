"""Bounds as people write them: only some of the fields, each checked.  Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from collab.errors import ConfigError
from collab.updates.health.gate import Bounds
from collab.updates.health.sequential import Rates


def read_bounds(fields: Mapping[str, Any], what: str) -> Bounds:
    """Bounds from some of their fields, the others as they are by default; raises `ConfigError`."""
    try:
        bounds = msgspec.convert(fields, Bounds)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{what}: {error}; the fields stand in docs/releases/health.md") from error
    for name in ("disagreement", "slowness"):
        _check_rates(f"{what}: {name}", getattr(bounds, name))
    for name, low, high in (
        ("slow_factor", 1.0, 1e6),
        ("memory_factor", 0.0, 1e6),
        ("memory_slack_bytes", 0, 2**53),
        ("copies", 0.0, 1.0),
        ("touched", 0.0, 1.0),
        ("canaries", 0, 10**9),
        ("golden_s", 0.1, 1e9),
        ("shadow_s", 0.1, 1e9),
        ("canary_s", 0.1, 1e9),
        ("probation", 1, 10**9),
    ):
        value = getattr(bounds, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise ConfigError(f"{what}: {name}: {value:g} is not within {low:g} to {high:g}")
    return bounds


def _check_rates(what: str, rates: Rates) -> None:
    if not 0 < rates.fine < rates.worse < 1:
        raise ConfigError(
            f"{what}: fine {rates.fine:g} and worse {rates.worse:g}; "
            "both lie between 0 and 1, fine below worse"
        )
    if not 0 < rates.error < 0.5:
        raise ConfigError(f"{what}: error: {rates.error:g} is not between 0 and 0.5")
