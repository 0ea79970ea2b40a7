"""The library of profiles against its sources."""

from __future__ import annotations

import numpy as np
import pytest

from collab.emulation.build import build_link
from collab.emulation.profile import check
from collab.emulation.profiles import PROFILES, parse_profile, profile_named
from collab.errors import ConfigError

ASKED = {
    *("5g-sa-midband", "5g-sa-lowband", "5g-nsa-lowband", "5g-mmwave", "5g-urllc", "lte", "lte-m", "nb-iot"),
    *("wifi6", "ethernet", "loopback"),
    *(f"5qi-{number}" for number in (3, 7, 8, 9, 80, *range(82, 91))),
}
ROUND_TRIPS = {
    "5g-mmwave": (6, 7, 8),
    "5g-nsa-lowband": (13, 15, 16),
    "5g-sa-lowband": (44, 57, 60),
    "lte": (20, 22, 25),
}
"""ms at p10/50/90 in the artifact of SIGCOMM 2021."""


def test_every_profile_is_possible_and_says_where_it_comes_from():
    assert set(PROFILES) == ASKED
    for name, profile in PROFILES.items():
        check(profile)
        assert profile.name == name
        assert profile.source
        assert profile.assumed


def pings(name: str, count: int = 2_500) -> np.ndarray:
    """Round trips in ms of small packets, once the radio is awake."""
    link = build_link(PROFILES[name], 7)
    # Far enough apart to be independent, close enough to keep the radio awake.
    gap = min(max(3e3 * PROFILES[name].up.jitter_correlation_ms, 5e4), 5e6)
    found = []
    for i in range(count):
        for up in link.up.offer(i * gap, 64).times_us:
            found += [down - i * gap for down in link.down.offer(up, 64).times_us]
    return np.array(found[100:]) / 1e3


@pytest.mark.parametrize("name", sorted(ROUND_TRIPS))
def test_pings_have_the_measured_quantiles(name):
    assert np.quantile(pings(name), [0.1, 0.5, 0.9]) == pytest.approx(ROUND_TRIPS[name], rel=0.03)


def test_other_round_trips_are_those_of_their_sources():
    assert np.median(pings("5g-sa-midband")) == pytest.approx(20, rel=0.03)
    assert np.median(pings("nb-iot", 1_000)) == pytest.approx(837, rel=0.1)
    assert np.quantile(pings("wifi6"), 0.99) < 10
    assert np.max(pings("ethernet")) < 0.5
    assert np.max(pings("loopback")) == 0
    assert np.median(pings("5g-urllc")) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", sorted(name for name in ASKED if name.startswith("5qi")))
def test_98_of_100_packets_of_a_class_keep_to_its_budget(name):
    budget = PROFILES[name].up.delay_ms / 0.6
    link = build_link(PROFILES[name], 3)
    times = [link.down.offer(i * 3e6, 64).times_us for i in range(3_000)]
    delays = [time[0] / 1e3 - i * 3e3 for i, time in enumerate(times) if time]
    # Their serialisation is beside the budget.
    assert np.quantile(delays, 0.98) == pytest.approx(budget, rel=0.03)


def test_a_name_alone_is_a_profile():
    assert parse_profile("lte") is profile_named("lte")


def test_a_profile_is_changed_field_by_field_and_says_so():
    changed = parse_profile({"profile": "lte", "up": {"loss": 0.01}, "outage_ms": 80})
    assert changed.up.loss == 0.01
    assert changed.up.rate_mbit_s == 34.0
    assert changed.assumed[-1] == "set by hand: up.loss, outage_ms"
    assert parse_profile({"profile": "lte"}) == PROFILES["lte"]
    shifted = parse_profile({"profile": "lte", "up": {"delay_ms": 100}})
    assert shifted.up.jitter_quantiles_ms == PROFILES["lte"].up.jitter_quantiles_ms


def test_a_link_may_be_written_without_a_profile():
    assert parse_profile({"name": "wire", "up": {"delay_ms": 1}}).name == "wire"


@pytest.mark.parametrize(
    ("name", "offered"),
    [("5g-mmwav", "5g-mmwave"), ("LTEM", "lte-m"), ("5qi-81", "5qi-8"), ("zzz", "ethernet")],
)
def test_an_unknown_profile_offers_the_nearest_names(name, offered):
    for values in (name, {"profile": name}):
        with pytest.raises(ConfigError, match=r"profile: there is no .*; try .*") as caught:
            parse_profile(values)
        assert offered in str(caught.value)


def test_a_profile_that_is_no_name_is_refused():
    with pytest.raises(ConfigError, match=r"profile: 5 is not a name"):
        parse_profile({"profile": 5})
