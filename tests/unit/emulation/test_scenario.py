"""Scenario files: what is possible, and what is said of what is not."""

from __future__ import annotations

import copy
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.emulation.layout import changes_of
from collab.emulation.scenario import convert_scenario
from collab.emulation.scenario_check import check_machine, check_profile, check_scenario
from collab.errors import CollabError, ConfigError
from tests.unit.emulation.scenarios import PROFILE, WIRE, scenario, tree


def refusal(**changes) -> str:
    with pytest.raises(ConfigError) as caught:
        check_scenario(convert_scenario(tree(**changes)))
    return str(caught.value)


def test_the_scenarios_that_hold_the_simulator_against_the_emulator_are_ten_and_possible():
    folder = Path(__file__).parents[3] / "benchmarks" / "assets" / "simulator"
    found = {path.stem: convert_scenario(yaml.safe_load(path.read_text())) for path in folder.glob("*.yaml")}
    assert len(found) == 10
    for name, made in found.items():
        check_scenario(made)
        assert made.name == name
        assert (folder / made.model).is_file()


def test_hosts_of_a_group_have_links_of_their_own():
    hosts = {"me": {}, "edge": {"count": 3, "device": "fast"}}
    network = check_scenario(
        scenario(hosts=hosts, topology={"shape": "star", "profile": "lte"}, plans=["local"])
    )
    assert network.hosts == ("me", "edge-0", "edge-1", "edge-2")
    assert [link.other for link in network.links] == ["base"] * 4


def test_listed_links_stand_in_place_of_those_of_the_topology():
    links = [{"from": "a", "to": "b", "profile": "ethernet", "schedule": [{"at_s": 2, "cut": True}]}]
    found = scenario(links=links)
    network = check_scenario(found)
    assert network.link("a", "b").profile.name == "ethernet"
    (change,) = changes_of(found, network)
    assert change.cut
    assert change.profile.name == "ethernet"


def test_sites_are_joined_by_their_backhaul():
    sites = {"west": {"hosts": ["me"], "profile": "lte"}, "east": {"hosts": ["a", "b"], "profile": WIRE}}
    network = check_scenario(scenario(topology={"shape": "cells", "sites": sites}))
    assert [str(leg) for leg in network.ways()["me", "a"]] == [
        "me → west",
        "west → core",
        "core → east",
        "east → a",
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hosts": {}}, "hosts: there is none; add at least one"),
        ({"hosts": {"me": {"stretch": 0.5}}}, "hosts.me.stretch: 0.5; a device can only be made slower"),
        ({"hosts": {"me": {"cpu": -1}}}, "hosts.me.cpu: -1; give more than 0"),
        ({"requester": "mee"}, "requester: there is no host 'mee'; try me"),
        ({"topology": {"shape": "mesh", "profile": "ltr"}}, "topology.profile: there is no 'ltr'; try lte"),
        ({"topology": {"shape": "ring", "profile": "lte"}}, "topology.shape: Invalid value 'ring'"),
        ({"topology": None}, "has no link"),
        ({"links": [{"from": "a", "to": "a"}]}, "joins 'a' with itself"),
        ({"plans": []}, "plans: there is none"),
        ({"plans": ["local", "local"]}, "plans[1].name: 'local' stands there twice"),
        ({"plans": [{"name": "x", "at": [2], "assign": ["a"]}]}, "plans[0].assign: 1 entries for 2 stages"),
        ({"plans": [{"name": "x", "at": [2]}]}, "plans[0]: at and assign go together"),
        (
            {"plans": [{"name": "x", "at": [], "assign": ["a"], "codecs": ["zstd"]}]},
            "plans[0].codecs: 1 for 2 edges; with at and assign give one for each",
        ),
        ({"plans": [{"name": "x", "codecs": ["int8"]}]}, "plans[0].codec_error: 'int8' loses digits"),
        ({"plans": [{"name": "x", "ensemble": {"members": ["a"], "node": "b"}}]}, "give two hosts at least"),
        ({"workload": {"kind": "poisson", "rate": -1, "requests": 1}}, "workload.rate: -1; give more than 0"),
        ({"workload": {"kind": "closed"}}, "workload: give requests or duration_s"),
        ({"workload": {"kind": "trace", "at_s": [1, 0.5]}}, "workload.at_s[1]: 0.5 after 1"),
        ({"workload": {"kind": "poisson", "rate": float("nan"), "requests": 1}}, "workload.rate: nan"),
        ({"faults": [{"at_s": 1}]}, "faults[0]: nothing is given; give one of kill, stop and cut"),
        ({"faults": [{"at_s": 1, "kill": "c"}]}, "faults[0].kill: there is no host 'c'"),
        ({"faults": [{"at_s": 1, "cut": ["a", "x"]}]}, "faults[0].cut: no link joins 'a' and 'x'"),
        ({"cluster": {"transport": "mqtt"}}, "cluster.broker: MQTT needs one"),
        ({"seeds": 3}, "scenario: Object contains unknown field `seeds`"),
        ({"noise": -0.1}, "noise: -0.1; give 0 or more"),
    ],
)
def test_what_is_impossible_is_named_with_its_field_and_a_remedy(changes, text):
    assert text in refusal(**changes)


def test_the_scenario_of_the_documentation_is_possible():
    text = (Path(__file__).parents[3] / "docs/simulation.md").read_text("utf-8")
    (sample,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = convert_scenario(yaml.safe_load(sample))
    network = check_scenario(found)
    assert [change.text for change in changes_of(found, network)] == [
        "phone – base: 5g-sa-midband",
        "phone – base: cut",
        "phone – base: lte",
    ]


def test_a_device_that_the_profile_lacks_is_named():
    with pytest.raises(ConfigError, match=r"hosts\.me\.device: the profile has no device 'fats'; try fast"):
        check_profile(scenario(hosts={"me": {"device": "fats"}}), PROFILE)


def test_more_than_the_machine_holds_is_refused_before_it_starts():
    found = scenario()
    check_machine(found, cpus=2, memory_bytes=10**9)
    with pytest.raises(ConfigError, match="hosts: 3 nodes need 300 MB of memory, 200 MB are free"):
        check_machine(found, cpus=2, memory_bytes=200_000_000)
    greedy = scenario(hosts={"me": {"cpu": 1.5}, "a": {"cpu": 1}, "b": {}})
    with pytest.raises(ConfigError, match=r"hosts: their cpu adds up to 2.5 cores, this machine has 2"):
        check_machine(greedy, cpus=2, memory_bytes=10**9)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=5), st.just([]), st.just({})
)


@settings(max_examples=60)
@given(st.data())
def test_whatever_stands_in_a_field_only_our_errors_leave(data):
    changed = copy.deepcopy(tree())
    place: Any = changed
    for _ in range(10):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
            break
        place = inner
    with suppress(CollabError):
        check_scenario(convert_scenario(changed))
