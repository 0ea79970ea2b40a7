"""A node as a member of its cluster: found and finding, with a fresh certificate, without the revoked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from collab import __version__
from collab.core.ids import NodeName
from collab.discovery.base import Discovery, Sighting
from collab.discovery.roster import Peer
from collab.discovery.search import Search
from collab.errors import CollabError
from collab.link.links import Links
from collab.transport.base import split_host_port

if TYPE_CHECKING:
    from collab.security.identity import Credentials

log = logging.getLogger("collab.node")

RECHECK_S: Final = 60.0
"""How often the certificates of live links are looked at again: they expire as well."""

MakeDiscoveries = Callable[[], Sequence[Discovery]]
"""Makes the ways of finding; imports what they need."""


class Membership:
    """Runs beside a node's links, from `start` to `stop`."""

    def __init__(
        self, links: Links, security: Credentials | None, make_discoveries: MakeDiscoveries | None
    ) -> None:
        self._links = links
        self._security = security
        self._make_discoveries = make_discoveries
        self._search: Search | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._instance = secrets.token_hex(8)

    def start(self) -> None:
        """Begin; returns at once."""
        if self._make_discoveries is not None:
            self._begin(self._find(self._make_discoveries))
        if self._security is not None:
            self._security.on_revoked.append(self._links.recheck)
            self._begin(self._recheck())
            self._begin(self._renew(self._security))

    async def stop(self) -> None:
        """Say good-bye and end; never raises."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._search is not None:
            await self._search.stop()
        if self._security is not None:
            with contextlib.suppress(ValueError):
                self._security.on_revoked.remove(self._links.recheck)

    @property
    def peers(self) -> list[Peer]:
        """Who was found; hints until a link has proven them."""
        return [] if self._search is None else self._search.roster.peers()

    @property
    def troubles(self) -> dict[str, str]:
        """Why ways of finding do not work at present."""
        return {} if self._search is None else self._search.troubles

    def addresses(self, name: NodeName) -> tuple[str, ...]:
        """Where a peer was seen."""
        if self._search is None:
            return ()
        return tuple(endpoint for peer in self._search.roster.find(name) for endpoint in peer.endpoints)

    def _me(self) -> Sighting:
        identity = self._links.identity
        return Sighting(
            name=identity.name,
            endpoints=identity.endpoints,
            cluster="" if self._security is None else self._security.principal.cluster,
            software=f"collab/{__version__}",
            role=identity.role,
            instance=self._instance,
        )

    def _begin(self, work: Awaitable[None]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def _find(self, make_discoveries: MakeDiscoveries) -> None:
        try:
            # Importing the libraries reads files, which the event loop does not.
            discoveries = await asyncio.to_thread(make_discoveries)
            self._search = Search(discoveries, self._me())
            self._links.seen = self.addresses
            await self._search.__aenter__()
        except CollabError as error:
            log.warning("this node finds nobody by itself: %s", error)

    async def _recheck(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            self._links.recheck()

    async def _renew(self, security: Credentials) -> None:
        from collab.security.enrol_client import enrolment_of, renew
        from collab.security.renewal import Renewer

        known = await asyncio.to_thread(enrolment_of, security.directory)
        if known is not None:
            place = split_host_port(known.address)
            await Renewer(security, lambda own: renew(own, *place)).run()
