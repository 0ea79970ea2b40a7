"""A header and a body by hand: the same bytes as protobuf's, and nothing believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.codec.pb import envelope_pb2 as pb
from collab.codec.wire import MAX_HEADER_BYTES, clean_text, frame, read_varint, unframe, varint
from collab.errors import LimitExceeded, ProtocolError

parts = st.lists(st.binary(max_size=40), max_size=5)
headers = st.builds(
    pb.Header,
    reason=st.text(max_size=10),
    attempt=st.integers(0, 2**32 - 1),
    request=st.binary(max_size=20),
    budget_us=st.integers(-(2**63), 2**63 - 1),
)


def joined(buffers) -> bytes:
    return b"".join(map(bytes, buffers))


@given(headers, parts)
def test_a_frame_is_byte_for_byte_the_protobuf_message(header, body):
    payload = b"".join(body)
    message = pb.Envelope(header=header, payload=payload)
    message.header.SetInParent()
    assert joined(frame(header.SerializeToString(), body)) == message.SerializeToString()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 2**21 - 1, 2**21])
def test_bodies_of_every_length_of_length_are_the_protobuf_message(size):
    header = pb.Header(reason="p")
    message = pb.Envelope(header=header, payload=bytes(size))
    data = joined(frame(header.SerializeToString(), [bytes(size)]))
    assert data == message.SerializeToString()
    assert bytes(unframe(data)[1]) == bytes(size)


@given(st.binary(max_size=300), parts, st.sampled_from([bytes, bytearray, memoryview]))
def test_what_was_framed_is_unframed(header, body, kind):
    head, payload = unframe(kind(joined(frame(header, body))))
    assert bytes(head) == header
    assert bytes(payload) == b"".join(body)


def test_bodies_are_passed_through_and_read_as_views():
    body = bytearray(b"tensor")
    buffers = frame(b"h", [body])
    assert buffers[1] is body
    data = bytearray(joined(buffers))
    _, payload = unframe(data)
    data[-1] = ord("X")
    assert bytes(payload) == b"tensoX"


@given(st.integers(0, 2**70 - 1), st.binary(max_size=3))
def test_a_varint_reads_as_it_was_written(value, rest):
    data = varint(value)
    assert read_varint(data + rest, 0) == (value, len(data))
    assert read_varint(b"?" + data + rest, 1) == (value, len(data) + 1)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9, b"\xff" * 11, b"\x80" * 100])
def test_a_varint_that_does_not_end_is_a_protocol_error(data):
    with pytest.raises(ProtocolError, match="a length is cut off or too long"):
        read_varint(data, 0)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", ProtocolError, "does not start with a header"),
        (b"\x12\x00", ProtocolError, "does not start with a header"),
        (b"\x0a", ProtocolError, "length is cut off"),
        (b"\x0a\x05abc", ProtocolError, "header is cut off"),
        (b"\x0a\x01h\x0a\x00", ProtocolError, "no body behind the header"),
        (b"\x0a\x01h\x12", ProtocolError, "length is cut off"),
        (b"\x0a\x01h\x12\x05abc", ProtocolError, "body of 3 bytes where 5 were announced"),
        (b"\x0a\x01h\x12\x02abc", ProtocolError, "body of 3 bytes where 2 were announced"),
        (b"\x0a" + b"\xff" * 9 + b"\x7f", LimitExceeded, "header of .* bytes is over"),
        (b"\x0a" + varint(MAX_HEADER_BYTES + 1), LimitExceeded, f"is over {MAX_HEADER_BYTES}"),
    ],
)
def test_what_is_no_message_is_refused_by_name(data, error, message):
    with pytest.raises(error, match=message):
        unframe(data)


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda data: b"\x0a" + data)))
def test_any_bytes_are_a_message_or_an_error_of_this_package(data):
    try:
        head, body = unframe(data)
    except (ProtocolError, LimitExceeded):
        return
    assert len(head) + len(body) < len(data)


def test_a_header_that_no_peer_would_take_is_not_sent():
    assert unframe(joined(frame(bytes(MAX_HEADER_BYTES))))
    with pytest.raises(LimitExceeded, match=f"is over {MAX_HEADER_BYTES}"):
        frame(bytes(MAX_HEADER_BYTES + 1))


def test_text_is_cut_and_freed_of_what_utf_8_cannot_carry():
    assert clean_text("gr\u00fc\u00dfe /tmp/\udcff!", 100) == "gr\u00fc\u00dfe /tmp/?!"
    assert clean_text("abcdef", 4) == "abcd"
