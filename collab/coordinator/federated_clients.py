"""The clients of a federated run: links to them, and who comes and goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from collab.client.remote_client import RemoteClient
from collab.coordinator.federated_links import connect_allowed
from collab.core.ids import Digest, NodeName
from collab.errors import CollabError, PeerUnreachable, UsageError
from collab.federated import actions as do
from collab.federated import events as on
from collab.link.link import Link
from collab.link.links import Links

_BACKOFF_S: Final = (0.1, 2.0)
"""First and longest pause before a client is dialled again."""
_LOOK_S: Final = 15.0
"""A client is asked this often whether its policy lets it train by now."""


class Clients:
    """All that were there once; one whose link is lost stays known.

    Args:
        links: To dial with.
        transports: That the task allows; any where none is named.
        trainable: The model, and the digest of its file.
        scratch: Folder in which downloads go on.
        tell: Of who came and went.
        notify: Of addresses where nobody answers.
        begun: Whether the run has begun; a wrong address ends one that has not.
    """

    def __init__(
        self,
        links: Links,
        transports: Sequence[str],
        trainable: tuple[Digest, bytes],
        scratch: Path,
        tell: Callable[[on.Event], None],
        notify: Callable[[do.Notify], None],
        begun: Callable[[], bool],
    ) -> None:
        self._links = links
        self._transports = transports
        self._trainable = trainable
        self._scratch = scratch
        self._tell = tell
        self._notify = notify
        self._begun = begun
        self._clients: dict[str, RemoteClient] = {}
        self._samples: dict[str, int] = {}

    def __getitem__(self, name: str) -> RemoteClient:
        """One that was there; raises `KeyError` for others."""
        return self._clients[name]

    def get(self, name: str) -> RemoteClient | None:
        """One that was there; None for others, which a resumed run may know of."""
        return self._clients.get(name)

    def everyone(self) -> list[RemoteClient]:
        """In the order in which they came first."""
        return list(self._clients.values())

    @property
    def samples(self) -> Mapping[str, int]:
        """That each told of when its link was made."""
        return self._samples

    async def follow(self, address: str, run: str) -> None:
        """Keep a link to one address, and tell the run when who is there comes and goes.

        Ends only with `UsageError`, for an address that cannot be used in a run that has not begun.
        """
        delay_s, told = _BACKOFF_S[0], False
        while True:
            name = ""
            try:
                link = await connect_allowed(self._links, address, self._transports)
                name = await self._joined(link, run)
                delay_s, told = _BACKOFF_S[0], False
                await self._stay(link, name)
            except CollabError as error:
                if isinstance(error, UsageError) and not self._begun():
                    raise
                if not told:
                    self._notify(do.Notify("waiting", f"{address}: {error}"))
                    told = True
            if name:
                self._tell(on.Left(name))
                self._clients[name].state = "away"
            await asyncio.sleep(random.uniform(delay_s / 2, delay_s))
            delay_s = min(2 * delay_s, _BACKOFF_S[1])

    async def _joined(self, link: Link, run: str) -> NodeName:
        name = link.peer.name
        client = self._clients.get(name)
        if client is None:
            client = RemoteClient(name, run, self._trainable, self._scratch)
        elif client.link is not None and client.link.ended is None and client.link is not link:
            raise PeerUnreachable(f"node {name!r} is reached at another address already")
        client.link = link
        self._clients[name] = client
        capabilities = await client.enrol()
        self._samples[name] = client.samples
        client.state = capabilities.reason
        self._tell(on.Joined(name, capabilities))
        return name

    async def _stay(self, link: Link, name: NodeName) -> None:
        """Until the link ends; ask now and then whether the device is willing."""
        while link.ended is None:
            with suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(link.wait_ended(), _LOOK_S)
                return
            self._tell(on.Joined(name, await self._clients[name].enrol()))
