"""What a node reports of its device and of the models it runs, and the state that policies decide on.

A node knows its battery and its inputs; which release is offered, who asks for it knows.  `state_of_plan`
puts both together, for a plan on one node or over several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Union

import msgspec

from collab.core.decoding import prepare
from collab.errors import InputError
from collab.updates.policies.state import (
    MAX_FEATURES,
    MAX_TALLIES,
    Compared,
    DeviceState,
    FeatureCounts,
    Labelled,
    Latencies,
    Tally,
)

MAX_LINKS: Final = 64
MAX_MODELS: Final = 16
MAX_CONDITION_BYTES: Final = 1 << 20


class Reported(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of what nodes tell: a newer one may tell more, and that is left out here."""


class LinkSpeed(Reported, frozen=True, kw_only=True):
    """A link as its own traffic measured it."""

    peer: str
    kind: str = ""
    """The transport, as plans name it."""
    rtt_ms: float = 0.0
    """Smallest lately; 0 where it was not measured."""
    rate_mbit_s: Union[float, None] = None
    """Best lately from this node to the peer, of large messages; None before there were any."""


class Day(Reported, frozen=True, kw_only=True):
    """Labelled answers of one day, counted from 1970-01-01, UTC."""

    day: int
    labelled: int
    correct: int


class ModelFeedback(Reported, frozen=True, kw_only=True):
    """What a node saw of one epoch of a plan, since it loaded it first.

    Attributes:
        family: of the release that runs; empty where the plan names none.
        release: its version, 0 where the plan names none.
        accuracy: that it was packaged with, None where it promises none.
        answers: given by this node as the plan's last stage; ``failed`` are errors of any of its stages.
        corrections: answers that a user changed.
        days: answers of which somebody said what was right, oldest first.
        sampled: requests that features, confidence and times were taken of, of all.
        inputs: features of the plan's inputs, where they enter on this node.
        confidence: mean probability of the best class; ``margin`` is its distance to the second.
        agreement: share of an ensemble's members that agree with its answer.
        latency: medians of a window of requests each, of the time in this node's stages without queues.
    """

    plan: str
    epoch: int
    model: str = ""
    family: str = ""
    release: int = 0
    accuracy: Union[float, None] = None
    answers: int = 0
    failed: int = 0
    corrections: int = 0
    days: tuple[Day, ...] = ()
    sampled: int = 0
    inputs: tuple[FeatureCounts, ...] = ()
    confidence: Union[Compared, None] = None
    margin: Union[Compared, None] = None
    agreement: Union[Compared, None] = None
    latency: Union[Latencies, None] = None


class Condition(Reported, frozen=True, kw_only=True):
    """One node at one moment; None is what nothing on the device tells.

    Attributes:
        time_s: seconds since 1970, UTC.
        time_zone: IANA name, such as ``Europe/Berlin``.
        uptime_s: since the device started.
        battery: charge from 0 to 1 of all batteries together.
        idle: share of the processors that nobody used since the last look, 0 to 1.
        free_disk_bytes: of the store's file system.
        links: to nodes.
        models: by plan, current epochs first.
    """

    time_s: float
    device: str = ""
    time_zone: str = "UTC"
    uptime_s: Union[float, None] = None
    battery: Union[float, None] = None
    charging: Union[bool, None] = None
    metered: Union[bool, None] = None
    idle: Union[float, None] = None
    free_memory_bytes: Union[float, None] = None
    free_disk_bytes: Union[float, None] = None
    temperature_c: Union[float, None] = None
    links: tuple[LinkSpeed, ...] = ()
    models: tuple[ModelFeedback, ...] = ()

    def model(self, plan: str) -> ModelFeedback | None:
        """The newest epoch of a plan that it reports."""
        found = [model for model in self.models if model.plan == plan]
        return max(found, key=lambda model: model.epoch, default=None)


class Known(Reported, frozen=True, kw_only=True):
    """What whoever decides knows beside what nodes report; see `DeviceState` for the fields.

    ``baseline`` is the accuracy that the running release promises; None takes what nodes know of it.
    """

    device: str = ""
    running: int = 0
    previous: Union[int, None] = None
    offered: Union[int, None] = None
    offered_bytes: Union[int, None] = None
    benefit: Union[float, None] = None
    checked_s: Union[float, None] = None
    rate_mbit_s: Union[float, None] = None
    baseline: Union[float, None] = None


def encode_condition(condition: Condition) -> bytes:
    """As JSON."""
    return msgspec.json.encode(condition)


def decode_condition(data: bytes, node: str) -> Condition:
    """What a node sent; raises `InputError` that names the node."""
    if len(data) > MAX_CONDITION_BYTES:
        raise InputError(f"node {node!r}: its condition has {len(data)} bytes, over {MAX_CONDITION_BYTES}")
    try:
        condition = msgspec.json.decode(data, type=Condition)
        _check(condition)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InputError) as error:
        raise InputError(f"node {node!r}: its condition cannot be used: {error}") from error
    return condition


def _check(condition: Condition) -> None:
    for field, found, most in (
        ("links", len(condition.links), MAX_LINKS),
        ("models", len(condition.models), MAX_MODELS),
    ):
        if found > most:
            raise InputError(f"{field}: {found} are over {most}")
    # A state has the same fields, and knows what they may be.
    DeviceState(time_s=condition.time_s, battery=condition.battery, idle=condition.idle).check()
    for model in condition.models:
        tallies = tuple(Tally(labelled=day.labelled, correct=day.correct) for day in model.days)
        labelled = Labelled(baseline=1.0, tallies=tallies)
        DeviceState(
            time_s=0,
            inputs=model.inputs,
            latency=model.latency,
            labelled=labelled,
            answers=model.answers,
            corrections=model.corrections,
        ).check()


def state_of_plan(conditions: Sequence[Condition], plan: str, known: Known) -> DeviceState:
    """One state for a plan over one node or several: of each thing the node that is worst off.

    Times are those of the first node.  Raises `InputError` where a node reports what cannot be.
    """
    if not conditions:
        raise InputError(f"plan {plan!r}: no node reports its condition")
    first = conditions[0]
    models = [model for one in conditions if (model := one.model(plan)) is not None]
    newest = max((model.epoch for model in models), default=0)
    models = [model for model in models if model.epoch == newest]
    days = _days(models)
    labelled = None
    promised = [model.accuracy for model in models if model.accuracy]
    baseline = known.baseline if known.baseline is not None else min(promised, default=None)
    if days and baseline is not None:
        tallies = tuple(Tally(labelled=day.labelled, correct=day.correct) for day in days)
        labelled = Labelled(baseline=baseline, tallies=tallies)
    answers = sum(model.answers for model in models)
    return DeviceState(
        time_s=first.time_s,
        device=known.device or first.device,
        time_zone=first.time_zone,
        battery=_least(one.battery for one in conditions),
        charging=_every(one.charging for one in conditions),
        metered=_some(one.metered for one in conditions),
        rate_mbit_s=known.rate_mbit_s,
        idle=_least(one.idle for one in conditions),
        free_memory_bytes=_least(one.free_memory_bytes for one in conditions),
        free_disk_bytes=_least(one.free_disk_bytes for one in conditions),
        temperature_c=_most(one.temperature_c for one in conditions),
        running=known.running,
        previous=known.previous,
        offered=known.offered,
        offered_bytes=known.offered_bytes,
        benefit=known.benefit,
        checked_s=known.checked_s,
        inputs=_features(models),
        labelled=labelled,
        confidence=_fallen(model.confidence for model in models),
        agreement=_fallen(model.agreement for model in models),
        latency=_slowest(models),
        answers=answers,
        corrections=sum(model.corrections for model in models),
    ).check()


def _days(models: Iterable[ModelFeedback]) -> list[Day]:
    """Labels by day, summed over nodes; the latest that a state may hold."""
    total: dict[int, tuple[int, int]] = {}
    for model in models:
        for day in model.days:
            labelled, correct = total.get(day.day, (0, 0))
            total[day.day] = (labelled + day.labelled, correct + day.correct)
    rows = [Day(day=day, labelled=n, correct=right) for day, (n, right) in sorted(total.items())]
    return rows[-MAX_TALLIES:]


def _features(models: Iterable[ModelFeedback]) -> tuple[FeatureCounts, ...]:
    """By name; replicas of an entry stage saw different requests, so their counts add up."""
    found: dict[str, FeatureCounts] = {}
    for model in models:
        for feature in model.inputs:
            other = found.get(feature.name)
            if other is None:
                found[feature.name] = feature
            elif other.reference == feature.reference:
                pairs = zip(other.observed, feature.observed, strict=True)
                observed = tuple(a + b for a, b in pairs)
                found[feature.name] = msgspec.structs.replace(other, observed=observed)
    return tuple(found.values())[:MAX_FEATURES]


def _fallen(pairs: Iterable[Compared | None]) -> Compared | None:
    """The pair that fell most."""
    return max((p for p in pairs if p is not None), key=lambda p: p.baseline - p.now, default=None)


def _slowest(models: Iterable[ModelFeedback]) -> Latencies | None:
    """Of the node whose stages became slowest compared with what they were."""
    found = [m.latency for m in models if m.latency is not None and m.latency.recent_ms]
    return max(found, key=lambda x: sorted(x.recent_ms)[len(x.recent_ms) // 2] / x.baseline_ms, default=None)


def _told(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _least(values: Iterable[float | None]) -> float | None:
    return min(_told(values), default=None)


def _most(values: Iterable[float | None]) -> float | None:
    return max(_told(values), default=None)


def _every(values: Iterable[bool | None]) -> bool | None:
    """All that tell; None where none does."""
    return _of(all, values)


def _some(values: Iterable[bool | None]) -> bool | None:
    return _of(any, values)


def _of(judge: Callable[[list[bool]], bool], values: Iterable[bool | None]) -> bool | None:
    told = [value for value in values if value is not None]
    return judge(told) if told else None


prepare(Condition)
