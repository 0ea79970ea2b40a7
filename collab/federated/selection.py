"""Who is asked to train in a round.  Pure: chance comes from a generator that is given."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from collab.federated.orders import Capabilities
from collab.federated.task import Cohort
from collab.federated.update import LocalTraining

MARGIN = 1.25
"""Clients are taken to need so many times their estimate, since what was measured varies."""


def wanted_of(cohort: Cohort, could: int) -> int:
    """Updates that a round wants when so many clients could be asked."""
    if cohort.count is not None:
        return cohort.count
    if cohort.fraction is not None:
        return max(1, math.ceil(cohort.fraction * could - 1e-9))
    return could


def asked_for(cohort: Cohort, wanted: int) -> int:
    """Clients that are asked so that as many updates come as are wanted."""
    return math.ceil(wanted * cohort.over_selection - 1e-9)


def steps_of(capabilities: Capabilities, training: LocalTraining) -> int:
    """Training steps of one order."""
    steps = training.epochs * math.ceil(capabilities.samples / training.batch_size)
    return min(steps, training.max_steps) if training.max_steps is not None else steps


def estimated_seconds(
    capabilities: Capabilities, training: LocalTraining, down_bytes: int, up_bytes: int
) -> float | None:
    """From the offer to the update's last byte; None where something was not measured yet."""
    down, up, step = capabilities.down_bytes_s, capabilities.up_bytes_s, capabilities.step_s
    if not down or not up or step is None:
        return None
    compute = steps_of(capabilities, training) * step
    return down_bytes / down + compute + up_bytes / up + 3 * capabilities.rtt_s


def choose(
    cohort: Cohort,
    candidates: Mapping[str, Capabilities],
    count: int,
    chance: random.Random,
    *,
    misses: Mapping[str, int],
    estimates: Mapping[str, float | None],
    left_s: float,
) -> list[str]:
    """At most ``count`` clients in the order in which they are asked.

    Args:
        cohort: The rule.
        candidates: Who could be asked.
        count: How many are needed.
        chance: Draws among equals.  The same candidates and draws give the same choice.
        misses: Orders of a client that came to nothing since its last update.
        estimates: Seconds that each would need; only ``deadline`` reads them.
        left_s: Until the deadline.
    """
    names = sorted(candidates)
    if cohort.select == "all":
        return names[:count]
    chance.shuffle(names)
    if cohort.select == "available":
        names.sort(key=lambda name: misses.get(name, 0))
    elif cohort.select == "deadline":
        names = [name for name in names if fits(estimates.get(name), left_s)]
    return names[:count]


def fits(estimate: float | None, left_s: float) -> bool:
    """Whether a client would answer in time; one that nothing was measured of is tried."""
    return estimate is None or estimate * MARGIN <= left_s
