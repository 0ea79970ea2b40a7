"""One examination: everything is probed at once, then judged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from collab.coordinator.doctor import (
    WARN,
    Finding,
    PeerSeen,
    exit_code,
    judge_broker,
    judge_identity,
    judge_multicast,
    judge_names,
    judge_peer,
)
from collab.coordinator.doctor_broker import try_broker
from collab.coordinator.doctor_net import try_multicast
from collab.coordinator.doctor_peer import TIMEOUT_S, Examiner
from collab.coordinator.looking import Looked, look
from collab.discovery.base import Discovery
from collab.discovery.roster import Peer

MAX_FOUND: Final = 64
"""Found peers that are examined; anybody on the network can claim any number."""
_MAX_ENDPOINTS: Final = 4
"""Of a found peer, tried until one answers."""
_AT_ONCE: Final = 16
_MULTICAST_S: Final = 1.0


@dataclass(frozen=True)
class Asked:
    """What to look at."""

    peers: Sequence[str] = ()
    broker: str | None = None
    discoveries: Sequence[Discovery] = ()
    wait_s: float = 2.0
    identity: str = ""
    """Whom this device's certificate names."""
    identity_problem: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What was found, this device first."""

    findings: tuple[Finding, ...]
    reached: tuple[str, ...]
    asked: int
    """Peers that were given or found."""

    @property
    def exit_code(self) -> int:
        """0 if all is well, 3 if nobody was reached, 1 if something else is amiss."""
        return exit_code(self.findings, self.asked, len(self.reached))


async def diagnose(examiner: Examiner, asked: Asked) -> Diagnosis:
    """Probe and judge.  Raises `UsageError` for addresses that cannot be parsed."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(addresses: Sequence[str], found: tuple[str, ...]) -> PeerSeen:
        async with turn:
            first = None
            for address in addresses[:_MAX_ENDPOINTS]:
                seen = await examiner.examine(address, found)
                if seen.reached:
                    return seen
                first = first or seen
            assert first is not None
            return first

    given = asyncio.gather(*(one([address], ()) for address in asked.peers))
    watch_multicast = any(discovery.how == "mdns" for discovery in asked.discoveries)
    probes = asyncio.gather(
        given,
        look(asked.discoveries, asked.wait_s) if asked.discoveries else _nothing(),
        try_multicast(_MULTICAST_S) if watch_multicast else _none(),
        try_broker(asked.broker, examiner.security, TIMEOUT_S) if asked.broker else _none(),
    )
    try:
        peers, looked, multicast, broker = await probes
    except BaseException:
        probes.cancel()
        await asyncio.gather(probes, return_exceptions=True)
        raise
    new = [peer for peer in looked.peers if not _known(peer, peers)][:MAX_FOUND]
    found = await asyncio.gather(*(one(peer.endpoints, peer.found) for peer in new if peer.endpoints))
    everybody = [*peers, *found]
    reached = [seen for seen in everybody if seen.reached]

    findings = [judge_identity(asked.identity, asked.identity_problem)]
    if multicast is not None:
        answering = sum("mdns" in peer.found for peer in looked.peers)
        findings.append(judge_multicast(multicast, answering, len(reached)))
    if broker is not None:
        findings.append(judge_broker(broker))
    for how, trouble in looked.troubles.items():
        if not (how == "mqtt" and broker is not None):
            findings.append(
                Finding("discovery", WARN, "", trouble, f"see what {how} needs: docs/discovery.md")
            )
    for seen in everybody:
        findings += judge_peer(seen)
    findings += judge_names(everybody, _conflicts(looked.peers))
    return Diagnosis(
        tuple(finding for finding in findings if finding is not None),
        tuple(dict.fromkeys(seen.name for seen in reached)),
        len(everybody),
    )


def _known(peer: Peer, seen: Sequence[PeerSeen]) -> bool:
    """Whether a found peer is one that was given, by its name or one of its addresses."""
    addresses = {address for s in seen for address in (s.address, f"grpc://{s.address}", *s.endpoints)}
    return not addresses.isdisjoint(peer.endpoints)


def _conflicts(peers: Sequence[Peer]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(peer.name for peer in peers if peer.conflict)
    return [(name, [", ".join(p.endpoints) or "?" for p in peers if p.name == name]) for name in names]


async def _nothing() -> Looked:
    return Looked((), {})


async def _none() -> None:
    return None
