"""The profile of hosts as a run has seen them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from collab.emulation.seen import profile_as_seen
from collab.emulation.simulator import Inputs, prepare, simulate
from tests.unit.emulation.scenarios import PROFILE, scenario

HOSTS: dict[str, dict] = {"me": {}, "a": {}, "b": {}}
NAMED = replace(PROFILE, devices=tuple(replace(PROFILE.devices[0], name=name) for name in HOSTS))
PLANS = [{"name": "two", "at": [2], "assign": ["a", "b"]}, {"name": "whole", "at": [], "assign": ["b"]}]


def test_hosts_cost_and_spread_as_in_the_run_whatever_was_measured_before():
    given = scenario(hosts=HOSTS, plans=PLANS, workload={"kind": "closed", "requests": 400})
    wide = ((0.0, 0.5), (0.5, 1.0), (1.0, 2.0))
    slow = replace(
        NAMED, devices=tuple(replace(d, op_ms=(1.3,) * 5, run_quantiles=wide) for d in NAMED.devices)
    )
    results = simulate(given, Inputs(slow))
    seen = profile_as_seen(NAMED, [one.plan for one in prepare(given, Inputs(NAMED))[1]], results)
    me, a, b = seen.devices
    assert me == NAMED.devices[0]
    for device in (a, b):
        assert device.op_ms == pytest.approx([1.3] * 5, rel=0.06)
        spread = dict(device.run_quantiles)
        assert [spread[share] for share in (0.1, 0.5, 0.9)] == pytest.approx([0.6, 1.0, 1.8], abs=0.1)
        assert list(spread.values()) == sorted(spread.values())


def test_what_was_run_too_seldom_says_nothing():
    given = scenario(hosts=HOSTS, plans=PLANS, workload={"kind": "closed", "requests": 10})
    plans = [one.plan for one in prepare(given, Inputs(NAMED))[1]]
    assert profile_as_seen(NAMED, plans, simulate(given, Inputs(NAMED))) == NAMED
