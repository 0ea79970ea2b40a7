"""What a device reports about itself, and nothing else that a policy may look at.

``None`` means that nobody measured it; a clause over it is then unknown, neither true nor false.
"""

from __future__ import annotations

import math
from typing import Any, Final, Union

import msgspec

from collab.core.decoding import prepare
from collab.core.plan import Frozen
from collab.errors import InputError

MAX_FEATURES: Final = 64
MAX_BINS: Final = 64
MAX_TALLIES: Final = 64
MAX_LATENCIES: Final = 256
MAX_STATE_BYTES: Final = 1 << 20


class FeatureCounts(Frozen, frozen=True, kw_only=True):
    """One input feature in the bins of the training split: how many values fell into each."""

    name: str
    reference: tuple[float, ...]
    """In the training split."""
    observed: tuple[float, ...]
    """On this device, since the model was activated or in the latest window."""


class Tally(Frozen, frozen=True, kw_only=True):
    """Answers of one period of which somebody said what was right."""

    labelled: int
    correct: int


class Labelled(Frozen, frozen=True, kw_only=True):
    """Labelled feedback on the running version."""

    baseline: float
    """Accuracy that the release's card promises."""
    tallies: tuple[Tally, ...] = ()
    """By period (a day, say), oldest first."""


class Compared(Frozen, frozen=True, kw_only=True):
    """A mean of the running version beside what it was when the version was new."""

    baseline: float
    now: float


class Latencies(Frozen, frozen=True, kw_only=True):
    """Times of requests; medians or any other quantile, but the same in both."""

    baseline_ms: float
    recent_ms: tuple[float, ...] = ()


class DeviceState(Frozen, frozen=True, kw_only=True):
    """One device at one moment.

    Attributes:
        time_s: seconds since 1970, UTC.
        device: its name; jitter is drawn from it.
        time_zone: IANA name, such as ``Europe/Berlin``.
        battery: charge from 0 to 1; None without a battery.
        idle: share of the processor that nobody uses, 0 to 1.
        rate_mbit_s: of the link to where releases come from.
        running: version that answers; 0 means none.
        previous: version that it could go back to.
        offered: newest version that it knows of.
        benefit: gain of accuracy over the running version that the offer's publisher states, 0 to 1.
        checked_s: when it last looked for a release, None: never.
        answers: requests answered by the running version; ``corrections`` are those a user changed.
    """

    time_s: float
    device: str = ""
    time_zone: str = "UTC"
    battery: Union[float, None] = None
    charging: Union[bool, None] = None
    metered: Union[bool, None] = None
    rate_mbit_s: Union[float, None] = None
    idle: Union[float, None] = None
    free_memory_bytes: Union[float, None] = None
    free_disk_bytes: Union[float, None] = None
    temperature_c: Union[float, None] = None
    running: int = 0
    previous: Union[int, None] = None
    offered: Union[int, None] = None
    offered_bytes: Union[int, None] = None
    benefit: Union[float, None] = None
    checked_s: Union[float, None] = None
    inputs: tuple[FeatureCounts, ...] = ()
    labelled: Union[Labelled, None] = None
    confidence: Union[Compared, None] = None
    agreement: Union[Compared, None] = None
    latency: Union[Latencies, None] = None
    answers: int = 0
    corrections: int = 0

    def check(self) -> DeviceState:
        """Return self, or raise `InputError` that names the field."""
        for field in ("battery", "idle"):
            share = getattr(self, field)
            if share is not None and not 0 <= share <= 1:
                raise InputError(f"{field}: {share:g} is not within 0 to 1")
        if not 0 <= self.time_s < 2**37:
            raise InputError(f"time_s: {self.time_s:g} is not in seconds since 1970")
        if not 0 <= self.corrections <= self.answers:
            raise InputError(f"corrections: {self.corrections} of {self.answers} answers")
        _most("inputs", len(self.inputs), MAX_FEATURES)
        for feature in self.inputs:
            _check_feature(feature)
        if self.labelled is not None:
            _check_labelled(self.labelled)
        if self.latency is not None:
            _most("latency.recent_ms", len(self.latency.recent_ms), MAX_LATENCIES)
            if not self.latency.baseline_ms > 0:
                raise InputError("latency.baseline_ms: give a time above 0")
        return self


def _most(field: str, found: int, most: int) -> None:
    if found > most:
        raise InputError(f"{field}: {found} are over {most}")


def _check_feature(feature: FeatureCounts) -> None:
    where = f"inputs: {feature.name[:40]!r}"
    _most(where, len(feature.reference), MAX_BINS)
    if len(feature.reference) != len(feature.observed) or len(feature.reference) < 2:
        raise InputError(f"{where}: give as many observed as reference counts, at least 2")
    if any(not 0 <= count < math.inf for count in (*feature.reference, *feature.observed)):
        raise InputError(f"{where}: counts are at least 0")


def _check_labelled(labelled: Labelled) -> None:
    _most("labelled.tallies", len(labelled.tallies), MAX_TALLIES)
    if not 0 < labelled.baseline <= 1:
        raise InputError(f"labelled.baseline: {labelled.baseline:g} is not within 0 to 1")
    if any(not 0 <= tally.correct <= tally.labelled for tally in labelled.tallies):
        raise InputError("labelled.tallies: correct is within 0 to labelled")


def state_of(tree: Any) -> DeviceState:
    """A state from parsed JSON; raises `InputError` that names the field."""
    try:
        return msgspec.convert(tree, DeviceState).check()
    except (msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"state: {error}") from error


prepare(DeviceState)
