"""Schedules of faults: replayable, of every kind, and bearable at any time."""

from __future__ import annotations

import pytest

from tests.chaos.schedule import CLIENT, Fault, Kind, broker_links, direct_links, is_bearable, schedule

STAGES = (("a", "b"), ("c", "d"), ("e", "f"))


@pytest.mark.parametrize("seed", range(10))
def test_a_seed_gives_one_schedule_in_which_every_stage_keeps_a_sound_replica(seed):
    faults = schedule(seed, 120, STAGES)
    assert faults == schedule(seed, 120, STAGES) != schedule(seed + 1, 120, STAGES)
    assert {fault.kind for fault in faults} == set(Kind)
    for moment in [fault.at_s for fault in faults]:
        going = [f for f in faults if f.at_s <= moment < f.sound_again_s]
        harmed = set().union(*(fault.harmed for fault in going))
        assert CLIENT not in harmed
        assert all(set(stage) - harmed for stage in STAGES)
        places = [fault.ends for fault in going if fault.other]
        assert len(places) == len(set(places))


def test_a_longer_schedule_has_more_faults_and_none_near_its_end():
    short, long = schedule(7, 60, STAGES), schedule(7, 600, STAGES)
    assert len(long) > 5 * len(short) > 25
    assert long[: len(short)] == short
    assert max(fault.at_s for fault in short) < 60 - 2


def test_a_node_that_is_harmed_is_left_alone_and_so_is_its_only_replica():
    killed = Fault(1.0, Kind.KILL, "a", 1.0)
    bears = [
        Fault(2.0, Kind.FREEZE, "d", 1.0),
        Fault(2.0, Kind.DELAY, "a", 1.0, "c", 5.0),
        Fault(20.0, Kind.KILL, "b", 1.0),
    ]
    bears_not = [
        Fault(2.0, Kind.FREEZE, "a", 1.0),
        Fault(2.0, Kind.FREEZE, "b", 1.0),
        Fault(2.0, Kind.CUT, "b", 1.0, "d"),
        Fault(2.0, Kind.CUT, CLIENT, 1.0, "b"),
        Fault(2.0, Kind.CUT, "d", 1.0, "e"),
    ]
    assert all(is_bearable(fault, [killed], STAGES) for fault in bears)
    assert not any(is_bearable(fault, [killed], STAGES) for fault in bears_not)
    assert not is_bearable(Fault(2.5, Kind.LOSS, "c", 1.0, "a", 0.1), [bears[1]], STAGES)


def test_links_are_those_that_tokens_travel_over():
    assert direct_links(STAGES[:2]) == [
        *((CLIENT, node) for node in "abcd"),
        *(("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")),
    ]


def test_over_a_broker_the_links_of_nodes_fail_and_the_clients_never():
    faults = schedule(3, 120, STAGES, broker_links(STAGES))
    places = [fault.ends for fault in faults if fault.other]
    assert places
    assert all("broker" in ends and CLIENT not in ends for ends in places)
    assert all("broker" not in fault.harmed for fault in faults)
