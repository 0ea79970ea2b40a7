"""When what is measured has moved so far from what a plan was made for that planning anew is worth it.

Pure: samples and the time are passed in.  The rules against switching back and forth
are those of a Schmitt trigger (it begins at a threshold and ends at a part of it), a
time that it has to last, a margin by which a new plan must be better, and a pause
after each switch that doubles while switches follow one another closely (as the
route flap damping of RFC 2439 makes unstable routes wait).
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from collab.core.ids import NodeName
from collab.core.profile import DeviceProfile, Profile

LinkKey = tuple[NodeName, NodeName, str]
"""Source, target and transport."""

State = Literal["calm", "watching", "replan"]

_KNOWN_AT_LEAST: Final = 1e-6
"""Of a baseline, so that shares of it are finite."""


@dataclass(frozen=True)
class DriftRules:
    """How far, how long and how often."""

    threshold: float = 0.2
    """Share by which a time must differ from what the running plan rests on."""
    release: float = 0.5
    """Part of the threshold below which a drift is over."""
    window: int = 3
    """Samples of which the median counts."""
    hold_s: float = 1.0
    """How long a drift must last."""
    margin: float = 0.1
    """Share by which a new plan must be predicted better than the running one."""
    cooldown_s: float = 30.0
    """Pause after a switch; doubled for each that follows within twice the last pause."""
    longest_cooldown_s: float = 600.0
    floor_ms: float = 0.5
    """Smaller differences do not count, whatever their share."""


@dataclass(frozen=True)
class LinkFigures:
    """What a link was measured to do."""

    latency_ms: float
    mbit_s: float


@dataclass(frozen=True)
class Verdict:
    """What to do now, and because of what."""

    state: State
    reason: str = ""


class _Watched:
    """Samples of one device or link, as times that can be compared."""

    def __init__(self, name: str, baseline: tuple[float, ...], window: int) -> None:
        self.name = name
        self.baseline = baseline
        self.samples: deque[tuple[float, ...]] = deque(maxlen=window)
        self.unit_ms = 0.0
        """Of a device: what its share is of."""
        self.since_s: float | None = None

    @property
    def full(self) -> bool:
        return len(self.samples) == self.samples.maxlen

    @property
    def median(self) -> tuple[float, ...]:
        return tuple(map(statistics.median, zip(*self.samples, strict=True)))


class Drift:
    """Compares samples with a profile, or with what the last decision knew.

    ``bytes_moved`` is what links are judged by: the time that moving so many takes.
    """

    def __init__(self, profile: Profile, bytes_moved: int, rules: DriftRules = DriftRules()) -> None:
        self.rules = rules
        self._bytes = bytes_moved
        self._devices = {d.name: _Watched(f"node {d.name}", (1.0,), rules.window) for d in profile.devices}
        self._links = {
            (e.source, e.target, e.transport): _Watched(
                f"link {e.source} → {e.target} ({e.transport})", (e.latency_ms, e.mbit_s), rules.window
            )
            for e in profile.links
        }
        self._quiet_until_s = float("-inf")
        self._cooldown_s = rules.cooldown_s
        self._switched_s = float("-inf")

    # --- samples -------------------------------------------------------------------

    def device(self, name: NodeName, factor: float, predicted_ms: float) -> None:
        """A stage that should take ``predicted_ms`` by the profile took ``factor`` times that."""
        watched = self._devices.get(name)
        if watched is not None:
            watched.samples.append((factor,))
            watched.unit_ms = predicted_ms

    def link(self, key: LinkKey, figures: LinkFigures) -> None:
        """A link was measured; one that the profile does not list is left out."""
        watched = self._links.get(key)
        if watched is not None:
            watched.samples.append((figures.latency_ms, figures.mbit_s))

    def figures(self, key: LinkKey) -> LinkFigures | None:
        """A link as it is known now: the median of the last samples, else what the profile says."""
        watched = self._links.get(key)
        if watched is None:
            return None
        return LinkFigures(*(watched.median if watched.samples else watched.baseline))

    def factors(self) -> Mapping[NodeName, float]:
        """Measured by predicted time of each device, as far as the difference counts at all.

        A small stage says little of the device that runs it: it is not scaled up.
        """
        return {name: self._known(watched)[0] for name, watched in self._devices.items()}

    def links(self) -> Mapping[LinkKey, LinkFigures]:
        """Links that were measured."""
        return {key: LinkFigures(*w.median) for key, w in self._links.items() if w.samples}

    def forget(self) -> None:
        """Drop the samples of devices: another plan runs, and its stages are others."""
        for watched in self._devices.values():
            watched.baseline = self._known(watched)
            watched.samples.clear()
            watched.since_s = None

    # --- deciding ------------------------------------------------------------------

    def look(self, now_s: float) -> Verdict:
        """``calm``, ``watching`` while something has moved but not for long enough, or ``replan``."""
        reasons: list[tuple[float, str]] = []
        lasting = False
        for watched in (*self._devices.values(), *self._links.values()):
            if not watched.full:
                continue
            share = self._moved(watched)
            if watched.since_s is None and share >= self.rules.threshold:
                watched.since_s = now_s
            elif share < self.rules.threshold * self.rules.release:
                watched.since_s = None
            if watched.since_s is not None:
                reasons.append((share, self._say(watched)))
                lasting = lasting or now_s - watched.since_s >= self.rules.hold_s
        if not reasons:
            return Verdict("calm")
        reason = "; ".join(text for _, text in sorted(reasons, reverse=True)[:3])
        due = lasting and now_s >= self._quiet_until_s
        return Verdict("replan" if due else "watching", reason)

    def is_better(self, running: float, best: float) -> bool:
        """Whether a plan is enough better than the running one to switch to."""
        return best <= running * (1 - self.rules.margin) if running < float("inf") else best < running

    def decided(self, now_s: float, switched: bool) -> None:
        """What is measured now was taken into account; from here on it counts as known."""
        for watched in (*self._devices.values(), *self._links.values()):
            watched.since_s = None
            if watched.full:
                watched.baseline = self._known(watched)
        if not switched:
            self._quiet_until_s = max(self._quiet_until_s, now_s + self.rules.hold_s)
            return
        close = now_s - self._switched_s < 2 * self._cooldown_s
        self._cooldown_s = (
            min(2 * self._cooldown_s, self.rules.longest_cooldown_s) if close else self.rules.cooldown_s
        )
        self._switched_s, self._quiet_until_s = now_s, now_s + self._cooldown_s

    def _known(self, watched: _Watched) -> tuple[float, ...]:
        """What to go by from now on."""
        if not watched.samples:
            return watched.baseline
        before, now = self._times(watched)
        small = len(watched.baseline) == 1 and abs(now - before) < self.rules.floor_ms
        return watched.baseline if small else watched.median

    def _times(self, watched: _Watched) -> tuple[float, float]:
        """Time in ms as it is known and as it is measured."""
        if len(watched.baseline) == 1:
            return watched.baseline[0] * watched.unit_ms, watched.median[0] * watched.unit_ms
        (before, rate), (now, measured) = watched.baseline, watched.median
        bits = 8 * self._bytes / 1000
        return before + bits / rate, now + bits / measured

    def _moved(self, watched: _Watched) -> float:
        before, now = self._times(watched)
        if abs(now - before) < self.rules.floor_ms:
            return 0.0
        low, high = sorted((before, now))
        return high / max(low, _KNOWN_AT_LEAST) - 1

    def _say(self, watched: _Watched) -> str:
        before, now = self._times(watched)
        what = "its stages take" if len(watched.baseline) == 1 else f"{self._bytes / 1000:.1f} kB take"
        return f"{watched.name}: {what} {now:.2f} ms, {before:.2f} ms were known"


def corrected(
    profile: Profile, factors: Mapping[NodeName, float], links: Mapping[LinkKey, LinkFigures]
) -> Profile:
    """The profile as measurements say it is now: devices so much slower, links with their new figures."""
    replace = msgspec.structs.replace
    return replace(
        profile,
        devices=tuple(_slower(device, factors.get(device.name, 1.0)) for device in profile.devices),
        links=tuple(
            replace(entry, latency_ms=found.latency_ms, mbit_s=found.mbit_s)
            if (found := links.get((entry.source, entry.target, entry.transport))) is not None
            else entry
            for entry in profile.links
        ),
    )


def _slower(device: DeviceProfile, factor: float) -> DeviceProfile:
    if factor == 1:
        return device
    replace = msgspec.structs.replace
    return replace(
        device,
        op_ms=tuple(ms * factor for ms in device.op_ms),
        stage_ms=device.stage_ms * factor,
        more_threads=tuple(
            replace(more, op_ms=tuple(ms * factor for ms in more.op_ms), stage_ms=more.stage_ms * factor)
            for more in device.more_threads
        ),
        codecs=tuple(
            replace(speed, encode_mb_s=speed.encode_mb_s / factor, decode_mb_s=speed.decode_mb_s / factor)
            for speed in device.codecs
        ),
    )
