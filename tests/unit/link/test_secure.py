"""TLS within connections: who gets in, and what somebody in the middle can do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from collab.core.ids import NodeName
from collab.errors import CollabError, LinkLost, PeerUnreachable, ProtocolError, Refused
from collab.link.hello import Identity
from collab.link.links import Links
from collab.link.mux import HEAD_BYTES
from collab.link.secure import secure
from collab.transport.aio import timeout
from collab.transport.base import Connection
from collab.transport.inproc import InprocTransport
from tests.identities import Identities
from tests.unit.link.ends import QUICK_DIAL, WITHIN_S, Recorder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Identities:
    identities = Identities(tmp_path_factory.mktemp("identities"))
    return identities.enrol("a", "b", "c").enrol("op", role="operator")


@pytest.fixture
def elsewhere(tmp_path) -> Identities:
    """Another authority, of a cluster with the same name."""
    return Identities(tmp_path).enrol("a", "b", "t")


@asynccontextmanager
async def pair(frame_bytes: int = 1 << 20) -> AsyncIterator[tuple[Connection, Connection]]:
    """Both ends of a connection that proves nothing."""
    accepted: asyncio.Queue[Connection] = asyncio.Queue()
    over = asyncio.Event()

    async def accept(connection: Connection) -> None:
        accepted.put_nowait(connection)
        await over.wait()

    transport = InprocTransport(frame_bytes)
    listener = await transport.listen("inproc://0", accept)
    try:
        async with timeout(WITHIN_S):
            yield await transport.dial(listener.address, WITHIN_S), await accepted.get()
    finally:
        over.set()
        await listener.close()


async def secured(home: Identities, near: Connection, far: Connection) -> tuple[Connection, Connection]:
    a, b = home.of("a"), home.of("b")
    return await asyncio.gather(
        secure(near, a, server_side=False, timeout_s=WITHIN_S),
        secure(far, b, server_side=True, timeout_s=WITHIN_S),
    )


async def test_both_ends_learn_who_the_other_is(home):
    async with pair() as ends:
        near, far = await secured(home, *ends)
    assert str(near.principal) == "b.node.home"
    assert str(far.principal) == "a.node.home"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("frame_bytes", [1 << 12, 1 << 16, 1 << 20])
async def test_frames_of_every_size_and_cut_arrive_as_they_were(home, frame_bytes, seed):
    rng = random.Random(seed)
    async with pair(frame_bytes) as ends:
        near, far = await secured(home, *ends)
        most = near.max_frame_bytes
        assert most > frame_bytes * 0.98 - 64
        for size in (1, 2, HEAD_BYTES, 16_383, 16_384, 16_385, most - 1, most):
            data = rng.randbytes(min(size, most))
            at = sorted(rng.randrange(len(data) + 1) for _ in range(3))
            parts = [data[i:j] for i, j in zip([0, *at], [*at, len(data)], strict=True)]
            await near.send([part for part in parts if part])
            assert bytes(await far.receive()) == data
            await far.send([data])
            assert bytes(await near.receive()) == data


class Middle:
    """Somebody between two ends who sees every frame and decides what becomes of it."""

    def __init__(self, one: Connection, other: Connection) -> None:
        self.one, self.other = one, other
        self.seen: list[bytes] = []
        self.meddle: Callable[[bytes], list[bytes]] = lambda frame: [frame]

    async def hand_on(self, source: Connection, target: Connection, meddles: bool) -> None:
        try:
            while True:
                frame = bytes(await source.receive())
                self.seen.append(frame)
                for changed in self.meddle(frame) if meddles else [frame]:
                    await target.send([changed])
        except LinkLost:
            await target.close()


@asynccontextmanager
async def meddled(home: Identities) -> AsyncIterator[tuple[Connection, Connection, Middle]]:
    """A secured connection through somebody in the middle."""
    async with pair() as (a, left), pair() as (right, b):
        middle = Middle(left, right)
        tasks = [
            asyncio.ensure_future(middle.hand_on(left, right, True)),
            asyncio.ensure_future(middle.hand_on(right, left, False)),
        ]
        try:
            near, far = await secured(home, a, b)
            yield near, far, middle
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _flip(frame: bytes) -> list[bytes]:
    return [frame[:-3] + bytes([frame[-3] ^ 1]) + frame[-2:]]


def _swapping() -> Callable[[bytes], list[bytes]]:
    held: list[bytes] = []

    def swap(frame: bytes) -> list[bytes]:
        held.append(frame)
        return held[::-1] if len(held) == 2 else []

    return swap


def _swallowing() -> Callable[[bytes], list[bytes]]:
    seen: list[bytes] = []

    def swallow(frame: bytes) -> list[bytes]:
        seen.append(frame)
        return [frame] if len(seen) > 1 else []

    return swallow


ATTACKS: dict[str, Callable[[], Callable[[bytes], list[bytes]]]] = {
    "alters a byte": lambda: _flip,
    "replays a frame": lambda: lambda frame: [frame, frame],
    "swaps two frames": _swapping,
    "cuts a frame short": lambda: lambda frame: [frame[:-1]],
    "adds bytes": lambda: lambda frame: [frame + b"\0"],
    "sends bytes of its own": lambda: lambda frame: [random.Random(1).randbytes(len(frame))],
    "swallows one and goes on": lambda: _swallowing(),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_what_the_middle_does_to_frames_ends_the_connection_and_delivers_nothing_of_it(home, attack):
    async with meddled(home) as (near, far, middle):
        middle.meddle = attack()
        await near.send([b"the first secret"])
        await near.send([b"the second secret"])
        got = []
        with pytest.raises((ProtocolError, LinkLost)):  # noqa: PT012
            for _ in range(3):
                got.append(bytes(await far.receive()))
        assert got in ([], [b"the first secret"]), got
        assert not any(b"secret" in frame for frame in middle.seen)


async def test_the_middle_reads_nothing(home):
    async with meddled(home) as (near, far, middle):
        text = b"a tensor that nobody else may see" * 1000
        await near.send([text])
        assert bytes(await far.receive()) == text
        for frame in middle.seen:
            assert b"nobody else" not in frame
            assert b"node.home" not in frame, "names are told only to who has proven its own"


# --- links --------------------------------------------------------------------------------


def endpoint(
    name: str, transport: InprocTransport, identities: Identities | None, role: str = "node", **more
):
    security = identities.of(name, role) if identities is not None else None
    handler = Recorder()
    own = more.pop("as_name", name)
    links = Links(
        Identity(NodeName(own), more.pop("as_role", role)),
        {"inproc": transport},
        handler,
        dial=QUICK_DIAL,
        security=security,
        **more,
    )
    return links, handler


async def refusal(links: Links, address: str) -> CollabError:
    """How a dial fails; the other end's reason may come after its hello."""
    async with timeout(WITHIN_S):
        try:
            link = await links.connect(address)
        except CollabError as error:
            return error
        await link.wait_ended()
        assert link.ended is not None
        return link.ended


async def test_name_and_role_are_those_of_the_certificate(home):
    transport = InprocTransport()
    one, _ = endpoint("a", transport, home)
    # It says that it is an operator; its certificate says node.
    other, heard = endpoint("b", transport, home)
    liar, _ = endpoint("c", transport, home, as_role="operator")
    async with one, other, liar:
        address = await other.listen("inproc://0")
        await one.connect(address, NodeName("b"))
        await liar.connect(address)
        await heard.until(lambda: len(heard.ups) == 2)
    assert [(link.peer.name, link.peer.role) for link in heard.ups] == [("a", "node"), ("c", "node")]


async def test_a_peer_that_takes_anothers_name_is_refused(home, caplog):
    transport = InprocTransport()
    mine, heard = endpoint("b", transport, home)
    thief, _ = endpoint("c", transport, home, as_name="a")
    async with mine, thief:
        error = await refusal(thief, await mine.listen("inproc://0"))
    assert not heard.ups
    for text in (str(error), caplog.text):
        assert "calls itself 'a', but its certificate is c.node.home's" in text


async def test_a_dialler_gets_whom_it_means_or_nobody(home):
    transport = InprocTransport()
    mine, _ = endpoint("a", transport, home)
    other, _ = endpoint("b", transport, home)
    async with mine, other:
        address = await other.listen("inproc://0")
        with pytest.raises(ProtocolError, match="'b' answers there, not 'x'"):
            await mine.connect(address, NodeName("x"))


async def test_processes_that_share_an_operators_certificate_have_names_of_their_own(home):
    transport = InprocTransport()
    node, heard = endpoint("b", transport, home)
    async with node:
        address = await node.listen("inproc://0")
        one, _ = endpoint("op", transport, home, "operator", as_name="op~1")
        other, _ = endpoint("op", transport, home, "operator", as_name="op~2")
        asking, _ = endpoint("c", transport, home, as_name="c~1")
        async with one, other, asking:
            await one.connect(address)
            await other.connect(address)
            await asking.connect(address)
            await heard.until(lambda: len(heard.ups) == 3)
    assert {(link.peer.name, link.peer.role) for link in heard.ups} == {
        ("op~1", "operator"),
        ("op~2", "operator"),
        ("c~1", "client"),
    }


async def test_without_a_certificate_nobody_gets_in_and_is_told_what_to_do(home, caplog):
    transport = InprocTransport()
    mine, heard = endpoint("b", transport, home)
    plain, _ = endpoint("p", transport, None)
    async with mine, plain:
        error = await refusal(plain, await mine.listen("inproc://0"))
        assert isinstance(error, Refused)
        assert "collab cluster join" in str(error)
    assert not heard.ups
    assert "speaks no TLS" in caplog.text


async def test_who_demands_certificates_goes_to_nobody_without(home):
    transport = InprocTransport()
    plain, heard = endpoint("p", transport, None)
    mine, _ = endpoint("b", transport, home)
    async with mine, plain:
        error = await refusal(mine, await plain.listen("inproc://0"))
    assert isinstance(error, (ProtocolError, LinkLost, PeerUnreachable))
    assert not heard.ups


async def test_a_certificate_of_another_authority_is_refused_by_both(home, elsewhere, caplog):
    transport = InprocTransport()
    mine, heard = endpoint("b", transport, home)
    stranger, _ = endpoint("a", transport, elsewhere)
    async with mine, stranger:
        error = await refusal(stranger, await mine.listen("inproc://0"))
        assert isinstance(error, Refused)
        assert "certificate is refused" in str(error)
    assert not heard.ups
    assert "is refused" in caplog.text


async def test_a_revoked_peer_is_refused_with_the_reason(elsewhere, caplog):
    transport = InprocTransport()
    mine, heard = endpoint("b", transport, elsewhere)
    thief, _ = endpoint("t", transport, elsewhere)

    def revoke() -> None:
        elsewhere.authority.revoke("t")
        elsewhere.of("b").reload_revocations(elsewhere.authority.crl())

    await asyncio.to_thread(revoke)
    async with mine, thief:
        error = await refusal(thief, await mine.listen("inproc://0"))
        assert isinstance(error, (Refused, LinkLost))
    assert not heard.ups
    assert "revoked" in caplog.text


async def test_a_peer_that_starts_no_handshake_is_dropped_in_time(home):
    async with pair() as (near, far):
        with pytest.raises(PeerUnreachable, match="no TLS handshake within"):
            await secure(far, home.of("b"), server_side=True, timeout_s=0.05)
        with pytest.raises(LinkLost):
            await near.receive()


@pytest.mark.parametrize("seed", range(8))
async def test_noise_instead_of_a_handshake_is_a_protocol_error(home, seed):
    noise = random.Random(seed).randbytes(300)
    async with pair() as (near, far):
        await near.send([noise])
        with pytest.raises((ProtocolError, Refused)):
            await secure(far, home.of("b"), server_side=True, timeout_s=WITHIN_S)


async def test_a_handshake_that_does_not_end_is_bounded(home):
    async with pair() as (near, far):

        async def talk() -> None:
            # Records of a handshake message that is announced as long as can be.
            await near.send([bytes.fromhex("160301 4000 01ffffff") + bytes(0x4000 - 4)])
            while True:
                await near.send([bytes.fromhex("160301 4000") + bytes(0x4000)])

        talking = asyncio.ensure_future(talk())
        with pytest.raises((ProtocolError, Refused)):
            await secure(far, home.of("b"), server_side=True, timeout_s=WITHIN_S)
        await asyncio.gather(talking, return_exceptions=True)


async def test_a_link_ends_when_its_peer_is_revoked(elsewhere):
    transport = InprocTransport()
    mine, heard = endpoint("b", transport, elsewhere)
    thief, _ = endpoint("t", transport, elsewhere)
    other, _ = endpoint("a", transport, elsewhere)
    async with mine, thief, other:
        address = await mine.listen("inproc://0")
        await thief.connect(address)
        await other.connect(address)
        await heard.until(lambda: len(heard.ups) == 2)

        def revoke() -> None:
            elsewhere.authority.revoke("t")
            elsewhere.of("b").reload_revocations(elsewhere.authority.crl())

        await asyncio.to_thread(revoke)
        mine.recheck()
        assert "revoked" in str(await heard.down())
        assert [link.peer.name for link in mine.all()] == ["a"]
