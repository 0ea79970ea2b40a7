"""Who is around: what discoveries find is dialled, and what does not answer is kept with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from collab.client.control import Control
from collab.coordinator.cluster import Cluster, NodeView
from collab.core.ids import NodeName
from collab.discovery.base import Discovery
from collab.discovery.roster import Peer
from collab.discovery.search import Search
from collab.errors import CollabError, PeerUnreachable

MAX_PEERS: Final = 256
"""Peers that are dialled; anybody on the network can claim any number."""
_AT_ONCE: Final = 32
_DIAL_S: Final = 8.0
"""How long all endpoints of one peer together may take."""


@dataclass(frozen=True)
class Looked:
    """What discoveries saw within some time."""

    peers: tuple[Peer, ...]
    troubles: dict[str, str]
    """Why a discovery does not work at present, by its name."""


@dataclass(frozen=True)
class Met:
    """A peer that was found: how it described itself, or why it could not be reached."""

    peer: Peer
    view: NodeView | None
    reason: str = ""


async def look(discoveries: Sequence[Discovery], wait_s: float) -> Looked:
    """Let discoveries look around for a while."""
    async with Search(discoveries) as search:
        await asyncio.sleep(wait_s)
        return Looked(tuple(search.roster.peers()), search.troubles)


async def meet(cluster: Cluster, peers: Sequence[Peer]) -> list[Met]:
    """Dial peers, several at once; in the order given, the first `MAX_PEERS` of them."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(peer: Peer) -> Met:
        async with turn:
            try:
                return Met(peer, await asyncio.wait_for(_view(cluster, peer), _DIAL_S))
            except (asyncio.TimeoutError, TimeoutError):
                return Met(peer, None, f"no answer within {_DIAL_S:g} s")
            except CollabError as error:
                return Met(peer, None, " ".join(str(error).split()))

    return await asyncio.gather(*(one(peer) for peer in peers[:MAX_PEERS]))


async def _view(cluster: Cluster, peer: Peer) -> NodeView:
    if not peer.endpoints:
        raise PeerUnreachable("it accepts no connections, and tells no relay or broker")
    link = await cluster.links.connect_any(peer.endpoints, NodeName(peer.name) if peer.name else None)
    loop = asyncio.get_running_loop()
    asked_s = loop.time()
    reply = await Control(link).describe()
    # The first ping may not be back yet; a call takes hardly longer.
    rtt_ms = link.rtt_us / 1000 or (loop.time() - asked_s) * 1000
    return NodeView(link.peer.name, link.connection.address, reply, rtt_ms)
