"""One state of several plans: of each thing the one that is worst off."""

from __future__ import annotations

from collab.updates.policies.state import (
    MAX_FEATURES,
    Compared,
    DeviceState,
    FeatureCounts,
    Labelled,
    Latencies,
    Tally,
)
from collab.updates.policies.worst import worst_of

NOW = 1_700_000_000.0


def one(**fields) -> DeviceState:
    return DeviceState(time_s=NOW - 5, device="x", **fields)


def tallies(*rows):
    return tuple(Tally(labelled=labelled, correct=correct) for labelled, correct in rows)


def test_without_plans_nothing_is_known():
    assert worst_of([], "site", NOW) == DeviceState(time_s=NOW, device="site")


def test_each_thing_is_the_worst_ones():
    a = one(
        battery=0.9,
        charging=True,
        metered=False,
        idle=0.5,
        temperature_c=40.0,
        free_memory_bytes=10.0,
        free_disk_bytes=99.0,
        rate_mbit_s=50.0,
        time_zone="Europe/Berlin",
        answers=10,
        corrections=1,
    )
    b = one(
        battery=0.2,
        charging=False,
        metered=True,
        idle=0.7,
        temperature_c=71.0,
        free_memory_bytes=20.0,
        free_disk_bytes=9.0,
        rate_mbit_s=5.0,
        answers=5,
        corrections=3,
    )
    for order in ([a, b], [b, a]):
        found = worst_of(order, "site", NOW)
        assert (found.battery, found.charging, found.metered, found.idle) == (0.2, False, True, 0.5)
        assert (found.temperature_c, found.free_memory_bytes, found.free_disk_bytes) == (71.0, 10.0, 9.0)
        assert (found.rate_mbit_s, found.answers, found.corrections) == (5.0, 15, 4)
        assert (found.time_s, found.device) == (NOW, "site")


def test_what_one_does_not_report_does_not_hide_what_another_does():
    found = worst_of([one(), one(battery=0.4, metered=False)], "site", NOW)
    assert (found.battery, found.metered, found.charging) == (0.4, False, None)


def test_drift_of_one_plan_does_not_drown_in_another():
    def feature(name, *observed):
        return FeatureCounts(name=name, reference=(100.0, 100.0), observed=observed)

    calm = one(inputs=tuple(feature(f"f{n}", 50.0, 50.0) for n in range(MAX_FEATURES)))
    moved = one(inputs=(feature("f0", 0.0, 100.0),))
    found = worst_of([calm, moved], "site", NOW)
    assert len(found.inputs) == MAX_FEATURES
    assert found.inputs[0].name == "1: f0"
    assert found.check() is found


def test_labels_add_up_by_periods_counted_from_now():
    a = one(labelled=Labelled(baseline=0.9, tallies=tallies((5, 5), (4, 4))))
    b = one(labelled=Labelled(baseline=0.95, tallies=tallies((10, 1))))
    found = worst_of([a, b, one()], "site", NOW).labelled
    assert found == Labelled(baseline=0.95, tallies=tallies((5, 5), (14, 5)))


def test_means_and_times_are_those_that_changed_most():
    a = one(
        confidence=Compared(baseline=0.9, now=0.8),
        agreement=Compared(baseline=0.5, now=0.5),
        latency=Latencies(baseline_ms=10.0, recent_ms=(11.0,) * 5),
    )
    b = one(
        confidence=Compared(baseline=0.7, now=0.3), latency=Latencies(baseline_ms=1.0, recent_ms=(9.0,) * 5)
    )
    found = worst_of([a, b], "site", NOW)
    assert (found.confidence, found.agreement, found.latency) == (b.confidence, a.agreement, b.latency)
