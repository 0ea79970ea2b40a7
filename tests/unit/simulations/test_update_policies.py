"""A simulated year: the same every time, and policies differ as they are written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simulations import update_policies
from simulations.__main__ import main
from simulations.catalogue import STUDIES
from simulations.experiment import Study
from simulations.fleet_year import BAD, HOURS, RELEASES, energy_j, fleet, loss, newest, published_hour, world

DEVICES = 8


@pytest.fixture(scope="module")
def year():
    """Rows by policy of a small fleet."""
    update_policies.QUICK_DEVICES, before = DEVICES, update_policies.QUICK_DEVICES
    found = update_policies.study(True)
    update_policies.QUICK_DEVICES = before
    return found


def test_policies_trade_what_they_are_written_for(year):
    rows = {row["policy"]: row for row in year.rows}
    assert list(rows) == ["periodic", "conditional", "feedback", "never"]
    periodic, conditional, feedback, never = rows.values()
    assert periodic["updates"] > 40
    assert conditional["battery_j"] < periodic["battery_j"] / 4
    assert conditional["metered_mb"] < periodic["metered_mb"]
    assert feedback["looks_for_release"] < periodic["looks_for_release"]
    assert never["updates"] == never["mb"] == 0
    assert never["accuracy"] < min(row["accuracy"] for name, row in rows.items() if name != "never")
    assert periodic["stale_days"] < feedback["stale_days"] < never["stale_days"]


def test_the_same_seed_gives_the_same_year():
    one, other = (update_policies._one("feedback", 1, range(1)) for _ in range(2))
    assert np.array_equal(one.versions, other.versions)
    assert (one.energy_j, one.decisions) == (other.energy_j, other.decisions)
    assert one.decisions > 30


def test_parts_of_a_fleet_make_the_year_of_the_whole():
    parts = [update_policies._one("feedback", 4, each) for each in (range(1), range(1, 4))]
    whole, joined = update_policies._one("feedback", 4, range(4)), parts[0].and_of(parts[1])
    assert np.array_equal(whole.versions, joined.versions)
    assert np.array_equal(whole.daily_bytes, joined.daily_bytes)
    assert whole.done == joined.done
    assert whole.decisions == joined.decisions
    assert whole.energy_j == pytest.approx(joined.energy_j, rel=1e-12)


def test_a_table_and_plots_are_written(year, tmp_path, monkeypatch):
    done = Study("update_policies", "?", lambda quick: year)
    monkeypatch.setitem(STUDIES, "update_policies", done)
    assert main(["update_policies", "--quick", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "update_policies"
    rows = json.loads((folder / "results.json").read_text("utf-8"))["rows"]
    assert [row["policy"] for row in rows] == ["periodic", "conditional", "feedback", "never"]
    assert (folder / "results.csv").read_text("utf-8").count("\n") == 5
    assert (folder / "table.md").read_text("utf-8").count("\n") == 6
    assert sorted(plot.stem for plot in folder.glob("*.svg")) == ["accuracy", "bytes"]
    assert all(plot.read_text("utf-8").startswith("<svg") for plot in folder.glob("*.svg"))


def test_a_study_has_no_cases_to_choose_from(tmp_path, capsys):
    assert main(["update_policies", "--only", "kind=simulated", "--out", str(tmp_path)]) == 2
    assert "has no cases" in capsys.readouterr().err


def test_devices_charge_stay_within_bounds_and_are_where_habits_put_them():
    devices = fleet(3, 200)
    assert devices.battery.min() >= 0
    assert devices.battery.max() <= 1
    assert devices.charging[:, devices.mains].all()
    assert 0.1 < devices.charging[:, ~devices.mains].mean() < 0.6
    assert 0.2 < devices.metered.mean() < 0.7
    # What a habit says of the local clock: at noon nearly everybody with a battery is away and unplugged.
    noon = [(12 - int(devices.local_hour(n, 0))) % 24 for n in range(200)]
    away = [devices.charging[noon[n], n] for n in range(200) if not devices.mains[n]]
    assert np.mean(away) < 0.1


def test_the_world_moves_and_releases_follow_it():
    there = world(3)
    assert np.abs(there.moved).max() > 0.5
    for version in (2, 20, RELEASES):
        assert there.trained[version] == there.moved[published_hour(version) - 24]
        assert newest(published_hour(version)) == version
    assert newest(HOURS) == RELEASES
    assert all(there.quality[bad] < there.quality[bad - 1] - 0.05 for bad in BAD)
    assert loss(np.array([0.0, 10.0])) == pytest.approx([0, 0.3])


def test_a_small_message_costs_more_over_a_radio_with_a_long_tail():
    assert energy_j(20_000, 8, True) > 10 * energy_j(20_000, 30, False)
    assert energy_j(2e6, 8, True) - energy_j(1e6, 8, True) == pytest.approx(1.288 + 0.052 * 8)


def test_a_delta_pays_while_few_versions_lie_between():
    sizes = [update_policies.download_bytes(behind) for behind in range(1, 12)]
    assert sizes[0] == 510_000
    assert sizes == sorted(sizes)
    assert sizes[6] == sizes[-1] == update_policies.MODEL_BYTES
