"""All links of one process: listening, dialling, redialling, finding by name and transport."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final

from collab.core.ids import NodeName
from collab.errors import CollabError, LinkLost, PeerUnreachable, Refused
from collab.link.establish import Establisher
from collab.link.hello import Identity
from collab.link.link import Handler, Link, LinkConfig
from collab.link.relay import MAX_RELAYED, Relay, RelayingHandler, split_relay
from collab.link.suspicion import Health
from collab.transport.aio import TaskGroup
from collab.transport.base import Connection, Listener, Security, Transport, split_address

log = logging.getLogger("collab.link")

MAX_UNGREETED: Final = 64
"""Accepted connections that may be without a hello at a time; a newer one ends the oldest."""
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

    Several links to one peer may exist: over several transports, or when both ends
    dialled at once, or when an old one is not yet known to be dead.  ``insecure_networks``
    allows unencrypted links off loopback where there is no ``security``.
    """

    def __init__(
        self,
        identity: Identity,
        transports: Mapping[str, Transport],
        handler: Handler,
        *,
        link: LinkConfig = LinkConfig(),
        dial: DialConfig = DialConfig(),
        security: Security | None = None,
        insecure_networks: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.identity = identity
        self._handler = handler
        self._dial = dial
        self._establish = Establisher(
            transports,
            RelayingHandler(handler, self._called_by_relay),
            link,
            me=lambda: self.identity,
            security=security,
            insecure_networks=insecure_networks,
            dial_timeout_s=dial.timeout_s,
        )
        self._relay = Relay(self._establish.open, self.get, dial.timeout_s)
        self._rng = rng or random.Random()
        self.seen: Callable[[NodeName], Sequence[str]] = lambda name: ()
        """Further addresses at which a peer may be, as discoveries have seen them."""
        self._links: dict[NodeName, list[Link]] = {}
        self._listeners: list[Listener] = []
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._peer_keepers: dict[tuple[NodeName, str], asyncio.Task[None]] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._ungreeted: dict[Connection, None] = {}
        self._meeting = 0
        self._tasks: TaskGroup | None = None
        self._closing = False

    @property
    def security(self) -> Security | None:
        """This end's identity; None without one."""
        return self._establish.security

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
        return sorted({kind for transport in self._establish.transports.values() for kind in transport.kinds})

    def set_endpoints(self, endpoints: tuple[str, ...]) -> None:
        """Where this end can be dialled; told to peers from the next hello on."""
        self.identity = replace(self.identity, endpoints=endpoints)

    # --- finding -------------------------------------------------------------

    def get(self, name: NodeName, kind: str = "") -> Link | None:
        """The link to use for a peer, or None: the newest that lives, one that no relay carries first.

        With a kind, one of that transport; if there is none, any.  One on which the peer is
        suspected only if there is no other.
        """
        best, best_rank = None, -1
        for link in self._links.get(name, ()):
            if link.ended is None:
                trusted = link.health is not Health.SUSPECTED
                rank = 4 * trusted + 2 * (link.kind == kind) + (not link.connection.relayed)
                if rank >= best_rank:
                    best, best_rank = link, rank
        return best

    def attend(self, names: Iterable[NodeName]) -> None:
        """Somebody begins to wait for peers; their links ask `Handler.awaits` at once."""
        for name in names:
            for link in self._links.get(name, ()):
                link.attend()

    def _has(self, name: NodeName, kind: str) -> Link | None:
        link = self.get(name, kind)
        return link if link is None or not kind or link.kind == kind else None

    def all(self) -> list[Link]:
        """One live link for each peer and transport."""
        found: dict[tuple[NodeName, str], Link] = {}
        for name, links in self._links.items():
            for link in links:
                if link.ended is None:
                    found[name, link.kind] = link
        return list(found.values())

    async def wait_for(self, name: NodeName, kind: str = "") -> Link:
        """The link to a peer, of a transport if one is given, as soon as there is one.

        The caller bounds the wait.
        """
        while (link := self._has(name, kind)) is None:
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

        Raises `Refused` off loopback when nothing proves who the peers are.
        """
        self._establish.check(address)
        listener = await self._establish.transport(address).listen(address, self.accept)
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
        """Dial addresses in their order and return the first link that comes up.

        Raises `Refused` where all of them refuse, else `PeerUnreachable`, with every reason.
        """
        errors: list[CollabError] = []
        for address in addresses:
            try:
                return await self.connect(address, name)
            except CollabError as error:
                errors.append(error)
        what = f"node {name!r}: " if name else ""
        text = what + ("; ".join(map(str, errors)) or "no endpoint is known; give --peers")
        refused = bool(errors) and all(isinstance(error, Refused) for error in errors)
        raise Refused(text) if refused else PeerUnreachable(text)

    def keep_peer(self, name: NodeName, addresses: Sequence[str], kind: str = "") -> str:
        """Have a link to a peer from now on: dial whenever there is none, with jittered back-off.

        With a kind, a link of that transport, by the addresses that are of it; by all of them
        if none is.  Returns the kind that is kept, empty for any.
        """
        assert self._tasks is not None
        if kind:
            own = tuple(dialled_as(address, kind) for address in addresses if is_kind(address, kind))
            kind, addresses = (kind, own) if own else ("", addresses)
        old = self._peer_keepers.pop((name, kind), None)
        if old is not None:
            old.cancel()
        keeper = self._keep_peer(name, tuple(addresses), kind)
        self._peer_keepers[name, kind] = self._tasks.create_task(keeper)
        return kind

    async def _keep_peer(self, name: NodeName, addresses: Sequence[str], kind: str) -> None:
        delay_s = self._dial.backoff_s
        while not self._closing:
            link = self._has(name, kind)
            if link is not None:
                delay_s = self._dial.backoff_s
                await link.wait_ended()
            else:
                seen = (at for at in self.seen(name) if not kind or is_kind(at, kind))
                try:
                    await self.connect_any(tuple(dict.fromkeys((*addresses, *seen))), name)
                    continue
                except CollabError:
                    pass
            await asyncio.sleep(self._rng.uniform(delay_s / 2, delay_s))
            delay_s = min(delay_s * 2, self._dial.peer_backoff_limit_s)

    def keep(self, address: str, on_failure: Callable[[str, CollabError], None] | None = None) -> None:
        """Dial an address now, and again whenever its link ends, with jittered back-off."""
        assert self._tasks is not None
        if address not in self._keepers:
            self._establish.check(address)
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
        link = await self._establish.dial(address, name)
        if self._closing:
            link.abort()
            raise LinkLost(f"{address}: this end is closing")
        return link

    async def accept(self, connection: Connection) -> None:
        """Serve a connection until it ends, as those that listeners accept."""
        if self._closing or sum(map(len, self._links.values())) >= MAX_LINKS:
            connection.abort()
            return
        if len(self._ungreeted) >= MAX_UNGREETED:
            # Whoever opens connections and says nothing must not keep others out.
            oldest = next(iter(self._ungreeted))
            del self._ungreeted[oldest]
            oldest.abort()
        self._ungreeted[connection] = None
        try:
            link = await self._establish.accept(connection)
        except CollabError as error:
            # The dialler sees why; a stranger's bad hello is no failure of this end.
            log.warning("a connection from %s is refused: %s", connection.address, error)
            return
        finally:
            self._ungreeted.pop(connection, None)
        await self._admit(link)

    async def _admit(self, link: Link) -> None:
        """Serve what was greeted: a session, or a connection that this end relays or is met over."""
        if self._closing:
            link.abort()
        elif link.peer.relay_to:
            await self._relay.serve(link)
        elif link.peer.relay_ticket:
            await self._with_ticket(link)
        else:
            self._add(link)
            await self._serve(link)

    async def _with_ticket(self, link: Link) -> None:
        """A connection that belongs to a relayed one: this end is the relay, or is called by it."""
        try:
            if not await self._relay.arrived(link):
                await self._serve_met(await self._relay.met(link))
        except CollabError as error:
            log.warning("a relayed connection from %s is refused: %s", link.peer.name, error)
            await link.refuse(str(error))

    def _called_by_relay(self, link: Link, ticket: bytes) -> None:
        assert self._tasks is not None
        if self._meeting < MAX_RELAYED and not self._closing:
            self._meeting += 1
            self._tasks.create_task(self._meet(link, ticket))

    async def _meet(self, link: Link, ticket: bytes) -> None:
        try:
            connection = await self._relay.meet(link, ticket)
        except CollabError as error:
            log.warning("a connection that relay %s offers is not taken: %s", link.peer.name, error)
            return
        finally:
            self._meeting -= 1
        await self._serve_met(connection)

    async def _serve_met(self, connection: Connection) -> None:
        try:
            link = await self._establish.accept(connection)
        except CollabError as error:
            log.warning("a relayed connection at %s is refused: %s", connection.address, error)
            return
        self._add(link)
        await self._serve(link)

    def recheck(self) -> None:
        """End links whose peers' certificates hold no longer, as when one was revoked or has expired."""
        security = self._establish.security
        if security is None:
            return
        for link in [link for links in self._links.values() for link in links]:
            if link.connection.certificate and link.ended is None:
                try:
                    security.check(link.connection.certificate)
                except Refused as error:
                    log.warning("the link with %s is ended: %s", link.peer.name, error)
                    link.abort(error)

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


def is_kind(address: str, kind: str) -> bool:
    """Whether an address leads to a link of that kind; ``mqtt-qos0`` is dialled at ``mqtt://``."""
    relay = split_relay(address)
    scheme, _ = split_address(address if relay is None else relay[0])
    return _KIND_OF.get(scheme, scheme) == kind.partition("-qos")[0]


def dialled_as(address: str, kind: str) -> str:
    """The address to dial for a link of that kind."""
    _, mark, qos = kind.partition("-qos")
    return f"{address}?qos={qos}" if mark and "?" not in address else address


_KIND_OF: Final = {"mqtts": "mqtt", "coaps+tcp": "coap+tcp"}
"""Schemes whose links have another name in plans."""
