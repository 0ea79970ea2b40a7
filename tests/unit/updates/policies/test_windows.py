"""Maintenance windows where clocks are put forward and back."""

from __future__ import annotations

import itertools
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.updates.policies.windows import minutes_of, openings, zone


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


def opened(place, now, start, stop, days=()):
    """The window of the day of ``now``, in UTC."""
    found = list(openings(utc(now), zone(place), days, minutes_of(start), minutes_of(stop)))
    opens, closes = found[1]
    return tuple(datetime.fromtimestamp(at, timezone.utc).strftime("%m-%d %H:%M") for at in (opens, closes))


@pytest.mark.parametrize(
    ("place", "noon", "start", "stop", "opens", "closes"),
    [
        # Berlin, an ordinary day in winter and in summer
        ("Europe/Berlin", "2026-01-15T12:00", "02:00", "03:00", "01-15 01:00", "01-15 02:00"),
        ("Europe/Berlin", "2026-07-15T12:00", "02:00", "03:00", "07-15 00:00", "07-15 01:00"),
        # 2026-03-29: from 02:00 to 03:00
        ("Europe/Berlin", "2026-03-29T12:00", "01:00", "04:00", "03-29 00:00", "03-29 02:00"),
        ("Europe/Berlin", "2026-03-29T12:00", "02:00", "03:00", "03-29 01:00", "03-29 02:00"),
        ("Europe/Berlin", "2026-03-29T12:00", "02:15", "02:45", "03-29 01:15", "03-29 01:45"),
        ("Europe/Berlin", "2026-03-29T12:00", "02:30", "03:15", "03-29 01:30", "03-29 02:15"),
        ("Europe/Berlin", "2026-03-29T12:00", "01:30", "02:30", "03-29 00:30", "03-29 01:30"),
        ("Europe/Berlin", "2026-03-28T12:00", "23:00", "05:00", "03-28 22:00", "03-29 03:00"),
        # 2026-10-25: 02:00 to 03:00 comes twice
        ("Europe/Berlin", "2026-10-25T12:00", "02:00", "03:00", "10-25 00:00", "10-25 02:00"),
        ("Europe/Berlin", "2026-10-25T12:00", "02:15", "02:45", "10-25 00:15", "10-25 01:45"),
        ("Europe/Berlin", "2026-10-25T12:00", "01:00", "02:30", "10-24 23:00", "10-25 01:30"),
        ("Europe/Berlin", "2026-10-24T12:00", "23:00", "05:00", "10-24 21:00", "10-25 04:00"),
        # New York, on other days than Berlin
        ("America/New_York", "2026-03-08T12:00", "02:00", "03:00", "03-08 07:00", "03-08 08:00"),
        ("America/New_York", "2026-11-01T12:00", "01:00", "02:00", "11-01 05:00", "11-01 07:00"),
        # half an hour of summer time
        ("Australia/Lord_Howe", "2026-10-03T23:00", "02:00", "02:30", "10-03 15:30", "10-03 16:00"),
        # clocks go forward at midnight, so the day begins at one
        ("Africa/Cairo", "2026-04-24T12:00", "00:00", "01:00", "04-23 22:00", "04-23 23:00"),
        # no summer time, and 45 minutes off the hour
        ("Asia/Kathmandu", "2026-03-29T12:00", "02:00", "03:00", "03-28 20:15", "03-28 21:15"),
    ],
)
def test_a_window_opens_and_closes_at_the_right_instants(place, noon, start, stop, opens, closes):
    assert opened(place, noon, start, stop) == (opens, closes)


PLACES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "UTC")


@given(
    st.sampled_from(PLACES),
    st.integers(int(utc("2025-01-01")), int(utc("2028-01-01"))),
    st.integers(0, 1439),
    st.integers(0, 1439),
)
def test_every_day_has_a_window_that_is_as_long_as_written_or_an_hour_off(place, now, start, stop):
    found = list(openings(now, zone(place), (), start, stop))
    written = ((stop - start) % 1440 or 1440) * 60
    assert len(found) == 10
    for (opens, closes), (after, _) in itertools.pairwise(found):
        assert opens < after
        assert 0 < closes - opens <= written + 3600
        assert closes - opens >= min(written, max(written - 3600, 60))
    assert any(opens > now for opens, _ in found)


def test_days_are_those_on_which_a_window_opens():
    found = list(openings(utc("2026-06-03T12:00"), zone("UTC"), ("fri", "sat"), 23 * 60, 60))
    assert [datetime.fromtimestamp(at, timezone.utc).strftime("%a") for at, _ in found] == ["Fri", "Sat"]
    one = list(openings(utc("2026-06-03T12:00"), zone("UTC"), ("wed",), 0, 60))
    assert [at > utc("2026-06-03T12:00") for at, _ in one] == [False, True]


@pytest.mark.parametrize("name", ["Mars/Base", "", "../etc/passwd", "Europe/Ber\0lin", "/etc/localtime"])
def test_a_zone_that_there_is_not_is_none(name):
    assert zone(name) is None


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("00:00", 0),
        ("23:59", 1439),
        ("24:00", None),
        ("1:30", None),
        ("01:60", None),
        ("0130", None),
        ("", None),
    ],
)
def test_times_are_two_digits_each(text, minutes):
    assert minutes_of(text) == minutes
