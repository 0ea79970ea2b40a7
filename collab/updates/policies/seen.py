"""What one node saw of one epoch of a plan: counts and windows of bounded size, no input and no label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Union

import msgspec
import numpy as np

from collab.updates.policies.condition import Day, ModelFeedback
from collab.updates.policies.drift import Reference, Stream
from collab.updates.policies.state import MAX_TALLIES, Compared, Latencies

FIRST: Final = 200
"""Samples whose mean is the baseline where the release brings none."""
_LEAST: Final = 50
"""A mean of fewer says nothing."""
_MEDIAN_OF: Final = 16
_FIRST_MEDIANS: Final = 4
_MEDIANS: Final = 16
_DAY_S: Final = 86_400


class Sample(NamedTuple):
    """What was taken of one request at one stage."""

    stage: int
    busy_us: int
    """In the stage, without its queue."""
    features: tuple[float, ...] = ()
    """In the order of the references; empty where the plan's inputs do not enter here."""
    confidence: float | None = None
    margin: float | None = None
    agreement: float | None = None


class Mean(msgspec.Struct):
    """A mean over two windows, the older of which is dropped, beside that of the first samples."""

    baseline: Union[float, None] = None
    first: tuple[float, int] = (0.0, 0)
    older: tuple[float, int] = (0.0, 0)
    newer: tuple[float, int] = (0.0, 0)

    def add(self, value: float, window: int) -> None:
        """Take one value in; the first ones make the baseline if there is none."""
        if self.baseline is None:
            self.first = _plus(self.first, value)
            if self.first[1] >= FIRST:
                self.baseline = self.first[0] / self.first[1]
        self.newer = _plus(self.newer, value)
        if self.newer[1] >= window:
            self.older, self.newer = self.newer, (0.0, 0)

    def compared(self) -> Compared | None:
        """None before there is a baseline, or enough to compare with it."""
        total, count = self.older[0] + self.newer[0], self.older[1] + self.newer[1]
        if self.baseline is None or count < _LEAST:
            return None
        return Compared(baseline=self.baseline, now=total / count)


class Times(msgspec.Struct):
    """Medians of a few requests each, beside the median of the first of them."""

    baseline_ms: Union[float, None] = None
    waiting_ms: list[float] = msgspec.field(default_factory=list)
    medians_ms: list[float] = msgspec.field(default_factory=list)

    def add(self, busy_us: int) -> None:
        """Take one request's time in."""
        self.waiting_ms.append(busy_us / 1000)
        if len(self.waiting_ms) < _MEDIAN_OF:
            return
        self.medians_ms = [*self.medians_ms, _median(self.waiting_ms)][-_MEDIANS:]
        self.waiting_ms = []
        if self.baseline_ms is None and len(self.medians_ms) >= _FIRST_MEDIANS:
            self.baseline_ms, self.medians_ms = _median(self.medians_ms), []

    def latencies(self) -> Latencies | None:
        """None before there is a baseline."""
        if not self.baseline_ms:
            return None
        return Latencies(baseline_ms=self.baseline_ms, recent_ms=tuple(self.medians_ms))

    @property
    def ratio(self) -> float:
        """How many times longer requests take than they did; 1 where that is not known."""
        if not self.baseline_ms or not self.medians_ms:
            return 1.0
        return _median(self.medians_ms) / self.baseline_ms


class Seen(msgspec.Struct):
    """Counts of one epoch of a plan on one node."""

    answers: int = 0
    failed: int = 0
    corrections: int = 0
    sampled: int = 0
    days: dict[int, tuple[int, int]] = msgspec.field(default_factory=dict)
    """Labelled and correct answers by day since 1970."""
    streams: dict[int, list[Stream]] = msgspec.field(default_factory=dict)
    """Features of the plan's inputs, by the stage at which they enter."""
    confidence: Mean = msgspec.field(default_factory=Mean)
    margin: Mean = msgspec.field(default_factory=Mean)
    agreement: Mean = msgspec.field(default_factory=Mean)
    times: dict[int, Times] = msgspec.field(default_factory=dict)
    """By stage."""

    def expect(self, stage: int, references: Sequence[Reference], window: int) -> None:
        """Count a stage's features against these; what was counted against others is forgotten."""
        known = self.streams.get(stage, [])
        if [(one.reference, one.window) for one in known] != [(one, window) for one in references]:
            self.streams[stage] = [Stream(reference, window) for reference in references]

    def promised(self, confidence: float | None, margin: float | None) -> None:
        """What the release says of its answers, in place of what the first ones were."""
        for mean, value in ((self.confidence, confidence), (self.margin, margin)):
            mean.baseline = value if value is not None else mean.baseline

    def add(self, samples: Sequence[Sample], window: int) -> None:
        """Take samples in, oldest first."""
        self.sampled += len(samples)
        for stage, streams in self.streams.items():
            rows = [sample.features for sample in samples if sample.stage == stage and sample.features]
            if rows:
                # All at once: what counting costs is for each call, not for each value.
                columns = zip(streams, zip(*rows, strict=True), strict=True)
                self.streams[stage] = [stream.seen(column) for stream, column in columns]
        for sample in samples:
            self.times.setdefault(sample.stage, Times()).add(sample.busy_us)
            for mean, value in (
                (self.confidence, sample.confidence),
                (self.margin, sample.margin),
                (self.agreement, sample.agreement),
            ):
                if value is not None:
                    mean.add(value, window)

    def label(self, correct: bool, now_s: float) -> None:
        """Somebody said whether an answer was right."""
        day = int(now_s // _DAY_S)
        labelled, right = self.days.get(day, (0, 0))
        self.days[day] = (labelled + 1, right + correct)
        for old in sorted(self.days)[:-MAX_TALLIES]:
            del self.days[old]

    def feedback(self, plan: str, epoch: int, release: Mapping[str, Any]) -> ModelFeedback:
        """What is reported of it; ``release`` are the fields that the plan knows."""
        inputs = tuple(stream.counts() for _, streams in sorted(self.streams.items()) for stream in streams)
        slowest = max(self.times.values(), key=lambda times: times.ratio, default=None)
        made = ModelFeedback(
            plan=plan,
            epoch=epoch,
            answers=self.answers,
            failed=self.failed,
            corrections=min(self.corrections, self.answers),
            days=tuple(
                Day(day=day, labelled=n, correct=right) for day, (n, right) in sorted(self.days.items())
            ),
            sampled=self.sampled,
            inputs=inputs,
            confidence=self.confidence.compared(),
            margin=self.margin.compared(),
            agreement=self.agreement.compared(),
            latency=None if slowest is None else slowest.latencies(),
        )
        return msgspec.structs.replace(made, **release)


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _plus(total: tuple[float, int], value: float) -> tuple[float, int]:
    return total[0] + value, total[1] + 1
