"""Named link profiles: what was measured or specified, and what is assumed in each.

A round trip's measured spread is put on the way up, where a device asks for a grant before
it sends; the way down takes half of the median.  So pings over a profile have the
quantiles that its source gives.  Queues hold what passes in 100 ms, 64 packets at least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from msgspec.structs import replace

from collab.emulation.profile import DirectionProfile, LinkProfile, from_mapping
from collab.errors import ConfigError

Quantiles = tuple[tuple[float, float], ...]

_SPREAD: Final = "the round trip's spread is all on the way up, half of its median on each way"
_TAILS: Final = "delays outside the measured quantiles"
_QUEUE: Final = "the queue: 100 ms at full rate, tail drop"
_FLOOR: Final = "loss: the error rate of 5QI 9 as a floor, in bursts of 3"
_HANDOVERS: Final = "handovers: one in 2 minutes, 50 ms in which packets wait"
_IDLE: Final = "radio idle after 10 s"
_CORRELATION: Final = "delays alike for as long as their spread is wide, 20 ms at least"
_ARTIFACT: Final = "artifact of Narayanan et al., SIGCOMM 2021: Ookla tests"
_QUEUE_MS: Final = 100.0
_LEAST_CORRELATION_MS: Final = 20.0
_LEAST_QUEUE: Final = 64 * 1500
_ETHERNET_BYTES: Final = 38
"""Preamble, header, check sum and gap of a frame (IEEE 802.3)."""


def _direction(
    mbit_s: float,
    delay_ms: float = 0.0,
    *,
    spread: Quantiles = (),
    loss: float = 1e-6,
    burst: float | None = 3.0,
) -> DirectionProfile:
    """One direction, with a delay of ``delay_ms`` or of quantiles, of which 0.5 has to be one."""
    median = dict(spread).get(0.5, delay_ms)
    width = spread[-1][1] - spread[0][1] if spread else 0.0
    return DirectionProfile(
        rate_mbit_s=mbit_s,
        queue_bytes=max(int(mbit_s * _QUEUE_MS * 125), _LEAST_QUEUE),
        delay_ms=median,
        jitter="quantiles" if spread else "none",
        jitter_quantiles_ms=tuple((share, ms - median) for share, ms in spread),
        jitter_correlation_ms=max(width, _LEAST_CORRELATION_MS) if spread else 0.0,
        loss=loss,
        loss_burst=burst if loss else None,
    )


def _cellular(
    name: str, up: DirectionProfile, down: DirectionProfile, source: str, promotion_ms: float, *assumed: str
) -> LinkProfile:
    """A public network: handovers and a radio that sleeps."""
    return LinkProfile(
        name=name,
        up=up,
        down=down,
        outage_every_s=120.0,
        outage_ms=50.0,
        promotion_ms=promotion_ms,
        idle_after_ms=10_000.0,
        source=source,
        assumed=(
            *assumed,
            _TAILS,
            _CORRELATION,
            _FLOOR,
            _HANDOVERS,
            f"{_IDLE}, {promotion_ms:g} ms to wake it",
            _QUEUE,
        ),
    )


def _5qi(number: int, budget_ms: float, loss: float, critical: bool) -> LinkProfile:
    """A class at the limits of what it promises, from the device to the user plane function."""
    most = budget_ms if critical else 1.1 * budget_ms
    spread = ((0.0, 0.4 * budget_ms), (0.5, 0.6 * budget_ms), (0.98, budget_ms), (1.0, most))
    return LinkProfile(
        name=f"5qi-{number}",
        up=_direction(57.0, spread=spread, loss=loss),
        down=_direction(123.0, spread=spread, loss=loss),
        source="3GPP TS 23.501 table 5.7.4-1: packet delay budget each way and packet error rate",
        assumed=(
            "98 of 100 packets within the budget, the median at 0.6 of it"
            + (", what is later counts as lost" if critical else ""),
            "rates: those of 5g-nsa-lowband; a class promises what was agreed",
            "loss in bursts of 3",
            _CORRELATION,
            _QUEUE,
        ),
    )


_CLASSES: Final = (
    *((3, 50.0, 1e-3, False), (7, 100.0, 1e-3, False), (8, 300.0, 1e-6, False), (9, 300.0, 1e-6, False)),
    *((80, 10.0, 1e-6, False), (82, 10.0, 1e-4, True), (83, 10.0, 1e-4, True), (84, 30.0, 1e-5, True)),
    *((85, 5.0, 1e-5, True), (86, 5.0, 1e-4, True), (87, 5.0, 1e-3, True), (88, 10.0, 1e-3, True)),
    *((89, 15.0, 1e-4, True), (90, 20.0, 1e-4, True)),
)
"""5QI, packet delay budget in ms, packet error rate, whether delay-critical."""

_MMWAVE = _cellular(
    "5g-mmwave",
    _direction(89.0, spread=((0.0, 2.25), (0.1, 2.5), (0.5, 3.5), (0.9, 4.5), (1.0, 6.5))),
    _direction(1922.0, 3.5),
    f"{_ARTIFACT}, mmWave NSA: round trip 6/7/8 ms (p10/50/90), 1,922/89 Mbit/s",
    300.0,
    _SPREAD,
)

PROFILES: Final[dict[str, LinkProfile]] = {
    profile.name: profile
    for profile in (
        _cellular(
            "5g-sa-midband",
            _direction(90.0, spread=((0.0, 7.5), (0.5, 13.25), (0.975, 19.0), (1.0, 30.0))),
            _direction(1026.0, spread=((0.0, 3.0), (0.025, 4.0), (0.5, 6.0), (0.975, 10.0), (1.0, 15.0))),
            "down 4 to 10 ms for 95 %: Rischke et al., IEEE Access 2021 (campus network, SA); "
            "round trip 20 ms, 1,026/90 Mbit/s: MSIT/KTOA, Korea 2024, mid band",
            150.0,
            "rates and round trip of Korea's networks, most of them NSA, hold for SA",
            "the median down (6 ms); up is the rest of the round trip and as wide as twice the way down",
        ),
        _cellular(
            "5g-sa-lowband",
            _direction(38.0, spread=((0.0, 14.0), (0.1, 15.5), (0.5, 28.5), (0.9, 31.5), (1.0, 45.0))),
            _direction(35.0, 28.5),
            f"{_ARTIFACT}, low band SA: round trip 44/57/60 ms (p10/50/90), 35/38 Mbit/s",
            300.0,
            _SPREAD,
        ),
        _cellular(
            "5g-nsa-lowband",
            _direction(57.0, spread=((0.0, 5.0), (0.1, 5.5), (0.5, 7.5), (0.9, 8.5), (1.0, 12.0))),
            _direction(123.0, 7.5),
            f"{_ARTIFACT}, low band NSA: round trip 13/15/16 ms (p10/50/90), 123/57 Mbit/s",
            300.0,
            _SPREAD,
        ),
        replace(
            _MMWAVE,
            outage_every_s=30.0,
            outage_ms=100.0,
            assumed=(
                *(line for line in _MMWAVE.assumed if line != _HANDOVERS),
                "shadows: one in 30 s, 100 ms in which packets wait",
            ),
        ),
        LinkProfile(
            name="5g-urllc",
            up=_direction(50.0, 0.5, loss=1e-5, burst=None),
            down=_direction(50.0, 0.5, loss=1e-5, burst=None),
            source="3GPP TR 38.913: 0.5 ms each way, 99.999 % delivered",
            assumed=("rates: 50 Mbit/s each way", "no jitter: a target, not a measurement", _QUEUE),
        ),
        *(_5qi(*row) for row in _CLASSES),
        _cellular(
            "lte",
            _direction(34.0, spread=((0.0, 8.0), (0.1, 9.0), (0.5, 11.0), (0.9, 14.0), (1.0, 30.0))),
            _direction(82.0, 11.0),
            f"{_ARTIFACT}, LTE: round trip 20/22/25 ms (p10/50/90), 82/34 Mbit/s",
            260.0,
            _SPREAD,
        ),
        _cellular(
            "lte-m",
            _direction(1.0, spread=((0.0, 50.0), (0.5, 75.0), (0.95, 500.0), (1.0, 6_150.0))),
            _direction(1.0, 50.0),
            "white paper: 100 to 6,200 ms a message; peak rates 1/1 Mbit/s",
            300.0,
            "the message is a round trip, its shape between the extremes",
            "peak rates are held",
        ),
        _cellular(
            "nb-iot",
            _direction(0.16, spread=((0.0, 300.0), (0.5, 418.5), (0.95, 1_180.0), (1.0, 9_580.0))),
            _direction(0.13, 418.5),
            "round trip 837 ms: Strathclyde; 1,600 to 10,000 ms nominal and 0.13/0.16 Mbit/s peak (NB2): "
            "vendor's table",
            1_000.0,
            _SPREAD,
            "1 of 20 messages takes 1.6 to 10 s",
            "peak rates are held",
        ),
        LinkProfile(
            name="wifi6",
            up=_direction(474.0, spread=((0.0, 0.8), (0.5, 1.5), (0.99, 5.0), (1.0, 10.0)), loss=1e-5),
            down=_direction(474.0, spread=((0.0, 0.8), (0.5, 1.5), (0.99, 5.0), (1.0, 10.0)), loss=1e-5),
            source="published study, near the access point: round trip p99 below 10 ms, 474 Mbit/s",
            assumed=(
                "both ways alike, median 1.5 ms each",
                "loss after repeats 1e-5, in bursts of 3",
                _CORRELATION,
                _QUEUE,
            ),
        ),
        LinkProfile(
            name="ethernet",
            up=replace(_direction(1000.0, 0.1, loss=0.0), overhead_bytes=_ETHERNET_BYTES),
            down=replace(_direction(1000.0, 0.1, loss=0.0), overhead_bytes=_ETHERNET_BYTES),
            source="IEEE 802.3: 1,000 Mbit/s, 38 bytes around each packet",
            assumed=("0.1 ms each way through a switch, no jitter, no loss", _QUEUE),
        ),
        LinkProfile(
            name="loopback",
            up=DirectionProfile(),
            down=DirectionProfile(),
            source="two processes on one machine",
            assumed=("nothing is added to what the machine itself takes",),
        ),
    )
}


def profile_named(name: str) -> LinkProfile:
    """A profile of the library; raises `ConfigError` that offers the nearest names."""
    found = PROFILES.get(name)
    if found is None:
        near = get_close_matches(name.lower(), PROFILES, n=3, cutoff=0.5) or list(PROFILES)
        raise ConfigError(f"profile: there is no {name!r:.80}; try {', '.join(near)}")
    return found


def parse_profile(values: str | Mapping[str, Any]) -> LinkProfile:
    """A link as scenarios write it: a name, or a mapping whose ``profile`` it changes.

    ``{"profile": "lte", "up": {"loss": 0.01}}`` is LTE with more loss; without ``profile``
    all that is not given does nothing.  What was changed is listed in ``assumed``.

    Raises:
        ConfigError: no such profile, or a field that no link can have.
    """
    if isinstance(values, str):
        return profile_named(values)
    if "profile" not in values:
        return from_mapping(values)
    name = values["profile"]
    if not isinstance(name, str):
        raise ConfigError(f"profile: {name!r:.80} is not a name; try {', '.join(PROFILES)}")
    rest = {key: value for key, value in values.items() if key != "profile"}
    changed = from_mapping(rest, profile_named(name))
    if not rest:
        return changed
    return replace(changed, assumed=(*changed.assumed, f"set by hand: {', '.join(_paths(rest))}"))


def _paths(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Fields that a mapping sets."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"
