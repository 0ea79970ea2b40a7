"""All links of one process: making, keeping, choosing and ending them."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from collab.core.ids import NodeName
from collab.errors import CollabError, LinkLost, PeerUnreachable, ProtocolError, Refused, UsageError
from collab.link import links as links_module
from collab.link.links import DialConfig
from collab.transport.aio import timeout
from collab.transport.grpc import GrpcTransport
from collab.transport.inproc import InprocTransport
from tests.unit.link.ends import (
    WITHIN_S,
    Mutable,
    Raw,
    Recorder,
    links,
    raw_dialler,
    raw_listener,
)

NOBODY = "inproc://nobody"


@pytest.fixture(params=["inproc", "grpc"])
def network(request):
    """A transport, and an address at which it listens at a free place."""
    if request.param == "inproc":
        return InprocTransport(), "inproc://0"
    return GrpcTransport(), "grpc://127.0.0.1:0"


async def eventually(awaitable):
    async with timeout(WITHIN_S):
        return await awaitable


# --- finding -----------------------------------------------------------------


async def test_a_peer_can_be_found_from_the_moment_that_connect_returns(network):
    transport, free = network
    a, b = Recorder(), Recorder()
    async with links("a", transport, a) as one, links("b", transport, b) as other:
        link = await one.connect(await other.listen(free))
        assert one.get("b") is link
        assert one.all() == [link]
        assert await eventually(one.wait_for("b")) is link
        assert a.ups == [link]
        assert one.get("c") is None
        await b.until(lambda: b.ups)
        assert other.get("a") is b.ups[0]
    assert one.get("b") is None
    assert one.all() == []


async def test_waiting_for_a_peer_ends_when_it_comes_from_either_side(network):
    transport, free = network
    async with links("a", transport, Recorder()) as one, links("b", transport, Recorder()) as other:
        waiting = [
            asyncio.ensure_future(wait)
            for wait in (one.wait_for("b"), one.wait_for("b"), one.wait_for("z"), other.wait_for("a"))
        ]
        link = await one.connect(await other.listen(free))
        assert await eventually(waiting[0]) is link
        assert await eventually(waiting[1]) is link
        assert (await eventually(waiting[3])).peer.name == "a"
        assert not waiting[2].done()
        waiting[2].cancel()
        await asyncio.wait((waiting[2],))
        assert not one._waiters


async def test_the_newest_link_is_used_and_when_it_ends_the_older_one(network):
    transport, free = network
    a, b = Recorder(), Recorder()
    async with links("a", transport, a) as one, links("b", transport, b) as other:
        address = await other.listen(free)
        older = await one.connect(address)
        newer = await one.connect(address)
        assert one.get("b") is newer
        assert one.all() == [newer]
        newer.abort()
        assert one.get("b") is older
        assert bytes(await older.call("echo", b"?")) == b"a: ?"
        await a.until(lambda: len(a.downs) == 1)
        older.abort()
        assert one.get("b") is None
        assert one.all() == []
        await a.until(lambda: len(a.downs) == 2)
    assert [link for link, _ in a.downs] == [newer, older]
    assert a.balanced
    assert b.balanced


async def test_both_may_dial_each_other_at_once(network):
    transport, free = network
    a, b = Recorder(), Recorder()
    async with links("a", transport, a) as one, links("b", transport, b) as other:
        to_a, to_b = await one.listen(free), await other.listen(free)
        await eventually(asyncio.gather(one.connect(to_b), other.connect(to_a)))
        await a.until(lambda: len(a.ups) == 2)
        await b.until(lambda: len(b.ups) == 2)
        assert bytes(await one.get("b").call("echo", b"x")) == b"a: x"
        assert bytes(await other.get("a").call("echo", b"x")) == b"b: x"
    assert a.balanced
    assert b.balanced


async def test_every_link_that_came_up_goes_down_once_however_it_ends(network):
    transport, free = network
    a, b = Recorder(), Recorder()
    rng = random.Random(4)
    async with links("a", transport, a) as one, links("b", transport, b) as other:
        address = await other.listen(free)
        for _ in range(12):
            link = await one.connect(address)
            victim = rng.choice([link, *b.ups[-1:]])
            if rng.random() < 0.5:
                victim.abort()
                victim.abort()
            elif rng.random() < 0.7:
                await eventually(victim.close())
        # The other end may not have seen the latest link yet, and then has none to close.
        await eventually(asyncio.gather(*(link.close() for link in (*b.ups, *one.all()))))
        await a.until(lambda: len(a.downs) == len(a.ups))
        assert one.all() == []
        await one.connect(address)
        assert one.get("b")
    assert len(a.ups) == 13
    assert a.balanced
    assert b.balanced


# --- dialling ----------------------------------------------------------------


async def test_a_node_of_another_name_is_refused_with_both_names(network):
    transport, free = network
    a, b = Recorder(), Recorder()
    async with links("a", transport, a) as one, links("b", transport, b) as other:
        address = await other.listen(free)
        with pytest.raises(ProtocolError, match="node 'b' answers there, not 'c'; correct the address"):
            await one.connect(address, NodeName("c"))
        assert one.all() == []
        assert (await one.connect(address, NodeName("b"))).peer.name == "b"
    assert len(a.ups) == 1


async def test_addresses_are_tried_in_their_order_whatever_is_wrong_with_the_first(network):
    transport, free = network
    a = Recorder()
    async with (
        links("a", transport, a) as one,
        links("b", transport, Recorder()) as b,
        links("c", transport, Recorder()) as c,
    ):
        of_b, of_c = await b.listen(free), await c.listen(free)
        bad = ["smoke://signal", "grpc://no-port", f"{transport.scheme}://", of_c]
        link = await one.connect_any([*bad, of_b], NodeName("b"))
        assert link.peer.name == "b"
        assert (await one.connect_any([of_c, of_b])).peer.name == "c"
    assert [link.peer.name for link in a.ups] == ["b", "c"]


async def test_when_no_address_answers_all_reasons_are_given(network):
    transport, free = network
    async with links("a", transport, Recorder()) as one, links("b", transport, Recorder()) as b:
        address = await b.listen(free)
        with pytest.raises(PeerUnreachable, match=r"^node 'c': .*smoke.* is not known.*; .*not 'c'"):
            await one.connect_any(["smoke://signal", address], NodeName("c"))
        with pytest.raises(PeerUnreachable, match="node 'c': no endpoint is known; give --peers"):
            await one.connect_any([], NodeName("c"))


async def test_an_unknown_scheme_is_a_usage_error_that_lists_those_known():
    async with links("a", InprocTransport(), Recorder()) as one:
        assert one.schemes == ["inproc"]
        for operation in (one.listen("mqtt://127.0.0.1:1"), one.connect("mqtt://127.0.0.1:1")):
            with pytest.raises(UsageError, match="scheme 'mqtt' is not known here; use one of inproc"):
                await operation
        with pytest.raises(UsageError, match="scheme 'grpc' is not known here"):
            one.keep("127.0.0.1:7070")


@pytest.mark.parametrize(
    "address", ["grpc://0.0.0.0:0", "grpc://192.0.2.1:7070", "[2001:db8::1]:7070", "host:1"]
)
async def test_off_loopback_nothing_is_listened_at_or_dialled_without_the_second_flag(address):
    recorder = Recorder()
    async with links("a", GrpcTransport(), recorder) as one:
        for operation in (one.listen(address), one.connect(address)):
            with pytest.raises(Refused, match=r"not loopback.*no identity.*--insecure-network") as caught:
                await operation
            assert address in str(caught.value)
        with pytest.raises(Refused):
            one.keep(address)


async def test_off_loopback_works_with_the_second_flag():
    recorder = Recorder()
    transport = GrpcTransport()
    async with links("b", transport, recorder, insecure_networks=True) as other:
        address = await other.listen("grpc://0.0.0.0:0")
        async with links("a", transport, Recorder(), insecure_networks=True) as one:
            assert (await one.connect(address)).peer.name == "b"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.9.9"])
async def test_loopback_needs_no_flag(host):
    async with links("a", GrpcTransport(), Recorder()) as one:
        assert (await one.listen(f"grpc://{host}:0")).startswith(f"grpc://{host}:")


# --- keeping -----------------------------------------------------------------


async def test_keep_dials_again_when_the_listener_comes_back_at_its_address(network):
    transport, free = network
    a = Recorder()
    failures: asyncio.Queue[tuple[str, CollabError]] = asyncio.Queue()
    async with links("a", transport, a) as one:
        async with links("b", transport, Recorder()) as first:
            address = await first.listen(free)

            def failed(where: str, error: CollabError) -> None:
                failures.put_nowait((where, error))

            one.keep(address, failed)
            one.keep(address)  # no second one
            await a.until(lambda: a.ups)
        await a.until(lambda: a.downs)
        where, error = await eventually(failures.get())
        assert where == address
        assert isinstance(error, PeerUnreachable)
        async with links("b", transport, Recorder()) as second:
            await second.listen(address)
            link = await eventually(one.wait_for("b"))
            assert bytes(await link.call("echo", b"again")) == b"a: again"
        await a.until(lambda: len(a.downs) == 2)
    assert len(a.ups) == 2
    assert a.balanced


def _has_seen(recorder: Recorder, count: int) -> bool:
    return len(recorder.ups) == count


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_keep_dials_again_after_its_link_was_ended_here(network, how):
    transport, free = network
    a, b = Recorder(), Recorder()
    async with links("a", transport, a) as one, links("b", transport, b) as other:
        one.keep(await other.listen(free))
        for count in (1, 2, 3):
            await a.until(partial(_has_seen, a, count))
            if how == "close":
                await eventually(a.ups[-1].close())
            else:
                a.ups[-1].abort()
        await a.until(lambda: len(a.ups) == 4)
        assert one.get("b") is a.ups[3]
    assert a.balanced
    assert b.balanced


async def test_keep_backs_off_with_jitter_up_to_its_limit(monkeypatch):
    waits: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 8:
            enough.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    dial = DialConfig(backoff_s=1.0, backoff_limit_s=20.0)
    async with links("a", InprocTransport(), Recorder(), dial=dial, rng=random.Random(5)) as one:
        one.keep(NOBODY)
        await eventually(enough.wait())
    for wait, most in zip(waits, (1, 2, 4, 8, 16, 20, 20, 20), strict=True):
        assert most / 2 <= wait <= most
    assert len(set(waits)) == 8


async def test_keep_peer_makes_one_link_and_makes_it_again(network):
    transport, free = network
    transport = Mutable(transport)
    a, b = Recorder(), Recorder()
    async with links("a", transport, a) as one, links("b", transport, b) as other:
        address = await other.listen(free)
        one.keep_peer(NodeName("b"), [f"{transport.scheme}://", address])
        first = await eventually(one.wait_for("b"))
        assert bytes(await first.call("echo", b"1")) == b"a: 1"
        assert a.ups == [first]
        first.abort()
        await a.until(lambda: len(a.ups) == 2)
        assert bytes(await a.ups[1].call("echo", b"2")) == b"a: 2"
        assert transport.dialled == 2
    assert a.balanced
    assert b.balanced


async def test_keep_peer_is_content_with_a_link_that_the_peer_dialled(network):
    inner, free = network
    transport = Mutable(inner)
    a, b = Recorder(), Recorder()
    async with links("a", transport, a) as one, links("b", inner, b) as other:
        from_b = await other.connect(await one.listen(free))
        await a.until(lambda: a.ups)
        one.keep_peer(NodeName("b"), [await other.listen(free)])
        assert bytes(await from_b.call("echo", b"?")) == b"b: ?"
        assert transport.dialled == 0
        from_b.abort()
        await a.until(lambda: len(a.ups) == 2)
        assert transport.dialled == 1


async def test_keep_peer_takes_new_addresses_instead_of_the_old(network):
    transport, free = network
    a = Recorder()
    async with links("a", transport, a) as one, links("b", transport, Recorder()) as other:
        one.keep_peer(NodeName("b"), [f"{transport.scheme}://127.0.0.1:1"])
        one.keep_peer(NodeName("b"), [await other.listen(free)])
        assert await eventually(one.wait_for("b"))
        assert len(one._peer_keepers) == 1


async def test_keep_peer_takes_no_node_of_another_name(network):
    transport, free = network
    a, c = Recorder(), Recorder()
    async with links("a", transport, a) as one, links("c", transport, c) as other:
        transport = Mutable(transport)
        one._establish.transports = {transport.scheme: transport}
        one.keep_peer(NodeName("b"), [await other.listen(free)])
        async with timeout(WITHIN_S):
            for _ in range(4):
                await transport.dials.acquire()
    assert not a.ups


# --- accepting ---------------------------------------------------------------


async def test_a_newer_connection_ends_the_oldest_of_too_many_without_a_hello(network, monkeypatch):
    monkeypatch.setattr(links_module, "MAX_UNGREETED", 3)
    transport, free = network
    recorder = Recorder()
    async with links("b", transport, recorder) as mine:
        address = await mine.listen(free)
        async with (
            raw_dialler(transport, address) as one,
            raw_dialler(transport, address) as two,
            raw_dialler(transport, address) as three,
        ):
            for raw in (one, two, three):
                assert (await eventually(raw.connection.receive()))[0] == 1  # its hello: it is served
            async with raw_dialler(transport, address) as four:
                assert await one.is_ended()
                await four.hello("four")
                await recorder.until(lambda: len(recorder.ups) == 1)
            await three.hello("three")
            await recorder.until(lambda: len(recorder.ups) == 2)


async def _refused(transport, address) -> bool:
    async with raw_dialler(transport, address) as raw:
        try:
            await raw.connection.receive()
        except LinkLost:
            return True
        return False


async def test_links_are_bounded_too(network, monkeypatch):
    monkeypatch.setattr(links_module, "MAX_LINKS", 2)
    transport, free = network
    recorder = Recorder()
    async with links("b", transport, recorder) as mine:
        address = await mine.listen(free)
        async with raw_dialler(transport, address) as one, raw_dialler(transport, address) as two:
            for name, raw in (("one", one), ("two", two)):
                await raw.hello(name)
            await recorder.until(lambda: len(recorder.ups) == 2)
            assert await eventually(_refused(transport, address))
            two.connection.abort()
            await recorder.until(lambda: recorder.downs)
            assert not await eventually(_refused(transport, address))


async def test_several_addresses_can_be_listened_at(network):
    transport, free = network
    recorder = Recorder()
    async with links("b", transport, recorder) as mine, links("a", transport, Recorder()) as one:
        addresses = [await mine.listen(free) for _ in range(3)]
        for address in addresses:
            await one.connect(address)
        await recorder.until(lambda: len(recorder.ups) == 3)
        with pytest.raises(UsageError):
            await mine.listen(addresses[0])
    async with links("c", transport, Recorder()) as late:
        for address in addresses:
            with pytest.raises(PeerUnreachable):
                await late.connect(address)


# --- ends --------------------------------------------------------------------


@pytest.mark.parametrize("made", ["connect", "keep", "keep_peer", "accept"])
async def test_leaving_sends_what_is_queued_on_every_kind_of_link(network, made):
    transport, free = network
    a, b = Recorder(), Recorder()
    bodies = [bytes([i]) * 200_000 for i in range(15)]
    async with links("b", transport, b) as other:
        async with links("a", transport, a) as one:
            if made == "accept":
                await other.connect(await one.listen(free))
            else:
                address = await other.listen(free)
                if made == "connect":
                    await one.connect(address)
                elif made == "keep":
                    one.keep(address)
                else:
                    one.keep_peer(NodeName("b"), [address])
            link = await eventually(one.wait_for("b"))
            for body in bodies:
                link.send_tensors([body])
        assert sorted(await b.take(15)) == bodies
        await b.until(lambda: b.downs)
        assert "good-bye" in str(b.downs[0][1])
    assert a.balanced
    assert b.balanced


async def test_leaving_ends_a_dial_that_is_under_way(network):
    async def silent(raw: Raw):
        await raw.is_ended()

    arrived = asyncio.Event()

    async def serve(raw: Raw):
        await raw.connection.receive()
        arrived.set()
        await silent(raw)

    recorder = Recorder()
    async with (
        raw_listener(network, serve) as address,
        timeout(4),  # less than a hello may take
        links("a", network[0], recorder) as one,
    ):
        one.keep(address)
        one.keep_peer(NodeName("b"), [address])
        await eventually(arrived.wait())
    assert not recorder.ups


async def test_a_link_that_comes_up_while_leaving_is_ended_at_once(network):
    arrived, leaving = asyncio.Event(), asyncio.Event()

    async def late(raw: Raw):
        await raw.connection.receive()
        arrived.set()
        await leaving.wait()
        await raw.hello("late")
        await raw.is_ended()

    recorder = Recorder()
    async with raw_listener(network, late) as address:
        async with links("a", network[0], recorder) as one:
            connecting = asyncio.ensure_future(one.connect(address))
            await eventually(arrived.wait())
        leaving.set()
        with pytest.raises(LinkLost, match="this end is closing"):
            await eventually(connecting)
    assert not recorder.ups


async def test_an_error_in_the_body_comes_out_as_it_is(network):
    transport, free = network

    async def fail():
        async with links("a", transport, Recorder()) as one:
            one.keep(await one.listen(free))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_leaving_when_cancelled_still_ends_everything(network):
    transport, free = network
    a, b = Recorder(), Recorder()
    ready = asyncio.Event()

    async def run(address):
        async with links("a", transport, a) as one:
            await one.listen(free)
            one.keep(address)
            await one.wait_for("b")
            ready.set()
            await asyncio.Event().wait()

    async with links("b", transport, b) as other:
        running = asyncio.ensure_future(run(await other.listen(free)))
        await eventually(ready.wait())
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await eventually(running)
        await b.until(lambda: b.downs)
    assert a.balanced
    assert b.balanced


async def test_close_may_be_repeated_and_nothing_is_dialled_afterwards(network):
    transport, free = network
    recorder = Recorder()
    async with links("b", transport, Recorder()) as other:
        address = await other.listen(free)
        async with links("a", transport, recorder) as one:
            await one.close()
            await one.close()
            with pytest.raises(LinkLost, match="closing"):
                await one.connect(address)
    assert not recorder.ups
