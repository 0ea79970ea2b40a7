"""When a plan is made anew: what counts as drift, for how long, and how often."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from collab.planner.chains import Chain, Move, StageChoice
from collab.planner.drift import Drift, DriftRules, LinkFigures, corrected
from collab.planner.evaluate import Evaluator
from tests.unit.planner.small import FP16, profile, two_stages

AB = ("a", "b", "grpc")
AS_KNOWN, SLOW = LinkFigures(1.0, 8.0), LinkFigures(1.0, 0.8)
RULES = DriftRules(threshold=0.2, window=3, hold_s=1.0, cooldown_s=30.0)


class Watch:
    """A drift with a clock: looks once a second."""

    def __init__(self, rules: DriftRules = RULES) -> None:
        self.now_s = 100.0
        self.drift = Drift(profile(), 4000, rules)

    def link(self, figures: LinkFigures, times: int = 1) -> list[str]:
        """States after each of some equal samples of the link from a to b."""
        states: list[str] = []
        for _ in range(times):
            self.now_s += 1.0
            self.drift.link(AB, figures)
            states.append(self.drift.look(self.now_s).state)
        return states

    def decide(self, switched: bool) -> None:
        self.drift.decided(self.now_s, switched)


def test_what_is_as_predicted_is_calm():
    watch = Watch()
    watch.drift.device("a", 1.0, 2.0)
    assert watch.link(AS_KNOWN, 20) == ["calm"] * 20


def test_a_link_that_becomes_slow_is_watched_and_then_planned_for():
    watch = Watch()
    watch.link(AS_KNOWN, 5)
    assert watch.link(SLOW, 3) == ["calm", "watching", "replan"], "the median turns with the second sample"
    reason = watch.drift.look(watch.now_s).reason
    assert reason == "link a → b (grpc): 4.0 kB take 41.00 ms, 5.00 ms were known"


def test_a_link_that_becomes_fast_counts_too():
    watch = Watch()
    assert watch.link(LinkFigures(1.0, 80.0), 4)[-1] == "replan"


def test_one_bad_sample_is_nothing():
    watch = Watch()
    for _ in range(10):
        assert watch.link(SLOW) + watch.link(AS_KNOWN, 3) == ["calm"] * 4


def test_nothing_is_said_before_the_window_is_full():
    watch = Watch()
    assert watch.link(SLOW, 2) == ["calm", "calm"]


def test_differences_below_the_floor_do_not_count_whatever_their_share():
    drift = Drift(profile(), 4000, DriftRules(window=1, hold_s=0.0, floor_ms=0.5))
    drift.device("a", 10.0, 0.05)
    assert drift.look(0.0).state == "calm"
    drift.device("a", 10.0, 0.5)
    assert drift.look(0.0).state == "replan"


def test_a_drift_ends_at_a_part_of_the_threshold_only():
    watch = Watch(DriftRules(threshold=0.2, release=0.5, window=1, hold_s=5.0))
    assert watch.link(LinkFigures(1.0, 8 / 1.5)) == ["watching"]  # 7 ms for 5
    assert watch.link(LinkFigures(1.0, 8 / 1.19)) == ["watching"], "15 % is still in the band"
    assert watch.link(LinkFigures(1.0, 8 / 1.1)) == ["calm"], "8 % is below it"


def test_what_a_decision_knew_counts_as_known_afterwards():
    watch = Watch()
    watch.link(SLOW, 4)
    watch.decide(switched=False)
    assert watch.link(SLOW, 10) == ["calm"] * 10
    assert watch.link(AS_KNOWN, 4)[-1] == "replan", "a link that recovers is a drift from there"


def test_a_pause_stands_between_switches():
    watch = Watch()
    watch.link(SLOW, 4)
    watch.decide(switched=True)
    switched_s = watch.now_s
    states = watch.link(AS_KNOWN, 40)
    assert "replan" not in states[:29]
    assert states[30] == "replan"
    assert watch.now_s > switched_s + 30


def test_a_flapping_link_causes_few_switches():
    """The link is bad and good for 5 to 15 s by turns, for half an hour; a switch always helps for now."""
    rng = random.Random(5)
    watch = Watch(DriftRules(window=3, hold_s=1.0, cooldown_s=30.0, longest_cooldown_s=600.0))
    switches, flips, bad, direct = [], 0, False, True
    until_s = watch.now_s
    while watch.now_s < 1900.0:
        if watch.now_s >= until_s:
            bad, flips, until_s = not bad, flips + 1, watch.now_s + rng.uniform(5, 15)
        (state,) = watch.link(SLOW if bad else AS_KNOWN)
        if state == "replan":
            running, best = (41.0, 8.0) if bad == direct else (8.0, 8.0)
            switch = watch.drift.is_better(running, best)
            direct = direct != switch
            watch.decide(switch)
            if switch:
                switches.append(watch.now_s)
    assert flips > 100
    assert 2 <= len(switches) <= 8, switches
    assert all(later - one >= 30 for one, later in pairwise(switches))


def test_a_lasting_change_after_flapping_is_followed_after_the_longest_pause():
    watch = Watch(DriftRules(window=1, hold_s=0.0, cooldown_s=10.0, longest_cooldown_s=40.0))
    figures = SLOW
    for _ in range(10):
        while watch.link(figures) != ["replan"]:
            pass
        watch.decide(switched=True)
        figures = SLOW if figures is AS_KNOWN else AS_KNOWN
    began_s = watch.now_s
    while watch.link(figures) != ["replan"]:
        pass
    assert watch.now_s - began_s == pytest.approx(40.0, abs=1.0)


def test_calm_days_shorten_the_pause_again():
    watch = Watch(DriftRules(window=1, hold_s=0.0, cooldown_s=10.0))
    for figures in (SLOW, AS_KNOWN, SLOW):
        while watch.link(figures) != ["replan"]:
            pass
        watch.decide(switched=True)
    watch.link(SLOW, 1000)
    watch.link(AS_KNOWN)
    watch.decide(switched=True)
    began_s = watch.now_s
    while watch.link(SLOW) != ["replan"]:
        pass
    assert watch.now_s - began_s == pytest.approx(10.0, abs=1.0)


@pytest.mark.parametrize(
    ("running", "best", "better"),
    [
        (100.0, 91.0, False),
        (100.0, 90.0, True),
        (float("inf"), 1e9, True),
        (float("inf"), float("inf"), False),
    ],
)
def test_a_new_plan_must_be_better_by_a_margin(running, best, better):
    assert Drift(profile(), 1, DriftRules(margin=0.1)).is_better(running, best) is better


def test_figures_are_medians_and_unknown_ends_are_left_out():
    drift = Drift(profile(), 4000, RULES)
    assert drift.figures(AB) == AS_KNOWN
    for mbit_s in (4.0, 100.0, 5.0):
        drift.link(AB, LinkFigures(1.0, mbit_s))
    drift.link(("b", "a", "grpc"), SLOW)
    drift.device("z", 9.0, 1.0)
    drift.device("b", 2.0, 6.0)
    assert drift.links() == {AB: LinkFigures(1.0, 5.0)}
    assert drift.factors() == {"a": 1.0, "b": 2.0}
    assert drift.figures(("b", "a", "grpc")) is None


def test_a_small_stage_says_little_of_its_device():
    drift = Drift(profile(), 4000, DriftRules(window=1, floor_ms=0.5))
    drift.device("a", 0.25, 0.3)
    assert drift.factors()["a"] == 1.0
    drift.device("a", 0.25, 3.0)
    assert drift.factors()["a"] == 0.25


def test_factors_outlive_the_stages_that_they_were_measured_on():
    drift = Drift(profile(), 4000, RULES)
    for _ in range(3):
        drift.device("b", 2.0, 6.0)
    drift.forget()
    assert drift.factors() == {"a": 1.0, "b": 2.0}
    assert drift.look(1e6).state == "calm"


def test_a_corrected_profile_predicts_what_was_measured():
    slower = corrected(profile(), {"b": 3.0}, {AB: LinkFigures(2.0, 4.0)})
    before = Evaluator(profile()).evaluate(two_stages()).costs.latency_ms
    assert Evaluator(slower).evaluate(two_stages()).costs.latency_ms == before + 2 * 6.0 + 1.0 + 4.0
    assert slower.devices[0] == profile().devices[0]
    assert slower.links[0] == profile().links[0]


def test_a_slower_device_codes_more_slowly_and_with_any_threads():
    slower = corrected(profile(), {"a": 2.0}, {})
    assert [e.encode_mb_s for e in slower.devices[0].codecs] == [0.5]
    whole = Chain((StageChoice(0, 5, ("a",), 2),), (Move(), Move()))
    assert Evaluator(slower).stage_ms(slower.devices[0], 0, 5, whole.stages[0].threads) == 5.0
    assert Evaluator(slower).codec_ms("a", 2, FP16.codec) == (8.0, 4.0)
