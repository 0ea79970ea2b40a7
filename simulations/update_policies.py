"""A year of 1,000 devices under three update policies, each the file of its name in ``simulations/policies``.

Every decision is made by `collab.updates.policies.decide.decide` on a state as a node reports it.  What is
drawn at random is the same for each policy, so that they differ in nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from collab.cli.plots import Series, lines_svg
from collab.updates.policies.clauses import Policy
from collab.updates.policies.decide import decide
from collab.updates.policies.memory import Memory
from collab.updates.policies.state import Compared, DeviceState, FeatureCounts, Labelled, Tally
from collab.updates.policy_file import read_policy
from simulations.experiment import HERE, Study, StudyResult, markdown
from simulations.fleet_year import (
    ACCURACY,
    BAD,
    BEGIN_S,
    DAYS,
    GAIN,
    HOURS,
    ZONES,
    Fleet,
    World,
    energy_j,
    fleet,
    loss,
    newest,
    world,
)

POLICIES: Final = ("periodic", "conditional", "feedback")
NEVER: Final = "never"
DEVICES, QUICK_DEVICES, SEED = 1_000, 60, 7
CHECK_BYTES: Final = 20_000
"""Timestamp, snapshot and targets of a repository."""
MODEL_BYTES: Final = 3_400_000
DELTA: Final = 0.15
"""Of the model, for one version behind; the whole at seven."""
ACTIVATION_J: Final = 5.0
"""Loading, and golden inputs; an assumption."""
LOOK_H: Final = {"periodic": 0, "conditional": 48, "feedback": 96}
"""How often a device looks at its state while more than time can change a decision; 0: never."""
_BLOCK: Final = 125
"""Devices that a process takes at a time."""
_BINS: Final = 10
_VALUES_A_DAY, _LABELS_A_DAY, _ANSWERS_A_DAY = 150, 5.0, 40
_MOST_TALLIES: Final = 32
_GRID: Final = 0.05


def download_bytes(behind: int) -> int:
    """Of a release, by how many versions a device is behind: a delta while one pays."""
    return round(MODEL_BYTES * min(1.0, DELTA * behind))


def _shares() -> NDArray[np.float64]:
    """Shares of values of N(off, 1) in the decile bins of N(0, 1), for offsets from -4 to 4."""
    values = np.sort(np.random.default_rng(0).normal(size=20_000))
    edges = np.quantile(values, np.arange(1, _BINS) / _BINS)
    rows = []
    for off in np.arange(-4, 4 + _GRID, _GRID):
        below = np.searchsorted(values + off, edges) / len(values)
        rows.append(np.diff(below, prepend=0.0, append=1.0))
    return np.array(rows)


_SHARES: Final = _shares()
_REFERENCE: Final = (500.0,) * _BINS


@dataclass
class _Device:
    """One device on its way through the year."""

    number: int
    rng: np.random.Generator
    running: int = 1
    previous: int | None = None
    offered: int | None = None
    barred: int = 0
    """Newest version that it went back from."""
    checked_s: float | None = None
    seen_hour: int = 0
    tallies: list[Tally] = field(default_factory=list)
    memory: Memory = Memory()


@dataclass
class Tale:
    """What a policy came to."""

    name: str
    versions: NDArray[np.int64]
    """[DAYS, devices]"""
    daily_bytes: NDArray[np.float64]
    """[DAYS]"""
    done: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("check", "install", "rollback", "round"), 0)
    )
    bad: int = 0
    metered_bytes: float = 0.0
    energy_j: float = 0.0
    battery_j: float = 0.0
    decisions: int = 0

    def and_of(self, others: Tale) -> Tale:
        """The tale of these devices and others, who come after them."""
        return Tale(
            self.name,
            np.concatenate([self.versions, others.versions], axis=1),
            self.daily_bytes + others.daily_bytes,
            {action: times + others.done[action] for action, times in self.done.items()},
            self.bad + others.bad,
            self.metered_bytes + others.metered_bytes,
            self.energy_j + others.energy_j,
            self.battery_j + others.battery_j,
            self.decisions + others.decisions,
        )


def told(policy: Policy, there: World, devices: Fleet, numbers: range) -> Tale:
    """The year of some devices of a fleet under one policy."""
    tale = Tale(policy.name, np.ones((DAYS, len(numbers)), np.int64), np.zeros(DAYS))
    for column, number in enumerate(numbers):
        device = _Device(number, np.random.default_rng([devices.seed, 2, number]))
        # Their last look was some time in the week before.
        device.checked_s = BEGIN_S - 3600.0 * float(device.rng.uniform(0, 168))
        for hour in _year(device, policy, there, devices, tale):
            tale.versions[min(hour // 24, DAYS - 1) :, column] = device.running
    return tale


def _year(device: _Device, policy: Policy, there: World, devices: Fleet, tale: Tale) -> Iterator[int]:
    """Looks until the year is over; the hour of every change of the running version."""
    look_h = LOOK_H[policy.name]
    now_h = float(device.rng.uniform(0, 24))
    while now_h < HOURS:
        hour = int(now_h)
        state = _state(device, now_h, there, devices, policy.name == "feedback")
        decision = decide(policy, state, device.memory)
        device.memory = decision.memory
        tale.decisions += 1
        if decision.action != "wait":
            before = device.running
            _done(decision.action, device, state, devices, tale, hour)
            if device.running != before:
                yield hour
            if decision.action in ("check", "rollback"):
                # Another rule may hold by what is known now.
                continue
        again_h = HOURS if decision.again_s is None else (decision.again_s - BEGIN_S) / 3600
        pending = device.offered is not None and device.offered > device.running
        if policy.name == "feedback" or (look_h and (pending or decision.again_s is None)):
            again_h = min(again_h, now_h + look_h)
        # A due time that rounding leaves a moment ahead must not stop the clock.
        now_h = max(again_h, now_h + 1e-3)


def _done(action: str, device: _Device, state: DeviceState, devices: Fleet, tale: Tale, hour: int) -> None:
    """What an action changes, and costs."""
    tale.done[action] += 1
    size = 0.0
    joules = 0.0
    if action in ("check", "round"):
        device.checked_s = state.time_s
        found = newest(hour)
        device.offered = found if found > device.barred else None
        size = CHECK_BYTES
    elif action == "install" and device.offered is not None:
        size = download_bytes(device.offered - device.running)
        device.previous, device.running = device.running, device.offered
        tale.bad += device.running in BAD
    elif action == "rollback" and device.previous is not None:
        device.barred = device.running
        device.running, device.previous, device.offered = device.previous, None, None
    if action in ("install", "rollback"):
        device.tallies = []
        device.seen_hour = hour
        joules = ACTIVATION_J
    if size:
        joules += energy_j(size, state.rate_mbit_s or 1.0, bool(state.metered))
    tale.daily_bytes[min(hour // 24, DAYS - 1)] += size
    tale.metered_bytes += size if state.metered else 0
    tale.energy_j += joules
    tale.battery_j += 0 if state.charging else joules


def _state(device: _Device, now_h: float, there: World, devices: Fleet, feedback: bool) -> DeviceState:
    """What the device reports."""
    n, hour = device.number, int(now_h)
    local = devices.local_hour(n, hour)
    idle = 0.9 if local < 7 or local >= 23 else 0.35 + 0.3 * ((n * 7 + hour) % 5) / 4
    metered, charging = bool(devices.metered[hour, n]), bool(devices.charging[hour, n])
    offered = device.offered
    pending = offered is not None and offered > device.running
    return DeviceState(
        time_s=BEGIN_S + 3600 * now_h,
        device=f"device-{n}",
        time_zone=ZONES[devices.zone[n]][0],
        battery=None if devices.mains[n] else float(devices.battery[hour, n]),
        charging=charging,
        metered=metered,
        rate_mbit_s=float((devices.cell_mbit_s if metered else devices.wifi_mbit_s)[n]),
        idle=idle,
        free_memory_bytes=1e6 * float(devices.room_mb[n]),
        free_disk_bytes=1e6 * float(devices.room_mb[n]),
        temperature_c=35 + 25 * (1 - idle) + 4 * charging + float(devices.warm_c[n]),
        running=device.running,
        previous=device.previous,
        offered=offered,
        offered_bytes=download_bytes(offered - device.running) if offered and pending else None,
        benefit=_benefit(there, device.running, offered, hour) if offered and pending else None,
        checked_s=device.checked_s,
        **(_feedback(device, hour, there, devices) if feedback else {}),
    )


def _benefit(there: World, running: int, offered: int, hour: int) -> float:
    """What a publisher can know: both on today's inputs, and nothing of a training that went wrong."""
    off = there.moved[hour] - there.trained[[running, offered]]
    was, will = GAIN * np.array([running, offered]) - loss(off)
    return float(will - was)


def _feedback(device: _Device, hour: int, there: World, devices: Fleet) -> dict[str, Any]:
    """What it saw since its last look."""
    rng, reach = device.rng, float(devices.reach[device.number])
    days = max(0.0, (hour - device.seen_hour) / 24)
    off = reach * float(there.moved[hour] - there.trained[device.running])
    # Inputs of the last days, at most of a fortnight, and never none.
    values = int(_VALUES_A_DAY * min(max(days, 0.4), 14))
    row = round((min(max(off, -4.0), 4.0) + 4) / _GRID)
    right = float(there.quality[device.running]) - float(loss(np.float64(off)))
    if days >= 1:
        labelled = int(rng.poisson(_LABELS_A_DAY * days))
        device.tallies = device.tallies[1 - _MOST_TALLIES :]
        device.tallies.append(Tally(labelled=labelled, correct=int(rng.binomial(labelled, right))))
        device.seen_hour = hour
    answers = int(_ANSWERS_A_DAY * max(days, 1))
    promised = ACCURACY + GAIN * device.running
    return {
        "inputs": (
            FeatureCounts(
                name="brightness",
                reference=_REFERENCE,
                observed=tuple(rng.multinomial(values, _SHARES[row]).astype(float).tolist()),
            ),
        ),
        "labelled": Labelled(baseline=promised, tallies=tuple(device.tallies)),
        "confidence": Compared(baseline=0.9, now=0.9 - 0.5 * (promised - right) + float(rng.normal(0, 0.01))),
        "answers": answers,
        "corrections": int(rng.binomial(answers, 0.4 * (1 - right))),
    }


# --- what comes of it ----------------------------------------------------------------


def study(quick: bool) -> StudyResult:
    """All policies over one fleet."""
    count = QUICK_DEVICES if quick else DEVICES
    if quick:
        tales = [_one(name, count, range(count)) for name in POLICIES]
    else:
        blocks = [range(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK)]
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            # Those that take longest begin first.
            made = {
                name: [pool.submit(_one, name, count, block) for block in blocks]
                for name in ("conditional", "feedback", "periodic")
            }
            tales = [reduce(Tale.and_of, (part.result() for part in made[name])) for name in POLICIES]
    there, devices = _drawn(count)
    never = Tale(NEVER, np.ones_like(tales[0].versions), np.zeros(DAYS))
    return result([*tales, never], there, devices)


def _one(name: str, count: int, numbers: range) -> Tale:
    there, devices = _drawn(count)
    return told(read_policy(HERE / "policies" / f"{name}.yaml"), there, devices, numbers)


@functools.lru_cache(maxsize=1)
def _drawn(count: int) -> tuple[World, Fleet]:
    """Once for each process."""
    return world(SEED), fleet(SEED, count)


def accuracies(tale: Tale, there: World, devices: Fleet) -> NDArray[np.float64]:
    """[DAYS, devices], at noon UTC."""
    hours = np.broadcast_to((24 * np.arange(DAYS) + 12)[:, None], tale.versions.shape)
    return there.accuracy(tale.versions, hours, devices.reach)


def stale_days(tale: Tale) -> NDArray[np.float64]:
    """[DAYS, devices]: for how long there has been a newer release than the one that runs."""
    noon = 24 * np.arange(DAYS)[:, None] + 12
    return np.maximum(0.0, (noon - published_hour_of(tale.versions + 1)) / 24)


def published_hour_of(versions: NDArray[np.int64]) -> NDArray[np.int64]:
    """As `published_hour`, of many."""
    return 7 * 24 * (versions - 1)


def rows(tales: Sequence[Tale], there: World, devices: Fleet) -> list[dict[str, Any]]:
    """A row for each policy; figures are for one device and the year unless their name says otherwise."""
    count = len(devices.mains)
    found = []
    for tale in tales:
        right = accuracies(tale, there, devices)
        late = stale_days(tale)
        found.append(
            {
                "policy": tale.name,
                "looks_for_release": tale.done["check"] / count,
                "updates": tale.done["install"] / count,
                "rollbacks": tale.done["rollback"] / count,
                "rounds_asked": tale.done["round"] / count,
                "mb": float(tale.daily_bytes.sum()) / count / 1e6,
                "metered_mb": tale.metered_bytes / count / 1e6,
                "energy_j": tale.energy_j / count,
                "battery_j": tale.battery_j / count,
                "stale_days": float(late.mean()),
                "stale_days_p95": float(np.quantile(late, 0.95)),
                "accuracy": float(right.mean()),
                "accuracy_p5": float(np.quantile(right, 0.05)),
                "days_below_085": float((right < 0.85).sum()) / count,
                "days_on_bad": float(np.isin(tale.versions, BAD).sum()) / count,
                "bad_taken": tale.bad / count,
                "decisions": tale.decisions / count,
            }
        )
    return found


def result(tales: Sequence[Tale], there: World, devices: Fleet) -> StudyResult:
    """Rows, a table, and two plots."""
    found = rows(tales, there, devices)
    weeks = range(0, DAYS - 6, 7)

    def by_week(values: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
        return tuple((float(day), float(values[day : day + 7].mean())) for day in weeks)

    accuracy = [
        Series(tale.name, by_week(100 * accuracies(tale, there, devices).mean(axis=1))) for tale in tales
    ]
    count = len(devices.mains)
    used = [
        Series(
            tale.name,
            tuple((float(day), float(tale.daily_bytes[: day + 7].sum()) / count / 1e6) for day in weeks),
        )
        for tale in tales
        if tale.name != NEVER
    ]
    plots = {
        "accuracy": lines_svg(
            accuracy, "day of the year", "mean accuracy (%)", "Accuracy of the fleet, by week"
        ),
        "bytes": lines_svg(used, "day of the year", "MB a device", "Bytes since the year began"),
    }
    names = list(found[0])
    table = markdown(names, [[row[name] for name in names] for row in found])
    return StudyResult(found, table, plots)


STUDY: Final = Study(
    "update_policies",
    "What do devices pay, and gain, when they update by the clock, when it is cheap, or when it is needed?",
    study,
)
