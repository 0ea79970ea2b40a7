"""Which links are measured, by whom, and what round trips say of each direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collab.codec.pb import control_pb2 as pb
from collab.coordinator.cluster import NodeView
from collab.coordinator.profiled_links import LinkMeter
from collab.core.ids import NodeName
from collab.errors import PeerUnreachable
from collab.transport.inproc import InprocTransport
from tests.unit.functions import coordinator, node

WHEN = "2030-01-01T00:00:00+00:00"


def view(name: str, *endpoints: str, kinds: tuple[str, ...] = ("inproc", "grpc", "mqtt")) -> NodeView:
    described = pb.DescribeReply(name=name, endpoints=endpoints, transports=kinds)
    return NodeView(NodeName(name), endpoints[0], described, 0.0)


class Known:
    """Links of a process that knows some transports."""

    schemes = ("grpc", "inproc", "mqtt", "mqtt-qos0")


class Nowhere:
    links = Known()


def pairs(views: list[NodeView], **more: Any) -> set[tuple[str, str, str]]:
    meter = LinkMeter(Nowhere(), views, more.pop("requester", "me"), **more)
    return {(pair.source, pair.peer.name, pair.kind) for pair in meter.pairs()}


def test_pairs_are_measured_by_transports_that_both_know_and_one_listens_by():
    views = [
        view("a", "inproc://a", "mqtt://broker/a"),
        view("b", "inproc://b"),
        view("c", "inproc://c", kinds=("inproc",)),
    ]
    assert pairs(views) == {
        *{("me", name, "inproc") for name in "abc"},
        *{("a", "b", "inproc"), ("a", "c", "inproc"), ("b", "c", "inproc")},
        *{("me", "a", "mqtt"), ("a", "b", "mqtt")},
    }


def test_only_the_transports_asked_for_are_measured():
    views = [view("a", "inproc://a", "mqtt://broker/a"), view("b", "inproc://b")]
    assert {kind for *_, kind in pairs(views, transports=("mqtt",))} == {"mqtt"}


def test_where_a_node_is_the_requester_this_process_has_no_links():
    views = [view("a", "inproc://a"), view("b", "inproc://b")]
    assert pairs(views, requester="b") == {("a", "b", "inproc")}


async def measure(tmp_path: Path, views: list[NodeView], **more: Any) -> list[Any]:
    hub = InprocTransport()
    async with node("a", hub, tmp_path), node("b", hub, tmp_path), coordinator(hub) as cluster:
        await cluster.reach(["inproc://a", "inproc://b"])
        meter = LinkMeter(cluster, views, "me", transports=("inproc",), rounds=1, share=1.0)
        return [entry for pair in meter.pairs() for entry in await meter.measure(pair, WHEN)]


async def test_every_pair_has_an_entry_each_way(tmp_path: Path):
    found = await measure(tmp_path, [view("a", "inproc://a"), view("b", "inproc://b")])
    ends = [(entry.source, entry.target) for entry in found]
    assert sorted(ends) == sorted([(x, y) for x in ("a", "b", "me") for y in ("a", "b", "me") if x != y])
    for entry in found:
        assert entry.latency_ms > 0
        assert entry.mbit_s > 0
        assert (entry.transport, entry.loss, entry.measured_at) == ("inproc", 0.0, WHEN)


async def test_the_end_that_can_dial_does_the_probing(tmp_path: Path):
    found = await measure(tmp_path, [view("a", "inproc://a"), view("b", "mqtt://broker/b")])
    assert {(e.source, e.target) for e in found} == {("me", "a"), ("a", "me"), ("a", "b"), ("b", "a")}


async def test_where_neither_end_is_there_the_first_reason_is_told(tmp_path: Path):
    with pytest.raises(PeerUnreachable, match="nobody"):
        await measure(tmp_path, [view("a", "inproc://nowhere"), view("b", "inproc://nobody")])
