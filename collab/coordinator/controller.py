"""What lives long in a cluster that wants it: keeps nodes at the latest revocation list.

Nodes go on without it.  Enrolment and renewal are served beside it by
`collab.security.enrol_server`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from collab.coordinator.cluster import Cluster
from collab.core.ids import NodeName
from collab.errors import CollabError

log = logging.getLogger("collab.controller")

_LOOK_S: Final = 1.0
_AGAIN_S: Final = 60.0
"""A node is told again this often: it may have been restored from an old copy."""
_RETRY_S: Final = 5.0


class RevocationPush:
    """Whom to tell which list, and when.  No clock and no I/O: times are passed in."""

    def __init__(self, peers: Sequence[str]) -> None:
        self._crl = b""
        self._due = dict.fromkeys(peers, 0.0)

    def due(self, crl: bytes, now_s: float) -> list[str]:
        """Peers to tell this list now; all of them if it is a new one."""
        if crl != self._crl:
            self._crl = crl
            self._due = dict.fromkeys(self._due, now_s)
        return [peer for peer, at in self._due.items() if at <= now_s]

    def told(self, peer: str, crl: bytes, now_s: float) -> None:
        """A peer goes by a list."""
        if crl == self._crl:
            self._due[peer] = now_s + _AGAIN_S

    def failed(self, peer: str, now_s: float) -> None:
        """A peer could not be told."""
        self._due[peer] = now_s + _RETRY_S


class Controller:
    """Watches the authority's revocation list and tells nodes; run `run` as a task."""

    def __init__(
        self, cluster: Cluster, peers: Sequence[str], read_list: Callable[[], bytes], look_s: float = _LOOK_S
    ) -> None:
        self._cluster = cluster
        self._read_list = read_list
        self._look_s = look_s
        self._push = RevocationPush(peers)
        self._names: dict[str, NodeName] = {}

    async def run(self) -> None:
        """Tell peers whatever list is the latest, until cancelled."""
        while True:
            try:
                crl = await asyncio.to_thread(self._read_list)
            except CollabError as error:
                log.warning("revocation list: %s", error)
            else:
                due = self._push.due(crl, time.monotonic())
                await asyncio.gather(*(self._tell(peer, crl) for peer in due))
            await asyncio.sleep(self._look_s)

    async def _tell(self, peer: str, crl: bytes) -> None:
        try:
            number = await self._put(peer, crl)
        except CollabError as error:
            log.warning("revocations do not reach %s: %s", peer, error)
            self._push.failed(peer, time.monotonic())
        else:
            log.info("%s goes by revocation list %d", peer, number)
            self._push.told(peer, crl, time.monotonic())

    async def _put(self, peer: str, crl: bytes) -> int:
        name = self._names.get(peer)
        if name is None or self._cluster.links.get(name) is None:
            (name,) = await self._cluster.reach([peer])
            self._names[peer] = name
        return await self._cluster.control(name).put_revocations(crl)


async def push_revocations(
    cluster: Cluster, peers: Sequence[str], crl: bytes
) -> dict[str, int | CollabError]:
    """Tell peers a list once: by address the number that each goes by now, or why it could not be told."""

    async def tell(peer: str) -> int | CollabError:
        try:
            (name,) = await cluster.reach([peer])
            return await cluster.control(name).put_revocations(crl)
        except CollabError as error:
            return error

    results = await asyncio.gather(*(tell(peer) for peer in peers))
    return dict(zip(peers, results, strict=True))
