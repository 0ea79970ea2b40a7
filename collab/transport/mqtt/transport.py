"""Frames over an MQTT 5 broker: one session for each dial, resumed when the broker restarts.

The broker sees everything and may lose anything: who the other end is, and that
nobody reads along, is proven inside the session (`collab.link.secure`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from dataclasses import replace

from collab.core.ids import NodeName, check_name
from collab.errors import CollabError, LinkLost, PeerUnreachable, UsageError
from collab.transport.aio import timeout
from collab.transport.base import Accept, Connection, Listener, Security, Transport
from collab.transport.mqtt.address import FREE_PLACE, BrokerAddress, MqttAddress, parse_address
from collab.transport.mqtt.connection import MqttConnection
from collab.transport.mqtt.hub import Hub, HubConfig, unreachable

log = logging.getLogger("collab.transport")


class MqttTransport(Transport):
    """Connections between nodes that meet at a broker.

    Listens at ``mqtt://BROKER:PORT``, dials ``mqtt://BROKER:PORT/NAME``; ``mqtts`` is TLS
    toward the broker, with ``security`` as this end's identity and authority (the system's
    authorities without it).  User and password come from the address or from
    ``credentials``.  ``prefix`` is the first level of all topics.
    """

    def __init__(
        self,
        name: NodeName,
        security: Security | None = None,
        *,
        credentials: tuple[str, str] | None = None,
        prefix: str = "collab",
        scheme: str = "mqtt",
        config: HubConfig | None = None,
    ) -> None:
        self.scheme = scheme
        self._name = NodeName(check_name(name, "mqtt: name"))
        self._prefix = check_name(prefix, "mqtt: prefix")
        self._security = security
        self._credentials = credentials
        self._config = config or HubConfig()
        self._hubs: dict[BrokerAddress, Hub] = {}

    async def listen(self, address: str, accept: Accept) -> Listener:
        """Listen at a broker under this end's name; place 0 takes a free one."""
        parsed = parse_address(address)
        if parsed.name not in ("", self._name):
            raise UsageError(
                f"address {parsed}: this end is named {self._name!r} and can listen as that only"
            )
        place = secrets.token_hex(4) if parsed.place == FREE_PLACE else parsed.place
        hub = await self._hub(parsed.broker)
        listener = _MqttListener(hub, MqttAddress(hub.public, self._name, place), accept)
        try:
            await hub.join()
            await hub.listen(place, listener.serve)
        except BaseException as error:
            hub.release()
            if isinstance(error, PeerUnreachable):
                raise UsageError(f"cannot listen at {listener.address}: {error}") from error
            raise
        return listener

    async def dial(self, address: str, timeout_s: float) -> Connection:
        """Ask the listener of that name for a session."""
        parsed = parse_address(address)
        if not parsed.name:
            raise UsageError(f"address {parsed}: name the node, as in {parsed}/NAME")
        connection: MqttConnection | None = None
        hub = await self._hub(parsed.broker)
        try:
            async with timeout(timeout_s):
                await hub.join()
                connection = hub.dial(parsed, timeout_s)
                await connection.opened
        except BaseException as error:
            if connection is None:
                hub.release()
            else:
                connection.abort()
            if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
                why = hub.broker.trouble or "is a node of that name at the broker, and well?"
                raise unreachable(parsed, f"no answer within {timeout_s:g} s; {why}") from error
            if isinstance(error, (PeerUnreachable, LinkLost)):
                await hub.closed()
                raise unreachable(parsed, error) from error
            raise
        return connection

    async def _hub(self, broker: BrokerAddress) -> Hub:
        """The connection to a broker, with one more user."""
        if broker.credentials is None and self._credentials is not None:
            broker = replace(broker, credentials=self._credentials)
        context = await self._context(broker)
        hub = self._hubs.get(broker)
        if hub is None or hub.broker.ended:
            hub = Hub(broker, self._name, self._prefix, context, self._config)
            self._hubs[broker] = hub
        hub.broker.acquire()
        return hub

    async def _context(self, broker: BrokerAddress) -> ssl.SSLContext | None:
        if broker.scheme != "mqtts":
            return None
        if self._security is None:
            return await asyncio.to_thread(ssl.create_default_context)
        return self._security.context(server_side=False)


class _MqttListener(Listener):
    def __init__(self, hub: Hub, address: MqttAddress, accept: Accept) -> None:
        self.address = str(address)
        self._hub = hub
        self._place = address.place
        self._accept = accept
        self._serving: dict[MqttConnection, asyncio.Task[None]] = {}
        self._closed: asyncio.Future[None] | None = None

    def serve(self, connection: MqttConnection) -> None:
        """Serve an accepted connection as soon as its dialler goes on."""
        self._serving[connection] = asyncio.ensure_future(self._serve(connection))

    async def _serve(self, connection: MqttConnection) -> None:
        try:
            await connection.opened
            await self._accept(connection)
        except CollabError:
            pass
        except Exception:
            log.exception("serving a connection failed")
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            # Its own broker connection may have this listener as its only user left.
            await asyncio.shield(connection.close())
            self._serving.pop(connection, None)

    async def close(self) -> None:
        if self._closed is None:
            self._closed = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        await self._hub.unlisten(self._place)
        serving = dict(self._serving)
        for connection, task in serving.items():
            connection.abort()
            task.cancel()
        if serving:
            await asyncio.wait(serving.values())
        self._hub.release()
        await self._hub.closed()
