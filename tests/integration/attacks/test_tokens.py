"""Tokens from those whom the plan does not place there, and from clients about others' requests."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import pytest

from collab.codec.tensors import EncodedTensor
from collab.core.ids import Attempt, EdgeId, Epoch, NodeName, RequestId
from collab.core.token import Key, Kind, Token
from collab.errors import CollabError
from collab.link.link import now_us
from collab.transport.aio import timeout
from tests.integration.attacks.conftest import SCHEMES, WITHIN_S, Victims
from tests.integration.attacks.strangers import Attacker, attacker

pytestmark = pytest.mark.timeout(120)

ENTRY, BETWEEN, ANSWER = EdgeId(0), EdgeId(1), EdgeId(2)


def value(victims: Victims, edge: int) -> tuple[EncodedTensor, ...]:
    """Zeros in the shapes of an edge."""
    sources = ("requester", *(stage.id for stage in victims.plan.stages))
    specs = victims.specs[sources[edge]]
    return tuple(EncodedTensor(spec, "", memoryview(bytes(spec.nbytes))) for spec in specs)


def token(
    victims: Victims, edge: EdgeId, requester: str, request: bytes = b"", kind: Kind = Kind.VALUE
) -> Token:
    key = Key(victims.plan.name, victims.epoch, RequestId(request or os.urandom(16)), Attempt(0))
    route = (NodeName("x"), NodeName("y"))
    payload = value(victims, edge) if kind is Kind.VALUE else None
    return Token(key, edge, kind, NodeName(requester), route, now_us() + 20_000_000, payload)


async def handled(link: object) -> None:
    """Everything sent over a link before has been looked at: calls are answered behind it."""
    await link.call("Describe")  # type: ignore[attr-defined]


@asynccontextmanager
async def waiting_request(victims: Victims, name: str):
    """A request of a client that waits at a node which stands still, and its key; answered in the end."""
    async with victims.client(name) as (_, client):
        victims.nodes["y"].send(signal.SIGSTOP)
        try:
            asked = asyncio.ensure_future(client.run(victims.digits.requests[5], WITHIN_S))
            async with timeout(WITHIN_S):
                while not client._pending:  # noqa: ASYNC110 - the client tells nobody
                    await asyncio.sleep(0)
            yield client, next(iter(client._pending))
        finally:
            victims.nodes["y"].send(signal.SIGCONT)
        result = await asked
        assert victims.digits.same(5, result.outputs)


async def refused_as_forged(victims: Victims, node: str, name: str, scheme: str, *tokens: Token) -> Attacker:
    before = (await victims.counters(node))["forged"]
    async with attacker(victims.identities.of(name), f"{name}~evil" if name == "bob" else name) as thief:
        link = await thief.dial(victims.address(node, scheme))
        for one in tokens:
            thief.send(link, one)
        await handled(link)
        assert thief.handler.messages.empty(), "a forger learns nothing"
    assert (await victims.counters(node))["forged"] == before + len(tokens)
    await victims.says(node, name, "forged")
    return thief


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_node_of_the_cluster_that_the_plan_does_not_place_there_is_not_heard(victims, scheme):
    forged = [token(victims, BETWEEN, "op~1"), token(victims, ENTRY, "op~1")]
    await refused_as_forged(victims, "x", "z", scheme, token(victims, ENTRY, "op~1"))
    await refused_as_forged(victims, "y", "z", scheme, forged[0])
    await victims.serve_honestly(1)


@pytest.mark.parametrize("kind", [Kind.CANCEL, Kind.VALUE])
async def test_a_client_does_not_touch_the_request_of_another(victims, kind):
    async with waiting_request(victims, "alice") as (client, request):
        own = next(iter(victims_name(client)))
        one = token(victims, ENTRY, own, request, kind)
        await refused_as_forged(victims, "x", "bob", "grpc", one)
        mine = token(victims, ENTRY, "bob~evil", request, kind)
        await refused_as_forged(victims, "x", "bob", "grpc", mine)


def victims_name(client: object) -> list[str]:
    return [client._links.identity.name]  # type: ignore[attr-defined]


async def test_a_client_gives_back_no_lease_of_another(victims):
    async with victims.client("alice") as (_, client):
        async with attacker(victims.identities.of("bob"), "bob~evil", "client") as thief:
            from collab.client.control import Control

            control = Control(await thief.dial(victims.address("x")))
            await control.lease(victims.plan.name, victims.epoch, 8)
            await control.lease(victims.plan.name, victims.epoch, 0)
        result = await client.run(victims.digits.requests[1], WITHIN_S)
        assert victims.digits.same(1, result.outputs)


async def test_an_answer_comes_from_the_output_stage_alone(victims):
    async with attacker(victims.identities.of("z"), "z") as thief:
        at = await thief.links.listen("coaps+tcp://127.0.0.1:0")
        async with waiting_request(victims, "alice") as (client, request):
            await client._links.connect(at)
            (own,) = victims_name(client)
            link = await thief.links.wait_for(NodeName(own))
            thief.send(link, token(victims, ANSWER, own, request))
            thief.send(link, token(victims, ANSWER, own, request), route=(NodeName("x"), NodeName("z")))
            async with timeout(WITHIN_S):
                while client._requester.counters["forged"] < 2:  # noqa: ASYNC110 - the client tells nobody
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"edge": EdgeId(77)},
        {"route": ("x", "z")},
        {"route": ()},
        {"key": "other epoch"},
    ],
    ids=str,
)
async def test_tokens_that_contradict_the_plan_get_no_answer_but_a_failure(victims, changes):
    one = token(victims, ENTRY, "bob~evil")
    if "key" in changes:
        changes = {"key": one.key._replace(epoch=Epoch(99))}
    async with attacker(victims.identities.of("bob"), "bob~evil", "client") as thief:
        link = await thief.dial(victims.address("x"))
        thief.send(link, one, **changes)
        try:
            await handled(link)
        except CollabError:
            assert link.ended is not None
    await victims.serve_honestly(1)


async def test_a_decompression_bomb_is_bounded_by_the_declared_shape(victims):
    import lz4.frame
    import zstandard

    (spec,) = victims.specs["requester"]
    bombs = {
        "raw+zstd": zstandard.compress(bytes(256 << 20), 3),
        "raw+lz4": lz4.frame.compress(bytes(64 << 20)),
    }
    held = victims.nodes["x"].resident_bytes
    async with attacker(victims.identities.of("bob"), "bob~evil", "client") as thief:
        from collab.client.control import Control

        link = await thief.dial(victims.address("x"))
        await Control(link).lease(victims.plan.name, victims.epoch, 4)
        for codec, data in bombs.items():
            payload = (EncodedTensor(spec, codec, memoryview(data)),)
            for _ in range(4):
                thief.send(link, token(victims, ENTRY, "bob~evil"), payload=payload)
                async with timeout(WITHIN_S):
                    await thief.handler.messages.get()
        await Control(link).lease(victims.plan.name, victims.epoch, 0)
    assert victims.nodes["x"].resident_bytes - held < 64 << 20
    await victims.serve_honestly(1)
