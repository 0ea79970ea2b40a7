"""Schedules and faults of a run, in their order and where they overlap."""

from __future__ import annotations

from collab.emulation.layout import changes_of
from collab.emulation.network import without_service
from collab.emulation.profiles import profile_named
from collab.emulation.scenario_check import check_scenario
from collab.emulation.timeline import SetLink, ToNode, timeline
from tests.unit.emulation.scenarios import scenario


def happenings(**changes):
    made = scenario(topology={"shape": "star", "profile": "ethernet"}, **changes)
    network = check_scenario(made)
    return list(timeline(network, changes_of(made, network), made.faults))


def test_a_schedule_and_faults_happen_at_their_times():
    lte, ethernet = profile_named("lte"), profile_named("ethernet")
    links = [{"from": "a", "to": "base", "schedule": [{"at_s": 2, "profile": "lte"}, {"at_s": 5}]}]
    faults = [{"at_s": 4, "kill": "b", "for_s": 2}, {"at_s": 1, "stop": "a"}]
    assert happenings(links=links, faults=faults) == [
        (1, ToNode("a", "stop")),
        (2, SetLink("a", "base", lte)),
        (4, ToNode("b", "kill")),
        (5, SetLink("a", "base", ethernet)),
        (6, ToNode("b", "start")),
    ]


def test_a_link_carries_nothing_while_anything_cuts_it():
    lte, ethernet = profile_named("lte"), profile_named("ethernet")
    links = [
        {
            "from": "a",
            "to": "base",
            "schedule": [{"at_s": 2, "profile": "lte"}, {"at_s": 4, "cut": True}, {"at_s": 8}],
        }
    ]
    faults = [{"at_s": 1, "cut": ["base", "a"], "for_s": 2}, {"at_s": 5, "cut": ["a", "base"], "for_s": 1}]
    found = [(at, what.profile) for at, what in happenings(links=links, faults=faults)]
    assert found == [
        (1, without_service(ethernet)),
        (2, without_service(lte)),
        (3, lte),
        (4, without_service(ethernet)),
        (5, without_service(ethernet)),
        (6, without_service(ethernet)),
        (8, ethernet),
    ]


def test_a_node_comes_back_when_the_last_fault_that_holds_it_ends():
    faults = [
        {"at_s": 1, "kill": "b", "for_s": 5},
        {"at_s": 2, "kill": "b", "for_s": 1},
        {"at_s": 1, "stop": "a", "for_s": 1},
        {"at_s": 1.5, "stop": "a", "for_s": 3},
    ]
    assert happenings(faults=faults) == [
        (1, ToNode("b", "kill")),
        (1, ToNode("a", "stop")),
        (4.5, ToNode("a", "continue")),
        (6, ToNode("b", "start")),
    ]
