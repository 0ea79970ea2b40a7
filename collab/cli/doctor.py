"""``collab doctor``: why two peers do not meet, and what to do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import typer

from collab.cli.connect import AsJson, Insecure, InsecureNetwork, Peers, Trust, confirmed
from collab.cli.nodes import Broker, Directory, Wait, Ways, ways
from collab.cli.output import emit, say, show, table
from collab.errors import CollabError

if TYPE_CHECKING:
    from collab.coordinator.doctor_run import Diagnosis
    from collab.security.identity import Credentials

EXAMPLE = """
Examples:

    collab doctor

    collab doctor --peers 10.0.0.7:7070 --broker mqtts://10.0.0.2:8883
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog=EXAMPLE)(doctor)


def doctor(
    peers: Peers = None,
    broker: Broker = None,
    discovery: Ways = None,
    directory: Directory = None,
    wait: Wait = 2.0,
    insecure: Insecure = False,
    insecure_network: InsecureNetwork = False,
    json_: AsJson = False,
) -> None:
    """Say why peers do not meet, and what to do: 0 all is well, 1 findings, 3 nobody was reached."""
    from collab.cli.settings import peers as read_peers
    from collab.coordinator.doctor import OK

    trust = confirmed(insecure, insecure_network)
    given = read_peers(peers)
    diagnosis = asyncio.run(_diagnose(given, broker, Looking(discovery, directory, wait), trust))
    if json_:
        emit(
            {
                "checks": [finding._asdict() for finding in diagnosis.findings],
                "reached": list(diagnosis.reached),
            }
        )
    else:
        rows = [(f.verdict, f.check, f.peer or "this device", f.seen) for f in diagnosis.findings]
        show(table("", ("", "check", "peer", "seen"), rows))
        for finding in diagnosis.findings:
            if finding.verdict != OK:
                say(f"{finding.check}{f' of {finding.peer}' if finding.peer else ''}: {finding.remedy}")
        if not diagnosis.asked:
            say("no node was found or given; give --peers HOST:PORT,… to look at one")
    raise typer.Exit(diagnosis.exit_code)


class Looking(NamedTuple):
    """How to look around."""

    ways: str | None
    directory: str | None
    wait_s: float


async def _diagnose(given: list[str], broker: str | None, looking: Looking, trust: Trust) -> Diagnosis:
    from collab.assembly import build_cluster, transports
    from collab.coordinator.doctor_peer import Examiner
    from collab.coordinator.doctor_run import Asked, diagnose

    security, problem = await asyncio.to_thread(_identity, trust)
    discoveries = await asyncio.to_thread(
        ways, looking.ways, broker, looking.directory, trust if not problem else Trust(insecure=True)
    )
    asked = Asked(
        given,
        broker,
        discoveries,
        looking.wait_s,
        str(security.principal) if security is not None else "",
        problem,
    )
    role = "operator"
    async with build_cluster(role=role, insecure_networks=trust.networks, security=security) as cluster:
        known = transports(name=cluster.links.identity.name, security=security)
        return await diagnose(Examiner(cluster, known, security), asked)


def _identity(trust: Trust) -> tuple[Credentials | None, str]:
    """This device's identity, or why it cannot be used."""
    from collab.assembly import load_identity
    from collab.cli.settings import identity_directory

    if trust.insecure:
        return None, ""
    try:
        return load_identity(identity_directory()), ""
    except CollabError as error:
        return None, " ".join(str(error).split())
