"""Who gets in: those with a certificate of the cluster that holds, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from collab.errors import CollabError
from collab.transport.aio import timeout
from tests.identities import Identities
from tests.integration.attacks.conftest import SCHEMES, WITHIN_S, Victims
from tests.integration.attacks.strangers import Attacker, Held, Stolen, attacker, expired, held, self_signed
from tests.integration.processes import collab

pytestmark = pytest.mark.timeout(120)


def _strangers(victims: Victims, elsewhere: Identities) -> dict[str, Held | None]:
    authority = victims.identities.authority
    return {
        "no certificate": None,
        "of another authority": held(elsewhere.directory("z")),
        "expired": expired(victims.identities, "late"),
        "revoked": held(victims.identities.directory("gone")),
        "of a broker": authority.issue_server(["127.0.0.1"]),
        "of the enrolment server": authority.issue_enrolment(5),
        "the authority's own": held_by_authority(victims),
        "self-signed": self_signed("z"),
    }


def held_by_authority(victims: Victims) -> Held:
    directory = victims.identities.authority.directory
    return (directory / "authority.pem").read_bytes(), (directory / "key.pem").read_bytes()


@pytest.fixture(scope="session")
def strangers(victims: Victims, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stolen]:
    made = _strangers(victims, Identities(tmp_path_factory.mktemp("elsewhere")))
    authority = victims.identities.authority
    authority.revoke("gone")
    root = authority.directory / "authority.pem"
    return {who: Stolen(root.read_bytes(), shown) for who, shown in made.items()}


async def _linked_and_ended(thief: Attacker, address: str) -> None:
    """Raises why there is no link, or why it has ended, as the dialler is told first."""
    link = await thief.dial(address)
    await link.wait_ended()
    assert link.ended is not None
    assert thief.handler.messages.empty()
    raise link.ended


REASONS = {
    "no certificate": ("certificate",),
    "of another authority": ("certificate",),
    "expired": ("expired",),
    "of a broker": ("certificate",),
    "of the enrolment server": ("certificate",),
    "the authority's own": ("certificate",),
    "self-signed": ("certificate",),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("who", REASONS)
async def test_who_has_no_certificate_that_holds_gets_no_link(victims, strangers, who, scheme):
    async with attacker(strangers[who], "z") as thief, timeout(WITHIN_S):
        with pytest.raises(CollabError):
            await _linked_and_ended(thief, victims.address("x", scheme))
    if scheme != "grpc":  # gRPC's core refuses by itself and tells nobody
        await victims.says("x", *REASONS[who])
    await victims.serve_honestly(1)
    assert await asyncio.to_thread(victims.said, "y") == ""


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_revoked_peer_loses_its_links_and_gets_no_new_one(victims, scheme):
    name = f"bad-{scheme.replace('+', '-')}"
    security = await asyncio.to_thread(victims.identities.of, name, "client")
    operator = {"COLLAB_IDENTITY": str(victims.identities.folder / "op")}
    peers = ",".join(victims.address(node) for node in "xy")
    where = victims.identities.authority.directory
    async with attacker(security, name, "client") as thief, timeout(2 * WITHIN_S):
        link = await thief.dial(victims.address("x", scheme))
        await link.call("Describe")
        command = ("cluster", "revoke", name, "--peers", peers, "--authority", where)
        await asyncio.to_thread(lambda: collab(*command, env=operator))
        await link.wait_ended()
        await victims.says("x", name, "was revoked")
        await asyncio.to_thread(victims.mark)
        with pytest.raises(CollabError):
            await _linked_and_ended(thief, victims.address("x", scheme))
    await victims.says("x", name, "was revoked")
    await victims.serve_honestly(1)
