"""Energy counters of the kernel, from files like its own."""

from __future__ import annotations

from pathlib import Path

from collab.runtime.energy import EnergyMeter


def zone(root: Path, name: str, used_uj: int, turn_uj: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{used_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{turn_uj}\n")
    return folder


def test_packages_add_up_and_zones_within_them_do_not_count_twice(tmp_path):
    zone(tmp_path, "intel-rapl:0", 100_000)
    zone(tmp_path, "intel-rapl:1", 5)
    zone(tmp_path, "intel-rapl:0:0", 70_000)
    meter = EnergyMeter(tmp_path)
    zone(tmp_path, "intel-rapl:0", 350_000)
    zone(tmp_path, "intel-rapl:1", 250_005)
    zone(tmp_path, "intel-rapl:0:0", 90_000)
    assert meter.used_j() == 0.5


def test_a_counter_that_turned_over_goes_on_counting(tmp_path):
    zone(tmp_path, "intel-rapl:0", 900_000)
    meter = EnergyMeter(tmp_path)
    zone(tmp_path, "intel-rapl:0", 150_000)
    assert meter.used_j() == 0.25


def test_nothing_is_said_where_nothing_counts_or_may_be_read(tmp_path):
    assert EnergyMeter(tmp_path / "nowhere").used_j() is None
    folder = zone(tmp_path, "intel-rapl:0", 900_000)
    meter = EnergyMeter(tmp_path)
    (folder / "energy_uj").unlink()
    assert meter.used_j() is None
