"""The short ways through paho read what paho reads, and refuse what it refuses."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt._packet import decode_publish
from paho.mqtt.client import MQTTv5
from paho.mqtt.enums import MQTTErrorCode

from collab.codec.wire import varint
from collab.transport.mqtt.client import PACKET_BYTES, Client, FixedProperties


@contextlib.contextmanager
def client(frame) -> Iterator[tuple[Client, socket.socket]]:
    near, far = socket.socketpair()
    made = Client(near, "test", frame)
    try:
        made.connect("broker", 1883)
        yield made, far
    finally:
        made.drop()
        far.close()


def publish(topic: bytes, payload: bytes, qos: int, number: int, properties: bytes) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + (number.to_bytes(2, "big") if qos else b"")
    return body + properties + payload


@given(
    topic=st.text(
        st.characters(exclude_characters="+#\0", exclude_categories=["Cs"]), min_size=1, max_size=40
    ),
    payload=st.binary(max_size=300),
    qos=st.sampled_from([0, 1]),
    number=st.integers(1, 65535),
    expiry=st.none() | st.integers(0, 2**32 - 1),
)
def test_messages_are_read_as_paho_reads_them(topic, payload, qos, number, expiry):
    seen = []

    def frame(topic, data):
        seen.append((topic, bytes(data)))
        return True

    properties = FixedProperties(**({} if expiry is None else {"MessageExpiryInterval": expiry})).pack()
    packet = publish(topic.encode(), payload, qos, number, properties)
    header = 0x30 | qos << 1
    with client(frame) as (made, far):
        far.sendall(bytes([header]) + varint(len(packet)) + packet)
        made.loop_read()
        expected = decode_publish(header, packet, MQTTv5)
        assert seen == [(expected.topic.decode(), bytes(expected.payload))]
        made.loop_write()
        written = far.recv(1000)
        assert (b"\x40\x02" + number.to_bytes(2, "big") in written) == (qos == 1)


def test_what_the_short_way_does_not_want_goes_pahos_own():
    with client(lambda *_: False) as (made, far):
        seen = []
        made.on_message = lambda _, __, message: seen.append((message.topic, message.payload))
        packet = publish(b"a/b", b"data", 1, 7, b"\0")
        far.sendall(b"\x32" + varint(len(packet)) + packet)
        made.loop_read()
        assert seen == [("a/b", b"data")]


@given(
    packet=st.binary(max_size=60), header=st.sampled_from([0x30, 0x32, 0x34, 0x36, 0x40, 0x50, 0x90, 0xE0])
)
def test_no_packet_of_a_broker_does_more_than_end_the_connection(packet, header):
    with client(lambda *_: True) as (made, far):
        far.sendall(bytes([header]) + varint(len(packet)) + packet)
        with contextlib.suppress(Exception):  # the caller drops the connection, whatever it is
            made.loop_read()


def test_a_packet_over_the_limit_ends_the_connection_before_it_is_read():
    with client(lambda *_: True) as (made, far):
        far.sendall(b"\x30" + varint(PACKET_BYTES + 1) + b"x" * 100)
        assert made.loop_read() == MQTTErrorCode.MQTT_ERR_CONN_LOST
        assert made.socket() is None


def test_fixed_properties_are_packed_once():
    properties = FixedProperties(MessageExpiryInterval=7)
    assert properties.pack() is properties.pack()
    assert properties.pack() == b"\x05\x02\x00\x00\x00\x07"
    with pytest.raises(Exception, match="Property"):
        FixedProperties(NoSuchThing=1)
