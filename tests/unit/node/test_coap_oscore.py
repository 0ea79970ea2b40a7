"""Protected requests are opened once and for their client; all else learns nothing, in few bytes."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import contextmanager

import aiocoap
import pytest
from aiocoap import oscore
from aiocoap.message import Direction
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.core.identity import Principal
from collab.errors import Refused
from collab.node.coap import oscore as subject
from collab.node.coap.answers import AMPLIFICATION, SILENT
from collab.node.coap.oscore import ObjectSecurity
from collab.security.object_security import SECRET, SEQUENCE, SETTINGS, write_pair

NODE = Principal("pi-1", "node", "home")
CLIENT = Principal("meter", "client", "home")


class Remote:
    """Where a datagram comes from."""

    is_multicast_locally = False
    hostinfo = "[2001:db8::1]:5683"


class Group(Remote):
    is_multicast_locally = True


class Pipe:
    """The library's, for one request."""

    def __init__(self, request: aiocoap.Message, remote: Remote = Remote()) -> None:
        self.request = incoming(request)
        self.request.remote = remote
        self.answers: list[aiocoap.Message] = []
        self.ended = False

    def add_response(self, response: aiocoap.Message, is_last: bool = False) -> None:
        assert not self.ended
        self.answers.append(response)
        self.ended = is_last


def incoming(message: aiocoap.Message) -> aiocoap.Message:
    """A message as the other end reads it."""
    message.mtype, message.mid, message.token = aiocoap.CON, 1, b"t"
    read = aiocoap.Message.decode(message.encode())
    assert read.direction is Direction.INCOMING
    return read


@pytest.fixture
def ends(tmp_path):
    """The client's folder, and the directory of the node's contexts."""
    clients, nodes = write_pair(tmp_path, CLIENT, NODE)
    return clients, nodes.parent


@contextmanager
def client(folder):
    """The other end, as aiocoap implements it."""
    context = oscore.FilesystemSecurityContext(str(folder))
    try:
        yield context
    finally:
        context._destroy()


def asked(context, observe=None, echo=None, code=aiocoap.GET):
    message = aiocoap.Message(code=code, observe=observe, echo=echo)
    message.opt.uri_path = ("node",)
    return context.protect(message)


async def reserving() -> None:
    """Wait until numbers are reserved, if that has begun."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        await asyncio.wait(tasks)


async def refusal(contexts: ObjectSecurity, message: aiocoap.Message) -> aiocoap.Message:
    """The one answer to a request that is not opened; checked to be in the clear and short."""
    pipe = Pipe(message)
    assert await contexts.open(pipe) is None
    (answer,) = pipe.answers
    assert pipe.ended
    assert answer.opt.oscore is None
    assert answer.opt.max_age == 0
    incoming(answer)
    assert len(answer.encode()) <= AMPLIFICATION * len(message.encode())
    return answer


async def test_a_request_is_opened_and_its_answer_is_for_its_client_alone(ends):
    with client(ends[0]) as phone:
        async with ObjectSecurity(ends[1], NODE) as contexts:
            message, request_id = asked(phone)
            pipe = Pipe(message)
            opened = await contexts.open(pipe)
            assert opened.caller == CLIENT
            assert opened.request.code == aiocoap.GET
            assert opened.request.opt.uri_path == ("node",)
            assert opened.request.opt.oscore is None
            opened.add_response(aiocoap.Message(code=aiocoap.CONTENT, payload=b"secret"), is_last=True)
            (answer,) = pipe.answers
            assert pipe.ended
            back, _ = phone.unprotect(incoming(answer), request_id)
            assert b"secret" not in answer.encode()
            assert (back.code, back.payload) == (aiocoap.CONTENT, b"secret")


async def test_notifications_have_numbers_of_their_own_and_the_clear_says_only_their_order(ends):
    with client(ends[0]) as phone:
        async with ObjectSecurity(ends[1], NODE) as contexts:
            message, request_id = asked(phone, observe=0)
            pipe = Pipe(message)
            opened = await contexts.open(pipe)
            assert opened.request.opt.observe == 0
            numbers = []
            for number in (7, 300, 70_000):
                news = aiocoap.Message(code=aiocoap.CONTENT, observe=number, payload=b"news")
                opened.add_response(news)
                assert pipe.answers[-1].opt.observe == number
                back, _ = phone.unprotect(incoming(pipe.answers[-1]), request_id)
                assert back.payload == b"news"
                numbers.append(back.opt.observe)
            assert numbers == sorted(set(numbers))
            # Within, the number has no value (RFC 8613 4.1.3.5.2), or a longer one would show.
            assert len({len(answer.payload) for answer in pipe.answers}) == 1


async def test_a_replay_is_refused_also_after_a_clean_restart(ends):
    with client(ends[0]) as phone:
        message, _ = asked(phone)
        later, _ = asked(phone)
        async with ObjectSecurity(ends[1], NODE) as contexts:
            assert await contexts.open(Pipe(message)) is not None
            assert (await refusal(contexts, message)).code == aiocoap.UNAUTHORIZED
        async with ObjectSecurity(ends[1], NODE) as contexts:
            assert (await refusal(contexts, message)).code == aiocoap.UNAUTHORIZED
            assert await contexts.open(Pipe(later)) is not None


async def test_after_an_unclean_end_a_request_counts_once_its_client_has_shown_to_be_there(ends):
    with client(ends[0]) as phone:
        before, before_id = asked(phone)
        async with ObjectSecurity(ends[1], NODE) as contexts:
            assert await contexts.open(Pipe(before)) is not None
            disk = ends[1] / CLIENT.name / SEQUENCE
            crashed = await asyncio.to_thread(disk.read_bytes)
        await asyncio.to_thread(disk.write_bytes, crashed)
        assert json.loads(crashed)["received"] == "unknown"
        async with ObjectSecurity(ends[1], NODE) as contexts:
            pipes = []
            for _ in range(2):  # a replay from before the end, again and again
                pipes.append(Pipe(before))
                assert await contexts.open(pipes[-1]) is None
            said = [phone.unprotect(incoming(pipe.answers[0]), before_id)[0] for pipe in pipes]
            assert {(one.code, one.payload) for one in said} == {(aiocoap.UNAUTHORIZED, b"")}
            # Two answers to one request never share a nonce.
            assert len({oscore.verify_start(pipe.answers[0])[oscore.COSE_PIV] for pipe in pipes}) == 2
            fresh, _ = asked(phone, echo=said[0].opt.echo)
            assert await contexts.open(Pipe(fresh)) is not None
            assert (await refusal(contexts, before)).code == aiocoap.UNAUTHORIZED
            assert (await refusal(contexts, fresh)).code == aiocoap.UNAUTHORIZED


async def test_numbers_are_written_before_they_are_used_and_never_twice(ends, monkeypatch):
    monkeypatch.setattr(subject, "RESERVED", 8)
    disk = ends[1] / CLIENT.name / SEQUENCE

    def written() -> int:
        return int(json.loads(disk.read_text())["next-to-send"])

    used: list[int] = []
    with client(ends[0]) as phone:
        for _ in range(2):
            async with ObjectSecurity(ends[1], NODE) as contexts:
                pipe = Pipe(asked(phone, observe=0)[0])
                opened = await contexts.open(pipe)
                for _ in range(20):
                    opened.add_response(aiocoap.Message(code=aiocoap.CONTENT, observe=1))
                    piv = oscore.verify_start(pipe.answers[-1]).get(oscore.COSE_PIV)
                    if piv is not None:  # the first answer goes with the request's number
                        used.append(int.from_bytes(piv, "big"))
                        assert used[-1] < await asyncio.to_thread(written)
                    await reserving()
            assert await asyncio.to_thread(written) == used[-1] + 1
    assert len(used) == len(set(used)) == 38


async def test_without_numbers_nothing_is_sent_with_an_old_one(ends, monkeypatch):
    monkeypatch.setattr(subject, "RESERVED", 4)
    with client(ends[0]) as phone:
        async with ObjectSecurity(ends[1], NODE) as contexts:
            pipe = Pipe(asked(phone, observe=0)[0])
            opened = await contexts.open(pipe)
            folder = ends[1] / CLIENT.name
            await asyncio.to_thread(folder.rename, folder.with_name("away"))  # nothing more can be written
            while not pipe.ended:
                opened.add_response(aiocoap.Message(code=aiocoap.CONTENT, observe=1, payload=b"news"))
                await reserving()
            assert pipe.answers[-1].code == aiocoap.SERVICE_UNAVAILABLE
            assert pipe.answers[-1].opt.oscore is None
            assert len(pipe.answers) == 1 + 4 + 1
            await asyncio.to_thread(folder.with_name("away").rename, folder)
            said = []
            for _ in range(2):  # once more in vain, and then there are numbers again
                again = Pipe(asked(phone, observe=0)[0])
                opened = await contexts.open(again)
                for _ in range(2):
                    opened.add_response(aiocoap.Message(code=aiocoap.CONTENT, observe=1))
                await reserving()
                said.append(again.answers[-1].opt.oscore is not None)
            assert said == [False, True]


async def test_an_unprotected_request_gets_a_code_alone(ends):
    async with ObjectSecurity(ends[1], NODE) as contexts:
        bare = aiocoap.Message(code=aiocoap.GET)
        assert (await refusal(contexts, bare)).code == aiocoap.UNAUTHORIZED
        for path in (("node",), (".well-known", "core"), (".well-known", "edhoc")):
            bare = aiocoap.Message(code=aiocoap.GET)
            bare.opt.uri_path = path
            assert (await refusal(contexts, bare)).payload in (b"", b"OSCORE is needed")


async def test_a_wrong_key_an_unknown_client_and_an_altered_request_are_refused(ends, tmp_path):
    stranger, thief = [
        (await asyncio.to_thread(write_pair, tmp_path / other, CLIENT, NODE))[0] for other in ("x", "y")
    ]
    shutil.copy(ends[0] / SETTINGS, thief / SETTINGS)  # the right identifiers, another secret
    async with ObjectSecurity(ends[1], NODE) as contexts:
        with client(stranger) as unknown, client(thief) as forger, client(ends[0]) as phone:
            assert (await refusal(contexts, asked(unknown)[0])).code == aiocoap.UNAUTHORIZED
            assert (await refusal(contexts, asked(forger)[0])).code == aiocoap.BAD_REQUEST
            message, _ = asked(phone)
            altered = message.copy(payload=bytes([message.payload[0] ^ 1]) + message.payload[1:])
            assert (await refusal(contexts, altered)).code == aiocoap.BAD_REQUEST
            # What was altered used nothing up.
            assert await contexts.open(Pipe(message)) is not None


async def test_what_is_outside_of_the_protection_does_not_count(ends):
    async with ObjectSecurity(ends[1], NODE) as contexts:
        with client(ends[0]) as phone:
            message, _ = asked(phone)
            message.opt.uri_path = ("plans", "digits", "run")
            message.opt.observe = 0
            opened = await contexts.open(Pipe(message))
            assert opened.request.opt.uri_path == ("node",)
            assert opened.request.opt.observe is None
            message, _ = asked(phone)
            message.opt.proxy_scheme = "coap"
            assert (await refusal(contexts, message)).code == aiocoap.PROXYING_NOT_SUPPORTED
            message, _ = asked(phone)
            message.opt.block1 = (0, True, 6)
            assert (await refusal(contexts, message)).code == aiocoap.BAD_OPTION
            message, _ = asked(phone)
            message.code = aiocoap.GET
            assert (await refusal(contexts, message)).code == aiocoap.BAD_REQUEST


async def test_a_context_that_is_taken_back_is_refused_at_once(ends):
    async with ObjectSecurity(ends[1], NODE) as contexts:
        with client(ends[0]) as phone:
            opened = await contexts.open(Pipe(asked(phone)[0]))
            await opened.check()
            await asyncio.to_thread(shutil.rmtree, ends[1] / CLIENT.name)
            with pytest.raises(Refused, match="taken back"):
                await opened.check()
            assert (await refusal(contexts, asked(phone)[0])).code == aiocoap.UNAUTHORIZED


async def test_a_multicast_gets_no_answer(ends):
    async with ObjectSecurity(ends[1], NODE) as contexts:
        pipe = Pipe(aiocoap.Message(code=aiocoap.GET), Group())
        assert await contexts.open(pipe) is None
        assert pipe.answers[0].opt.no_response == SILENT


@settings(max_examples=40)
@given(data=st.data())
def test_no_nonsense_is_opened_or_answered_at_length(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nonsense")
    _, nodes = write_pair(folder, CLIENT, NODE)
    kid = bytes.fromhex(json.loads((nodes / SETTINGS).read_text())["recipient-id_hex"])
    option = data.draw(st.binary(max_size=20) | st.binary(min_size=1, max_size=9).map(lambda b: b + kid))
    payload = data.draw(st.binary(max_size=64))
    code = data.draw(st.sampled_from([aiocoap.GET, aiocoap.POST, aiocoap.FETCH]))

    async def ask() -> None:
        async with ObjectSecurity(nodes.parent, NODE) as contexts:
            message = aiocoap.Message(code=code, payload=payload)
            message.opt.oscore = option
            answer = await refusal(contexts, message)
            assert not answer.code.is_successful()

    asyncio.run(ask())
    assert (nodes / SECRET).exists()
