"""Who reaches whom over which links, and networks that cannot be."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from collab.emulation.network import Cell, Leg, Network, NetworkLink, mesh, multi_cell, star
from collab.emulation.profile import DirectionProfile, LinkProfile
from collab.errors import ConfigError

WAY = DirectionProfile(delay_ms=1.0, rate_mbit_s=10.0)
PROFILE = LinkProfile(name="plain", up=WAY, down=WAY)
SLOW = LinkProfile(name="slow", up=WAY, down=DirectionProfile(delay_ms=50.0))


def legs(text: str) -> tuple[Leg, ...]:
    places = text.split()
    return tuple(Leg(one, other) for one, other in pairwise(places))


def test_in_a_star_every_way_leads_over_the_base():
    network = star({"a": PROFILE, "b": SLOW})
    assert network.ways() == {("a", "b"): legs("a base b"), ("b", "a"): legs("b base a")}
    assert [link.cell for link in network.links] == [None, None]


def test_a_star_with_a_cell_shares_its_rate():
    network = star({"a": PROFILE, "b": PROFILE}, cell=Cell(up_mbit_s=50, down_mbit_s=200))
    assert [link.cell for link in network.links] == ["base", "base"]


def test_cells_share_the_backhaul_of_their_base_station():
    network = multi_cell(
        {"north": {"a": PROFILE, "b": PROFILE}, "south": {"c": PROFILE}}, {"north": SLOW, "south": SLOW}
    )
    ways = network.ways()
    assert ways["a", "b"] == legs("a north b")
    assert ways["a", "c"] == legs("a north core south c")
    assert ways["b", "c"][1:] == ways["a", "c"][1:]
    assert ways["c", "a"] == legs("c south core north a")


def test_hosts_of_a_mesh_hand_nothing_on():
    network = mesh(["a", "b", "c"], {("a", "b"): PROFILE, ("b", "c"): PROFILE})
    assert set(network.ways()) == {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")}
    network.check_reachable([("a", "b"), ("c", "b"), ("a", "a")])
    with pytest.raises(ConfigError, match=r"'a' cannot reach 'c'.*junction"):
        network.check_reachable([("b", "c"), ("a", "c")])


def test_other_pairs_of_a_mesh_get_what_all_others_have():
    network = mesh(["a", "b", "c"], {("c", "a"): SLOW}, others=PROFILE)
    assert {link.name: link.profile.name for link in network.links} == {
        "c – a": "slow",
        "a – b": "plain",
        "b – c": "plain",
    }


def test_the_way_with_the_fewest_links_is_taken_and_of_those_the_first():
    network = Network(
        ("a", "b"),
        tuple(NetworkLink(*pair, PROFILE) for pair in (("a", "x"), ("a", "y"), ("y", "b"), ("x", "b"))),
        ("x", "y"),
    )
    assert network.ways()["a", "b"] == legs("a x b")


def test_a_host_behind_a_nat_has_another_address_inside():
    network = star({"a": PROFILE, "b": PROFILE}, nat=["b"])
    assert str(network.address("a")) == str(network.outside("a")) == "10.77.0.1"
    assert (str(network.address("b")), str(network.outside("b"))) == ("10.78.0.2", "10.77.0.2")


def test_a_changed_link_leaves_the_others_as_they_are():
    network = star({"a": PROFILE, "b": PROFILE})
    changed = network.changed("base", "a", SLOW)
    assert [link.profile.name for link in changed.links] == ["slow", "plain"]
    assert [link.profile.name for link in network.links] == ["plain", "plain"]
    with pytest.raises(ConfigError, match="'a' and 'b' have none"):
        network.changed("a", "b", SLOW)


def test_networks_travel_as_json():
    network = star({"a": PROFILE, "b": SLOW}, nat=["a"], cell=Cell(up_mbit_s=1, down_mbit_s=2, share="fifo"))
    assert msgspec.json.decode(msgspec.json.encode(network), type=Network) == network


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Network(("a",), (NetworkLink("a", "bse", PROFILE),), ("base",)), r"links\[0\].*'base'"),
        (lambda: Network(("a", "b"), (NetworkLink("a", "a", PROFILE),)), r"links\[0\]: joins 'a' with it"),
        (
            lambda: Network(("a", "b"), (NetworkLink("a", "b", PROFILE), NetworkLink("b", "a", SLOW))),
            r"links\[1\]: a second link of 'b' and 'a'",
        ),
        (lambda: Network(("a", "b", "c"), (NetworkLink("a", "b", PROFILE),)), "hosts: 'c' has no link"),
        (lambda: Network(("a", "a"), ()), "hosts: 'a' is listed twice"),
        (lambda: Network(("a",), (), ("a",)), "junctions: 'a' is listed twice"),
        (lambda: Network((), ()), "hosts: there are 0"),
        (lambda: Network(tuple(f"h{i}" for i in range(10_001)), ()), "hosts: there are 10001"),
        (lambda: Network(("a\n",), ()), "is no name"),
        (lambda: star({"a": PROFILE, "b": PROFILE}, nat=["c"]), "nat: 'c'"),
        (lambda: multi_cell({"north": {"a": PROFILE}}, {}), "backhaul: 'north' has none"),
        (
            lambda: star({"a": PROFILE, "b": PROFILE}, cell=Cell(up_mbit_s=float("nan"), down_mbit_s=1)),
            r"cells.base.up_mbit_s",
        ),
        (lambda: Network(("a",), (NetworkLink("a", "x", PROFILE, "y"),), ("x",)), r"links\[0\].cell: 'y'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(make, said):
    with pytest.raises(ConfigError, match=said):
        make()
