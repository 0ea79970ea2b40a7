"""What the device is going through, read from a made /sys, /proc, /etc and /run."""

from __future__ import annotations

from pathlib import Path

import pytest

from collab.runtime.surroundings import (
    Surroundings,
    battery_share,
    charging,
    default_device,
    processor_ticks,
    temperature_c,
    time_zone,
)

HEAD = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT"
ROUTES = HEAD + "\n{} 00000000 0102A8C0 0003 0 0 100 00000000 0 0 0\n"


def make(root: Path, **files: str) -> Path:
    """Files below a folder; ``__`` in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def reader(root: Path, said: str = "", **settings) -> tuple[Surroundings, list[float], list[int]]:
    now, asked = [100.0], [0]

    def ask() -> str:
        asked[0] += 1
        return said

    made = Surroundings(root, metered_devices=("wwan",), root=root, ask=ask, clock=lambda: now[0], **settings)
    return made, now, asked


def test_what_nothing_tells_is_unknown(tmp_path):
    found = reader(tmp_path)[0].read()
    told = (found.uptime_s, found.battery, found.charging, found.metered, found.idle, found.free_memory_bytes)
    assert told == (None,) * 6
    assert found.temperature_c is None
    assert found.free_disk_bytes
    assert Surroundings(tmp_path / "gone", metered_devices=(), root=tmp_path).read().free_disk_bytes is None


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({"BAT0__type": "Battery\n", "BAT0__capacity": "83\n"}, 0.83),
        ({"BAT0__type": "Battery", "BAT0__energy_now": "30", "BAT0__energy_full": "40"}, 0.75),
        (  # Two of different sizes weigh by what they hold.
            {
                **{"BAT0__type": "Battery", "BAT0__charge_now": "30", "BAT0__charge_full": "30"},
                **{"BAT1__type": "Battery", "BAT1__charge_now": "0", "BAT1__charge_full": "10"},
            },
            0.75,
        ),
        ({"BAT0__type": "Battery", "BAT0__energy_now": "44", "BAT0__energy_full": "40"}, 1.0),
        ({"BAT0__type": "Battery", "BAT0__capacity": "odd"}, None),
        ({"hid__type": "Battery", "hid__scope": "Device", "hid__capacity": "9"}, None),
        ({"AC__type": "Mains", "AC__online": "1"}, None),
    ],
)
def test_batteries_are_read_together_and_those_of_a_mouse_are_not(tmp_path, files, share):
    found = battery_share(make(tmp_path, **files))
    assert found == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"AC__type": "Mains", "AC__online": "1", "BAT__type": "Battery", "BAT__status": "Discharging"},
            True,
        ),
        (
            {"AC__type": "Mains", "AC__online": "0", "BAT__type": "Battery", "BAT__status": "Discharging"},
            False,
        ),
        ({"BAT__type": "Battery", "BAT__status": "Full"}, True),
        ({}, None),
    ],
)
def test_charging_is_external_power_or_a_battery_that_does_not_discharge(tmp_path, files, told):
    assert charging(make(tmp_path, **files)) is told


def test_the_hottest_zone_counts_and_broken_sensors_do_not(tmp_path):
    make(
        tmp_path,
        thermal__thermal_zone0__temp="41000\n",
        thermal__thermal_zone1__temp="57500\n",
        thermal__thermal_zone2__temp="-274000\n",
        hwmon__hwmon0__temp1_input="99000\n",
    )
    assert temperature_c(tmp_path) == 57.5
    assert temperature_c(make(tmp_path / "other", hwmon__hwmon0__temp1_input="38500\n")) == 38.5


def test_idle_is_the_share_since_the_last_look(tmp_path):
    read, now, _ = reader(make(tmp_path, proc__stat="cpu  100 0 100 700 100 0 0 0 9 9\ncpu0 1 1 1 1\n"))
    assert read.read().idle == 0.8
    make(tmp_path, proc__stat="cpu  190 0 100 710 100 0 0 0 9 9\n")
    now[0] += 0.5
    assert read.read().idle == 0.8, "so soon it is that of the last look"
    now[0] += 1.0
    assert read.read().idle == pytest.approx(0.1)
    make(tmp_path, proc__stat="intr 5\n")
    now[0] += 5.0
    assert read.read().idle == pytest.approx(0.1)
    assert processor_ticks(tmp_path / "proc/stat") is None


def test_memory_and_uptime_are_read(tmp_path):
    meminfo = "MemTotal: 4000 kB\nMemFree: 10 kB\nMemAvailable:    2000 kB\n"
    found = reader(make(tmp_path, proc__meminfo=meminfo, proc__uptime="3725.51 9000.0\n"))[0].read()
    assert (found.free_memory_bytes, found.uptime_s) == (2_048_000, 3725.51)


@pytest.mark.parametrize(
    ("said", "device", "metered"),
    [
        ("u 1\n", "eth0", True),
        ("u 3", "eth0", True),
        ("u 4\n", "wwan0", False),
        ("u 0\n", "wwan0", True),
        ("", "eth0", False),
        ("", "", None),
    ],
)
def test_metered_is_what_network_manager_says_else_goes_by_the_device(tmp_path, said, device, metered):
    (tmp_path / "run/NetworkManager").mkdir(parents=True)
    make(tmp_path, proc__net__route=ROUTES.format(device) if device else "")
    read, now, asked = reader(tmp_path, said)
    assert read.read().metered is metered
    now[0] += 59
    read.read()
    assert asked[0] == 1, "within a minute it is not asked again"
    now[0] += 2
    read.read()
    assert asked[0] == 2


def test_network_manager_is_not_asked_where_it_does_not_run(tmp_path):
    make(tmp_path, proc__net__route=ROUTES.format("wwan0"))
    read, _, asked = reader(tmp_path, "u 2")
    assert read.read().metered is True
    assert asked[0] == 0
    assert default_device(tmp_path / "proc/net/route") == "wwan0"


def test_the_time_zone_is_that_of_the_environment_else_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    assert time_zone(tmp_path) == "Asia/Tokyo"
    monkeypatch.setenv("TZ", "EST5EDT4,M3.2.0,M11.1.0")
    assert time_zone(tmp_path) == "UTC"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    assert time_zone(tmp_path) == "Europe/Berlin"
    monkeypatch.delenv("TZ")
    (tmp_path / "etc/localtime").unlink()
    make(tmp_path, etc__timezone="America/Lima\n")
    assert time_zone(tmp_path) == "America/Lima"
