"""One direction as a whole: what each part does to the packets that pass it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.emulation.build import build_link
from collab.emulation.profile import from_mapping
from collab.emulation.profiles import PROFILES, parse_profile


def up(seed: int = 1, **fields):
    """The direction up of a link with these fields; those of the link stand in ``link``."""
    link = fields.pop("link", {})
    return build_link(from_mapping({**link, "up": fields}), seed).up


def flow(direction, count: int, gap_us: float, size: int = 1_500) -> list:
    return [direction.offer(i * gap_us, size) for i in range(count)]


ANY = {
    "rate_mbit_s": 20.0,
    "queue_bytes": 60_000,
    "queue": "codel",
    "delay_ms": 10.0,
    "jitter": "pareto",
    "jitter_ms": 2.0,
    "loss": 0.05,
    "loss_burst": 3.0,
    "duplicate": 0.05,
    "corrupt": 0.05,
}
SHAKY = {"outage_every_s": 0.5, "outage_ms": 50.0, "promotion_ms": 30.0, "idle_after_ms": 100.0}


@settings(max_examples=12)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, 5.0]), st.booleans())
def test_the_same_seed_gives_the_same_fates_in_order_unless_reordering_is_asked_for(
    seed, reorder, correlation, holds
):
    fields = {**ANY, "reorder": reorder, "reorder_ms": 7.0, "jitter_correlation_ms": correlation}
    link = {**SHAKY, "outage_holds": holds}
    rng = random.Random(seed)
    offers = []
    now = 0.0
    for _ in range(200):
        now += rng.choice([0.0, 400.0, 2_000.0]) + 200_000.0 * (rng.random() < 0.01)
        offers.append((now, rng.randrange(40, 1_501)))
    one, again = (up(seed, **fields, link=link) for _ in range(2))
    fates = [one.offer(*offer) for offer in offers]
    assert fates == [again.offer(*offer) for offer in offers]
    for (at, _), fate in zip(offers, fates, strict=True):
        assert (fate.drop is None) == (len(fate.times_us) in (1, 2))
        assert all(time >= at + 10_000 for time in fate.times_us)
    if not reorder:
        times = [time for fate in fates for time in fate.times_us]
        assert times == sorted(times)


def test_another_seed_and_another_name_give_other_fates():
    profile = PROFILES["wifi6"]
    links = [build_link(profile, 1), build_link(profile, 2), build_link(profile, 1, "other")]
    drawn = {tuple(fate.times_us for fate in flow(link.up, 50, 1e4)) for link in links}
    drawn |= {tuple(fate.times_us for fate in flow(links[0].down, 50, 1e4))}
    assert len(drawn) == 4


def test_a_part_does_not_change_what_another_draws():
    """Outages come at the same times whatever is lost or sent."""
    link = {"outage_every_s": 1.0, "outage_ms": 100.0, "outage_holds": False}
    few = up(5, link=link)
    many = up(5, loss=0.3, jitter="normal", jitter_ms=1.0, delay_ms=5.0, link=link)
    dark = [i for i, fate in enumerate(flow(few, 5_000, 1e4)) if fate.drop == "outage"]
    assert dark
    assert dark == [i for i, fate in enumerate(flow(many, 5_000, 1e4)) if fate.drop == "outage"]


def test_both_directions_of_a_link_have_the_same_outages():
    link = build_link(from_mapping({"outage_every_s": 1.0, "outage_ms": 100.0, "outage_holds": False}), 3)
    dark = [{i for i, fate in enumerate(flow(way, 5_000, 1e4)) if fate.drop} for way in (link.up, link.down)]
    assert dark[0]
    assert dark[0] == dark[1]


def test_framing_and_serialisation_add_up():
    direction = up(rate_mbit_s=10.0, overhead_bytes=38, delay_ms=5.0)
    assert direction.offer(0.0, 1_212).times_us == (pytest.approx(6_000.0),)
    assert direction.offer(0.0, 1_212).times_us == (pytest.approx(7_000.0),)


def test_a_full_queue_drops_the_tail():
    direction = up(rate_mbit_s=12.0, queue_packets=3)
    fates = [direction.offer(0.0, 1_500).drop for _ in range(4)]
    assert fates == [None, None, None, "queue"]
    assert direction.offer(1_000.0, 1_500).drop is None


def test_an_outage_holds_packets_until_its_end_or_drops_them():
    link = {"outages": [{"at_s": 1.0, "ms": 500.0}]}
    held = flow(up(delay_ms=1.0, link=link), 20, 1e5)
    assert held[9].times_us == (901_000.0,)
    assert [fate.times_us for fate in held[10:15]] == [(1_501_000.0,)] * 5
    assert held[15].times_us == (1_501_000.0,)
    dropped = flow(up(link={**link, "outage_holds": False}), 20, 1e5)
    assert [i for i, fate in enumerate(dropped) if fate.drop == "outage"] == [10, 11, 12, 13, 14]


def test_an_idle_radio_delays_the_first_packet_in_either_direction():
    link = build_link(from_mapping({"promotion_ms": 300.0, "idle_after_ms": 10_000.0}), 1)
    assert link.up.offer(0.0, 100).times_us == (300_000.0,)
    assert link.down.offer(5e6, 100).times_us == (5e6,)
    assert link.up.offer(14e6, 100).times_us == (14e6,)
    assert link.down.offer(25e6, 100).times_us == (25.3e6,)


def test_a_radio_is_not_idle_while_it_sends():
    link = build_link(
        from_mapping({"up": {"rate_mbit_s": 0.0024}, "promotion_ms": 300.0, "idle_after_ms": 1_000.0}), 1
    )
    assert link.up.offer(0.0, 1_500).times_us[0] == pytest.approx(5.3e6)
    assert link.down.offer(6e6, 100).times_us == (6e6,)


def test_reordered_packets_are_overtaken_and_all_others_keep_their_order():
    direction = up(reorder=0.1, reorder_ms=5.0, delay_ms=10.0)
    fates = flow(direction, 2_000, 1_000.0)
    late = [i for i, fate in enumerate(fates) if fate.times_us[0] > i * 1_000.0 + 10_000]
    assert 150 < len(late) < 250
    assert all(fates[i].times_us == (pytest.approx(i * 1_000.0 + 15_000),) for i in late)
    others = [fate.times_us[0] for i, fate in enumerate(fates) if i not in set(late)]
    assert all(one <= other for one, other in pairwise(others))


def test_duplicates_come_twice_and_losses_not_at_all():
    fates = flow(up(duplicate=0.2, loss=0.1), 4_000, 1_000.0)
    counts = [len(fate.times_us) for fate in fates]
    assert counts.count(0) / 4_000 == pytest.approx(0.1, abs=0.015)
    assert counts.count(2) / 4_000 == pytest.approx(0.9 * 0.2, abs=0.02)
    assert {fate.drop for fate in fates} == {None, "loss"}


def test_packets_are_corrupted_as_often_as_was_asked_for_in_places_of_their_own():
    plain, harmed = (flow(up(corrupt=share, loss=0.1), 4_000, 1_000.0) for share in (0.0, 0.2))
    assert [fate.times_us for fate in harmed] == [fate.times_us for fate in plain]
    harms = [fate.harm for fate in harmed if fate.harm]
    assert len(harms) / 4_000 == pytest.approx(0.9 * 0.2, abs=0.02)
    assert len(set(harms)) > 0.99 * len(harms)
    assert not any(fate.harm for fate in harmed if fate.drop)
    assert not any(fate.harm for fate in plain)


def test_what_is_lost_on_the_air_has_used_its_share_of_the_rate():
    fates = flow(up(rate_mbit_s=12.0, loss=0.5), 200, 0.0)
    assert max(fate.times_us[0] for fate in fates if fate.times_us) > 180_000


@pytest.mark.parametrize("name", ["lte", "5g-sa-midband", "wifi6"])
def test_jitter_hardly_delays_a_full_link(name):
    """Order is kept by waiting, which must not turn the mean delay into the largest."""
    profile = parse_profile({"profile": name, "outage_every_s": None, "outage_ms": 0, "idle_after_ms": None,
                             "promotion_ms": 0, "up": {"loss": 0, "loss_burst": None}})  # fmt: skip
    slow, fast = build_link(profile, 1).up, build_link(profile, 1).up
    gap = 12_000 / (profile.up.rate_mbit_s or 1) * 1.01

    def mean(direction, gap_us):
        fates = flow(direction, int(2e6 / gap_us), gap_us)
        return sum(fate.times_us[0] - i * gap_us for i, fate in enumerate(fates)) / len(fates)

    assert mean(fast, gap) == pytest.approx(mean(slow, 20 * gap), rel=0.1)


def test_a_link_that_replaces_another_keeps_what_is_under_way():
    before = build_link(from_mapping({"up": {"rate_mbit_s": 1.2, "delay_ms": 50.0}}), 1)
    last = [before.up.offer(0.0, 1_500) for _ in range(10)][-1].times_us[0]
    after = build_link(from_mapping({"up": {"rate_mbit_s": 120.0, "queue_packets": 5}}), 1, before=before)
    assert after.up.offer(1_000.0, 1_500).times_us[0] >= last


def test_what_waits_fills_the_queue_of_the_link_that_replaces_it():
    slow = {"up": {"rate_mbit_s": 1.2, "queue_packets": 5}}
    before = build_link(from_mapping(slow), 1)
    for _ in range(5):
        before.up.offer(0.0, 1_500)
    after = build_link(from_mapping({"up": {"rate_mbit_s": 120.0, "queue_packets": 5}}), 1, before=before)
    assert after.up.offer(1_000.0, 1_500).drop == "queue"
    assert after.up.offer(11_000.0, 1_500).drop is None


def test_a_link_that_replaces_another_draws_anew_but_keeps_the_times_of_outages():
    profile = from_mapping(
        {"up": {"loss": 0.3}, "outage_every_s": 1.0, "outage_ms": 100.0, "outage_holds": False}
    )
    first = build_link(profile, 1)
    second = build_link(profile, 1, before=first)
    third = build_link(profile, 1, before=second)
    found = [[fate.drop for fate in flow(link.up, 2_000, 1e4)] for link in (first, second, third)]
    dark = [[i for i, drop in enumerate(drops) if drop == "outage"] for drops in found]
    lost = [[i for i, drop in enumerate(drops) if drop == "loss"] for drops in found]
    assert dark[0] == dark[1] == dark[2]
    assert lost[0] != lost[1] != lost[2]
