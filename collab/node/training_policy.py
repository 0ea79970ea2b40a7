"""Whether this device may train now, and why not.  Deciding is pure; `look` reads the device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collab.node.training_config import TrainingConfig, minutes_of, within

POWER: Final = Path("/sys/class/power_supply")
ROUTES: Final = Path("/proc/net/route")
_UP: Final = 0x1
"""Flag of a usable route (RTF_UP of linux/route.h)."""


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


def refusal(config: TrainingConfig, now: Surroundings, *, at_work: bool = False) -> str:
    """Why the policy forbids training; empty where it allows it.

    The device's load says nothing while it trains itself, so it is not asked ``at_work``.
    """
    if config.idle and not at_work and now.load > config.idle_load:
        return f"not idle: load {now.load:.2f} by core, training.idle_load is {config.idle_load:g}"
    if config.charging and now.charging is False:
        return "on battery: training.charging asks for external power"
    if config.unmetered and now.device.startswith(config.metered_devices):
        return f"metered network: the default route is over {now.device}"
    if not within(minutes_of(config.hours), now.minute):
        return f"outside training.hours {config.hours}"
    return ""


def look(power: Path = POWER, routes: Path = ROUTES) -> Surroundings:
    """Read files of the kernel; call it off the event loop."""
    local = time.localtime()
    return Surroundings(
        load=os.getloadavg()[0] / (os.cpu_count() or 1),
        charging=_charging(power),
        device=_default_device(routes),
        minute=local.tm_hour * 60 + local.tm_min,
    )


def _charging(power: Path) -> bool | None:
    """Whether mains are online, else whether no battery discharges."""
    told: bool | None = None
    for supply in sorted(power.glob("*")):
        kind = _text(supply / "type")
        if kind in ("Mains", "USB") and _text(supply / "online") == "1":
            return True
        if kind == "Battery" and _text(supply / "scope") != "Device":
            told = _text(supply / "status") in ("Charging", "Full", "Not charging")
    return told


def _default_device(routes: Path) -> str:
    best: tuple[int, str] | None = None
    for line in _text(routes).splitlines()[1:]:
        # Iface Destination Gateway Flags RefCnt Use Metric Mask …, numbers in hexadecimal but the metric.
        words = line.split()
        if len(words) > 7 and words[1] == words[7] == "00000000" and int(words[3], 16) & _UP:
            best = min(best or (1 << 32, ""), (int(words[6]), words[0]))
    return best[1] if best else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
