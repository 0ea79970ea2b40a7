"""From a profile to link models."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

from collab.emulation.base import SEPARATOR, stream
from collab.emulation.models.cell import FairMember
from collab.emulation.models.chance import Chance, Corruption, Independent, bursts
from collab.emulation.models.delay import (
    ConstantDelay,
    CorrelatedJitter,
    Delay,
    Jitter,
    Shape,
    constant,
    normal,
    pareto,
    quantiles,
)
from collab.emulation.models.direction import Direction, Parts
from collab.emulation.models.outages import Gate, renewal, united
from collab.emulation.models.queue import Backlog, CoDel
from collab.emulation.models.radio import Radio
from collab.emulation.models.rate import ConstantRate, OpportunityRate, Rate, TokenBucket, TracedRate
from collab.emulation.models.server import Line, Server
from collab.emulation.profile import DirectionProfile, LinkProfile
from collab.emulation.traces import Opportunities, Trace
from collab.errors import ConfigError

_NO_TRACES: Mapping[str, Trace] = {}


class Link(NamedTuple):
    """Both directions; they share a radio, and their outages are at the same times."""

    up: Direction
    down: Direction
    changes: int = 0
    """How many links it has replaced, one after another."""


def build_link(
    profile: LinkProfile,
    seed: int,
    name: str = "",
    *,
    traces: Mapping[str, Trace] = _NO_TRACES,
    up: Server | FairMember | None = None,
    down: Server | FairMember | None = None,
    before: Link | None = None,
) -> Link:
    """Models of a checked profile; their time counts from the start of the run.

    Args:
        profile: what the link is like.
        seed: of the run.
        name: of the link; links of one name and seed have the same fates.
        traces: what the files that the profile names hold.
        up: access to a cell's rate, in place of the profile's rate.
        down: the same.
        before: the link that this one replaces while packets are under way; what waits and
            what was promised there stays true, and outages come when they would have.

    Raises:
        ConfigError: a trace that the profile names was not given.
    """
    changes = before.changes + 1 if before else 0
    drawing = f"{name}{SEPARATOR}{changes}" if changes else name
    radio = None
    if profile.idle_after_ms is not None:
        old = before.up.parts.radio if before else None
        active = old.active_us if old else -inf
        radio = Radio(profile.promotion_ms * 1e3, profile.idle_after_ms * 1e3, active)

    def direction(
        where: str, part: DirectionProfile, server: Server | FairMember | None, old: Direction | None
    ) -> Direction:
        free = old.parts.server.free_us if old and not isinstance(old.parts.server, FairMember) else 0.0
        parts = Parts(
            server=server or Line(build_rate(part, traces, where), free),
            delay=_delay(part, seed, drawing, where),
            overhead_bytes=part.overhead_bytes,
            queue=_queue(part, old),
            codel=CoDel(part.codel_target_ms * 1e3, part.codel_interval_ms * 1e3)
            if part.queue == "codel"
            else None,
            radio=radio,
            gate=_gate(profile, seed, name),
            loss=_loss(part, seed, drawing, where),
            corrupt=Corruption(stream(seed, drawing, where, "corrupt"), part.corrupt)
            if part.corrupt
            else None,
            reorder=_chance(part.reorder, seed, drawing, where, "reorder"),
            reorder_us=part.reorder_ms * 1e3,
            duplicate=_chance(part.duplicate, seed, drawing, where, "duplicate"),
        )
        return Direction(parts, old.arrived_us if old else -inf)

    return Link(
        direction("up", profile.up, up, before.up if before else None),
        direction("down", profile.down, down, before.down if before else None),
        changes,
    )


def build_rate(
    profile: DirectionProfile, traces: Mapping[str, Trace] = _NO_TRACES, where: str = "up"
) -> Rate:
    """The rate of a direction; raises `ConfigError` if its trace was not given."""
    if profile.trace is not None:
        trace = traces.get(profile.trace)
        if trace is None:
            raise ConfigError(f"{where}.trace: {profile.trace!r} was not read; name a file that is there")
        offset = profile.trace_offset_s * 1e6
        if isinstance(trace, Opportunities):
            return OpportunityRate(trace.ms, offset_us=offset)
        times = [at * 1e6 for at in trace.seconds]
        return TracedRate(times, trace.mbit_s, interpolate=profile.trace_interpolate, offset_us=offset)
    if profile.rate_mbit_s is None:
        return ConstantRate(inf)
    if profile.peak_mbit_s is not None:
        return TokenBucket(profile.rate_mbit_s, profile.burst_bytes * 8, profile.peak_mbit_s)
    return ConstantRate(profile.rate_mbit_s)


def shape_of(profile: DirectionProfile) -> Shape:
    """The distribution of the delay, from ranks to µs."""
    delay, jitter = profile.delay_ms * 1e3, profile.jitter_ms * 1e3
    if profile.jitter == "normal":
        return normal(delay, jitter)
    if profile.jitter == "pareto":
        return pareto(delay, jitter, profile.jitter_tail)
    if profile.jitter == "quantiles":
        return quantiles([(share, ms * 1e3) for share, ms in profile.jitter_quantiles_ms], delay)
    return constant(delay)


def _delay(profile: DirectionProfile, seed: int, name: str, where: str) -> Delay:
    if profile.jitter == "none":
        return ConstantDelay(profile.delay_ms * 1e3)
    rng = stream(seed, name, where, "delay")
    if profile.jitter_correlation_ms:
        return CorrelatedJitter(rng, shape_of(profile), profile.jitter_correlation_ms * 1e3)
    return Jitter(rng, shape_of(profile))


def _queue(profile: DirectionProfile, old: Direction | None) -> Backlog | None:
    if profile.queue == "tail" and profile.queue_packets is None and profile.queue_bytes is None:
        return None
    queue = Backlog(profile.queue_packets or inf, profile.queue_bytes or inf)
    if old and old.parts.queue:
        queue.follow(old.parts.queue)
    return queue


def _gate(profile: LinkProfile, seed: int, name: str) -> Gate | None:
    """Drawn from the link's source, so that both directions have the same outages."""
    if profile.outage_every_s is None and not profile.outages:
        return None
    scheduled = sorted((out.at_s * 1e6, out.at_s * 1e6 + out.ms * 1e3) for out in profile.outages)
    if profile.outage_every_s is None:
        return Gate(united(scheduled), holds=profile.outage_holds)
    random = renewal(stream(seed, name, "outages"), profile.outage_every_s * 1e6, profile.outage_ms * 1e3)
    return Gate(united(scheduled, random), holds=profile.outage_holds)


def _loss(profile: DirectionProfile, seed: int, name: str, where: str) -> Chance | None:
    if profile.loss and profile.loss_burst is not None:
        rng = stream(seed, name, where, "loss")
        return bursts(rng, profile.loss, profile.loss_burst, profile.loss_in_burst)
    return _chance(profile.loss, seed, name, where, "loss")


def _chance(probability: float, seed: int, name: str, where: str, what: str) -> Chance | None:
    return Independent(stream(seed, name, where, what), probability) if probability else None
