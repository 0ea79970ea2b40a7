"""A year of a fleet, drawn from a seed: what devices are in hour by hour, and a world that drifts away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BEGIN_S: Final = 1_767_225_600
"""2026-01-01, 00:00 UTC."""
DAYS: Final = 365
HOURS: Final = 24 * DAYS
RELEASES: Final = 53
"""One a week; the first is on all devices when the year begins."""
BAD: Final = (14, 37)
"""Releases whose training went wrong, unseen by their publisher: numbers of weeks."""
BAD_LOSS: Final = 0.1
ACCURACY: Final = 0.92
GAIN: Final = 0.0005
"""Of accuracy, from each release to the next."""
ZONES: Final = (
    ("Europe/Berlin", 1),
    ("America/New_York", -5),
    ("America/Los_Angeles", -8),
    ("Asia/Kolkata", 5.5),
    ("Asia/Tokyo", 9),
    ("Australia/Sydney", 10),
)


@dataclass(frozen=True)
class World:
    """How far inputs have moved from those of the first day, by hour and by release."""

    moved: Floats
    """[HOURS + 1]"""
    trained: Floats
    """[RELEASES + 1], of the data that a release was trained on; number 0 is no release."""
    quality: Floats
    """[RELEASES + 1], accuracy on its own data."""

    def accuracy(self, version: NDArray[np.int64], hour: NDArray[np.int64], reach: Floats) -> Floats:
        """Of versions at hours; ``reach`` is how strongly a device feels the drift, 1 in the middle."""
        off = reach * (self.moved[hour] - self.trained[version])
        return self.quality[version] - loss(off)


def loss(off: Floats) -> Floats:
    """Accuracy lost to inputs that are ``off`` standard deviations away from the training split's."""
    return 0.3 * (1 - np.exp(-(off**2)))


def published_hour(version: int) -> int:
    """When a release is published."""
    return 7 * 24 * (version - 1)


def newest(hour: int) -> int:
    """The release that is published at an hour of the year."""
    return min(RELEASES, hour // (7 * 24) + 1)


def world(seed: int) -> World:
    """Seasons, a slow walk, and three jumps: a camera moved, another clientele, new packaging."""
    rng = np.random.default_rng([seed, 0])
    hours = np.arange(HOURS + 1)
    walk = np.cumsum(rng.normal(0, 0.0025, HOURS + 1))
    jumps = np.zeros(HOURS + 1)
    for first, size in ((40, 0.7), (150, 0.9), (270, 0.6)):
        jumps[24 * int(rng.integers(first, first + 60)) :] += size * float(rng.choice((-1, 1)))
    moved = 0.5 * np.sin(2 * math.pi * hours / HOURS) + walk + jumps
    # Collected up to a day before it is published.
    trained = np.array([0.0, 0.0, *(moved[published_hour(v) - 24] for v in range(2, RELEASES + 1))])
    quality = ACCURACY + GAIN * np.arange(RELEASES + 1, dtype=np.float64)
    quality[list(BAD)] -= BAD_LOSS
    return World(np.asarray(moved, np.float64), trained, quality)


@dataclass(frozen=True)
class Fleet:
    """Devices by column."""

    seed: int
    zone: NDArray[np.int64]
    """Of `ZONES`."""
    mains: NDArray[np.bool_]
    """Without a battery."""
    reach: Floats
    battery: NDArray[np.float32]
    """[HOURS + 1, devices], 0 to 1."""
    charging: NDArray[np.bool_]
    metered: NDArray[np.bool_]
    wifi_mbit_s: Floats
    cell_mbit_s: Floats
    room_mb: Floats
    """Free memory, and free disk as well."""
    warm_c: Floats
    """What a device is warmer than others."""

    def local_hour(self, device: int, hour: int) -> float:
        """Of the day, in winter time."""
        return float((hour + ZONES[self.zone[device]][1]) % 24)


def fleet(seed: int, devices: int) -> Fleet:
    """Three in ten on mains; one in four without Wi-Fi; the others are at home at night, and charge there."""
    rng = np.random.default_rng([seed, 1])
    zone = rng.integers(0, len(ZONES), devices)
    mains = rng.random(devices) < 0.3
    cell_only = rng.random(devices) < 0.25
    offset = np.array([ZONES[at][1] for at in zone])
    plugged, unplugged = rng.normal(22, 1, devices), rng.normal(6.5, 0.7, devices)
    forgets = rng.beta(1, 6, devices)
    life_h = rng.uniform(18, 45, devices)
    level = np.ones(devices)
    battery = np.ones((HOURS + 1, devices), np.float32)
    charging = np.zeros((HOURS + 1, devices), np.bool_)
    metered = np.zeros((HOURS + 1, devices), np.bool_)
    forgotten = np.zeros(devices, np.bool_)
    for hour in range(HOURS + 1):
        if hour % 24 == 0:
            forgotten = rng.random(devices) < forgets
        local = (hour + offset) % 24
        # Nobody lets a device that is nearly empty lie.
        plug = (((local >= plugged) | (local < unplugged)) & ~forgotten) | (level < 0.08)
        level = np.clip(level + np.where(plug, 0.35, -1 / life_h), 0, 1)
        battery[hour], charging[hour] = level, plug | mains
        metered[hour] = cell_only | (~mains & (local >= 8) & (local < 19))
    return Fleet(
        seed=seed,
        zone=zone,
        mains=mains,
        reach=np.exp(rng.normal(0, 0.35, devices)),
        battery=battery,
        charging=charging,
        metered=metered,
        wifi_mbit_s=np.exp(rng.normal(math.log(30), 0.5, devices)),
        cell_mbit_s=np.exp(rng.normal(math.log(8), 0.7, devices)),
        room_mb=np.exp(rng.normal(math.log(200), 0.8, devices)),
        warm_c=rng.normal(0, 5, devices),
    )


def energy_j(size: float, mbit_s: float, metered: bool) -> float:
    """What receiving takes: LTE where it is metered, Wi-Fi elsewhere (Huang et al., MobiSys 2012).

    Waking up, receiving for as long as it takes, and the tail in which the radio stays up.
    """
    seconds = 8e-6 * size / mbit_s
    if metered:
        return 0.26 * 1.21 + seconds * (1.288 + 0.052 * mbit_s) + 11.6 * 1.06
    return 0.08 * 0.12 + seconds * (0.133 + 0.137 * mbit_s) + 0.24 * 0.12
