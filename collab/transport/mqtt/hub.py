"""All sessions of this process over one broker: topics, routing, bounds.

Topics, with the receiver before the sender, so that access rules can bind both
(``pattern read PREFIX/in/%u/#``, ``pattern write PREFIX/in/+/%u/#``)::

    PREFIX/in/RECEIVER/SENDER/dial[/PLACE]            connects to a listener
    PREFIX/in/RECEIVER/SENDER/INSTANCE/ITS-INSTANCE   everything else, between two processes
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from paho.mqtt.properties import Properties

from collab.codec.wire import Buffer
from collab.core.ids import NodeName, check_name
from collab.errors import InputError, PeerUnreachable, ProtocolError, UsageError
from collab.transport.base import is_loopback
from collab.transport.mqtt.address import BrokerAddress, MqttAddress
from collab.transport.mqtt.broker import NO_SUBSCRIBERS, Broker
from collab.transport.mqtt.client import FixedProperties
from collab.transport.mqtt.connection import MqttConnection
from collab.transport.mqtt.packet import (
    FROM_DIALLER,
    HEAD_BYTES,
    SESSION_BYTES,
    Kind,
    Packet,
    head,
    parse,
    parse_terms,
    text,
)
from collab.transport.mqtt.session import Out, Session, SessionConfig, State

log = logging.getLogger("collab.transport")

DIAL: Final = "dial"
_INSTANCE: Final = re.compile(r"[0-9a-f]{16}")
_TOPIC_BYTES: Final = 512
"""Room for the topic and the properties beside a packet in the broker's limit."""
_TOLD: Final = 256
_FAILURE: Final = 0x80
"""Reason codes from here on are failures (MQTT 5 2.4)."""


@dataclass(frozen=True)
class HubConfig:
    """Bounds on what peers may make this end hold."""

    session: SessionConfig = SessionConfig()
    chunk_bytes: int = 128 * 1024
    """Longest payload of a packet; less where the broker takes less."""
    sessions: int = 1024
    sessions_per_peer: int = 256
    half_open: int = 256
    half_open_per_peer: int = 64
    remembered: int = 4096
    """Ended sessions whose connects are refused as stale."""


Serve = Callable[[MqttConnection], None]


class Hub:
    """The sessions over one broker connection."""

    def __init__(
        self,
        address: BrokerAddress,
        name: NodeName,
        prefix: str,
        context: ssl.SSLContext | None,
        config: HubConfig,
    ) -> None:
        self.broker = Broker(address, name, context, self._received)
        self.broker.resumed = self._resumed
        self.public = replace(address, credentials=None)
        """The broker without user and password."""
        self._address = address
        self._name = name
        self._prefix = prefix
        self._config = config
        self._sessions: dict[tuple[bytes, bool], MqttConnection] = {}
        self._listeners: dict[str, Serve] = {}
        self._ended: OrderedDict[bytes, None] = OrderedDict()
        self._told: OrderedDict[tuple[str, str, bytes], float] = OrderedDict()
        self._joined: asyncio.Future[None] | None = None
        self._frame_properties = FixedProperties(
            MessageExpiryInterval=math.ceil(config.session.silence_limit_s)
        )

    async def join(self) -> None:
        """Connect, and read what is meant for this process.  Raises `PeerUnreachable` or `Refused`."""
        await self.broker.ready()
        if self._joined is None:
            topic = f"{self._prefix}/in/{self._name}/+/{self.broker.instance}/+"
            self._joined = asyncio.ensure_future(self.broker.subscribe(topic))
            self._joined.add_done_callback(self._join_ended)
        await asyncio.shield(self._joined)

    def _join_ended(self, joined: asyncio.Future[None]) -> None:
        if joined.cancelled() or joined.exception() is not None:
            self._joined = None

    def release(self) -> None:
        """One user less."""
        self.broker.release()
        if self.broker.ended and self._joined is not None:
            self._joined.cancel()

    async def closed(self) -> None:
        """Return when the connection has ended, if nobody uses it any more."""
        await self.broker.closed()

    # --- listening -----------------------------------------------------------------

    async def listen(self, place: str, serve: Serve) -> None:
        """Take connects at a place; raises `UsageError` if somebody does already."""
        if place in self._listeners:
            shown = MqttAddress(self._address, self._name, place)
            raise UsageError(f"cannot listen at {shown}: this process listens there already")
        self._listeners[place] = serve
        try:
            await self.broker.subscribe(self._dial_topic("+", self._name, place))
        except BaseException:
            del self._listeners[place]
            raise

    async def unlisten(self, place: str) -> None:
        """Take no more connects at a place."""
        self._listeners.pop(place, None)
        await self.broker.unsubscribe(self._dial_topic("+", self._name, place))

    def _dial_topic(self, sender: str, receiver: str, place: str) -> str:
        topic = f"{self._prefix}/in/{receiver}/{sender}/{DIAL}"
        return f"{topic}/{place}" if place else topic

    # --- dialling ------------------------------------------------------------------

    def dial(self, address: MqttAddress, timeout_s: float) -> MqttConnection:
        """Ask a listener for a session; the connection takes over one use of this hub."""
        session = self._session(secrets.token_bytes(SESSION_BYTES), dialler=True, qos=address.qos)
        connection = MqttConnection(self, session, address.name, address.qos, str(address))
        connection.loopback = is_loopback(self._address.host)
        self._sessions[session.id, True] = connection
        properties = FixedProperties(
            ResponseTopic=f"{self._prefix}/in/{self._name}/{address.name}/{self.broker.instance}",
            CorrelationData=session.id,
            MessageExpiryInterval=max(1, math.ceil(timeout_s)),
        )
        connection.dialling = self._dial_topic(self._name, address.name, address.place), properties
        self.publish(connection, session.connect())
        return connection

    def _session(self, number: bytes, *, dialler: bool, qos: int) -> Session:
        chunk_bytes = min(self._config.chunk_bytes, self.broker.packet_bytes - HEAD_BYTES - _TOPIC_BYTES)
        return Session(
            number,
            dialler=dialler,
            qos=qos,
            config=self._config.session,
            chunk_bytes=max(chunk_bytes, 1),
            now=time.monotonic(),
        )

    # --- what connections need -------------------------------------------------------

    def publish(self, connection: MqttConnection, out: Sequence[Out]) -> None:
        """Publish packets; those that end or ask are never sent at quality 0."""
        broker, frames = self.broker, self._frame_properties
        for kind, data in out:
            if kind is Kind.DATA or kind is Kind.ACK:
                broker.publish(self._topic(connection), data, connection.qos, frames)
            elif kind is Kind.CONNECT and connection.dialling is not None:
                topic, properties = connection.dialling
                broker.publish(topic, data, max(1, connection.qos), properties, self._judge(connection))
            elif connection.peer_instance:
                done = self._judge(connection) if kind is Kind.SYNC else None
                broker.publish(self._topic(connection), data, max(1, connection.qos), frames, done)

    def over(self, connection: MqttConnection) -> None:
        """Forget a session that has ended."""
        session = connection.session
        if self._sessions.pop((session.id, session.dialler), None) is None:
            return
        if not session.dialler:
            self._ended[session.id] = None
            if len(self._ended) > self._config.remembered:
                self._ended.popitem(last=False)
        self.release()

    def _topic(self, connection: MqttConnection) -> str:
        return self._reply_topic(connection.peer, connection.peer_instance)

    def _reply_topic(self, peer: str, instance: str) -> str:
        return f"{self._prefix}/in/{peer}/{self._name}/{instance}/{self.broker.instance}"

    def _judge(self, connection: MqttConnection) -> Callable[[int], None]:
        """What the broker's answer to a connect or a sync means."""

        def done(reason: int) -> None:
            if connection.session.state is State.CONNECTING:
                if reason == NO_SUBSCRIBERS:
                    connection.fail("nobody listens there; is the node running and at this broker?")
                elif reason >= _FAILURE:
                    connection.fail(
                        f"the broker does not carry it (reason 0x{reason:02x}); see its access rules"
                    )
            elif reason == NO_SUBSCRIBERS:
                connection.absent()

        return done

    def _resumed(self) -> None:
        for connection in list(self._sessions.values()):
            connection.resumed()

    # --- what arrives ----------------------------------------------------------------

    def _received(self, topic: str, data: Buffer, properties: Properties | None) -> None:
        start = f"{self._prefix}/in/{self._name}/"
        if not topic.startswith(start):
            return
        sender, *rest = topic[len(start) :].split("/")
        try:
            packet = parse(data)
            if rest and rest[0] == DIAL:
                self._connect(sender, "/".join(rest[1:]), packet, properties)
            elif len(rest) == 2 and _INSTANCE.fullmatch(rest[1]):
                self._route(sender, rest[1], packet)
        except ProtocolError as error:
            log.warning("%s: %.70r sends what is no packet: %s", self._address, sender, error)

    def _route(self, sender: str, instance: str, packet: Packet) -> None:
        connection = self._sessions.get((packet.session, not packet.flags & FROM_DIALLER))
        if connection is None:
            if packet.kind in (Kind.DATA, Kind.SYNC, Kind.CLOSE, Kind.ACCEPT):
                self._tell_stale(sender, instance, packet)
            return
        if connection.peer != sender:
            log.warning("%s: %.70r sends into a session of %s", self._address, sender, connection.peer)
            return
        if not connection.peer_instance and packet.kind in (Kind.ACCEPT, Kind.REFUSE):
            connection.peer_instance = instance
        if connection.peer_instance == instance:
            connection.packet(packet)

    def _tell_stale(self, sender: str, instance: str, packet: Packet) -> None:
        """Say once a second that a session is not known here."""
        key, now = (sender, instance, packet.session), time.monotonic()
        if now - self._told.get(key, -1.0) < 1.0:
            return
        self._told[key] = now
        if len(self._told) > _TOLD:
            self._told.popitem(last=False)
        self._say(sender, instance, Kind.ABORT, packet, "no such session here")

    def _say(self, sender: str, instance: str, kind: Kind, packet: Packet, reason: str) -> None:
        flags = (packet.flags & FROM_DIALLER) ^ FROM_DIALLER
        data = head(kind, flags, packet.session) + text(reason)
        self.broker.publish(self._reply_topic(sender, instance), data, 1, self._frame_properties)

    def _connect(self, sender: str, place: str, packet: Packet, properties: Properties | None) -> None:
        serve = self._listeners.get(place)
        reply = str(getattr(properties, "ResponseTopic", ""))
        instance = reply.removeprefix(f"{self._prefix}/in/{sender}/{self._name}/")
        if packet.kind is not Kind.CONNECT or not packet.flags & FROM_DIALLER or serve is None:
            return
        try:
            check_name(sender, "sender")
        except InputError as error:
            raise ProtocolError(str(error)) from error
        # An answer goes to the sender that the topic proves, nowhere else.
        if not _INSTANCE.fullmatch(instance) or getattr(properties, "CorrelationData", b"") != packet.session:
            raise ProtocolError("a connect without the sender's own response topic and correlation data")
        known = self._sessions.get((packet.session, False))
        if known is not None:
            if (known.peer, known.peer_instance) == (sender, instance):
                known.packet(packet)
            return
        refusal = self._refusal(sender, packet)
        if refusal:
            log.warning("%s: a session of %s is refused: %s", self._address, sender, refusal)
            self._say(sender, instance, Kind.REFUSE, packet, refusal)
            return
        qos = parse_terms(packet.body).qos
        session = self._session(packet.session, dialler=False, qos=qos)
        connection = MqttConnection(self, session, sender, qos, f"{self._address}/{sender}")
        connection.loopback = is_loopback(self._address.host)
        connection.peer_instance = instance
        out = session.accept(packet)
        self.broker.acquire()
        self._sessions[session.id, False] = connection
        self.publish(connection, out)
        serve(connection)

    def _refusal(self, sender: str, packet: Packet) -> str:
        """Why a connect is not accepted; empty if it is."""
        config = self._config
        if packet.session in self._ended:
            return "the session is stale"
        accepted = [c for c in self._sessions.values() if not c.session.dialler]
        half_open = Counter(c.peer for c in accepted if c.session.state is State.HALF_OPEN)
        if len(accepted) >= config.sessions or half_open.total() >= config.half_open:
            return "too many sessions here; try again later"
        if half_open[sender] >= config.half_open_per_peer:
            return "too many sessions of yours are half-open"
        if sum(c.peer == sender for c in accepted) >= config.sessions_per_peer:
            return "too many sessions of yours; close some"
        return ""


def unreachable(address: MqttAddress, cause: object) -> PeerUnreachable:
    """A failed dial, naming the address without its password."""
    return PeerUnreachable(f"{address}: {cause}")
