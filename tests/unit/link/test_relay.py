"""Ends that meet through a third: joined, encrypted end to end, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from collab.core.ids import NodeName
from collab.errors import LinkLost, PeerUnreachable, ProtocolError, Refused, UsageError
from collab.link import relay as relay_module
from collab.link.hello import Identity
from collab.link.links import Links, is_kind
from collab.link.relay import relay_address, split_relay
from collab.transport.aio import timeout
from collab.transport.inproc import InprocTransport
from tests.identities import Identities
from tests.unit.link.ends import WITHIN_S
from tests.unit.link.test_secure import endpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Identities:
    return Identities(tmp_path_factory.mktemp("relay")).enrol("r", "x", "y", "z")


@pytest.fixture(params=["with certificates", "without"])
def identities(request, home) -> Identities | None:
    return home if request.param == "with certificates" else None


class Scene:
    """A relay that listens, a node that has dialled it, and another one that knows the relay only."""

    def __init__(self, identities: Identities | None) -> None:
        self.identities = identities
        self.transport = InprocTransport()
        self.relay, self.heard_relay = endpoint("r", self.transport, identities)
        self.node, self.heard = endpoint("x", self.transport, identities)
        self.dialler, self.heard_dialler = endpoint("y", self.transport, identities)
        self.at = ""

    async def joined(self) -> str:
        """Have the node join the relay; its address there."""
        self.at = await self.relay.listen("inproc://0")
        self.node.keep(self.at)
        async with timeout(WITHIN_S):
            await self.relay.wait_for(NodeName("x"))
        return relay_address(self.at, NodeName("x"))


@pytest.fixture
async def scene(identities) -> AsyncIterator[Scene]:
    made = Scene(identities)
    async with made.relay, made.node, made.dialler:
        yield made


async def meet(links: Links, address: str):
    async with timeout(WITHIN_S):
        return await links.connect(address)


async def test_calls_and_tensors_go_both_ways(scene):
    link = await meet(scene.dialler, await scene.joined())
    assert (link.peer.name, link.connection.relayed) == ("x", True)
    assert bytes(await link.call("echo", b"hello")) == b"y: hello"
    (far,) = await scene.heard.until(lambda: [one for one in scene.heard.ups if one.peer.name == "y"])
    assert far.connection.relayed
    data = [bytes([n]) * size for n, size in enumerate((1, 1000, 3 << 20))]
    for message in data:
        link.send_tensors([message])
        far.send_tensors([message])
    assert sorted(await scene.heard.take(3)) == data
    assert sorted(await scene.heard_dialler.take(3)) == data


async def test_the_relay_has_no_link_of_the_two_and_the_end_of_one_ends_both(scene):
    link = await meet(scene.dialler, await scene.joined())
    assert scene.relay.get(NodeName("y")) is None
    await scene.heard.until(lambda: len(scene.heard.ups) == 2)
    await link.close()
    assert isinstance(await scene.heard.down(), LinkLost)
    assert scene.relay.get(NodeName("x")) is not None


async def test_a_node_that_the_relay_dialled_is_reached_too(scene):
    await scene.relay.connect(await scene.node.listen("inproc://0"))
    at = await scene.relay.listen("inproc://0")
    link = await meet(scene.dialler, relay_address(at, NodeName("x")))
    assert bytes(await link.call("echo", b"hi")) == b"y: hi"


async def test_who_is_not_there_is_named(scene):
    await scene.joined()
    with pytest.raises(PeerUnreachable, match=r"node 'nobody' has no link with this relay.*--join"):
        await meet(scene.dialler, relay_address(scene.at, NodeName("nobody")))


async def test_the_relay_carries_a_bounded_number(scene, monkeypatch):
    monkeypatch.setattr(relay_module, "MAX_RELAYED", 1)
    address = await scene.joined()
    await meet(scene.dialler, address)
    third, _ = endpoint("z", scene.transport, scene.identities)
    async with third:
        with pytest.raises(PeerUnreachable, match="carries 1 connections already"):
            await meet(third, address)


async def test_a_direct_link_is_used_before_a_relayed_one(scene):
    relayed = await meet(scene.dialler, await scene.joined())
    direct = await meet(scene.dialler, await scene.node.listen("inproc://0"))
    assert scene.dialler.get(NodeName("x")) is direct
    later = await meet(scene.dialler, relay_address(scene.at, NodeName("x")))
    assert scene.dialler.get(NodeName("x")) is direct
    await direct.close()
    assert scene.dialler.get(NodeName("x")) in (relayed, later)


async def test_a_call_to_meet_from_somebody_who_is_no_relay_of_ours_does_nothing(scene):
    await scene.joined()
    link = await meet(scene.dialler, await scene.node.listen("inproc://0"))
    ups = len(scene.heard.ups)
    assert bytes(await link.call(relay_module.MEET, bytes(16))) == b""
    assert bytes(await link.call("echo", b"still there")) == b"y: still there"
    assert len(scene.heard.ups) == ups


async def test_a_ticket_that_is_anothers_is_refused(scene):
    await scene.joined()
    waiting: asyncio.Future = asyncio.get_running_loop().create_future()
    scene.relay._relay._waiting[bytes(16)] = (NodeName("x"), waiting)
    opened = await scene.dialler._establish.open(scene.at, Identity(NodeName(""), "", relay_ticket=bytes(16)))
    async with timeout(WITHIN_S):
        assert b"not its own" in bytes(await opened.connection.receive())
    assert not waiting.done()
    opened.abort()


async def test_only_the_node_that_was_meant_can_answer_behind_a_relay(home):
    """A relay that joins the dialler with somebody else is found out by the certificate."""
    scene = Scene(home)
    liar, _ = endpoint("z", scene.transport, home)
    async with scene.relay, scene.node, scene.dialler, liar:
        await scene.joined()
        liar.keep(scene.at)
        async with timeout(WITHIN_S):
            await scene.relay.wait_for(NodeName("z"))
        scene.relay._relay._find = lambda name: scene.relay.get(NodeName("z"))
        with pytest.raises((ProtocolError, Refused, LinkLost, PeerUnreachable)):
            await meet(scene.dialler, relay_address(scene.at, NodeName("x")))
        assert scene.dialler.get(NodeName("x")) is None


def test_addresses_of_relayed_nodes():
    assert split_relay("relay://10.0.0.7:7070/x") == ("10.0.0.7:7070", "x")
    assert split_relay("relay://coap+tcp://h:1/x") == ("coap+tcp://h:1", "x")
    assert relay_address("grpc://h:1", NodeName("x")) == "relay://h:1/x"
    assert split_relay("grpc://h:1") is None
    assert is_kind("relay://h:1/x", "grpc")
    for bad in ("relay://h:1", "relay:///x", "relay://h:1/"):
        with pytest.raises(UsageError, match="relay://HOST:PORT/NODE"):
            split_relay(bad)
