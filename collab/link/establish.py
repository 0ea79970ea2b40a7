"""From an address to a greeted link: dial or accept, secure, say hello."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from collab.core.ids import NodeName
from collab.errors import LinkLost, ProtocolError, Refused, UsageError
from collab.link.hello import Identity
from collab.link.link import Handler, Link, LinkConfig
from collab.link.relay import split_relay, through_relay
from collab.link.secure import secure
from collab.transport.base import Connection, Security, Transport, is_loopback, place_host, split_address


class Establisher:
    """Makes greeted links for one process; keeps none.

    With ``security`` every peer proves who it is, by the transport or by TLS within the
    connection.  Without it nobody does, which off loopback ``insecure_networks`` must allow.
    """

    def __init__(
        self,
        transports: Mapping[str, Transport],
        handler: Handler,
        config: LinkConfig,
        *,
        me: Callable[[], Identity],
        security: Security | None,
        insecure_networks: bool,
        dial_timeout_s: float,
    ) -> None:
        self.transports = transports
        self.security = security
        self._handler = handler
        self._config = config
        self._me = me
        self._insecure_networks = insecure_networks
        self._dial_timeout_s = dial_timeout_s

    def transport(self, address: str) -> Transport:
        """The transport of an address; raises `UsageError` for a scheme that is not known."""
        scheme, _ = split_address(address)
        try:
            return self.transports[scheme]
        except KeyError:
            known = ", ".join(sorted({*self.transports, "relay"}))
            raise UsageError(
                f"address {address!r}: scheme {scheme!r} is not known here; use one of {known}"
            ) from None

    def check(self, address: str) -> None:
        """Refuse an address that cannot be used here: `UsageError`, or `Refused` without security."""
        relay = split_relay(address)
        if relay is not None:
            address = relay[0]
        self.transport(address)
        scheme, place = split_address(address)
        if scheme == "inproc" or self.security is not None or self._insecure_networks:
            return
        if not is_loopback(place_host(place)):
            raise Refused(
                f"{address}: this is not loopback and this end has no identity; enrol it with "
                "'collab cluster join TOKEN', or, on a network that you trust, confirm with "
                "--insecure --insecure-network"
            )

    async def dial(self, address: str, name: NodeName | None) -> Link:
        """A greeted link to an address; the peer must have that name, if given.

        Raises `PeerUnreachable`, `ProtocolError`, `Refused`, `LinkLost` or `UsageError`.
        """
        self.check(address)
        relay = split_relay(address)
        if relay is None:
            link = await self.open(address, self._me())
        else:
            name = name or relay[1]
            base = await through_relay(self.open, self._me(), address, self._dial_timeout_s)
            link = await self._greet(base, self._me(), server_side=False)
        if name is not None and link.peer.name != name:
            link.abort()
            raise ProtocolError(
                f"{address}: node {link.peer.name!r} answers there, not {name!r}; correct the address"
            )
        return link

    async def open(self, address: str, me: Identity) -> Link:
        """A greeted connection under an identity; one without a name is this end's own with its ticket."""
        if not me.name:
            me = replace(self._me(), relay_ticket=me.relay_ticket)
        self.check(address)
        connection = await self.transport(address).dial(address, self._dial_timeout_s)
        return await self._greet(connection, me, server_side=False, dialled=True)

    async def accept(self, connection: Connection) -> Link:
        """A greeted link over a connection that was accepted here, or met through a relay."""
        return await self._greet(connection, self._me(), server_side=True)

    async def _greet(
        self, connection: Connection, me: Identity, *, server_side: bool, dialled: bool = False
    ) -> Link:
        if self.security is not None and connection.principal is None:
            connection = await secure(
                connection, self.security, server_side=server_side, timeout_s=self._config.hello_timeout_s
            )
        link = Link(connection, me, self._handler, self._config, dialled=dialled)
        await link.greet()
        if self.security is not None and connection.principal is None:
            link.abort()
            raise LinkLost(f"{connection.address}: nobody's identity is proven")
        return link
