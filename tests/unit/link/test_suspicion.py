"""When a silent peer is suspected, over simulated paths with seeded loss and a clock of their own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.link.suspicion import Became, Detector, Health, Probe, Silences, SuspicionConfig
from tests.unit.link.lossy import (
    LIMIT_US,
    PING_US,
    Datagrams,
    Stream,
    false_alarms,
    noticed_us,
    path,
)

SECOND = 1_000_000
FAST_US, SLOW_US = 300, 200_000
WARM_US = 30 * SECOND


def idle(now_us: int) -> bool:
    return False


# --- how often it pings --------------------------------------------------------


def test_an_idle_link_is_pinged_as_seldom_as_configured():
    run = path(Datagrams, 1, FAST_US, 0.0, awaited=idle).run(5 * SECOND)
    warmed_up = run.pings
    assert warmed_up <= SuspicionConfig().warm_up + 4
    run.run(65 * SECOND)
    assert run.pings - warmed_up == 60 * SECOND // PING_US


@pytest.mark.parametrize(("rtt_us", "interval_us"), [(FAST_US, 50_000), (100_000, 440_000)])
def test_a_link_that_somebody_waits_on_is_pinged_every_few_round_trips(rtt_us, interval_us):
    run = path(Datagrams, 1, rtt_us, 0.0).run(20 * SECOND)
    before = run.pings
    run.run(40 * SECOND)
    assert run.pings - before == pytest.approx(20 * SECOND / interval_us, rel=0.05)


def test_waiting_that_begins_on_an_idle_link_is_served_at_once():
    detector = _warm(rtt_us=FAST_US)
    now_us = _until_idle(detector)
    assert detector.due_us - now_us > SECOND
    assert Probe(now_us + 100_000) in detector.tick(now_us + 100_000, awaited=True)
    assert detector.attentive
    assert detector.due_us <= now_us + 150_000


def test_messages_that_are_not_proven_to_have_arrived_are_waited_for():
    detector = _warm(rtt_us=FAST_US)
    now_us = _until_idle(detector)
    detector.wrote(1000, now_us + 1)
    (probe,) = detector.tick(now_us + 60_000, awaited=False)
    assert isinstance(probe, Probe)
    assert detector.attentive
    detector.heard(16, probe.value + FAST_US)
    detector.pong(probe.value, probe.value + FAST_US)
    detector.tick(detector.due_us, awaited=False)
    assert not detector.attentive


def test_a_suspected_peer_is_not_flooded():
    run = path(Datagrams, 1, FAST_US, 0.0, stopped_us=WARM_US).run(WARM_US + SECOND)
    before = run.pings
    run.run(WARM_US + 9 * SECOND)
    assert run.detector.health is Health.SUSPECTED
    assert run.pings - before <= 8 * 4 + 1


def test_what_is_remembered_of_unanswered_pings_is_bounded():
    config = SuspicionConfig(suspected_probe_us=1000, probe_us=1000)
    run = path(Datagrams, 1, FAST_US, 0.0, stopped_us=0, config=config).run(9 * SECOND)
    assert run.pings > 1000
    assert len(run.detector._probes) == 256


# --- silence -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_a_frozen_peer_is_suspected_within_half_a_second_on_a_fast_link(seed):
    assert 0 < noticed_us(Stream, seed, FAST_US, 0.0, WARM_US) < SECOND // 2


@pytest.mark.parametrize("seed", range(10))
def test_a_frozen_peer_is_suspected_within_ten_round_trips_on_a_slow_link(seed):
    assert 0 < noticed_us(Stream, seed, SLOW_US, 0.0, WARM_US) < 10 * SLOW_US


def test_a_link_is_known_well_enough_after_a_second():
    assert 0 < noticed_us(Stream, 1, FAST_US, 0.0, SECOND) < SECOND


def test_a_frozen_peer_that_nobody_waits_for_is_suspected_soon_after_the_next_ping():
    run = path(Datagrams, 1, FAST_US, 0.0, awaited=idle, stopped_us=WARM_US).run(WARM_US + 5 * SECOND)
    (at_us,) = run.times(Health.SUSPECTED)
    assert WARM_US < at_us < WARM_US + PING_US + SECOND


def test_a_peer_that_goes_on_is_well_again_at_once():
    resumed_us = WARM_US + 3 * SECOND
    run = path(Datagrams, 1, FAST_US, 0.0, stopped_us=WARM_US, resumed_us=resumed_us).run(60 * SECOND)
    assert [health for _, health in run.changes] == [Health.SUSPECTED, Health.ALIVE]
    assert run.changes[1][0] - resumed_us <= 2 * FAST_US


def test_outages_do_not_make_the_next_one_go_unnoticed():
    run = path(Stream, 1, FAST_US, 0.0).run(WARM_US)
    for _ in range(10):
        run.stopped_us, run.resumed_us = run.now_us, run.now_us + 5 * SECOND
        run.run(run.now_us + 4 * SECOND)
        assert run.times(Health.SUSPECTED)[-1] - run.stopped_us < SECOND // 2
        run.run(run.now_us + 4 * SECOND)


def test_nobody_is_suspected_before_the_least_silence():
    config = SuspicionConfig(least_silence_us=800_000)
    run = path(Datagrams, 1, FAST_US, 0.0, config=config, stopped_us=WARM_US).run(WARM_US + 2 * SECOND)
    (at_us,) = run.times(Health.SUSPECTED)
    assert 0.75 * SECOND < at_us - WARM_US < 0.9 * SECOND


def test_an_answer_that_is_overdue_is_asked_for_again_though_nobody_waits():
    detector = _warm(rtt_us=FAST_US)
    _until_idle(detector)
    sent_us = _ping(detector, awaited=False)
    assert not detector.attentive
    assert _ping(detector, awaited=False) - sent_us < 100_000


def test_a_peer_that_is_silent_up_to_the_limit_is_dead():
    run = path(Datagrams, 1, FAST_US, 0.0, stopped_us=WARM_US).run(WARM_US + 60 * SECOND)
    at_us, health = run.changes[-1]
    assert health is Health.DEAD
    assert at_us - WARM_US == pytest.approx(LIMIT_US, abs=100_000)


@pytest.mark.parametrize("rtt_us", [FAST_US, 20_000, SLOW_US])
def test_lost_datagrams_do_not_look_like_a_frozen_peer(rtt_us):
    runs = [false_alarms(Datagrams, seed, rtt_us, 0.2, 120e6) for seed in range(5)]
    assert runs == [(0, False)] * 5


def test_a_stream_that_repeats_only_after_time_outs_gives_hardly_any_false_alarm():
    """A fifth of all segments are lost; the time-out doubles each time."""
    runs = [false_alarms(Stream, seed, 20_000, 0.2, 120e6) for seed in range(10)]
    assert sum(alarms for alarms, _ in runs) <= 1


def test_a_frozen_peer_behind_a_lossy_path_is_suspected_before_the_limit():
    noticed = [noticed_us(Datagrams, seed, 20_000, 0.2, WARM_US) for seed in range(10)]
    assert min(noticed) > 0
    assert max(noticed) < 4 * SECOND


def test_alarms_that_were_false_teach_patience():
    detector = _warm(rtt_us=FAST_US)
    before_us = detector.silences.patience_us(4.0)
    for _ in range(20):
        _answer_after(detector, int(1.3 * before_us))
    assert detector.silences.patience_us(4.0) > 2 * before_us


# --- what is not the peer's fault ----------------------------------------------


def test_time_in_which_this_end_did_not_run_is_not_held_against_the_peer():
    stalls = ((20 * SECOND, 28 * SECOND), (30 * SECOND, 45 * SECOND))
    run = path(Datagrams, 1, FAST_US, 0.0, stalls=stalls).run(60 * SECOND)
    assert run.changes == []
    assert run.detector.silences.patience_us(4.0) < SECOND // 2


def test_a_late_timer_excuses_the_silence_before_it():
    detector = _warm(rtt_us=FAST_US)
    _ping(detector)
    assert not any(
        isinstance(action, Became) for action in detector.tick(detector.due_us + 9 * SECOND, awaited=True)
    )


def test_what_arrived_while_this_end_did_not_run_is_not_late():
    detector = _warm(rtt_us=FAST_US)
    before_us = detector.silences.patience_us(4.0)
    sent_us = _ping(detector)
    for _ in range(20):
        now_us = detector.due_us + 8 * SECOND
        detector.heard(16, now_us)
        detector.pong(sent_us, now_us)
        (probe,) = detector.tick(now_us, awaited=True)
        assert isinstance(probe, Probe)
        sent_us = probe.value
    assert detector.silences.patience_us(4.0) < 1.5 * before_us


def test_a_large_message_in_front_of_a_ping_explains_silence_by_the_rate_of_the_link():
    slow, fast = _warm(rtt_us=FAST_US), _warm(rtt_us=FAST_US)
    for detector, rate in ((slow, 1), (fast, 100)):
        size = 1_000_000
        detector.wrote(size, detector.due_us)
        sent_us = _ping(detector)
        detector.heard(16, sent_us + size // rate)
        detector.pong(sent_us, sent_us + size // rate)
        detector.wrote(4 * size, detector.due_us)
    assert _silence_until_suspected(slow) > 3 * SECOND
    assert _silence_until_suspected(fast) < SECOND


def test_a_large_frame_that_took_long_to_arrive_explains_silence_before_the_next():
    detector = _warm(rtt_us=FAST_US)
    before_us = detector.silences.patience_us(4.0)
    for _ in range(3):
        _answer_after(detector, 2 * SECOND, size=1 << 20)
    assert detector.silences.patience_us(4.0) <= before_us
    assert _silence_until_suspected(detector) > 2 * SECOND


def test_what_arrives_shows_that_the_peer_lives_even_if_the_answer_is_late():
    detector = _warm(rtt_us=FAST_US)
    now_us = detector.due_us
    for _ in range(100):
        now_us += 50_000
        detector.heard(100, now_us)
        actions = detector.tick(max(now_us, detector.due_us), awaited=True)
        assert not any(isinstance(action, Became) for action in actions)
    assert detector.phi(now_us + 50_000) < 4


def test_answers_to_pings_that_were_never_sent_prove_nothing():
    detector = _warm(rtt_us=FAST_US)
    detector.wrote(1000, detector.due_us)
    sent_us = _ping(detector)
    learned = detector.silences.round_trip_us
    for value in (0, sent_us - 1, sent_us + 1, 1 << 63):
        detector.pong(value, sent_us + 5)
    assert detector.silences.round_trip_us == learned
    assert len(detector._probes) == 1


# --- slow ------------------------------------------------------------------------


def test_a_peer_that_answers_far_later_than_it_did_is_slow_until_it_does_not():
    def think_us(now_us: int) -> float:
        return 150_000 if 30 * SECOND < now_us < 40 * SECOND else 0

    run = path(Datagrams, 1, 20_000, 0.0, think_us=think_us).run(60 * SECOND)
    assert [health for _, health in run.changes] == [Health.SLOW, Health.ALIVE]
    (began_us, _), (ended_us, _) = run.changes
    assert 30 * SECOND < began_us < 32 * SECOND
    assert 40 * SECOND < ended_us < 43 * SECOND


# --- the odds ----------------------------------------------------------------------


@given(
    st.lists(st.floats(0, 20e6), max_size=200),
    st.floats(1, 1e6),
    st.floats(0.1, 12),
)
def test_patience_is_the_silence_at_which_phi_is_reached(silences, rtt_us, phi):
    learned = Silences(SuspicionConfig())
    for silent_us in silences:
        learned.answered(rtt_us)
        learned.record(silent_us)
    patience_us = learned.patience_us(phi)
    if learned.doublings(patience_us) < 39:
        assert learned.phi(patience_us) == pytest.approx(phi, rel=1e-6, abs=1e-6)
    assert learned.phi(patience_us * 0.99) <= phi + 1e-6


def test_nothing_is_suspect_while_nothing_is_asked():
    detector = _warm(rtt_us=FAST_US)
    assert detector.phi(detector.due_us + 60 * SECOND) == 0


# --- driving one by hand -----------------------------------------------------------


def _warm(rtt_us: int) -> Detector:
    """One whose peer has answered a hundred pings, none of them unanswered now."""
    detector = Detector(0, PING_US, LIMIT_US)
    answered = 0
    while answered < 100:
        now_us = detector.due_us
        for action in detector.tick(now_us, awaited=True):
            assert isinstance(action, Probe)
            detector.heard(16, now_us + rtt_us)
            detector.pong(action.value, now_us + rtt_us)
            answered += 1
    return detector


def _ping(detector: Detector, *, awaited: bool = True) -> int:
    """Tick until it pings; when that was."""
    while True:
        for action in detector.tick(detector.due_us, awaited=awaited):
            if isinstance(action, Probe):
                return action.value


def _until_idle(detector: Detector) -> int:
    """Tick until nobody waits any more; the time."""
    while detector.attentive:
        now_us = detector.due_us
        for action in detector.tick(now_us, awaited=False):
            assert isinstance(action, Probe)
            detector.heard(16, now_us)
            detector.pong(action.value, now_us)
    return now_us


def _answer_after(detector: Detector, silent_us: int, size: int = 16) -> None:
    """Let the next ping be answered only after a time."""
    first = None
    while first is None or detector.due_us < first + silent_us:
        for action in detector.tick(detector.due_us, awaited=True):
            if isinstance(action, Probe) and first is None:
                first = action.value
    detector.heard(size, first + silent_us)
    detector.pong(first, first + silent_us)
    if detector._probes:
        last = detector._probes[-1][0]
        detector.pong(last, first + silent_us + 1)


def _silence_until_suspected(detector: Detector) -> int:
    """How long a ping may now stay unanswered."""
    first = None
    while True:
        now_us = detector.due_us
        for action in detector.tick(now_us, awaited=True):
            if isinstance(action, Probe):
                first = first or action.value
            elif action.health is Health.SUSPECTED:
                assert first is not None
                return now_us - first
