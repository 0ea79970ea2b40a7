"""All links of one process: listening, dialling, redialling, finding by name."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final

from collab.core.ids import NodeName
from collab.errors import (
    CollabError,
    LinkLost,
    PeerUnreachable,
    ProtocolError,
    Refused,
    UsageError,
)
from collab.link.link import Handler, Identity, Link, LinkConfig
from collab.transport.aio import TaskGroup
from collab.transport.base import Connection, Listener, Transport, is_loopback, split_address, split_host_port

MAX_UNGREETED: Final = 64
"""Accepted connections that may be without a hello at a time."""
MAX_LINKS: Final = 1024
"""Links from which on no more are accepted."""


@dataclass(frozen=True)
class DialConfig:
    """Times of dialling, in seconds."""

    timeout_s: float = 3.0
    backoff_s: float = 0.1
    backoff_limit_s: float = 5.0
    peer_backoff_limit_s: float = 0.5
    """For the neighbours of a running plan."""


class Links:
    """The links of one process, as an asynchronous context manager.

    Several links to one peer may exist (both dialled at once, or an old one is not
    yet known to be dead); the newest one is used.  ``insecure_networks`` allows
    unencrypted links off loopback.
    """

    def __init__(
        self,
        identity: Identity,
        transports: Mapping[str, Transport],
        handler: Handler,
        *,
        link: LinkConfig = LinkConfig(),
        dial: DialConfig = DialConfig(),
        insecure_networks: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.identity = identity
        self._transports = transports
        self._handler = handler
        self._config = link
        self._dial = dial
        self._insecure_networks = insecure_networks
        self._rng = rng or random.Random()
        self._links: dict[NodeName, list[Link]] = {}
        self._listeners: list[Listener] = []
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._peer_keepers: dict[NodeName, asyncio.Task[None]] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._ungreeted = 0
        self._tasks: TaskGroup | None = None
        self._closing = False

    async def __aenter__(self) -> Links:
        self._tasks = TaskGroup()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        try:
            await self.close()
        finally:
            await self._tasks.__aexit__(None, None, None)

    async def close(self) -> None:
        """End all links, once what they have queued is sent, and listeners; safe to repeat."""
        self._closing = True
        try:
            await asyncio.gather(*(link.close() for links in self._links.values() for link in links))
        finally:
            for keeper in (*self._keepers.values(), *self._peer_keepers.values()):
                keeper.cancel()
            for link in [link for links in self._links.values() for link in links]:
                link.abort()
            await asyncio.gather(*(listener.close() for listener in self._listeners))
            self._listeners.clear()

    @property
    def schemes(self) -> list[str]:
        """Transports that can be used here."""
        return sorted(self._transports)

    def set_endpoints(self, endpoints: tuple[str, ...]) -> None:
        """Where this end can be dialled; told to peers from the next hello on."""
        self.identity = replace(self.identity, endpoints=endpoints)

    # --- finding -------------------------------------------------------------

    def get(self, name: NodeName) -> Link | None:
        """The link to use for a peer, the newest that lives; or None."""
        for link in reversed(self._links.get(name, ())):
            if link.ended is None:
                return link
        return None

    def all(self) -> list[Link]:
        """One live link for each peer."""
        return [link for name in self._links if (link := self.get(name)) is not None]

    async def wait_for(self, name: NodeName) -> Link:
        """The link to a peer, as soon as there is one; the caller bounds the wait."""
        while (link := self.get(name)) is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return link

    # --- making --------------------------------------------------------------

    async def listen(self, address: str) -> str:
        """Accept links at an address; returns the contact address.

        Raises `Refused` off loopback while links are not encrypted.
        """
        transport = self._transport(address)
        self._check_network(address)
        listener = await transport.listen(address, self._accepted)
        self._listeners.append(listener)
        return listener.address

    async def connect(self, address: str, name: NodeName | None = None) -> Link:
        """Dial once and return the live link; the peer must have that name, if given."""
        link = await self._greeted(address, name)
        assert self._tasks is not None
        self._add(link)
        self._tasks.create_task(self._serve(link))
        return link

    async def connect_any(self, addresses: Sequence[str], name: NodeName | None = None) -> Link:
        """Dial addresses in their order and return the first link that comes up."""
        errors: list[str] = []
        for address in addresses:
            try:
                return await self.connect(address, name)
            except CollabError as error:
                errors.append(str(error))
        what = f"node {name!r}: " if name else ""
        raise PeerUnreachable(what + ("; ".join(errors) or "no endpoint is known; give --peers"))

    def keep_peer(self, name: NodeName, addresses: Sequence[str]) -> None:
        """Have a link to a peer from now on: dial whenever there is none, with jittered back-off."""
        assert self._tasks is not None
        old = self._peer_keepers.pop(name, None)
        if old is not None:
            old.cancel()
        self._peer_keepers[name] = self._tasks.create_task(self._keep_peer(name, tuple(addresses)))

    async def _keep_peer(self, name: NodeName, addresses: Sequence[str]) -> None:
        delay_s = self._dial.backoff_s
        while not self._closing:
            link = self.get(name)
            if link is not None:
                delay_s = self._dial.backoff_s
                await link.wait_ended()
            else:
                try:
                    await self.connect_any(addresses, name)
                    continue
                except CollabError:
                    pass
            await asyncio.sleep(self._rng.uniform(delay_s / 2, delay_s))
            delay_s = min(delay_s * 2, self._dial.peer_backoff_limit_s)

    def keep(self, address: str, on_failure: Callable[[str, CollabError], None] | None = None) -> None:
        """Dial an address now, and again whenever its link ends, with jittered back-off."""
        assert self._tasks is not None
        if address not in self._keepers:
            self._transport(address)
            self._check_network(address)
            self._keepers[address] = self._tasks.create_task(self._keep(address, on_failure))

    async def _keep(self, address: str, on_failure: Callable[[str, CollabError], None] | None) -> None:
        delay_s = self._dial.backoff_s
        while not self._closing:
            try:
                link = await self._greeted(address, None)
                self._add(link)
                await self._serve(link)
                delay_s = self._dial.backoff_s
            except CollabError as error:
                if on_failure:
                    on_failure(address, error)
            await asyncio.sleep(self._rng.uniform(delay_s / 2, delay_s))
            delay_s = min(delay_s * 2, self._dial.backoff_limit_s)

    async def _greeted(self, address: str, name: NodeName | None) -> Link:
        transport = self._transport(address)
        self._check_network(address)
        connection = await transport.dial(address, self._dial.timeout_s)
        link = Link(connection, self.identity, self._handler, self._config)
        await link.greet()
        if self._closing:
            link.abort()
            raise LinkLost(f"{address}: this end is closing")
        if name is not None and link.peer.name != name:
            link.abort()
            raise ProtocolError(
                f"{address}: node {link.peer.name!r} answers there, not {name!r}; correct the address"
            )
        return link

    async def _accepted(self, connection: Connection) -> None:
        if self._full():
            connection.abort()
            return
        link = Link(connection, self.identity, self._handler, self._config)
        self._ungreeted += 1
        try:
            await link.greet()
        except CollabError:
            # The dialler sees why; a stranger's bad hello is no failure of this end.
            return
        finally:
            self._ungreeted -= 1
        if self._closing:
            link.abort()
            return
        self._add(link)
        await self._serve(link)

    def _full(self) -> bool:
        links = sum(map(len, self._links.values()))
        return self._closing or self._ungreeted >= MAX_UNGREETED or links >= MAX_LINKS

    def _add(self, link: Link) -> None:
        """Let others find a greeted link; `_serve` has to follow."""
        self._links.setdefault(link.peer.name, []).append(link)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._handler.link_up(link)

    async def _serve(self, link: Link) -> None:
        """Run a link to its end, then forget it."""
        name = link.peer.name
        try:
            await link.serve()
        finally:
            self._links[name].remove(link)
            if not self._links[name]:
                del self._links[name]
            self._handler.link_down(link, link.ended or LinkLost("ended"))

    def _transport(self, address: str) -> Transport:
        scheme, _ = split_address(address)
        try:
            return self._transports[scheme]
        except KeyError:
            known = ", ".join(sorted(self._transports))
            raise UsageError(
                f"address {address!r}: scheme {scheme!r} is not known here; use one of {known}"
            ) from None

    def _check_network(self, address: str) -> None:
        scheme, place = split_address(address)
        if scheme == "inproc" or self._insecure_networks:
            return
        host, _ = split_host_port(place)
        if not is_loopback(host):
            raise Refused(
                f"{address}: links are not encrypted yet and this is not loopback; on a network that you "
                "trust, confirm with --insecure --insecure-network"
            )
