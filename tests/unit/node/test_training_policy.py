"""When a device may train, and what ends a training that costs too much."""

from __future__ import annotations

from typing import cast

import pytest

from collab.errors import ConfigError
from collab.node.training_config import TrainingConfig, minutes_of, within
from collab.node.training_policy import Refusal, Surroundings, look, refusal
from collab.node.training_thread import Guard
from collab.runtime.energy import EnergyMeter
from collab.telemetry.catalogue import TRAINING_CAUSES

QUIET = Surroundings(load=0.1, charging=True, device="eth0", minute=12 * 60)


@pytest.mark.parametrize(
    ("settings", "now", "said"),
    [
        ({}, {"load": 9.0, "charging": False, "device": "wwan0"}, ""),
        ({"idle": True}, {"load": 0.6}, "not idle"),
        ({"idle": True}, {"load": 0.4}, ""),
        ({"charging": True}, {"charging": False}, "on battery"),
        ({"charging": True}, {"charging": None}, ""),
        ({"unmetered": True}, {"device": "wwan0"}, "metered network: the default route is over wwan0"),
        ({"unmetered": True, "metered_devices": ("eth",)}, {}, "metered network"),
        ({"unmetered": True}, {"device": ""}, ""),
        ({"hours": "22:00-06:00"}, {}, "outside training.hours"),
        ({"hours": "22:00-06:00"}, {"minute": 5 * 60 + 59}, ""),
        ({"hours": "22:00-06:00"}, {"minute": 6 * 60}, "outside"),
    ],
)
def test_a_policy_forbids_what_it_says_and_nothing_else(settings, now, said):
    found = refusal(TrainingConfig(**settings), Surroundings(**{**_plain(QUIET), **now}))
    assert found.reason.startswith(said) if said else found == Refusal()
    assert not found.cause or found.cause in TRAINING_CAUSES


def _plain(surroundings: Surroundings) -> dict:
    return {name: getattr(surroundings, name) for name in Surroundings.__slots__}


def test_load_says_nothing_while_the_device_trains_itself():
    busy = Surroundings(load=1.0, charging=True, device="", minute=0)
    assert refusal(TrainingConfig(idle=True), busy).cause == "not_idle"
    assert refusal(TrainingConfig(idle=True), busy, at_work=True) == Refusal()


def test_hours_that_are_equal_are_the_whole_day_and_odd_ones_are_named():
    assert within(minutes_of("06:00-06:00"), 3)
    with pytest.raises(ConfigError, match=r"training\.hours: '6-22'; write HH:MM-HH:MM"):
        minutes_of("6-22")


def test_the_device_is_read_from_files_of_the_kernel(tmp_path):
    battery, routes = tmp_path / "power" / "BAT0", tmp_path / "route"
    battery.mkdir(parents=True)
    (battery / "type").write_text("Battery\n")
    (battery / "status").write_text("Discharging\n")
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    rows = [("wwan0", "00000000", 700), ("wlan0", "00000000", 600), ("eth0", "0000FEA9", 0)]
    lines = (
        f"{name}\t{to}\t00000000\t0001\t0\t0\t{metric}\t{'00000000' if to == '00000000' else 'FFFF'}"
        for name, to, metric in rows
    )
    routes.write_text(head + "\n".join(lines))
    found = look(tmp_path / "power", routes)
    assert (found.charging, found.device) == (False, "wlan0")
    (battery / "status").write_text("Full\n")
    assert look(tmp_path / "power", routes).charging
    assert look(tmp_path / "none", tmp_path / "none").charging is None


class Meter(EnergyMeter):
    def used_j(self) -> float:
        return 12.0


def test_training_ends_when_its_time_its_memory_or_its_energy_is_used_up():
    now_s, grown = [0.0], [0]
    for settings, said in (
        ({"seconds": 5.0}, "training.seconds"),
        ({"memory_mb": 5.0}, "training.memory_mb"),
        ({"energy_j": 5.0}, "training.energy_j"),
    ):
        now_s[0], grown[0] = 0.0, 100_000_000
        guard = Guard(
            TrainingConfig(**settings),
            lambda _: cast(EnergyMeter, Meter()),
            lambda: now_s[0],
            lambda: grown[0],
        )
        guard.begin()
        now_s[0], grown[0] = 7.0, 106_000_000
        assert guard()
        assert said in guard.reason
        assert guard.steps == 0


def test_a_guard_keeps_the_first_reason_and_notes_a_training_that_does_not_end():
    now_s = [0.0]
    guard = Guard(TrainingConfig(), clock=lambda: now_s[0], memory=lambda: 0)
    assert not guard()
    guard.stop("first")
    guard.stop("second")
    assert (guard(), guard.reason, guard.steps, guard.hangs) == (True, "first", 1, False)
    now_s[0] = 60.0
    assert guard.hangs
