"""What a link is like, in numbers that people write: the profile that link models are built from.

Errors are `ConfigError` and begin with the field's path, such as ``up.loss``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from collab.core.plan import Frozen
from collab.emulation.models.chance import to_bad
from collab.errors import ConfigError

TraceFormat = Literal["auto", "columns", "mahimahi", "csv"]

_MOST_MBIT_S: Final = 1e6
_MOST_MS: Final = 3_600_000.0
"""Of any delay or pause: an hour."""
_MOST_BYTES: Final = 1 << 40
_MOST_OUTAGES: Final = 100_000
_MOST_QUANTILES: Final = 10_000


class DirectionProfile(Frozen, frozen=True, kw_only=True):
    """One direction; what is not given does nothing."""

    rate_mbit_s: float | None = None
    """None: bits take no time."""
    burst_bytes: int = 0
    """After a pause so much passes at ``peak_mbit_s`` (token bucket)."""
    peak_mbit_s: float | None = None
    trace: str | None = None
    """A file that gives the rate over time, in place of ``rate_mbit_s``."""
    trace_format: TraceFormat = "auto"
    trace_interpolate: bool = True
    """Change evenly from one value to the next, rather than in steps."""
    trace_offset_s: float = 0.0
    """How far into the trace the link begins."""
    overhead_bytes: int = 0
    """Of framing around each IP packet."""
    queue_packets: int | None = None
    """What may wait, the packet on its way out included; None: any number."""
    queue_bytes: int | None = None
    queue: Literal["tail", "codel"] = "tail"
    codel_target_ms: float = 5.0
    codel_interval_ms: float = 100.0
    delay_ms: float = 0.0
    """From the last bit out to the last bit in: the mean with normal jitter, the least with Pareto's."""
    jitter: Literal["none", "normal", "pareto", "quantiles"] = "none"
    jitter_ms: float = 0.0
    """Normal: the standard deviation; Pareto: the mean of what is added to ``delay_ms``."""
    jitter_tail: float = 3.0
    """Pareto's shape; the smaller, the heavier."""
    jitter_quantiles_ms: tuple[tuple[float, float], ...] = ()
    """(probability, ms on top of ``delay_ms`` or, negative, below it), straight between them."""
    jitter_correlation_ms: float = 0.0
    """Delays closer than this are alike, twice as far apart independent; 0: each packet for itself."""
    loss: float = 0.0
    """Share of packets that are lost on the air."""
    loss_burst: float | None = None
    """Mean packets in a bad spell (Gilbert–Elliott); None: each packet for itself."""
    loss_in_burst: float = 1.0
    """Share that is lost within a bad spell."""
    corrupt: float = 0.0
    """Share of packets in whose TCP or UDP payload one bit is turned, under a checksum that is put right."""
    reorder: float = 0.0
    """Share of packets that are held back by ``reorder_ms``."""
    reorder_ms: float = 0.0
    duplicate: float = 0.0
    """Share of packets that arrive twice."""


class Outage(Frozen, frozen=True, kw_only=True):
    """A time without service, counted from the start."""

    at_s: float
    ms: float


class LinkProfile(Frozen, frozen=True, kw_only=True):
    """A link: ``up`` from the device, ``down`` to it."""

    name: str
    up: DirectionProfile
    down: DirectionProfile
    outages: tuple[Outage, ...] = ()
    outage_every_s: float | None = None
    """Mean time between random outages, which is exponential; None: there are none."""
    outage_ms: float = 0.0
    """Mean length of a random outage, exponential too."""
    outage_holds: bool = True
    """Whether packets wait for the end of an outage; else they are dropped."""
    promotion_ms: float = 0.0
    """From idle to connected (RRC)."""
    idle_after_ms: float | None = None
    """Silence after which the radio is idle; None: it never is."""
    source: str = ""
    """Where the numbers were measured or specified."""
    assumed: tuple[str, ...] = ()
    """What no source says."""


def from_mapping(values: Mapping[str, Any], base: LinkProfile | None = None) -> LinkProfile:
    """A checked profile from a file's mapping; fields that it leaves out are those of ``base``.

    Raises:
        ConfigError: a field is unknown, missing, or has an unusable value.
    """
    merged = _merge(msgspec.to_builtins(base) if base else {"name": "custom", "up": {}, "down": {}}, values)
    try:
        profile = msgspec.convert(merged, LinkProfile)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `")
        path = where.rstrip("`").removeprefix("$").removeprefix(".")
        raise ConfigError(f"{path or 'link'}: {what}") from error
    check(profile)
    return profile


def _merge(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings within mappings are merged field by field, all else is replaced."""
    merged = dict(base)
    for key, value in values.items():
        inner = base.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(inner, value)
        else:
            merged[key] = value
    return merged


def check(profile: LinkProfile) -> None:
    """Raise `ConfigError` for the first value that no link can have."""
    if not profile.name:
        raise ConfigError("name: it is empty; give one")
    for where, direction in (("up", profile.up), ("down", profile.down)):
        _check_rate(where, direction)
        _check_queue(where, direction)
        _check_delay(where, direction)
        _check_chances(where, direction)
    _check_outages(profile)
    _number("promotion_ms", profile.promotion_ms, 0, _MOST_MS)
    if profile.idle_after_ms is not None:
        _number("idle_after_ms", profile.idle_after_ms, 0, _MOST_MS)
    elif profile.promotion_ms:
        raise ConfigError("promotion_ms: the radio is never idle; give idle_after_ms too")


def _number(path: str, value: float, least: float, most: float, *, above: bool = False) -> None:
    """Within ``[least, most]``, or above ``least``; NaN is neither."""
    if not (least < value <= most if above else least <= value <= most):
        low = "above" if above else "at least"
        raise ConfigError(f"{path}: {value:g}; give a number {low} {least:g} and at most {most:g}")


def _check_rate(where: str, direction: DirectionProfile) -> None:
    rate, peak, burst = direction.rate_mbit_s, direction.peak_mbit_s, direction.burst_bytes
    if rate is not None:
        _number(f"{where}.rate_mbit_s", rate, 0, _MOST_MBIT_S, above=True)
    _number(f"{where}.burst_bytes", burst, 0, _MOST_BYTES)
    _number(f"{where}.overhead_bytes", direction.overhead_bytes, 0, 65_535)
    _number(f"{where}.trace_offset_s", direction.trace_offset_s, 0, 1e9)
    if (peak is None) != (burst == 0):
        raise ConfigError(f"{where}.burst_bytes: a burst needs its rate; give peak_mbit_s and burst_bytes")
    if peak is None:
        return
    if rate is None or direction.trace is not None:
        raise ConfigError(
            f"{where}.peak_mbit_s: a burst is beside a constant rate; give rate_mbit_s, no trace"
        )
    _number(f"{where}.peak_mbit_s", peak, rate, _MOST_MBIT_S)


def _check_queue(where: str, direction: DirectionProfile) -> None:
    if direction.queue_packets is not None:
        _number(f"{where}.queue_packets", direction.queue_packets, 1, _MOST_BYTES)
    if direction.queue_bytes is not None:
        _number(f"{where}.queue_bytes", direction.queue_bytes, 1, _MOST_BYTES)
    _number(f"{where}.codel_target_ms", direction.codel_target_ms, 0, _MOST_MS, above=True)
    _number(f"{where}.codel_interval_ms", direction.codel_interval_ms, 0, _MOST_MS, above=True)


def _check_delay(where: str, direction: DirectionProfile) -> None:
    _number(f"{where}.delay_ms", direction.delay_ms, 0, _MOST_MS)
    _number(f"{where}.jitter_ms", direction.jitter_ms, 0, _MOST_MS)
    _number(f"{where}.jitter_tail", direction.jitter_tail, 1, 1000, above=True)
    _number(f"{where}.jitter_correlation_ms", direction.jitter_correlation_ms, 0, _MOST_MS)
    if direction.jitter_ms and direction.jitter not in ("normal", "pareto"):
        raise ConfigError(
            f"{where}.jitter_ms: jitter {direction.jitter!r} has none; set jitter to normal or pareto"
        )
    if direction.jitter in ("normal", "pareto") and not direction.jitter_ms:
        raise ConfigError(f"{where}.jitter: {direction.jitter} needs its size; give jitter_ms")
    points = direction.jitter_quantiles_ms
    if direction.jitter == "quantiles" and not 2 <= len(points) <= _MOST_QUANTILES:
        raise ConfigError(
            f"{where}.jitter_quantiles_ms: {len(points)} of them; give 2 to {_MOST_QUANTILES} pairs of "
            "probability and ms"
        )
    last = (-math.inf, -math.inf)
    for i, (share, ms) in enumerate(points):
        path = f"{where}.jitter_quantiles_ms[{i}]"
        _number(f"{path}[0]", share, 0, 1)
        _number(f"{path}[1]", ms, -direction.delay_ms, _MOST_MS)
        if share <= last[0] or ms < last[1]:
            raise ConfigError(
                f"{path}: after {last[1]:g} ms at {last[0]:g}; sort them, each probability once"
            )
        last = (share, ms)


def _check_chances(where: str, direction: DirectionProfile) -> None:
    for field in ("loss", "corrupt", "reorder", "duplicate"):
        _number(f"{where}.{field}", getattr(direction, field), 0, 1)
    _number(f"{where}.loss_in_burst", direction.loss_in_burst, 0, 1, above=True)
    _number(f"{where}.reorder_ms", direction.reorder_ms, 0, _MOST_MS)
    if direction.reorder and not direction.reorder_ms:
        raise ConfigError(f"{where}.reorder: nothing is held back; give reorder_ms")
    burst = direction.loss_burst
    if burst is None:
        return
    _number(f"{where}.loss_burst", burst, 1, 1e9)
    if to_bad(direction.loss, burst, direction.loss_in_burst) > 1:
        raise ConfigError(
            f"{where}.loss: {direction.loss:g} does not come of spells of {burst:g} packets; "
            "raise loss_burst or loss_in_burst"
        )


def _check_outages(profile: LinkProfile) -> None:
    _number("outage_ms", profile.outage_ms, 0, _MOST_MS)
    if profile.outage_every_s is not None:
        _number("outage_every_s", profile.outage_every_s, 0, 1e9, above=True)
    if (profile.outage_every_s is None) != (profile.outage_ms == 0):
        raise ConfigError("outage_ms: give outage_every_s and outage_ms, or neither")
    if len(profile.outages) > _MOST_OUTAGES:
        raise ConfigError(f"outages: {len(profile.outages)}; give at most {_MOST_OUTAGES}")
    for i, outage in enumerate(profile.outages):
        _number(f"outages[{i}].at_s", outage.at_s, 0, 1e9)
        _number(f"outages[{i}].ms", outage.ms, 0, _MOST_MS, above=True)
