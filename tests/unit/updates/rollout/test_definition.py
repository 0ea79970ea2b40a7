"""Rollouts as people write them: what is wrong is named."""

from __future__ import annotations

from typing import Any

import pytest

from collab.errors import ConfigError
from collab.updates.rollout.definition import Rollout, Wave, count_of, rollout_of
from collab.updates.rollout.waves import NO_WAVE, in_waves, opens_at

LEAST: dict[str, Any] = {
    "name": "digits-7",
    "release": {"bundle": "digits-7.collab", "family": "digits", "version": 7},
    "targets": [{"plans": "plans/*.yaml"}],
}
MONDAY_NOON = 1_800_273_600.0
"""2027-01-18 12:00 UTC."""


def rollout(**fields: Any) -> Rollout:
    return rollout_of({**LEAST, **fields})


def test_a_rollout_of_three_lines_has_safe_defaults():
    made = rollout()
    assert made.selections == (Wave(to=1), Wave(to="10%"), Wave(to="50%"), Wave(to="100%"))
    assert (made.errors, made.on_failure, made.success) == (1, "pause", "90%")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "a b"}, "name"),
        ({"speed": 1}, "speed"),
        ({"release": {}}, "release: give bundle"),
        ({"release": {"bundle": "a", "source": "b"}}, "release: give bundle"),
        ({"release": {"source": "b"}}, "release: source needs family"),
        ({"release": {"bundle": "a", "family": "b"}}, "release: bundle needs"),
        ({"release": {"bundle": "a", "family": "b", "version": -1}}, "release.version"),
        ({"release": {"bundle": "a", "family": "b c", "version": 1}}, "release.family"),
        ({"patience_s": -1}, "patience_s"),
        ({"targets": []}, "targets: 0 entries"),
        ({"targets": [{"plans": "a", "labels": {"x": "y" * 65}}]}, "targets.0.labels"),
        ({"targets": [{"plans": "a", "labels": {f"x{n}": "y" for n in range(17)}}]}, "targets.0.labels"),
        ({"waves": []}, "waves: 0 entries"),
        ({"waves": [1] * 65}, "waves: 65 entries"),
        ({"waves": [0]}, "waves.0: 0 is not within"),
        ({"waves": [1, "half"]}, "waves.1: 'half' is no share"),
        ({"waves": ["0%"]}, "waves.0: 0%"),
        ({"waves": ["101%"]}, "waves.0"),
        ({"waves": [{"to": "x"}]}, "waves.0"),
        ({"success": "most"}, "success"),
        ({"errors": 0}, "errors"),
        ({"errors": "0.0%"}, "errors"),
        ({"on_failure": "explode"}, "on_failure"),
        ({"parallel": 0}, "parallel"),
        ({"parallel": 65}, "parallel"),
        ({"soak_s": -1}, "soak_s"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"close_after_s": float("nan")}, "close_after_s"),
        ({"windows": [{"from": "25:00", "to": "01:00"}]}, "windows.0.from"),
        ({"windows": [{"from": "01:00", "to": "01:00", "zone": "Mars/Olympus"}]}, "windows.0.zone"),
        ({"windows": [{"from": "01:00", "to": "02:00"}] * 17}, "windows: 17"),
        ({"bounds": {"canary": 3}}, "bounds"),
        ({"bounds": {"touched": 3}}, "bounds: touched"),
    ],
)
def test_what_is_wrong_is_named(fields, said):
    with pytest.raises(ConfigError) as caught:
        rollout(**fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("amount", "total", "count"),
    [
        (3, 10, 3),
        ("10%", 10, 1),
        ("10%", 11, 2),
        ("33.4%", 3, 2),
        ("100%", 7, 7),
        ("90%", 1, 1),
        ("1%", 0, 0),
    ],
)
def test_shares_are_rounded_up(amount, total, count):
    assert count_of(amount, total) == count


def names(count: int, **labels: str) -> dict[str, dict[str, str]]:
    return {f"{labels.get('site', 'p')}-{n}": labels for n in range(count)}


def sizes(made: Rollout, targets: dict[str, dict[str, str]]) -> list[int]:
    waves = list(in_waves(made, targets).values())
    return [waves.count(number) for number in range(len(made.selections))]


@pytest.mark.parametrize(
    ("waves", "count", "found"),
    [
        ([1, "10%", "50%", "100%"], 20, [1, 1, 8, 10]),
        ([1, "10%", "50%", "100%"], 1, [1, 0, 0, 0]),
        ([1, "50%", "100%"], 5, [1, 2, 2]),
        (["50%", 2, "100%"], 10, [5, 0, 5]),
        ([3], 5, [3]),
    ],
)
def test_waves_count_the_earlier_ones_in(waves, count, found):
    assert sizes(rollout(waves=waves), names(count)) == found


def test_a_wave_may_choose_by_labels_and_counts_only_those():
    made = rollout(waves=[{"to": "50%", "where": {"site": "lab"}}, 1, "100%"])
    targets = names(4, site="lab") | names(4, site="field")
    waves = in_waves(made, targets)
    assert {name for name, wave in waves.items() if wave == 0} < names(4, site="lab").keys()
    assert sizes(made, targets) == [2, 0, 6]


def test_targets_that_no_wave_reaches_are_known():
    waves = in_waves(rollout(waves=[2]), names(5))
    assert sorted(waves.values()) == [NO_WAVE] * 3 + [0] * 2


def test_the_seed_decides_the_order_and_nothing_else_does():
    first = in_waves(rollout(seed=1, waves=[1, "100%"]), names(40))
    again = in_waves(rollout(seed=1, waves=[1, "100%"]), dict(reversed(names(40).items())))
    canaries = {next(iter(in_waves(rollout(seed=seed, waves=[1, "100%"]), names(40)))) for seed in range(20)}
    assert list(first.items()) == list(again.items())
    assert len(canaries) > 5


@pytest.mark.parametrize(
    ("windows", "after_hours"),
    [
        ([], 0),
        ([{"from": "11:00", "to": "13:00"}], 0),
        ([{"from": "12:00", "to": "13:00"}], 0),
        ([{"from": "11:00", "to": "12:00"}], 23),
        ([{"from": "11:00", "to": "12:00"}, {"from": "22:00", "to": "04:00"}], 10),
        ([{"from": "01:00", "to": "02:00", "days": ["wed"]}], 37),
        ([{"from": "14:00", "to": "15:00", "zone": "Europe/Berlin"}], 1),
    ],
)
def test_updates_begin_in_windows(windows, after_hours):
    found = opens_at(rollout(windows=windows).windows, MONDAY_NOON)
    assert found - MONDAY_NOON == after_hours * 3600
