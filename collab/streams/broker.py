"""A topic at an MQTT broker, reached in the thread that asks: paho without a thread of its own."""

from __future__ import annotations

import re
import secrets
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from collab.errors import InputError, LinkLost, PeerUnreachable, Refused
from collab.streams.frames import MAX_FRAME_BYTES

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
"""Registered ports (IANA) by scheme."""
KEEPALIVE_S: Final = 20
_CONNECT_S: Final = 3.0
_ROOM_BYTES: Final = 1 << 17
"""For a topic and properties beside a payload (MQTT 5 1.5.4)."""
_MAX_TOPIC: Final = 65_535
_REFUSED: Final = 0x80
"""Reason codes from here on are failures (MQTT 5 2.4)."""

MakeContext = Callable[[], ssl.SSLContext]
Message = Callable[[str, bytes], None]


@dataclass(frozen=True)
class Topic:
    """Where a topic is."""

    scheme: str
    host: str
    port: int
    topic: str
    login: tuple[str, str] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.topic}"


def parse_topic(url: str, *, filters: bool) -> Topic:
    """Read an address, its topic a filter or not; raises `InputError`, which never repeats a password."""
    scheme, _, rest = url.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2]}"[:200]
    form = "write it as mqtt://HOST[:PORT]/TOPIC"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(f"{shown!r}: {form}") from None
    topic = unquote(parts.path.removeprefix("/"))
    if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise InputError(f"{shown!r}: {form}; write # as %23 and ? as %3F")
    if not topic or len(topic.encode()) > _MAX_TOPIC or re.search(r"[\x00-\x1f\x7f]", topic):
        raise InputError(f"{shown!r}: the topic is empty, too long or has control characters; {form}")
    if not filters and re.search(r"[+#]", topic):
        raise InputError(f"{shown!r}: answers go to one topic; leave + and # out")
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return Topic(parts.scheme, parts.hostname, port or PORTS[parts.scheme], topic, login)


class BrokerClient:
    """One connection, used by one thread at a time; every method blocks for a moment."""

    def __init__(
        self,
        place: Topic,
        context: MakeContext | None,
        message: Message | None = None,
        keepalive_s: int = KEEPALIVE_S,
    ) -> None:
        """``message`` is called in `step` with topic and payload of what was subscribed."""
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        self.place = place
        self._keepalive_s = keepalive_s
        self._up = False
        self._trouble = ""
        self._acknowledged: set[int] = set()
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            f"collab-{secrets.token_hex(8)}",
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_S
        if place.login is not None:
            client.username_pw_set(*place.login)
        if place.scheme == "mqtts":
            client.tls_set_context((context or ssl.create_default_context)())
        if message is not None:
            client.on_message = lambda _, __, got: message(got.topic, bytes(got.payload))
        client.on_connect = self._connected
        client.on_disconnect = self._lost
        client.on_subscribe = self._subscribed
        client.on_publish = self._published
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_FRAME_BYTES + _ROOM_BYTES
        self._client = client
        self._properties = properties

    # --- called by paho within `step` -------------------------------------------------

    def _connected(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if reason.value >= _REFUSED:
            self._trouble = f"the broker refuses this end ({str(reason).lower()}); check its user"
        else:
            self._up = True

    def _lost(self, _: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        self._up = False
        self._trouble = self._trouble or f"the connection is lost ({str(reason).lower()})"

    def _subscribed(self, _: Any, __: Any, ___: Any, reasons: Any, ____: Any) -> None:
        if any(reason.value >= _REFUSED for reason in reasons):
            self._trouble = "the broker's access rules forbid to read the topic; correct its access list"

    def _published(self, _: Any, __: Any, number: int, reason: Any, ____: Any) -> None:
        if reason.value >= _REFUSED:
            self._trouble = "the broker's access rules forbid to write the topic; correct its access list"
        self._acknowledged.add(number)

    # --- used by sources and sinks -----------------------------------------------------

    def connect(self) -> None:
        """Connect and log in; raises `PeerUnreachable` or `Refused`."""
        place = self.place
        try:
            self._client.connect(
                place.host, place.port, self._keepalive_s, clean_start=True, properties=self._properties
            )
        except ssl.SSLError as error:
            raise PeerUnreachable(f"{place}: TLS with the broker fails ({error.reason or error})") from error
        except OSError as error:
            raise PeerUnreachable(f"{place}: no broker answers ({error.strerror or error})") from error
        until = time.monotonic() + _CONNECT_S
        while not self._up:
            if self._trouble:
                raise Refused(f"{place}: {self._trouble}")
            if time.monotonic() >= until:
                raise PeerUnreachable(f"{place}: the broker does not answer")
            self._client.loop(0.1)

    def subscribe(self, qos: int) -> None:
        """Ask for the topic's messages; a refusal shows in `step`."""
        self._client.subscribe(self.place.topic, qos=qos)

    def step(self, wait_s: float) -> None:
        """Move bytes, for so long at most; raises `LinkLost`, `Refused` where rules forbid the topic."""
        self._client.loop(wait_s)
        if not self._up:
            raise LinkLost(f"{self.place}: {self._trouble or 'the connection is lost'}")
        if self._trouble:
            raise Refused(f"{self.place}: {self._trouble}")

    def publish(self, payload: bytes, within_s: float) -> None:
        """Publish at QoS 1 and wait until the broker has it; raises `LinkLost` or `Refused`."""
        self._acknowledged.clear()
        number = self._client.publish(self.place.topic, payload, qos=1).mid
        until = time.monotonic() + within_s
        while number not in self._acknowledged:
            if time.monotonic() >= until:
                raise LinkLost(f"{self.place}: the broker does not confirm a message")
            self.step(0.1)

    def close(self) -> None:
        """Say good-bye; never raises."""
        with suppress(Exception):
            self._client.disconnect()
            self._client.loop(0.1)
        with suppress(Exception):
            self._client._sock_close()
            # What paho keeps to be woken by; it would leave closing it to the garbage collector.
            self._client._reset_sockets()
