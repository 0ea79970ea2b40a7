"""paho's client over a socket that is open already, with short ways for what is frequent.

paho decodes a message into six copies and a table of all properties that there are;
sessions read neither.  What these ways do not know goes paho's own.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final, cast

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from collab.codec.wire import read_varint
from collab.errors import ProtocolError

PACKET_BYTES: Final = 2 << 20
"""Longest packet that the broker may hand us (Maximum Packet Size, MQTT 5 3.1.2.11.4)."""
_PUBLISHED: Final = ReasonCode(PacketTypes.PUBACK)
_NO_PROPERTIES: Final = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]

Frame = Callable[[str, memoryview], bool]
"""Takes topic and payload of a message whose properties do not matter; else returns false."""


class FixedProperties(Properties):
    """Properties of many messages, packed once."""

    def __init__(self, **values: Any) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        for name, value in values.items():
            setattr(self, name, value)
        object.__setattr__(self, "_packed", super().pack())  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        """The bytes on the wire."""
        return cast(bytes, self.__dict__["_packed"])


class Client(paho.Client):
    """A client that neither connects, nor writes, by itself; `paho.Client.loop_write` writes."""

    def __init__(self, opened: socket.socket, client_id: str, frame: Frame) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        self.suppress_exceptions = False
        # Set, it keeps paho from writing by itself.
        self.on_socket_register_write = lambda _, __, sock: None
        self._opened = opened
        self._frame = frame

    def bound(self, messages: int) -> None:
        """Have at most so many messages unacknowledged; paho reads no Receive Maximum itself."""
        self._max_inflight_messages = messages

    @property
    def waiting(self) -> int:
        """Packets that wait to be written."""
        return len(self._out_packet)

    def drop(self) -> None:
        """Close the socket without a word."""
        self._sock_close()

    def _create_socket(self) -> socket.socket:
        return self._opened

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > PACKET_BYTES:
            raise OSError(f"a packet of {bufsize} bytes is over {PACKET_BYTES}")
        return super()._sock_recv(bufsize)

    def _handle_publish(self) -> MQTTErrorCode:
        packet, qos = self._in_packet["packet"], self._in_packet["command"] >> 1 & 3
        if qos > 1 or len(packet) < 2:
            return super()._handle_publish()
        # Topic, packet identifier, properties, payload (MQTT 5 3.3.2).
        at = 2 + (packet[0] << 8 | packet[1])
        number = packet[at : at + 2]
        try:
            size, start = read_varint(packet, at + 2 * qos)
            topic = packet[2:at].decode()
        except (ProtocolError, UnicodeDecodeError):
            return super()._handle_publish()
        if start + size > len(packet) or not self._frame(topic, memoryview(packet)[start + size :]):
            return super()._handle_publish()
        return self._send_puback(number[0] << 8 | number[1]) if qos else MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) != 2:
            return super()._handle_pubackcomp(cmd)
        # Without a reason code it is success (MQTT 5 3.4.2.1).
        number = packet[0] << 8 | packet[1]
        with self._out_message_mutex:
            if number in self._out_messages:
                return self._do_on_publish(number, _PUBLISHED, _NO_PROPERTIES)
        return MQTTErrorCode.MQTT_ERR_SUCCESS
