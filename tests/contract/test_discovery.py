"""What every discovery promises (`collab.discovery.base`); a new one joins by a line in `NETWORKS`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiocoap
import msgspec
import pytest
from aiocoap.cli.rd import StandaloneResourceDirectory

from collab.discovery.base import Discovery, Sighting
from collab.discovery.coap import CoapDiscovery
from collab.discovery.directory import DirectoryDiscovery
from collab.discovery.directory_server import DirectoryServer
from collab.discovery.mdns import LOOPBACK, MdnsDiscovery
from collab.discovery.memory import Board, MemoryDiscovery
from collab.discovery.mqtt import MqttDiscovery
from collab.discovery.roster import Peer, Roster
from collab.discovery.search import Search
from collab.discovery.static import StaticDiscovery
from tests.mosquitto import free_port, mosquitto

WITHIN_S = 15.0

Make = Callable[[], Discovery]


@dataclass
class Network:
    """Somewhere to be found."""

    make: Make
    goodbyes: bool = True
    """Whether leaving is told at once."""
    broken: Make | None = None
    """Makes one whose network does not work, and says so."""
    refuses: list[Make] = field(default_factory=list)
    """Settings that can never work."""


@asynccontextmanager
async def memory() -> AsyncIterator[Network]:
    board = Board()
    yield Network(lambda: MemoryDiscovery(board))


@asynccontextmanager
async def mdns() -> AsyncIterator[Network]:
    yield Network(lambda: MdnsDiscovery(LOOPBACK), broken=lambda: MdnsDiscovery(("203.0.113.77",)))


@asynccontextmanager
async def mqtt() -> AsyncIterator[Network]:
    with mosquitto() as broker:
        yield Network(
            lambda: MqttDiscovery(f"mqtt://127.0.0.1:{broker.port}"),
            broken=lambda: MqttDiscovery(f"mqtt://127.0.0.1:{free_port()}"),
        )


@asynccontextmanager
async def coap() -> AsyncIterator[Network]:
    broken = lambda: CoapDiscovery(("no-such-device",))  # noqa: E731
    yield Network(lambda: CoapDiscovery(("lo",)), goodbyes=False, broken=broken)


@asynccontextmanager
async def directory() -> AsyncIterator[Network]:
    port = free_port()
    server = DirectoryServer("127.0.0.1", port)
    await server.start()
    try:
        yield Network(
            lambda: DirectoryDiscovery(f"coap://127.0.0.1:{port}"),
            broken=lambda: DirectoryDiscovery(f"coap://127.0.0.1:{free_port()}"),
        )
    finally:
        await server.stop()


@asynccontextmanager
async def foreign_directory() -> AsyncIterator[Network]:
    """The one that aiocoap ships."""
    port = free_port()
    context = await aiocoap.Context.create_server_context(None, bind=("127.0.0.1", port), transports=["udp6"])
    context.serversite = StandaloneResourceDirectory(context=context)
    try:
        yield Network(lambda: DirectoryDiscovery(f"coap://127.0.0.1:{port}"))
    finally:
        # Its registrations end with tasks that it does not own.
        for registration in list(context.serversite.common_rd.get_endpoints()):
            registration.delete()
        await context.shutdown()


NETWORKS: dict[str, Callable[[], AbstractAsyncContextManager[Network]]] = {
    "memory": memory,
    "mdns": mdns,
    "coap": coap,
    "directory": directory,
    "foreign directory": foreign_directory,
    "mqtt": mqtt,
}


@pytest.fixture(params=sorted(NETWORKS))
async def network(request: pytest.FixtureRequest) -> AsyncIterator[Network]:
    async with NETWORKS[request.param]() as made:
        yield made


class CLUSTER:
    """Of the test that runs."""

    name = ""


@pytest.fixture(autouse=True)
def own_cluster() -> None:
    CLUSTER.name = f"test-{secrets.token_hex(6)}"


def node(name: str, port: int = 7000, **more: Any) -> Sighting:
    fields = {
        "cluster": CLUSTER.name,
        "software": "collab/9",
        "role": "node",
        "instance": f"i-{name}",
        **more,
    }
    return Sighting(name=name, endpoints=(f"grpc://127.0.0.1:{port}",), **fields)


async def until(condition: Callable[[], Any], what: Callable[[], Any] = lambda: "") -> None:
    """Wait for something that other tasks bring about."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WITHIN_S
    while not condition():
        assert loop.time() < deadline, what()
        await asyncio.sleep(0.01)


def peers(search: Search) -> list[Peer]:
    """Those of this test: others may use the same loopback interface."""
    return [peer for peer in search.roster.peers() if peer.cluster == CLUSTER.name]


def names(search: Search) -> list[str]:
    return [peer.name for peer in peers(search)]


def find(search: Search, name: str) -> Peer:
    return next(peer for peer in peers(search) if peer.name == name)


async def test_all_find_all_others_with_what_they_advertise(network: Network) -> None:
    make = network.make
    async with (
        Search([make()], node("a", 1)) as a,
        Search([make()], node("b", 2)) as b,
        Search([make()]) as looker,
    ):
        await until(lambda: names(a) == ["b"] and names(b) == ["a"] and names(looker) == ["a", "b"])
        found = find(looker, "b")
        assert found.endpoints == ("grpc://127.0.0.1:2",)
        assert (found.software, found.role) == ("collab/9", "node")
        assert found.instance == "i-b"
        assert len(found.found) == 1
        assert not found.conflict


async def test_an_update_reaches_who_is_already_looking(network: Network) -> None:
    async with Search([network.make()], node("a", 1)) as a, Search([network.make()]) as looker:
        await until(lambda: names(looker) == ["a"])
        await a.advertise(node("a", 9))
        await until(lambda: find(looker, "a").endpoints == ("grpc://127.0.0.1:9",))


async def test_who_says_good_bye_leaves_the_list(network: Network) -> None:
    if not network.goodbyes:
        return
    async with Search([network.make()]) as looker:
        async with Search([network.make()], node("a")):
            await until(lambda: names(looker) == ["a"])
        await until(lambda: not names(looker))


async def test_nothing_is_reported_after_a_stop(network: Network) -> None:
    calls: list[Any] = []
    discovery = network.make()
    await discovery.start(None, calls.append, lambda *gone: calls.append(gone))
    await discovery.stop()
    calls.clear()
    async with Search([network.make()], node("a")), Search([network.make()]) as looker:
        await until(lambda: names(looker) == ["a"])
    assert not calls


async def test_stopping_is_safe_before_a_start_and_twice(network: Network) -> None:
    discovery = network.make()
    await discovery.stop()
    discovery = network.make()
    await discovery.start(node("a"), lambda _: None, lambda *_: None)
    await discovery.stop()
    await discovery.stop()


async def test_a_stop_right_behind_a_start_leaves_nothing(network: Network) -> None:
    async with Search([network.make()]) as looker:
        async with Search([network.make()], node("brief")):
            pass
        async with Search([network.make()], node("other")):
            await until(lambda: "other" in names(looker))
        if network.goodbyes:
            await until(lambda: not names(looker))


async def test_a_network_that_does_not_work_is_named_and_raises_nothing(network: Network) -> None:
    if network.broken is None:
        return
    async with Search([network.broken()], node("a")) as search:
        await until(lambda: search.troubles)
        (trouble,) = search.troubles.values()
        assert trouble.startswith(search.discoveries[0].how + ":")
        assert ";" in trouble, "a remedy stands behind the cause"
        await search.advertise(node("a", 2))


async def test_a_name_with_dots_and_the_longest_endpoints_come_through(network: Network) -> None:
    longest = tuple(f"grpc://{'h' * 40}-{i}.example:65535" for i in range(16))
    me = msgspec.structs.replace(node("a.b-c_d"), endpoints=longest)
    async with Search([network.make()], me), Search([network.make()]) as looker:
        await until(lambda: names(looker) == ["a.b-c_d"])
        assert set(find(looker, "a.b-c_d").endpoints) <= set(longest)
        assert len(find(looker, "a.b-c_d").endpoints) >= 4


async def test_two_processes_of_one_name_are_both_seen_or_the_later_one_is(network: Network) -> None:
    first, second = node("twin", 1, instance="one"), node("twin", 2, instance="two")
    async with Search([network.make()]) as looker, Search([network.make()], first):
        await until(lambda: names(looker) == ["twin"])
        async with Search([network.make()], second):
            await until(lambda: any(peer.instance == "two" for peer in peers(looker)))
            if len(peers(looker)) > 1:
                assert all(peer.conflict for peer in peers(looker))


async def test_static_addresses_are_there_at_once_and_have_no_name() -> None:
    async with Search([StaticDiscovery(["127.0.0.1:7070", "coap+udp://[::1]:1"])], node("a")) as search:
        endpoints = [peer.endpoints for peer in search.roster.peers()]
        assert sorted(endpoints) == [("coap+udp://[::1]:1",), ("grpc://127.0.0.1:7070",)]
        await search.advertise(node("a"))


async def test_a_broker_that_restarts_knows_everybody_again() -> None:
    with mosquitto() as broker:
        make = lambda: MqttDiscovery(f"mqtt://127.0.0.1:{broker.port}")  # noqa: E731
        async with Search([make()], node("a")) as a:
            async with Search([make()]) as looker:
                await until(lambda: names(looker) == ["a"])
            await broker.restarted()
            async with Search([make()]) as looker:
                await until(lambda: names(looker) == ["a"])
            assert not a.troubles


async def test_the_last_will_of_a_former_process_does_not_hide_its_successor() -> None:
    with mosquitto() as broker:
        make: Make = lambda: MqttDiscovery(f"mqtt://127.0.0.1:{broker.port}")  # noqa: E731
        async with Search([make()]) as looker, Search([make()], node("a", instance="new")):
            async with Search([make()], node("a", instance="old")):
                await until(lambda: names(looker) == ["a"])
            await until(lambda: any(p.instance == "new" for p in peers(looker)))


async def test_a_flood_of_strangers_is_bounded() -> None:
    roster = Roster(lambda: 0.0, limit=10)
    for number in range(100):
        roster.report(node(f"n{number}", how="mdns", source=str(number)))
    assert len(roster.peers()) == 10
    assert roster.refused == 90
