"""Who may call what: the certificate's role decides, whatever the caller says of itself."""

from __future__ import annotations

import grpc
import pytest

from collab.codec.verbs import VERBS
from collab.errors import CollabError, Refused
from collab.node.verbs import ROLES, TRAINING_VERBS
from tests.integration.attacks.conftest import SCHEMES, Victims
from tests.integration.attacks.strangers import attacker

pytestmark = pytest.mark.timeout(120)

OPERATORS_VERBS = sorted(verb for verb in VERBS if verb not in ROLES)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["z", "alice"])
async def test_nodes_and_clients_call_no_verb_of_an_operator(victims: Victims, name, scheme):
    async with attacker(victims.identities.of(name), f"{name}~evil", "operator", known_as=name) as thief:
        link = await thief.dial(victims.address("x", scheme))
        for verb in (*OPERATORS_VERBS, "PutRevocations"):
            with pytest.raises(Refused, match=r"only .*operator may call it"):
                await link.call(verb)
        for verb in (*TRAINING_VERBS, "PutBlob"):
            with pytest.raises(Refused, match=r"may call it|may not have 'x' train"):
                await link.call(verb)
        assert link.ended is None
    await victims.says("x", name, "Drain", "may call it")
    await victims.serve_honestly(1)


@pytest.mark.parametrize("name", ["z", "alice"])
async def test_over_grpc_the_certificate_decides_as_well(victims: Victims, name):
    pem = victims.identities.of(name).pem()
    credentials = grpc.ssl_channel_credentials(pem.authority, pem.key, pem.certificate)
    pinned = (("grpc.ssl_target_name_override", "x.node.home"),)
    async with grpc.aio.secure_channel(victims.nodes["x"].place, credentials, options=pinned) as channel:
        for verb in (*OPERATORS_VERBS, "PutRevocations"):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await channel.unary_unary(f"/collab.v1.Control/{verb}")(b"")
            assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
    await victims.says("x", name, "Drain", "may call it")
    await victims.serve_honestly(1)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("claimed", ["alice", "alice~1", "y"])
async def test_nobody_takes_anothers_name(victims: Victims, claimed, scheme):
    async with attacker(victims.identities.of("bob"), claimed, "client", known_as="bob") as thief:
        with pytest.raises(CollabError):
            await (await thief.dial(victims.address("x", scheme))).call("Describe")
    await victims.says("x", "refused", f"calls itself '{claimed}'", "bob.client.home")
    await victims.serve_honestly(1)
