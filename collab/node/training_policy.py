"""Whether this device may train now, and why not.  Deciding is pure; `look` reads the device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from collab.node.training_config import TrainingConfig, minutes_of, within
from collab.runtime.surroundings import charging, default_device

POWER: Final = Path("/sys/class/power_supply")
ROUTES: Final = Path("/proc/net/route")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a policy asks of the device."""

    load: float
    """Load average of one minute by cores."""
    charging: bool | None
    """None where nothing tells: a device without a battery has external power."""
    device: str
    """Network device of the default route; empty where there is none."""
    minute: int
    """Of the day, local time."""


Look = Callable[[], Surroundings]


class Refusal(NamedTuple):
    """Why something is not done, for counting and for people; both empty where it is."""

    cause: str = ""
    """One of `TRAINING_CAUSES`."""
    reason: str = ""


def refusal(config: TrainingConfig, now: Surroundings, *, at_work: bool = False) -> Refusal:
    """Why the policy forbids training; an empty one where it allows it.

    The device's load says nothing while it trains itself, so it is not asked ``at_work``.
    """
    if config.idle and not at_work and now.load > config.idle_load:
        text = f"not idle: load {now.load:.2f} by core, training.idle_load is {config.idle_load:g}"
        return Refusal("not_idle", text)
    if config.charging and now.charging is False:
        return Refusal("on_battery", "on battery: training.charging asks for external power")
    if config.unmetered and now.device.startswith(config.metered_devices):
        return Refusal("metered", f"metered network: the default route is over {now.device}")
    if not within(minutes_of(config.hours), now.minute):
        return Refusal("hours", f"outside training.hours {config.hours}")
    return Refusal()


def look(power: Path = POWER, routes: Path = ROUTES) -> Surroundings:
    """Read files of the kernel; call it off the event loop."""
    local = time.localtime()
    return Surroundings(
        load=os.getloadavg()[0] / (os.cpu_count() or 1),
        charging=charging(power),
        device=default_device(routes),
        minute=local.tm_hour * 60 + local.tm_min,
    )
