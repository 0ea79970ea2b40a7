"""CoAP as bytes: what is written is read again, and junk raises only our error."""

from __future__ import annotations

import contextlib

import aiocoap
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.errors import ProtocolError
from collab.transport.coap.blocks import Block, encode_missing, read_block, read_missing
from collab.transport.coap.message import (
    CON,
    POST,
    Q_BLOCK1,
    SIZE1,
    URI_PATH,
    Message,
    encode_options,
    parse,
    read_options,
    uint,
)
from collab.transport.coap.stream import MAX_MESSAGE_BYTES, Phase, Stream, frame, head, message, read_head
from collab.transport.coap.wire import MAX_FRAME_BYTES, Body, Peer, resource

OPTIONS = st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=300)), max_size=8).map(
    lambda options: tuple(sorted(options, key=lambda option: option[0]))
)


@given(
    st.integers(0, 3),
    st.integers(1, 255),
    st.integers(0, 65535),
    st.binary(max_size=8),
    OPTIONS,
    st.binary(max_size=50),
)
def test_a_message_is_read_as_it_was_written(kind, code, mid, token, options, payload):
    made = Message(kind, code, mid, token, options, payload)
    assert parse(made.encode()) == made


@given(st.binary(max_size=100))
def test_junk_is_a_message_or_a_protocol_error(junk):
    for data in (junk, b"\x40\x02\x12\x34" + junk):
        with contextlib.suppress(ProtocolError):
            parse(data)


def test_a_block_request_is_read_by_another_implementation():
    body = Body(7, bytes(range(256)) * 20)
    data = body.datagram(Peer(resource(b"n" * 11), b"secret"), 300, 2)
    read = aiocoap.Message.decode(data)
    assert read.code == aiocoap.POST
    assert read.opt.uri_path == ("collab", "link", "n" * 11)
    assert read.token == b"secret" + (300).to_bytes(2, "big")
    assert len(read.payload) == 1024
    assert parse(data).option(Q_BLOCK1) == Block(2, True, 6).encode()
    assert parse(data).option(SIZE1) == uint(5120)
    assert len(data) <= 1280 - 48, "fits the least MTU of IPv6"


@given(st.integers(0, (1 << 20) - 1), st.booleans(), st.integers(0, 7))
def test_block_values_are_read_as_they_were_written(number, more, szx):
    block = Block(number, more, szx)
    assert read_block(block.encode()) == block
    assert len(block.encode()) <= 3
    assert block.size_bytes == 16 << min(szx, 6)


@given(st.sets(st.integers(0, (1 << 20) - 1), max_size=64))
def test_missing_blocks_are_read_as_they_were_written(numbers):
    ordered = sorted(numbers)
    assert read_missing(encode_missing(ordered), 64) == ordered


@pytest.mark.parametrize(
    "data", [b"\x01\x01", b"\x05\x02", b"\x18", b"\x1b" + bytes(8), b"\x61a", b"\x1a\xff\xff\xff\xff"]
)
def test_what_is_no_ascending_list_of_block_numbers_is_refused(data):
    with pytest.raises(ProtocolError):
        read_missing(data, 10)


def test_a_list_of_missing_blocks_is_bounded():
    with pytest.raises(ProtocolError):
        read_missing(bytes(range(11)), 10)


# --- RFC 8323 ----------------------------------------------------------------


@given(
    st.one_of(st.integers(0, 400), st.sampled_from([12, 13, 268, 269, 65804, 65805, 1 << 20])),
    st.binary(max_size=8),
)
def test_the_head_of_a_message_is_read_as_it_was_written(size, token):
    written = head(POST, token, size)
    read = read_head(written, MAX_MESSAGE_BYTES)
    assert read is not None
    assert (read.size, read.code, read.token, read.at) == (len(written) + size, POST, token, len(written))
    for cut in range(len(written)):
        assert read_head(written[:cut], MAX_MESSAGE_BYTES) is None


def test_a_length_over_the_limit_is_refused_before_its_bytes_arrive():
    with pytest.raises(ProtocolError, match="over"):
        read_head(b"\xf0\xff\xff\xff\xff", MAX_MESSAGE_BYTES)


def opened() -> tuple[Stream, Stream]:
    near, far = Stream(dialler=True), Stream(dialler=False)
    told = [feed(far, near.start())[1], feed(near, far.start())[1]]
    feed(near, told[0])
    return near, far


def feed(stream: Stream, data: bytes) -> tuple[list[bytes], bytes]:
    frames, answers = [], b""
    while data:
        start = read_head(data, stream.most_bytes)
        assert start is not None
        taken, answer = stream.take(start, data[: start.size])
        frames += [bytes(taken)] if taken is not None else []
        answers += answer
        data = data[start.size :]
    return frames, answers


def test_a_link_opens_and_carries_frames():
    near, far = opened()
    assert near.phase is far.phase is Phase.LINK
    assert near.max_frame_bytes == far.max_frame_bytes == 1 << 20
    for size in (0, 1, 12, 300, 70_000):
        assert feed(far, frame([bytes(size)], size)) == ([bytes(size)], b"")


def test_signals_are_answered_and_end_the_link():
    near, _ = opened()
    assert feed(near, message(0xE2, b"t"))[1] == message(0xE3, b"t")
    feed(near, message(0xE4))
    assert near.phase is Phase.OVER


def test_requests_of_a_stranger_are_answered():
    stream = Stream(dialler=False)
    ask = encode_options([(URI_PATH, b".well-known"), (URI_PATH, b"core")])
    feed(stream, message(0xE1))
    _, answer = feed(stream, head(1, b"t", len(ask)) + ask)
    assert b"</collab/link>" in answer
    for code, options, wanted in (
        (1, ((URI_PATH, b"x"),), 0x84),
        (3, ((URI_PATH, b"collab"), (URI_PATH, b"link")), 0x85),
    ):
        _, answer = feed(stream, message(code, b"t", options))
        read = read_head(answer, 100)
        assert read is not None
        assert read.code == wanted
    assert stream.phase is Phase.STRANGER


def test_nothing_comes_before_the_settings():
    with pytest.raises(ProtocolError, match="CSM"):
        feed(Stream(dialler=False), message(1, b"t"))


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=6), st.booleans())
def test_junk_in_a_stream_is_an_answer_or_a_protocol_error(messages, dialler):
    stream = Stream(dialler=dialler)
    try:
        for code, rest in messages:
            _, answer = feed(stream, head(code, b"", len(rest)) + rest)
            assert len(answer) < 200
    except ProtocolError:
        pass


@given(st.binary(max_size=60))
def test_options_are_read_or_refused(junk):
    try:
        options, at = read_options(junk, 0)
    except ProtocolError:
        return
    assert at <= len(junk)
    assert all(0 <= number <= 65535 for number, _ in options)


def test_the_largest_frame_has_a_number_for_each_block():
    assert Body(0, bytes(MAX_FRAME_BYTES)).blocks == MAX_FRAME_BYTES // 1024
    assert parse(Message(CON, POST, 1).encode()).payload == b""
