"""One session: hello, calls, tensors, silence, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from collab.codec.pb import link_pb2 as pb
from collab.codec.wire import frame
from collab.errors import (
    BY_CODE,
    CollabError,
    LimitExceeded,
    LinkLost,
    Overloaded,
    PeerUnreachable,
    ProtocolError,
    Refused,
    RemoteError,
)
from collab.link import link as link_module
from collab.link.hello import MAX_HELLO_BYTES, Identity
from collab.link.link import LinkConfig
from collab.link.mux import Channel, MuxLimits, Type
from collab.link.suspicion import Action, Health, SuspicionConfig
from collab.transport.aio import timeout
from collab.transport.grpc import GrpcTransport
from collab.transport.inproc import InprocTransport
from tests.unit.link.ends import (
    WITHIN_S,
    Mutable,
    Raw,
    Recorder,
    acquainted,
    links,
    pair,
    raw_dialler,
    raw_listener,
)

QUICK = LinkConfig(hello_timeout_s=0.1)
IMPATIENT = LinkConfig(ping_interval_s=0.02, silence_limit_s=0.1)


@pytest.fixture(params=["inproc", "grpc"])
def network(request):
    """A transport, and an address at which it listens at a free place."""
    if request.param == "inproc":
        return InprocTransport(), "inproc://0"
    return GrpcTransport(), "grpc://127.0.0.1:0"


async def eventually(awaitable):
    async with timeout(WITHIN_S):
        return await awaitable


# --- hello -------------------------------------------------------------------


async def test_both_ends_learn_who_the_other_is(network):
    transport, free = network
    a, b = Recorder(), Recorder()
    async with (
        links("gate-1", transport, a, role="operator") as one,
        links("pi.4", transport, b) as other,
    ):
        one.set_endpoints(("grpc://10.0.0.1:7070",))
        address = await other.listen(free)
        other.set_endpoints((address,))
        near = await one.connect(address)
        far = await b.until(lambda: b.ups and b.ups[0])
        assert near.peer == Identity("pi.4", "node", (address,))
        assert far.peer == Identity("gate-1", "operator", ("grpc://10.0.0.1:7070",))
        assert near.alive
        assert far.alive
        assert near.connection.address == address


@pytest.mark.parametrize("versions", [(2, 5), (0, 0)])
async def test_another_version_of_the_protocol_is_refused_with_both_named(network, versions):
    low, high = versions
    message = f"speaks versions {low} to {high} of the protocol, this end 1; upgrade"

    async def strange(raw: Raw):
        await raw.hello(version_min=low, version_max=high)
        await raw.is_ended()

    recorder = Recorder()
    async with links("a", network[0], recorder) as mine, raw_listener(network, strange) as address:
        with pytest.raises(ProtocolError, match=message):
            await eventually(mine.connect(address))
    assert not recorder.ups


async def test_versions_that_overlap_are_accepted(network):
    async def newer(raw: Raw):
        await raw.hello(version_min=1, version_max=9)
        await raw.is_ended()

    recorder = Recorder()
    async with links("a", network[0], recorder) as mine, raw_listener(network, newer) as address:
        assert (await eventually(mine.connect(address))).peer.name == "raw"
    assert recorder.balanced


async def test_an_end_of_the_same_name_is_refused_and_both_are_told_why(network):
    transport, free = network
    a, b = Recorder(), Recorder()
    async with links("twin", transport, a) as one, links("twin", transport, b) as other:
        address = await other.listen(free)
        with pytest.raises(ProtocolError, match="is named 'twin' like this end; give it another name"):
            await eventually(one.connect(address))
    assert not a.ups
    assert not b.ups


BAD_OPENINGS = {
    "an empty frame": lambda raw: raw.connection.send([b""]),
    "noise": lambda raw: raw.connection.send([random.Random(1).randbytes(500)]),
    "data first": lambda raw: raw.call(1, "echo"),
    "a ping first": lambda raw: raw.send(Type.PING),
    "good-bye first": lambda raw: raw.send(Type.BYE),
    "a hello that is no hello": lambda raw: raw.send(Type.HELLO, b"\x3a\xff\xff"),
    "a hello that is no text": lambda raw: raw.send(Type.HELLO, b"\x08\x01\x10\x01\x22\x02\xff\xff"),
    "a hello that is too long": lambda raw: raw.send(Type.HELLO, bytes(MAX_HELLO_BYTES + 1)),
    "no name": lambda raw: raw.hello(name=""),
    "a bad name": lambda raw: raw.hello(name="../etc"),
    "a name that is too long": lambda raw: raw.hello(name="x" * 64),
    "another version": lambda raw: raw.hello(version_min=2, version_max=2),
}


@pytest.mark.parametrize("opening", BAD_OPENINGS.values(), ids=BAD_OPENINGS)
async def test_a_bad_opening_ends_that_connection_and_no_other(network, opening):
    transport, free = network
    recorder = Recorder()
    async with links("b", transport, recorder) as mine:
        address = await mine.listen(free)
        async with raw_dialler(transport, address) as stranger, raw_dialler(transport, address) as peer:
            await opening(stranger)
            assert await stranger.is_ended()
            assert not recorder.ups
            await peer.hello()
            await recorder.until(lambda: recorder.ups)
    assert recorder.balanced


@pytest.mark.parametrize("opening", BAD_OPENINGS.values(), ids=BAD_OPENINGS)
async def test_a_bad_answer_is_a_protocol_error_for_the_dialler(network, opening):
    async def strange(raw: Raw):
        await opening(raw)
        await raw.is_ended()

    async with links("a", network[0], Recorder()) as mine, raw_listener(network, strange) as address:
        error = Refused if opening is BAD_OPENINGS["good-bye first"] else ProtocolError
        with pytest.raises(error):
            await eventually(mine.connect(address))


async def test_a_listener_that_says_no_hello_is_unreachable_in_time(network):
    async def silent(raw: Raw):
        await raw.is_ended()

    async with (
        links("a", network[0], Recorder(), link=QUICK) as mine,
        raw_listener(network, silent) as address,
    ):
        with pytest.raises(PeerUnreachable, match=r"connected, but no hello within 0\.1 s"):
            await eventually(mine.connect(address))


async def test_a_dialler_that_says_no_hello_is_dropped_in_time(network):
    transport, free = network
    recorder = Recorder()
    async with (
        links("b", transport, recorder, link=QUICK) as mine,
        raw_dialler(transport, await mine.listen(free)) as raw,
    ):
        assert await raw.is_ended()
    assert not recorder.ups


async def test_what_a_hello_says_is_cut_to_its_bounds():
    transport = InprocTransport()
    recorder = Recorder()
    async with (
        links("b", transport, recorder) as mine,
        raw_dialler(transport, await mine.listen("inproc://0")) as raw,
    ):
        hello = pb.Hello(
            version_min=1,
            version_max=1,
            name="raw",
            role="r" * 1000,
            software="s" * 1000,
            endpoints=["e" * 1000] * 50,
        )
        await raw.send(Type.HELLO, hello.SerializeToString())
        peer = (await recorder.until(lambda: recorder.ups))[0].peer
    assert (len(peer.role), len(peer.software)) == (16, 64)
    assert [len(endpoint) for endpoint in peer.endpoints] == [256] * 16


# --- calls -------------------------------------------------------------------


async def test_either_end_may_call_whoever_dialled(network):
    async with pair(*network) as (near, far, _, _):
        assert bytes(await near.call("echo", b"from a")) == b"a: from a"
        assert bytes(await far.call("echo", b"from b")) == b"b: from b"
        assert bytes(await near.call("echo", b"blob", channel=Channel.BLOBS)) == b"a: blob"


async def test_many_calls_at_once_get_their_own_replies(network):
    async def mixed(link, body):
        if int(body) % 3:
            await asyncio.sleep(0)
        return body

    async with pair(*network, a=Recorder(mix=mixed), b=Recorder(mix=mixed)) as (near, far, _, _):
        replies = await eventually(
            asyncio.gather(*(end.call("mix", str(i).encode()) for i in range(100) for end in (near, far)))
        )
    assert [int(bytes(reply)) for reply in replies] == [i for i in range(100) for _ in range(2)]


async def test_large_bodies_travel_both_ways(network):
    body = random.Random(2).randbytes(5 << 20)

    async def back(link, got):
        return got[::-1]

    async with pair(*network, b=Recorder(back=back)) as (near, _, _, _):
        assert bytes(await eventually(near.call("back", body, channel=Channel.BLOBS))) == body[::-1]


@pytest.mark.parametrize("code", sorted(BY_CODE))
async def test_an_error_arrives_as_the_class_that_was_raised(code):
    async def fail(link, body):
        raise BY_CODE[code]("node 'b': what happened")

    async with pair(InprocTransport(), "inproc://0", b=Recorder(fail=fail)) as (near, _, _, _):
        with pytest.raises(CollabError, match=r"^node 'b': what happened$") as caught:
            await near.call("fail")
        assert type(caught.value) is BY_CODE[code]
        assert bytes(await near.call("echo", b"on")) == b"a: on"


async def test_an_error_of_an_unknown_kind_arrives_as_a_remote_error(network):
    class Newer(CollabError):
        code = "from-the-future"

    async def fail(link, body):
        raise Newer("new trouble")

    async with pair(*network, b=Recorder(fail=fail)) as (near, _, _, _):
        with pytest.raises(RemoteError, match="new trouble"):
            await near.call("fail")


async def test_a_message_that_no_text_can_carry_still_arrives():
    async def fail(link, body):
        raise CollabError("cannot read /tmp/\udcff" + "x" * 10_000)

    async with pair(InprocTransport(), "inproc://0", b=Recorder(fail=fail)) as (near, _, _, _):
        with pytest.raises(CollabError, match=r"^cannot read /tmp/\?x+$"):
            await near.call("fail")


async def test_a_bug_in_a_verb_is_logged_there_and_reported_here_and_the_link_lives(network, caplog):
    async def broken(link, body):
        raise ZeroDivisionError("a bug")

    async with pair(*network, b=Recorder(broken=broken)) as (near, _, _, _):
        with pytest.raises(
            CollabError, match="broken: internal error of 'b', ZeroDivisionError; see its log"
        ):
            await near.call("broken")
        assert bytes(await near.call("echo", b"on")) == b"a: on"
    assert "a bug" in caplog.text


async def test_a_call_without_a_reply_in_time_is_unreachable_and_its_late_reply_is_dropped(network):
    release = asyncio.Event()

    async def slow(link, body):
        await release.wait()
        return b"late"

    async with pair(*network, b=Recorder(slow=slow)) as (near, _, _, _):
        with pytest.raises(PeerUnreachable, match=r"node 'b' did not answer slow within 0\.05 s"):
            await near.call("slow", timeout_s=0.05)
        release.set()
        assert bytes(await near.call("echo", b"next")) == b"a: next"
        assert not near._calls


async def test_the_configured_time_out_is_the_default():
    async def never(link, body):
        await asyncio.Event().wait()

    config = LinkConfig(call_timeout_s=0.05)
    async with pair(InprocTransport(), "inproc://0", config=config, b=Recorder(never=never)) as (
        near,
        _,
        _,
        _,
    ):
        with pytest.raises(PeerUnreachable, match=r"never within 0\.05 s"):
            await eventually(near.call("never"))


async def test_a_cancelled_call_is_forgotten():
    async def never(link, body):
        await asyncio.Event().wait()

    async with pair(InprocTransport(), "inproc://0", b=Recorder(never=never)) as (near, _, _, _):
        calling = asyncio.ensure_future(near.call("never"))
        await near.call("echo")
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert not near._calls


async def test_calls_over_the_bound_are_refused_until_others_are_answered(network):
    started, release = asyncio.Semaphore(0), asyncio.Event()

    async def slow(link, body):
        started.release()
        await release.wait()
        return b"done"

    config = LinkConfig(calls_at_once=3)
    async with pair(*network, config=config, b=Recorder(slow=slow)) as (near, _, _, _):
        running = [asyncio.ensure_future(near.call("slow")) for _ in range(3)]
        for _ in range(3):
            await eventually(started.acquire())
        with pytest.raises(Overloaded, match="too many calls at once"):
            await near.call("slow")
        release.set()
        assert [bytes(reply) for reply in await eventually(asyncio.gather(*running))] == [b"done"] * 3
        assert bytes(await near.call("slow")) == b"done"


async def _flood_with_calls(raw: Raw) -> None:
    with contextlib.suppress(LinkLost):
        for number in range(1000):
            await eventually(raw.call(number, "big"))


async def test_replies_that_nobody_reads_cannot_pile_up(monkeypatch):
    monkeypatch.setattr(link_module, "MAX_REFUSALS", 10)
    served = 0

    async def big(link, body):
        nonlocal served
        served += 1
        return bytes(100_000)

    transport = InprocTransport()
    recorder = Recorder(big=big)
    async with (
        links("b", transport, recorder, link=LinkConfig(calls_at_once=4)) as mine,
        raw_dialler(transport, await mine.listen("inproc://0")) as raw,
    ):
        await raw.hello()
        await _flood_with_calls(raw)
        assert isinstance(await recorder.down(), LimitExceeded)
    assert "over 10 replies wait for the peer" in str(recorder.downs[0][1])
    # Eight frames fit into the transport, so as many replies were really sent.
    assert served <= 4 + 8 + 1


async def test_pings_that_nobody_reads_the_answers_of_cannot_pile_up():
    transport = InprocTransport()
    recorder = Recorder()
    async with (
        links("b", transport, recorder) as mine,
        raw_dialler(transport, await mine.listen("inproc://0")) as raw,
    ):
        await raw.hello()
        for value in range(2000):
            await eventually(raw.send(Type.PING, value=value))
        link = (await recorder.until(lambda: recorder.ups))[0]
        assert len(link._mux._urgent) <= 3
        while (await raw.read(Type.PONG))[4] != 1999:
            pass


async def test_a_caller_that_goes_away_takes_its_calls_with_it(network):
    transport, free = network
    started, stopped = asyncio.Event(), asyncio.Event()

    async def slow(link, body):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    recorder = Recorder(slow=slow)
    async with links("b", transport, recorder) as mine:
        async with raw_dialler(transport, await mine.listen(free)) as raw:
            await raw.hello()
            await raw.call(1, "slow")
            await eventually(started.wait())
        await eventually(stopped.wait())
        await recorder.down()
    assert recorder.balanced


async def test_replies_that_answer_nothing_are_dropped(network):
    transport, free = network
    recorder = Recorder()
    async with (
        links("b", transport, recorder) as mine,
        raw_dialler(transport, await mine.listen(free)) as raw,
    ):
        await raw.hello()
        for number in (0, 1, 2**64 - 1):
            header = pb.CallHeader(id=number, reply=True)
            await raw.message(frame(header.SerializeToString(), (b"surprise",)))
        await raw.call(5, "echo", b"still")
        header, body = await raw.reply()
        assert (header.id, header.reply, body) == (5, True, b"raw: still")


async def test_a_reply_that_does_not_fit_is_reported_instead():
    config = LinkConfig(mux=MuxLimits(message_bytes=(10_000, 10_000, 10_000)))

    async def big(link, body):
        return bytes(10_001)

    async with pair(InprocTransport(), "inproc://0", config=config, b=Recorder(big=big)) as (near, _, _, _):
        with pytest.raises(LimitExceeded, match="is over the 10000 bytes"):
            await near.call("big")
        with pytest.raises(LimitExceeded, match="is over the 10000 bytes"):
            await near.call("echo", bytes(10_001))
        assert not near._calls
        assert bytes(await near.call("echo", b"on")) == b"a: on"


# --- tensors -----------------------------------------------------------------


async def test_tensors_of_all_sizes_arrive_intact_both_ways(network):
    rng = random.Random(3)
    bodies = [rng.randbytes(size) for size in (0, 1, 1000, 1 << 20, (1 << 20) + 1, 9 << 20, 17, 3 << 20)]
    async with pair(*network) as (near, far, a, b):
        for body in bodies:
            near.send_tensors([body[:100], body[100:]])
            far.send_tensors([body])
        got = [await end.take(len(bodies)) for end in (a, b)]
    assert sorted(got[0]) == sorted(bodies)
    assert sorted(got[1]) == sorted(bodies)


async def test_a_small_tensor_overtakes_a_large_one(network):
    async with pair(*network) as (near, _, _, b):
        near.send_tensors([bytes(64 << 20)])
        near.send_tensors([b"small"])
        assert await b.take() == [b"small"]
        assert len((await b.take())[0]) == 64 << 20
        assert near.queued_bytes == 0


async def test_a_tensor_over_the_peers_limit_is_refused_and_the_link_lives(network):
    transport, free = network
    a, b = Recorder(), Recorder()
    small = LinkConfig(mux=MuxLimits(message_bytes=(1000, 5000, 1000)))
    async with links("a", transport, a) as dialler, links("b", transport, b, link=small) as listener:
        near = await dialler.connect(await listener.listen(free))
        with pytest.raises(LimitExceeded, match="5001 bytes is over the 5000 bytes"):
            near.send_tensors([bytes(5001)])
        near.send_tensors([bytes(5000)])
        assert await b.take() == [bytes(5000)]


async def test_a_peer_that_announces_too_much_is_dropped_by_name(network):
    transport, free = network
    recorder = Recorder()
    async with (
        links("b", transport, recorder) as mine,
        raw_dialler(transport, await mine.listen(free)) as raw,
    ):
        await raw.hello()
        await raw.send(Type.DATA, b"x", Channel.TENSORS, flags=1, value=(256 << 20) + 1)
        assert isinstance(await recorder.down(), LimitExceeded)
        assert await raw.is_ended()


async def test_an_error_of_the_receiver_of_tensors_ends_the_link(network, caplog):
    class Strict(Recorder):
        def tensors(self, link, message):
            if bytes(message) == b"bug":
                raise KeyError("a bug")
            raise ProtocolError("envelope: not one")

    for message, kind, text in (
        (b"?", ProtocolError, "envelope: not one"),
        (b"bug", CollabError, "KeyError"),
    ):
        strict = Strict()
        async with pair(*network, b=strict) as (near, _, _, _):
            near.send_tensors([message])
            error = await strict.down()
            assert type(error) is kind
            assert text in str(error)
            await eventually(near.wait_ended())
    assert "a bug" in caplog.text


# --- what a greeted peer may not do ------------------------------------------

OFFENCES = {
    "a second hello": (lambda raw: raw.hello(), "second hello"),
    "noise": (lambda raw: raw.connection.send([b"\xee" * 99]), "type 238"),
    "a short frame": (lambda raw: raw.connection.send([b"\x02"]), "too short"),
    "an unknown channel": (lambda raw: raw.send(Type.DATA, b"", 9, 3), "channel 9"),
    "a window for nothing": (lambda raw: raw.send(Type.WINDOW, channel=1, value=1), "window"),
    "a window of no channel": (lambda raw: raw.send(Type.WINDOW, channel=7), "window"),
    "a call without a header": (lambda raw: raw.message([b"\x12\x00"]), "header"),
    "a call with a bad header": (lambda raw: raw.message([b"\x0a\x02\xff\xff"]), "header cannot be read"),
    "a call cut off": (lambda raw: raw.message([b"\x0a\x7f"]), "header is cut off"),
}


@pytest.mark.parametrize(("offence", "message"), OFFENCES.values(), ids=OFFENCES)
async def test_a_peer_that_breaks_the_protocol_is_dropped_and_the_reason_kept(network, offence, message):
    transport, free = network
    recorder = Recorder()
    async with (
        links("b", transport, recorder) as mine,
        raw_dialler(transport, await mine.listen(free)) as raw,
    ):
        await raw.hello()
        await offence(raw)
        error = await recorder.down()
        assert isinstance(error, ProtocolError)
        assert message in str(error)
        assert await raw.is_ended()
    assert recorder.balanced


# --- signs of life -----------------------------------------------------------


async def test_a_peer_that_falls_silent_is_taken_for_dead_and_its_calls_fail(network):
    inner, free = network
    transport = Mutable(inner)
    a, b = Recorder(), Recorder()
    async with links("a", inner, a, link=IMPATIENT) as dialler, links("b", transport, b) as listener:
        link = await dialler.connect(await listener.listen(free))
        assert bytes(await link.call("echo", b"?")) == b"a: ?"
        transport.mute = True
        with pytest.raises(LinkLost, match="link to 'b' ended: no sign of life for"):
            await eventually(link.call("echo"))
        assert "no sign of life" in str(await a.down())
        assert isinstance(link.ended, LinkLost)
        assert dialler.get("b") is None


async def test_a_silent_peer_is_suspected_on_an_open_link_and_recovers_when_it_is_heard(network):
    inner, free = network
    transport = Mutable(inner)
    a, b = Recorder(), Recorder()
    async with links("a", inner, a) as dialler, links("b", transport, b) as listener:
        link = await dialler.connect(await listener.listen(free))
        await acquainted(link)
        transport.mute = True
        reply = asyncio.ensure_future(link.call("echo", b"lost"))
        assert await a.until(lambda: a.suspected) == [link]
        assert [link.health] == [Health.SUSPECTED]
        assert link.alive
        assert dialler.get("b") is link
        transport.mute = False
        assert await a.until(lambda: a.recovered) == [link]
        assert [link.health] == [Health.ALIVE]
        assert not reply.done()
        assert bytes(await eventually(link.call("echo", b"on"))) == b"a: on"
        assert not a.downs
        reply.cancel()


async def test_another_link_is_used_while_the_newest_is_suspected():
    inner = InprocTransport()
    transport = Mutable(inner)
    a, b = Recorder(), Recorder()
    async with links("a", inner, a) as dialler, links("b", inner, b) as listener:
        good = await dialler.connect(await listener.listen("inproc://0"))
        async with links("b", transport, Recorder()) as other:
            muted = await dialler.connect(await other.listen("inproc://0"))
            assert dialler.get("b") is muted
            await acquainted(muted)
            transport.mute = True
            await a.until(lambda: a.suspected)
            assert a.suspected == [muted]
            assert dialler.get("b") is good
            transport.mute = False
            await a.until(lambda: a.recovered)
            assert dialler.get("b") is muted


async def test_an_idle_link_is_pinged_closely_from_when_somebody_waits_for_the_peer(monkeypatch):
    a = Recorder()
    config = LinkConfig(ping_interval_s=600.0, silence_limit_s=2000.0, suspicion=SuspicionConfig(warm_up=0))
    transport = InprocTransport()
    async with links("a", transport, a, link=config) as dialler, links("b", transport, Recorder()) as b:
        link = await dialler.connect(await b.listen("inproc://0"))
        pongs: asyncio.Queue[int] = asyncio.Queue()
        monkeypatch.setattr(link, "_take_rtt", pongs.put_nowait)
        await eventually(pongs.get())
        a.awaiting = True
        dialler.attend(["b", "nobody"])
        for _ in range(3):
            await eventually(pongs.get())


async def test_a_patient_call_does_not_have_the_peer_pinged_closely(monkeypatch):
    reached, released, ticks = asyncio.Event(), asyncio.Event(), asyncio.Queue[bool]()

    async def work(link: object, body: bytes) -> bytes:
        reached.set()
        await released.wait()
        return b"done"

    transport = InprocTransport()
    async with links("a", transport, Recorder()) as dialler, links("b", transport, Recorder(work=work)) as b:
        link = await dialler.connect(await b.listen("inproc://0"))
        await acquainted(link)
        detector = link._detector
        assert detector is not None
        tick = detector.tick

        def told(now_us: int, *, awaited: bool) -> list[Action]:
            ticks.put_nowait(awaited)
            return tick(now_us, awaited=awaited)

        monkeypatch.setattr(detector, "tick", told)
        patient = asyncio.ensure_future(link.call("work", patient=True))
        await eventually(reached.wait())
        while not ticks.empty():
            ticks.get_nowait()
        link.attend()
        assert await eventually(ticks.get()) is False
        urgent = asyncio.ensure_future(link.call("work"))
        assert await eventually(ticks.get()) is True
        released.set()
        assert [bytes(await eventually(call)) for call in (patient, urgent)] == [b"done", b"done"]


async def test_an_idle_link_lives_on_pings_alone(network, monkeypatch):
    transport, free = network
    a, b = Recorder(), Recorder()
    config = LinkConfig(ping_interval_s=0.01, silence_limit_s=10.0)
    clock_us = 0
    monkeypatch.setattr(link_module, "now_us", lambda: clock_us)
    async with (
        links("a", transport, a, link=config) as dialler,
        links("b", transport, b, link=config) as listener,
    ):
        link = await dialler.connect(await listener.listen(free))
        pongs: asyncio.Queue[int] = asyncio.Queue()
        monkeypatch.setattr(link, "_take_rtt", pongs.put_nowait)
        for _ in range(10):
            await eventually(pongs.get())
            clock_us += 9_000_000  # nearly the limit: without the next ping both ends would give up
        await eventually(pongs.get())
        assert link.alive
        assert not a.downs
        assert not b.downs


async def test_the_round_trip_is_measured_by_pings_and_not_by_a_hello_that_waited():
    transport = InprocTransport()
    recorder = Recorder()
    async with (
        links("b", transport, recorder) as mine,
        raw_dialler(transport, await mine.listen("inproc://0")) as raw,
    ):
        await raw.hello()
        link = (await recorder.until(lambda: recorder.ups))[0]
        assert link.rtt_us == 0
        sent_us = (await raw.read(Type.PING))[4]
        await raw.send(Type.PONG, value=sent_us - 50_000)
        await raw.call(1, "echo")
        await raw.reply()
        assert 50_000 <= link.rtt_us < 50_000 + WITHIN_S * 1e6
        await raw.send(Type.PONG, value=link_module.now_us() + 10**9)  # from the future
        await raw.send(Type.PONG, value=0)  # ages ago
        await raw.call(2, "echo")
        await raw.reply()
        assert 50_000 <= link.rtt_us < 50_000 + WITHIN_S * 1e6


async def test_the_smallest_round_trip_follows_a_route_that_became_longer():
    async with pair(InprocTransport(), "inproc://0") as (near, _, _, _):
        near.rtt_us = 0
        near._take_rtt(1600)
        near._take_rtt(9000)
        assert near.rtt_us == 1701
        near._take_rtt(40)
        assert near.rtt_us == 40
        for _ in range(200):
            near._take_rtt(9000)
        assert near.rtt_us == 9000


# --- ends --------------------------------------------------------------------


@pytest.mark.parametrize("who", ["dialler", "listener"])
async def test_close_sends_what_is_queued_before_it_says_good_bye(network, who):
    bodies = [bytes([i]) * 300_000 for i in range(20)]
    async with pair(*network) as (near, far, a, b):
        link, other, recorder = (near, far, b) if who == "dialler" else (far, near, a)
        for body in bodies:
            link.send_tensors([body])
        await eventually(link.close())
        assert sorted(await recorder.take(20)) == bodies
        await eventually(other.wait_ended())
        assert "good-bye" in str(other.ended)
        assert "closed here" in str(link.ended)


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("who", ["dialler", "listener"])
async def test_after_the_end_everything_fails_at_once_and_says_so(network, how, who):
    async def never(link, body):
        await asyncio.Event().wait()

    async with pair(*network, a=Recorder(never=never), b=Recorder(never=never)) as (near, far, a, b):
        link, other = (near, far) if who == "dialler" else (far, near)
        waiting = [asyncio.ensure_future(end.call("never")) for end in (link, other)]
        await link.call("echo")
        if how == "close":
            await link.close()
        else:
            link.abort(ProtocolError("enough"))
            assert isinstance(link.ended, ProtocolError)
        for call in waiting:
            with pytest.raises(LinkLost, match="ended"):
                await eventually(call)
        await eventually(other.wait_ended())
        for end in (link, other):
            assert not end.alive
            with pytest.raises(LinkLost, match="has ended"):
                end.send_tensors([b"x"])
            with pytest.raises(LinkLost, match="has ended"):
                await end.call("echo")
        await a.down()
        await b.down()
        await link.close()
        link.abort()
    assert a.balanced
    assert b.balanced


async def test_both_ends_may_close_at_once(network):
    async with pair(*network) as (near, far, a, b):
        near.send_tensors([b"from a"])
        far.send_tensors([b"from b"])
        await eventually(asyncio.gather(near.close(), far.close(), near.close()))
        await a.down()
        await b.down()
    assert a.balanced
    assert b.balanced


async def test_close_takes_bounded_time_if_the_peer_reads_nothing():
    transport = InprocTransport()
    recorder = Recorder()
    async with (
        links("b", transport, recorder) as mine,
        raw_dialler(transport, await mine.listen("inproc://0")) as raw,
    ):
        await raw.hello()
        link = (await recorder.until(lambda: recorder.ups))[0]
        link.send_tensors([bytes(30 << 20)])
        async with timeout(5):
            await link.close()
