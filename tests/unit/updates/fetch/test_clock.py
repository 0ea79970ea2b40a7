"""Time on devices whose clock cannot be trusted."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

pytest.importorskip("tuf")

from collab.errors import Refused, StoreError
from collab.updates.fetch.client import Clocks
from collab.updates.fetch.clock import EPOCH, Floor
from collab.updates.fetch.files import FolderSource
from tests.unit.updates.releases import NOW, World, days


def at(monotonic, system=EPOCH, boot=""):
    return Clocks(lambda: system, lambda: monotonic, lambda seconds: None, lambda: boot)


def test_time_goes_on_from_what_was_signed():
    floor = Floor(EPOCH, 5.0).issued("2031-05-01T00:00:00Z", 10.0)
    assert floor.now(EPOCH, 70.0) == NOW + timedelta(seconds=60)
    assert floor.now(NOW + days(3), 70.0) == NOW + days(3)


@pytest.mark.parametrize("value", [None, 7, "soon", "2031-05-01"])
def test_what_is_no_time_raises_nothing(value):
    assert Floor(NOW, 0.0).issued(value, 1.0).time == NOW + timedelta(seconds=1)


def test_time_never_runs_back():
    assert Floor(NOW, 9.0).issued("2001-01-01T00:00:00Z", 3.0).time == NOW


def test_a_device_without_a_clock_notices_a_stale_repository_after_its_own_running_time(tmp_path):
    world = World(tmp_path)
    world.release(b"one")
    device = world.device(clocks=at(0.0))
    assert device.newest("digits", "stable").version == 1
    device.clocks = at(6.9 * 86400)
    assert device.newest("digits", "stable").version == 1
    # Restarted: the clock counts from zero again, what was counted is kept.
    restarted = world.device(clocks=at(0.0))
    assert restarted.newest("digits", "stable").version == 1
    restarted.clocks = at(0.2 * 86400)
    with pytest.raises(Refused, match="expired"):
        restarted.newest("digits", "stable")


def test_running_time_counts_across_the_processes_of_one_run_of_the_device(tmp_path):
    world = World(tmp_path)
    world.release(b"one")
    assert world.device(clocks=at(100.0, boot="a")).newest("digits", "stable").version == 1
    later = 100.0 + 7.1 * 86400
    assert world.device(clocks=at(later, boot="b")).newest("digits", "stable").version == 1
    with pytest.raises(Refused, match="expired"):
        world.device(clocks=at(later + 7.1 * 86400, boot="b")).newest("digits", "stable")


def test_a_clock_that_was_once_far_ahead_does_no_lasting_harm(tmp_path):
    world = World(tmp_path)
    world.release(b"one")
    with pytest.raises(Refused, match="clock"):
        world.device(now=NOW + days(20_000)).newest("digits", "stable")
    assert world.device(now=NOW).newest("digits", "stable").version == 1


def test_an_old_clock_does_not_bring_ended_metadata_back(tmp_path):
    world = World(tmp_path)
    world.release(b"one")
    old = world.copy("old")
    world.now = NOW + days(30)
    world.release(b"two")
    device = world.device(clocks=at(0.0, datetime(2000, 1, 1, tzinfo=timezone.utc)))
    assert device.newest("digits", "stable").version == 2
    for path in (world.folder / "device/metadata").glob("*.json"):
        path.unlink()
    with pytest.raises(Refused, match="expired"):
        replace(device, source=FolderSource(old)).newest("digits", "stable")


def test_a_memory_that_cannot_be_read_is_not_taken_for_none(tmp_path):
    world = World(tmp_path)
    world.release(b"one")
    world.device().newest("digits", "stable")
    (tmp_path / "device/seen.json").write_bytes(b"{")
    with pytest.raises(StoreError, match=r"seen\.json"):
        world.device().newest("digits", "stable")
