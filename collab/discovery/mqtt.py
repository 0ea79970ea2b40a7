"""Presence over an MQTT 5 broker: a retained message for each node, which its last will clears.

Topics are ``collab/presence/NAME``; a broker's access list binds each to its certificate's
name, so a name in a topic is as good as the broker.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from collab.discovery.base import Discovery, Gone, Report, Sighting
from collab.discovery.records import MAX_JSON_BYTES, from_json, to_json
from collab.errors import ProtocolError, UsageError

log = logging.getLogger("collab.discovery")

TOPIC: Final = "collab/presence/"
PRESENCE_S: Final = 60
"""How long a presence lasts at the broker (Message Expiry Interval, MQTT 5 3.3.2.3.3)."""
REFRESH_S: Final = 20.0
KEEPALIVE_S: Final = 10
"""The last will follows one and a half of it after the last sign of life (MQTT 5 3.1.2.10)."""
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
"""Registered ports (IANA) by scheme."""
_PACKET_BYTES: Final = MAX_JSON_BYTES + 1024
"""Longest packet that the broker may hand us (Maximum Packet Size, MQTT 5 3.1.2.11.4)."""
_CONNECT_S: Final = 2.0
_GOODBYE_S: Final = 1.0
_RECONNECT_S: Final = (1, 5)
"""Whole seconds between tries, the first and the longest."""
_REFUSED: Final = 0x80
"""Reason codes from here on are failures (MQTT 5 2.4)."""

MakeContext = Callable[[], ssl.SSLContext]


class MqttDiscovery(Discovery):
    """Announces itself at a broker, ``mqtt[s]://[USER:PASSWORD@]HOST[:PORT]``, and reads who else did.

    One thread of paho's own moves the bytes.
    """

    how = "mqtt"

    def __init__(self, broker: str, context: MakeContext | None = None) -> None:
        """``context`` gives the TLS settings toward an ``mqtts`` broker, its host name checked.

        Raises `UsageError` for an address that cannot be read; it never repeats a password.
        """
        place = broker.rpartition("@")[2]
        self._shown = broker.partition("://")[0] + "://" + place.rpartition("://")[2]
        try:
            parts = urlsplit(broker)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"broker {self._shown!r}: write it as mqtt://HOST:PORT") from error
        if parts.scheme not in _PORTS or not parts.hostname:
            raise UsageError(f"broker {self._shown!r}: write it as mqtt://HOST:PORT or mqtts://HOST:PORT")
        self._host, self._port = parts.hostname, port or _PORTS[parts.scheme]
        self._login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._context = (context or ssl.create_default_context) if parts.scheme == "mqtts" else None
        self._me: Sighting | None = None
        self._report: Report | None = None
        self._gone: Gone | None = None
        self._client: _Client | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self, me: Sighting | None, report: Report, gone: Gone) -> None:
        """Connect behind it; a broker that is away is tried again until it is there."""
        self._me, self._report, self._gone = me, report, gone
        loop = asyncio.get_running_loop()
        self._client = await asyncio.to_thread(self._connect, loop)
        self._refreshing = loop.create_task(self._refresh())

    async def update(self, me: Sighting) -> None:
        """Publish the new presence, now or when the broker is there."""
        if self._me is not None:
            self._me = me
            await asyncio.to_thread(self._publish)

    async def stop(self) -> None:
        """Clear the presence and disconnect."""
        self._report = self._gone = None
        refreshing, self._refreshing = self._refreshing, None
        if refreshing is not None:
            refreshing.cancel()
            await asyncio.wait((refreshing,))
        client, self._client = self._client, None
        if client is not None:
            await asyncio.shield(asyncio.to_thread(self._disconnect, client))

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await asyncio.to_thread(self._publish)

    # --- in threads: no attribute is changed here but paho's own -------------------------

    def _connect(self, loop: asyncio.AbstractEventLoop) -> _Client:
        client = _Client(
            CallbackAPIVersion.VERSION2, f"presence-{secrets.token_hex(8)}", protocol=paho.MQTTv5
        )
        client.connect_timeout = _CONNECT_S
        client.reconnect_delay_set(*_RECONNECT_S)
        if self._login is not None:
            client.username_pw_set(*self._login)
        if self._context is not None:
            client.tls_set_context(self._context())
        if self._me is not None:
            client.will_set(TOPIC + self._me.name, b"", qos=1, retain=True)

        def told(callback: Callable[..., None], *values: Any) -> None:
            # The loop may be closed while paho still ends.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(callback, *values)

        def on_connect(_: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            told(self._connected, reason.value, str(reason))
            if reason.value < _REFUSED:
                client.subscribe(TOPIC + "+", qos=1)
                self._publish(client)

        def on_message(_: Any, __: Any, message: paho.MQTTMessage) -> None:
            with suppress(UnicodeDecodeError):
                told(self._heard, message.topic, bytes(message.payload))

        def on_subscribe(_: Any, __: Any, ___: Any, reasons: Any, ____: Any) -> None:
            told(self._answered, "read", max((reason.value for reason in reasons), default=0))

        client.on_connect, client.on_message = on_connect, on_message
        client.on_subscribe = on_subscribe
        client.on_publish = lambda _, __, ___, reason, ____: told(self._answered, "write", reason.value)
        client.on_connect_fail = lambda _, __: told(self._failed, client.failure)
        client.on_disconnect = lambda _, __, ___, reason, ____: told(self._lost, str(reason))
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = _PACKET_BYTES
        client.connect_async(self._host, self._port, KEEPALIVE_S, clean_start=True, properties=properties)
        client.loop_start()
        return client

    def _publish(self, client: paho.Client | None = None) -> None:
        me, client = self._me, client or self._client
        if me is not None and client is not None and client.is_connected():
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = PRESENCE_S
            data = to_json(me, PRESENCE_S)
            client.publish(TOPIC + me.name, data, qos=1, retain=True, properties=properties)

    def _disconnect(self, client: paho.Client) -> None:
        if self._me is not None and client.is_connected():
            with suppress(RuntimeError, ValueError):
                client.publish(TOPIC + self._me.name, b"", qos=1, retain=True).wait_for_publish(_GOODBYE_S)
        client.disconnect()
        client.loop_stop()
        # What paho wakes its thread with; it would leave closing it to the garbage collector.
        client._reset_sockets()

    # --- on the loop -----------------------------------------------------------------------

    def _connected(self, code: int, reason: str) -> None:
        if code >= _REFUSED:
            self._trouble(f"the broker refuses this end ({reason.lower()}); check its user and certificate")
        else:
            self.trouble = ""

    def _failed(self, failure: OSError | None) -> None:
        if isinstance(failure, ssl.SSLError):
            self._trouble(f"TLS with the broker fails ({failure.reason or failure}); check the certificates")
        else:
            why = (failure.strerror if failure is not None else "") or failure or "no answer"
            self._trouble(f"no broker answers ({why}); is it running, and is the port open?")

    def _lost(self, reason: str) -> None:
        if self._report is not None and not self.trouble:
            self._trouble(f"the connection to the broker is lost ({reason.lower()}); trying again")

    def _answered(self, what: str, code: int) -> None:
        if code >= _REFUSED:
            topic = TOPIC + (self._me.name if self._me is not None and what == "write" else "+")
            self._trouble(f"the broker's access rules forbid to {what} {topic}; correct its access list")

    def _trouble(self, text: str) -> None:
        full = f"mqtt: {self._shown}: {text}"
        if self.trouble != full and self._report is not None:
            log.warning("%s", full)
        self.trouble = full

    def _heard(self, topic: str, data: bytes) -> None:
        if self._report is None or self._gone is None or not topic.startswith(TOPIC):
            return
        name = topic.removeprefix(TOPIC)
        if not data:
            if self._me is not None and self._me.name == name and self._refreshing is not None:
                # The will of this node's former process; it came after our presence.
                asyncio.get_running_loop().run_in_executor(None, self._publish)
            self._gone(self.how, name)
            return
        try:
            seen = from_json(data, self.how, name)
        except ProtocolError as error:
            log.debug("mqtt: %r: %s", topic[:80], error)
            return
        if seen.name == name:
            self._report(seen)


class _Client(paho.Client):
    """Keeps why it could not connect."""

    failure: OSError | None = None

    def reconnect(self) -> Any:
        """Connect, in paho's thread."""
        try:
            return super().reconnect()
        except OSError as error:
            self.failure = error
            raise
