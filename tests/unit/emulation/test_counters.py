"""The emulator's own lateness, and what it says about a run."""

from __future__ import annotations

import pytest

from collab.emulation.counters import EmulatorCounts, Lateness
from collab.emulation.overload import HostTimes, overloaded

BEFORE = HostTimes(total=1000, idle=500, stolen=0)
AFTER = HostTimes(total=2000, idle=900, stolen=10)


def test_quantiles_are_upper_bounds_to_ten_microseconds():
    late = Lateness()
    for microseconds in range(1, 1001):
        late.add(float(microseconds))
    assert late.count == 1000
    assert late.quantile_us(0.5) == pytest.approx(500, abs=10)
    assert late.quantile_us(0.99) == pytest.approx(990, abs=10)
    assert late.quantile_us(1.0) == late.longest_us == 1000.0


def test_one_very_late_packet_is_the_longest_and_no_quantile():
    late = Lateness()
    for _ in range(999):
        late.add(5.0)
    late.add(1e6)
    assert late.quantile_us(0.99) == 10.0
    assert late.longest_us == late.quantile_us(1.0) == 1e6


def test_nothing_late_is_no_lateness():
    assert Lateness().quantile_us(0.99) == 0.0


def test_a_quiet_run_is_not_flagged():
    counts = EmulatorCounts(directions={}, late_p99_us=100.0, elapsed_s=10.0, busy_s=5.0)
    assert counts.busy == 0.5
    assert overloaded(counts, BEFORE, AFTER) == []


@pytest.mark.parametrize(
    ("counts", "after", "said"),
    [
        ({"late_p99_us": 501.0}, AFTER, "0.5 ms late"),
        ({"given_up": 3}, AFTER, "3 packets"),
        ({"elapsed_s": 10.0, "busy_s": 9.5}, AFTER, "95% of a core"),
        ({}, HostTimes(2000, 510, 0), "all cores were busy for 99%"),
        ({}, HostTimes(2000, 900, 100), "10% of the machine's time"),
    ],
)
def test_an_overloaded_run_is_flagged_with_the_reason(counts, after, said):
    (line,) = overloaded(EmulatorCounts(directions={}, **counts), BEFORE, after)
    assert said in line


def test_the_kernels_ticks_are_read():
    assert HostTimes.parse("cpu  10 20 30 40 5 1 2 7 9 9\ncpu0 1 2 3") == HostTimes(115, 45, 7)
    assert HostTimes.now().total > HostTimes.now().idle > 0
