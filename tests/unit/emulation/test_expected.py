"""What is expected of a profile against what its models do."""

from __future__ import annotations

import numpy as np
import pytest

from collab.emulation.build import build_link
from collab.emulation.expected import expected, link_entries
from collab.emulation.profile import from_mapping
from collab.emulation.profiles import PROFILES
from collab.emulation.traces import RateTrace
from collab.errors import ConfigError


@pytest.mark.parametrize(
    "up",
    [
        {"delay_ms": 20, "jitter": "normal", "jitter_ms": 3},
        {"delay_ms": 20, "jitter": "pareto", "jitter_ms": 5, "jitter_tail": 8},
        {"delay_ms": 20, "jitter": "quantiles", "jitter_quantiles_ms": [[0, -5], [0.5, 0], [1, 40]]},
        {"delay_ms": 20},
    ],
)
def test_the_expected_delay_is_what_packets_have(up):
    profile = from_mapping({"up": up})
    found = expected(profile, profile.up)
    link = build_link(profile, 5)
    delays = [link.up.offer(i * 1e6, 100).times_us[0] / 1e3 - i * 1e3 for i in range(10_000)]
    assert list(found.delay_ms.values()) == pytest.approx(np.quantile(delays, list(found.delay_ms)), rel=0.05)
    assert found.mean_ms == pytest.approx(np.mean(delays), rel=0.02)
    assert found.deviation_ms == pytest.approx(np.std(delays), rel=0.1)


def test_the_expected_rate_is_what_a_backlog_gets_with_framing_and_outages():
    profile = from_mapping(
        {"up": {"rate_mbit_s": 50, "overhead_bytes": 100}, "outage_every_s": 0.05, "outage_ms": 10}
    )
    link = build_link(profile, 5)
    left = 0.0
    for _ in range(100_000):
        left = link.up.offer(left, 1_500).times_us[0]
    assert expected(profile, profile.up).mbit_s == pytest.approx(100_000 * 12_000 / left, rel=0.05)


def test_a_planner_gets_medians_rates_and_both_directions():
    up, down = link_entries(PROFILES["lte"], "phone", "edge")
    assert (up.source, up.target, down.source, down.target) == ("phone", "edge", "edge", "phone")
    assert (up.latency_ms, down.latency_ms) == (11.0, 11.0)
    assert [up.mbit_s, down.mbit_s] == pytest.approx([34, 82], rel=0.01)
    assert up.jitter_ms > 1
    assert down.jitter_ms == 0
    assert link_entries(PROFILES["loopback"], "a", "b")[0].mbit_s == 1e6


def test_a_trace_gives_its_mean_rate_and_has_to_be_read_first():
    profile = from_mapping({"down": {"trace": "drive.csv"}})
    traces = {"drive.csv": RateTrace((0.0, 1.0), (10.0, 30.0))}
    assert expected(profile, profile.down, traces=traces).mbit_s == pytest.approx(20.0)
    with pytest.raises(ConfigError, match=r"trace: 'drive.csv' was not read"):
        link_entries(profile, "a", "b")
    with pytest.raises(ConfigError, match=r"down.trace: 'drive.csv' was not read"):
        build_link(profile, 1)
