"""Profiles from mappings, field by field, and what no link can have."""

from __future__ import annotations

import math

import pytest

from collab.emulation.profile import check, from_mapping
from collab.errors import ConfigError

QS = {"jitter": "quantiles"}


def test_what_is_not_given_does_nothing():
    profile = from_mapping({"up": {"delay_ms": 5}})
    assert profile.up.delay_ms == 5.0
    assert profile.down == from_mapping({}).down
    check(profile)


def test_a_mapping_changes_a_base_field_by_field():
    base = from_mapping(
        {"name": "mine", "up": {"rate_mbit_s": 10, "loss": 0.1}, "outage_every_s": 5, "outage_ms": 9}
    )
    changed = from_mapping({"up": {"loss": 0.2}, "outage_every_s": None, "outage_ms": 0}, base)
    assert (changed.name, changed.up.rate_mbit_s, changed.up.loss) == ("mine", 10.0, 0.2)
    assert changed.outage_every_s is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"up": {"rate_mbit_s": -1}}, "up.rate_mbit_s: -1; give a number above 0"),
        ({"up": {"rate_mbit_s": 0}}, "up.rate_mbit_s: 0; give"),
        ({"up": {"rate_mbit_s": math.inf}}, "up.rate_mbit_s: inf; give"),
        ({"down": {"rate_mbit_s": math.nan}}, "down.rate_mbit_s: nan; give"),
        ({"up": {"rate_mbit_s": "fast"}}, "up.rate_mbit_s: Expected"),
        ({"up": {"lost": 0.1}}, "up: Object contains unknown field `lost`"),
        ({"upp": {}}, "link: Object contains unknown field `upp`"),
        ({"up": 3}, "up: Expected `object`"),
        ({"name": ""}, "name: it is empty"),
        ({"up": {"loss": 1.5}}, "up.loss: 1.5; give a number at least 0 and at most 1"),
        ({"up": {"loss": -0.1}}, "up.loss: -0.1"),
        ({"up": {"loss": math.nan}}, "up.loss: nan"),
        ({"up": {"reorder": 2}}, "up.reorder: 2"),
        ({"up": {"reorder": 0.1}}, "up.reorder: nothing is held back; give reorder_ms"),
        ({"up": {"duplicate": 2}}, "up.duplicate: 2"),
        ({"up": {"corrupt": 1.1}}, "up.corrupt: 1.1; give a number at least 0 and at most 1"),
        ({"up": {"corrupt": math.nan}}, "up.corrupt: nan"),
        ({"up": {"loss": 0.9, "loss_burst": 2}}, "up.loss: 0.9 does not come of spells of 2 packets"),
        ({"up": {"loss": 0.1, "loss_burst": 0.5}}, "up.loss_burst: 0.5"),
        ({"up": {"loss_in_burst": 0}}, "up.loss_in_burst: 0"),
        ({"up": {"delay_ms": -1}}, "up.delay_ms: -1"),
        ({"up": {"delay_ms": 1e9}}, "up.delay_ms: 1e+09; give a number at least 0 and at most 3.6e+06"),
        ({"up": {"jitter_ms": 3}}, "up.jitter_ms: jitter 'none' has none; set jitter to normal or pareto"),
        ({"up": {"jitter": "normal"}}, "up.jitter: normal needs its size; give jitter_ms"),
        ({"up": {"jitter": "cauchy"}}, "up.jitter: Invalid enum value 'cauchy'"),
        ({"up": {"jitter": "pareto", "jitter_ms": 1, "jitter_tail": 1}}, "up.jitter_tail: 1; give"),
        ({"up": {"jitter": "quantiles"}}, "up.jitter_quantiles_ms: 0 of them"),
        ({"up": {**QS, "jitter_quantiles_ms": [[0, 1], [0, 2]]}}, "up.jitter_quantiles_ms[1]: after"),
        ({"up": {**QS, "jitter_quantiles_ms": [[0, 1], [2, 2]]}}, "up.jitter_quantiles_ms[1][0]: 2"),
        ({"up": {**QS, "jitter_quantiles_ms": [[0, -1], [1, 2]]}}, "up.jitter_quantiles_ms[0][1]: -1"),
        ({"up": {"queue_packets": 0}}, "up.queue_packets: 0"),
        ({"up": {"queue_bytes": -5}}, "up.queue_bytes: -5"),
        ({"up": {"queue": "red"}}, "up.queue: Invalid enum value 'red'"),
        ({"up": {"codel_target_ms": 0}}, "up.codel_target_ms: 0"),
        ({"up": {"overhead_bytes": -1}}, "up.overhead_bytes: -1"),
        ({"up": {"burst_bytes": 9000}}, "up.burst_bytes: a burst needs its rate"),
        ({"up": {"burst_bytes": 9, "peak_mbit_s": 9}}, "up.peak_mbit_s: a burst is beside a constant rate"),
        ({"up": {"burst_bytes": 9, "peak_mbit_s": 9, "rate_mbit_s": 10}}, "up.peak_mbit_s: 9; give"),
        ({"up": {"trace_offset_s": -1}}, "up.trace_offset_s: -1"),
        ({"outage_ms": 5}, "outage_ms: give outage_every_s and outage_ms, or neither"),
        ({"outage_every_s": 0, "outage_ms": 5}, "outage_every_s: 0"),
        ({"outages": [{"at_s": -1, "ms": 5}]}, "outages[0].at_s: -1"),
        ({"outages": [{"at_s": 1, "ms": 0}]}, "outages[0].ms: 0"),
        ({"outages": [{"at_s": 1}]}, "outages[0]: Object missing required field `ms`"),
        ({"promotion_ms": 5}, "promotion_ms: the radio is never idle; give idle_after_ms too"),
        ({"promotion_ms": -5}, "promotion_ms: -5"),
        ({"idle_after_ms": -5}, "idle_after_ms: -5"),
    ],
)  # fmt: skip
def test_a_value_that_no_link_can_have_is_refused_by_its_field(values, message):
    with pytest.raises(ConfigError) as caught:
        from_mapping(values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
