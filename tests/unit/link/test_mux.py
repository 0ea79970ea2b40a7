"""The multiplexer as a machine without I/O: two of them, and a wire that the test moves."""

from __future__ import annotations

import random
import tracemalloc
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.errors import LimitExceeded, ProtocolError
from collab.link.mux import HEAD_BYTES, Channel, Mux, MuxLimits, Type, head, parse

FIRST, LAST = 1, 2
CONTROL, TENSORS, BLOBS = Channel
MIB = 1 << 20


def body_of(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def frame_of(parts) -> bytes:
    return b"".join(map(bytes, parts))


class Pair:
    """A sender, a receiver, and what travels between them in both directions."""

    def __init__(self, max_frame_bytes: int, windows: tuple[int, int] = (8 * MIB, MIB)) -> None:
        limits = MuxLimits(window_bytes=(0, *windows))
        self.max_frame_bytes = max_frame_bytes
        self.sender, self.receiver = Mux(max_frame_bytes, limits), Mux(max_frame_bytes, limits)
        self.sender.accept_hello(limits.message_bytes[TENSORS], *windows)
        self.windows = (0, *windows)
        self.there: deque[bytes] = deque()
        self.back: deque[bytes] = deque()
        self.queued: list[list[bytes]] = [[], [], []]
        self.left = [0, 0, 0]
        """Bytes of a channel that were queued and not yet taken."""
        self.sent = [0, 0, 0]
        self.acknowledged = [0, 0, 0]
        self.received: list[list[bytes]] = [[], [], []]
        self.reported_sent: list[int] = []

    def send(self, channel: Channel, body: bytes, pieces: int = 1) -> None:
        step = max(1, -(-len(body) // pieces))
        parts = [body[i : i + step] for i in range(0, len(body), step)]
        number = len(self.queued[channel])
        self.sender.send(channel, parts, lambda: self.reported_sent.append(number))
        self.queued[channel].append(body)
        self.left[channel] += len(body)

    def write(self) -> bool:
        """Take one frame and check that it is the one that should go now."""
        parts = self.sender.next_frame()
        if parts is None:
            for lane in Channel:
                full = self.windows[lane] and self.in_flight(lane) == self.windows[lane]
                assert full or not self.left[lane], f"channel {lane} has something to send"
            return False
        frame = frame_of(parts)
        assert len(frame) <= self.max_frame_bytes
        type_, channel, _, _, _, chunk = parse(frame)
        assert type_ is Type.DATA
        for higher in range(channel):
            blocked = self.windows[higher] and self.in_flight(higher) == self.windows[higher]
            assert blocked or not self.left[higher], f"channel {higher} should have gone before {channel}"
        self.left[channel] -= len(chunk)
        self.sent[channel] += len(chunk)
        if self.windows[channel]:
            assert self.in_flight(channel) <= self.windows[channel]
        self.there.append(frame)
        return True

    def in_flight(self, channel: int) -> int:
        return self.sent[channel] - self.acknowledged[channel]

    def deliver(self) -> bool:
        if not self.there:
            return False
        _, channel, flags, number, value, chunk = parse(self.there.popleft())
        message = self.receiver.receive(channel, flags, number, value, chunk)
        if message is not None:
            self.received[message.channel].append(bytes(message.data))
        self.back.extend(self.receiver.windows_due())
        return True

    def acknowledge(self) -> bool:
        if not self.back:
            return False
        type_, channel, _, _, value, body = parse(self.back.popleft())
        assert type_ is Type.WINDOW
        assert not body
        assert value <= self.sent[channel]
        self.sender.window(channel, value)
        self.acknowledged[channel] = max(self.acknowledged[channel], value)
        return True

    def settle(self) -> None:
        while self.acknowledge() or self.deliver() or self.write():
            pass


@st.composite
def scripts(draw):
    """A frame size, windows, and what happens: messages of any size, and moves of the wire."""
    if draw(st.booleans()):
        frame_bytes, largest = draw(st.integers(HEAD_BYTES + 1, HEAD_BYTES + 40)), 300
    else:
        frame_bytes, largest = draw(st.integers(1000, 30_000)), 150_000
    windows = draw(st.tuples(*[st.sampled_from([64 * 1024, 65_537, 100_000, 8 * MIB])] * 2))
    size = st.one_of(st.integers(0, largest), st.sampled_from([0, 1, frame_bytes - HEAD_BYTES]))
    send = st.tuples(st.sampled_from(Channel), size, st.integers(1, 4))
    move = st.tuples(st.sampled_from("wda"), st.integers(1, 30))
    return frame_bytes, windows, draw(st.lists(st.one_of(send, move), max_size=40))


@settings(max_examples=300, deadline=None)
@given(scripts())
def test_every_message_arrives_once_and_intact_whatever_the_order_of_moves(script):
    frame_bytes, windows, steps = script
    pair = Pair(frame_bytes, windows)
    for number, step in enumerate(steps):
        if len(step) == 3:
            channel, size, pieces = step
            pair.send(channel, body_of(number, size), pieces)
        else:
            what, times = step
            move = {"w": pair.write, "d": pair.deliver, "a": pair.acknowledge}[what]
            for _ in range(times):
                if not move():
                    break
        assert pair.sender.queued_bytes == sum(pair.left)
    pair.settle()
    assert pair.received[CONTROL] == pair.queued[CONTROL]
    assert pair.received[BLOBS] == pair.queued[BLOBS]
    assert sorted(pair.received[TENSORS]) == sorted(pair.queued[TENSORS])
    assert len(pair.reported_sent) == sum(map(len, pair.queued))
    assert pair.sender.queued_bytes == 0


def test_each_message_is_reported_when_its_last_frame_is_taken():
    pair = Pair(HEAD_BYTES + 10)
    pair.send(CONTROL, b"x" * 25)
    pair.send(CONTROL, b"")
    seen = []
    while pair.write():
        seen.append(list(pair.reported_sent))
    assert seen == [[], [], [0], [0, 1]]


def test_a_small_tensor_waits_for_one_frame_of_each_large_one_at_most():
    pair = Pair(1000)
    for i in range(5):
        pair.send(TENSORS, body_of(i, 50_000))
    assert pair.write()
    assert pair.deliver()
    pair.send(TENSORS, b"small")
    for _ in range(6):
        assert pair.write()
        assert pair.deliver()
    assert pair.received[TENSORS] == [b"small"]
    pair.settle()
    assert len(pair.received[TENSORS]) == 6


def test_a_call_overtakes_tensors_and_blobs_that_are_not_yet_in_flight():
    pair = Pair(1000)
    pair.send(BLOBS, body_of(1, 20_000))
    pair.write()
    pair.send(TENSORS, body_of(2, 20_000))
    pair.write()
    pair.send(CONTROL, b"call")
    pair.write()
    for _ in range(3):
        pair.deliver()
    assert pair.received[CONTROL] == [b"call"]


def test_a_full_window_stops_its_channel_and_no_other():
    pair = Pair(10_000, windows=(64 * 1024, 64 * 1024))
    pair.send(TENSORS, body_of(1, 200_000))
    while pair.write():
        pass
    assert pair.in_flight(TENSORS) == 64 * 1024
    pair.send(BLOBS, b"blob")
    pair.send(CONTROL, b"call")
    assert pair.write()
    assert pair.write()
    assert not pair.write()
    pair.settle()
    assert [len(messages) for messages in pair.received] == [1, 1, 1]


def test_a_receiver_reports_a_quarter_of_its_window_at_a_time():
    pair = Pair(1016, windows=(64 * 1024, 64 * 1024))
    pair.send(TENSORS, body_of(1, 64 * 1024))
    while pair.write() or pair.deliver():
        pass
    values = [parse(frame)[4] for frame in pair.back]
    assert values == [17_000, 34_000, 51_000]


@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_tiny_window_of_ones_own_reports_only_what_was_received(window):
    mux = Mux(1000, MuxLimits(window_bytes=(0, window, 0)))
    assert list(mux.windows_due()) == []
    mux.receive(TENSORS, FIRST | LAST, 0, 5, memoryview(b"tenso"))
    assert list(mux.windows_due()) == [head(Type.WINDOW, TENSORS, value=5)]
    assert list(mux.windows_due()) == []


def test_no_window_in_the_hello_means_unbounded():
    mux = Mux(HEAD_BYTES + 100_000)
    mux.accept_hello(256 * MIB, 0, 0)
    mux.send(TENSORS, [bytes(20 * MIB)])
    mux.send(BLOBS, [bytes(3 * MIB)])
    taken = 0
    while (parts := mux.next_frame()) is not None:
        taken += sum(map(len, parts[1:]))
    assert taken == 23 * MIB


def test_chunks_are_views_of_the_senders_buffers():
    mux = Mux(1000)
    mux.accept_hello(256 * MIB, 0, 0)
    body = bytearray(b"a" * 5000)
    mux.send(TENSORS, [body])
    frames = []
    while (parts := mux.next_frame()) is not None:
        frames.append(parts)
    body[:] = b"b" * 5000
    assert b"".join(bytes(part) for parts in frames for part in parts[1:]) == b"b" * 5000


def test_only_the_newest_frame_of_a_kind_waits_so_that_nobody_can_pile_them_up():
    mux = Mux(1000)
    for value in range(1000):
        mux.send_frame(head(Type.PONG, value=value))
        mux.send_frame(head(Type.WINDOW, TENSORS, value=value))
        mux.send_frame(head(Type.WINDOW, BLOBS, value=value))
    mux.send(CONTROL, [b"call"])
    taken = []
    while (parts := mux.next_frame()) is not None:
        type_, channel, _, _, value, _ = parse(frame_of(parts))
        taken.append((type_, channel, value))
    assert taken == [
        (Type.PONG, 0, 999),
        (Type.WINDOW, TENSORS, 999),
        (Type.WINDOW, BLOBS, 999),
        (Type.DATA, CONTROL, 4),
    ]


def test_a_message_that_the_peer_does_not_take_is_refused_when_it_is_sent():
    mux = Mux(1000)
    mux.accept_hello(5000, 0, 0)
    for channel in (TENSORS, BLOBS):
        with pytest.raises(LimitExceeded, match="5001 bytes is over the 5000"):
            mux.send(channel, [bytes(5000), b"x"])
        mux.send(channel, [bytes(5000)])
    with pytest.raises(LimitExceeded, match=str(16 * MIB)):
        mux.send(CONTROL, [bytes(16 * MIB + 1)])


def test_what_waits_is_bounded_over_all_channels_and_room_comes_back():
    mux = Mux(HEAD_BYTES + 1000, MuxLimits(queued_bytes=5000))
    mux.accept_hello(256 * MIB, 0, 0)
    mux.send(TENSORS, [bytes(3000)])
    mux.send(BLOBS, [bytes(2000)])
    for channel in Channel:
        with pytest.raises(LimitExceeded, match="5000 bytes wait for this link already"):
            mux.send(channel, [b"x"])
    assert mux.next_frame() is not None
    mux.send(CONTROL, [bytes(1000)])
    with pytest.raises(LimitExceeded):
        mux.send(CONTROL, [b"x"])
    taken = 0
    while (parts := mux.next_frame()) is not None:
        taken += sum(map(len, parts[1:]))
    assert taken == 5000
    mux.send(TENSORS, [bytes(5000)])


# --- what a peer may send ----------------------------------------------------

SMALL = MuxLimits(
    message_bytes=(1000, 2000, 3000),
    partial_bytes=(1500, 2500, 3500),
    partial_messages=3,
    window_bytes=(0, 400, 400),
)


def receive(mux: Mux, channel: int, flags: int, number: int, total: int, chunk: bytes = b""):
    return mux.receive(channel, flags, number, total, memoryview(chunk))


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([(3, FIRST | LAST, 0, 1, b"x")], ProtocolError, "channel 3 is not known"),
        ([(255, 0, 0, 0, b"")], ProtocolError, "channel 255 is not known"),
        ([(1, 0, 7, 4, b"x")], ProtocolError, "message 7 was never begun"),
        ([(1, LAST, 7, 4, b"x")], ProtocolError, "message 7 was never begun"),
        ([(1, FIRST, 7, 9, b"x"), (2, 0, 7, 9, b"x")], ProtocolError, "message 7 was never begun"),
        ([(1, FIRST, 7, 9, b"x"), (1, FIRST, 7, 9, b"x")], ProtocolError, "message 7 was begun twice"),
        ([(1, FIRST, 7, 4, b"12345")], ProtocolError, "message 7 is longer than announced"),
        ([(1, FIRST, 7, 4, b"12"), (1, LAST, 7, 4, b"345")], ProtocolError, "longer than announced"),
        ([(1, FIRST, 7, 4, b"12"), (1, LAST, 7, 5, b"345")], ProtocolError, "longer than announced"),
        ([(1, FIRST, 7, 4, b"12"), (1, LAST, 7, 4, b"3")], ProtocolError, "shorter than announced"),
        ([(1, FIRST, 7, 4, b"1234"), (1, LAST, 7, 4, b""), (1, 0, 7, 4, b"")], ProtocolError, "never begun"),
        ([(1, FIRST | LAST, 7, 4, b"12345")], ProtocolError, "5 bytes where 4 were announced"),
        ([(1, FIRST | LAST, 7, 4, b"123")], ProtocolError, "3 bytes where 4 were announced"),
        ([(0, FIRST | LAST, 0, 1001, b"x" * 1001)], LimitExceeded, "over 1000|over the limit"),
        ([(0, FIRST, 0, 1001, b"x")], LimitExceeded, "1001 bytes is over 1000"),
        ([(1, FIRST, 0, 2001, b"x")], LimitExceeded, "2001 bytes is over 2000"),
        ([(2, FIRST, 0, 2**64 - 1, b"x")], LimitExceeded, "over 3000"),
        ([(1, FIRST, 0, 2000, b""), (1, FIRST, 1, 501, b"")], LimitExceeded, "take over 2500 bytes"),
        ([(1, FIRST, i, 0, b"") for i in range(4)], LimitExceeded, "over 3 unfinished messages"),
    ],
)
def test_a_frame_that_breaks_a_rule_is_refused_by_name(frames, error, message):
    mux = Mux(1000, SMALL)
    for frame in frames[:-1]:
        receive(mux, *frame)
    with pytest.raises(error, match=message):
        receive(mux, *frames[-1])


def test_finished_messages_give_their_room_back():
    mux = Mux(1000, SMALL)
    for number in range(50):
        assert receive(mux, 1, FIRST, number, 2000, b"x" * 1500) is None
        message = receive(mux, 1, LAST, number, 2000, b"y" * 500)
        assert bytes(message.data) == b"x" * 1500 + b"y" * 500


@pytest.mark.parametrize(
    ("sent", "channel", "received"), [(0, 1, 1), (100, 1, 101), (0, 3, 0), (0, 255, 0), (100, 2, 1)]
)
def test_a_window_for_bytes_that_were_never_sent_is_a_protocol_error(sent, channel, received):
    mux = Mux(1000)
    mux.send(TENSORS, [bytes(sent)])
    while mux.next_frame() is not None:
        pass
    with pytest.raises(ProtocolError, match="window"):
        mux.window(channel, received)


def test_an_old_window_takes_nothing_back():
    mux = Mux(HEAD_BYTES + 64 * 1024, MuxLimits(window_bytes=(0, 64 * 1024, 0)))
    mux.accept_hello(256 * MIB, 64 * 1024, 0)
    mux.send(TENSORS, [bytes(3 * 64 * 1024)])
    assert mux.next_frame() is not None
    assert mux.next_frame() is None
    mux.window(TENSORS, 64 * 1024)
    mux.window(TENSORS, 1000)
    parts = mux.next_frame()
    assert parts is not None
    assert len(parts[1]) == 64 * 1024


def peak_of(work) -> int:
    """Peak of the memory that Python and numpy allocate during some work, in bytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_no_memory_is_reserved_for_a_size_over_a_limit():
    limits = replace(SMALL, message_bytes=(1000, 200 * MIB, 3000), partial_bytes=(1500, 220 * MIB, 3500))
    mux = Mux(1000, limits)

    def announce(total):
        with pytest.raises(LimitExceeded):
            receive(mux, 1, FIRST, 9, total, b"x")

    assert peak_of(lambda: announce(200 * MIB + 1)) < 100_000
    assert peak_of(lambda: announce(2**63)) < 100_000
    assert 100 * MIB <= peak_of(lambda: receive(mux, 1, FIRST, 0, 100 * MIB, b"x")) < 101 * MIB
    assert peak_of(lambda: announce(121 * MIB)) < 100_000


frames = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 2), st.integers(0, 255)),
        st.one_of(st.integers(0, 3), st.integers(0, 255)),
        st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)),
        st.one_of(st.integers(0, 60), st.sampled_from([999, 1001, 2000, 3001, 2**31, 2**64 - 1])),
        st.binary(max_size=60),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(frames)
def test_any_frames_raise_nothing_else_and_hold_no_more_than_the_limits(sequence):
    mux = Mux(1000, SMALL)

    def play():
        delivered = 0
        for channel, flags, number, total, chunk in sequence:
            try:
                message = receive(mux, channel, flags, number, total, chunk)
            except (ProtocolError, LimitExceeded):
                return
            if message is not None:
                assert len(message.data) == total
                delivered += 1
            for window in mux.windows_due():
                assert parse(window)[0] is Type.WINDOW

    assert peak_of(play) < sum(SMALL.partial_bytes) + 200_000


@given(st.binary(max_size=80))
def test_any_bytes_parse_or_are_a_protocol_error(data):
    try:
        type_, channel, flags, number, value, body = parse(data)
    except ProtocolError:
        return
    assert head(type_, channel, flags, number, value)[:3] == data[:3]
    assert head(type_, channel, flags, number, value)[4:] + body == data[4:]


@pytest.mark.parametrize("data", [b"", b"\x02" * 15, b"\x00" * 16, b"\x08" + bytes(15), b"\xff" * 40])
def test_a_frame_that_is_too_short_or_of_no_type_is_a_protocol_error(data):
    with pytest.raises(ProtocolError, match=r"^frame"):
        parse(data)


@given(
    st.sampled_from(Type),
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=9),
)
def test_a_head_reads_as_it_was_written(type_, channel, flags, number, value, body):
    data = head(type_, channel, flags, number, value) + body
    assert len(data) == HEAD_BYTES + len(body)
    assert parse(data) == (type_, channel, flags, number, value, memoryview(body))


def test_message_numbers_wrap_around():
    mux = Mux(1000)
    mux._lanes[CONTROL].next_number = 2**32 - 1
    other = Mux(1000)
    for body in (b"last", b"first"):
        mux.send(CONTROL, [body])
        _, channel, flags, number, value, chunk = parse(frame_of(mux.next_frame()))
        assert bytes(other.receive(channel, flags, number, value, chunk).data) == body
