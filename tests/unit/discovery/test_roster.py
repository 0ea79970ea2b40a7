"""The roster: one peer for one identity, whoever saw it, and no more than that."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from collab.discovery.base import MAX_ENDPOINTS, Sighting
from collab.discovery.roster import PREFERENCE, Change, Peer, Roster


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def seen(name: str, *endpoints: str, how: str = "mdns", **more: Any) -> Sighting:
    return Sighting(name=name, endpoints=endpoints, how=how, **more)


def only(roster: Roster) -> Peer:
    (peer,) = roster.peers()
    return peer


def test_sightings_of_one_identity_are_one_peer_with_all_that_was_seen() -> None:
    roster = Roster(Clock())
    roster.report(seen("a", "mqtt://b:1883/a", how="mqtt", cluster="home", instance="i", software="collab/1"))
    roster.report(seen("a", "grpc://10.0.0.1:1", cluster="home", instance="i", role="node"))
    peer = only(roster)
    assert peer.endpoints == ("grpc://10.0.0.1:1", "mqtt://b:1883/a")
    assert peer.found == ("mdns", "mqtt")
    assert (peer.software, peer.role, peer.conflict) == ("collab/1", "node", False)


def test_one_name_in_two_clusters_is_two_peers_without_conflict() -> None:
    roster = Roster(Clock())
    roster.report(seen("a", "grpc://h:1", cluster="home", source="1"))
    roster.report(seen("a", "grpc://h:2", cluster="work", source="2"))
    assert [peer.cluster for peer in roster.peers()] == ["home", "work"]
    assert not any(peer.conflict for peer in roster.peers())


def test_two_processes_of_one_name_stay_two_and_are_marked() -> None:
    roster = Roster(Clock())
    roster.report(seen("a", "grpc://h:1", instance="one", source="1"))
    roster.report(seen("a", "grpc://h:2", instance="two", source="2"))
    assert [(peer.endpoints, peer.conflict) for peer in roster.find("a")] == [
        (("grpc://h:1",), True),
        (("grpc://h:2",), True),
    ]
    roster.gone("mdns", "2")
    assert not only(roster).conflict


def test_a_process_that_restarts_at_its_address_is_no_conflict() -> None:
    roster = Roster(Clock())
    roster.report(seen("a", "grpc://h:1", instance="old", source="1"))
    roster.report(seen("a", "grpc://h:1", instance="new", how="mqtt"))
    assert only(roster).instance == "new"
    assert only(roster).found == ("mqtt",)


def test_each_discovery_has_a_time_to_live_of_its_own() -> None:
    clock = Clock()
    roster = Roster(clock)
    roster.report(seen("a", "grpc://h:1", ttl_s=10))
    roster.report(seen("a", "coap+udp://h:2", how="coap", ttl_s=20))
    assert roster.expire() == 110
    clock.s = 110
    assert roster.expire() == 120
    assert only(roster).found == ("coap",)
    clock.s = 120
    assert roster.expire() is None
    assert not roster.peers()


def test_a_sighting_that_is_repeated_lasts_again() -> None:
    clock = Clock()
    roster = Roster(clock)
    roster.report(seen("a", "grpc://h:1", ttl_s=10))
    clock.s = 109
    roster.report(seen("a", "grpc://h:1", ttl_s=10))
    clock.s = 115
    roster.expire()
    assert only(roster).name == "a"


def test_an_address_that_was_given_belongs_to_who_advertises_it() -> None:
    roster = Roster(Clock())
    roster.report(seen("", "grpc://h:1", how="static"))
    assert only(roster).name == ""
    roster.report(seen("a", "grpc://h:1"))
    assert only(roster).name == "a"
    assert only(roster).found == ("static", "mdns")


def test_this_process_itself_is_not_in_its_list() -> None:
    roster = Roster(Clock(), instance="me")
    roster.report(seen("a", "grpc://h:1", instance="me"))
    assert not roster.peers()


def test_subscribers_hear_of_what_comes_changes_and_goes() -> None:
    roster = Roster(Clock())
    heard: list[Change] = []
    end = roster.subscribe(heard.append)
    roster.report(seen("a", "grpc://h:1"))
    roster.report(seen("a", "grpc://h:1"))
    roster.report(seen("a", "grpc://h:2"))
    roster.gone("mdns", "a")
    assert [(change.before is None, change.after is None) for change in heard] == [
        (True, False),
        (False, False),
        (False, True),
    ]
    end()
    end()
    roster.report(seen("a", "grpc://h:1"))
    assert len(heard) == 3


def test_a_full_roster_keeps_whom_it_knows_until_they_are_over() -> None:
    clock = Clock()
    roster = Roster(clock, limit=2)
    roster.report(seen("a", "grpc://h:1", ttl_s=10))
    roster.report(seen("b", "grpc://h:2", ttl_s=30))
    roster.report(seen("c", "grpc://h:3"))
    assert [peer.name for peer in roster.peers()] == ["a", "b"]
    assert roster.refused == 1
    clock.s += 10
    roster.report(seen("c", "grpc://h:3"))
    assert [peer.name for peer in roster.peers()] == ["b", "c"]


endpoints = st.sampled_from([f"{scheme}://h:{port}" for scheme in PREFERENCE for port in (1, 2)])
sightings = st.builds(
    Sighting,
    name=st.sampled_from(["", "a", "b", "bad name", "\x1b[2J"]),
    endpoints=st.lists(st.one_of(endpoints, st.text(max_size=8)), max_size=40).map(tuple),
    cluster=st.sampled_from(["", "home", "WRONG"]),
    software=st.text(max_size=100),
    role=st.sampled_from(["node", "king"]),
    how=st.sampled_from(["mdns", "mqtt", "static"]),
    ttl_s=st.floats(),
    instance=st.sampled_from(["", "one", "two"]),
    source=st.sampled_from(["", "x", "y", "z"]),
)
steps = st.lists(
    st.one_of(
        sightings,
        st.tuples(st.sampled_from(["mdns", "mqtt", "static"]), st.sampled_from(["x", "y", "a"])),
        st.floats(0, 4000),
    ),
    max_size=30,
)


@given(steps)
def test_whatever_is_reported_the_list_stays_bounded_clean_and_told(history: list[Any]) -> None:
    clock = Clock()
    roster = Roster(clock, limit=5)
    mirror: dict[Any, Peer] = {}

    def mirrored(change: Change) -> None:
        if change.before is not None:
            assert mirror.pop(change.before.key) == change.before
        if change.after is not None:
            mirror[change.after.key] = change.after

    roster.subscribe(mirrored)
    for step in history:
        if isinstance(step, Sighting):
            roster.report(step)
        elif isinstance(step, tuple):
            roster.gone(*step)
        else:
            clock.s += step
            over = roster.expire()
            assert over is None or clock.s < over <= clock.s + 3600
        peers = roster.peers()
        assert len(peers) <= 5
        assert {peer.key: peer for peer in peers} == mirror
        for peer in peers:
            assert len(peer.endpoints) <= MAX_ENDPOINTS
            assert peer.name in ("", "a", "b")
            assert peer.cluster in ("", "home")
            assert peer.role in ("", "node")
            assert peer.software.isascii()
            assert len(peer.software) <= 64
            assert all(endpoint.isprintable() and "://" in endpoint for endpoint in peer.endpoints)
            assert list(peer.endpoints) == sorted(peer.endpoints, key=_rank)
            same = [p for p in peers if p.name and (p.name, p.cluster) == (peer.name, peer.cluster)]
            assert peer.conflict == (len(same) > 1)


def _rank(endpoint: str) -> int:
    scheme = endpoint.partition("://")[0]
    return PREFERENCE.index(scheme) if scheme in PREFERENCE else len(PREFERENCE)


@given(
    st.permutations(
        [
            seen("a", "grpc://h:1", instance="i", source="1"),
            seen("a", "mqtt://b:1/a", how="mqtt", instance="i"),
            seen("a", "coap+udp://h:3", how="coap", instance="i", software="collab/1"),
            seen("", "grpc://h:1", how="static"),
        ]
    )
)
def test_the_order_in_which_discoveries_report_does_not_matter(order: list[Sighting]) -> None:
    roster = Roster(Clock())
    for sighting in order:
        roster.report(sighting)
    assert only(roster) == Peer(
        "a",
        "",
        ("grpc://h:1", "coap+udp://h:3", "mqtt://b:1/a"),
        ("static", "mdns", "mqtt", "coap"),
        "collab/1",
        "",
        "i",
    )
