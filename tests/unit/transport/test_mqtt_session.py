"""Two session machines over a broker that loses, repeats, reorders and disconnects."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collab.errors import LimitExceeded, LinkLost, ProtocolError
from collab.transport.mqtt.packet import (
    FROM_DIALLER,
    GAP,
    HEAD_BYTES,
    Kind,
    Terms,
    head,
    parse,
    parse_terms,
)
from collab.transport.mqtt.session import Out, Session, SessionConfig, State

ID = bytes(16)
SMALL = SessionConfig(window_bytes=4000, window_packets=12, frame_bytes=1500, packet_overhead_bytes=10)


class Pair:
    """Both ends, and what is on its way to each."""

    def __init__(self, config: SessionConfig = SMALL, chunk_bytes: int = 400, seed: int = 0) -> None:
        self.now = 100.0
        self.random = random.Random(seed)
        self.loss = self.repeats = self.swaps = 0.0
        self.ends = [
            Session(ID, dialler=dialler, qos=1, config=config, chunk_bytes=chunk_bytes, now=self.now)
            for dialler in (True, False)
        ]
        self.wires: list[deque[bytes]] = [deque(), deque()]
        """Packets to the dialler, packets to the listener."""
        self.received: list[list[bytes]] = [[], []]
        self.accepted = False

    def put(self, sender: int, out: list[Out]) -> None:
        wire = self.wires[1 - sender]
        for _, data in out:
            if self.random.random() < self.loss:
                continue
            wire.append(data)
            if self.random.random() < self.repeats:
                wire.append(data)
            if len(wire) > 1 and self.random.random() < self.swaps:
                wire[-1], wire[-2] = wire[-2], wire[-1]

    def deliver(self, receiver: int) -> bool:
        if not self.wires[receiver]:
            return False
        packet, end = parse(self.wires[receiver].popleft()), self.ends[receiver]
        if packet.kind is Kind.CONNECT and not self.accepted:
            self.accepted = True
            self.put(receiver, end.accept(packet))
        elif receiver == 0 or self.accepted:
            self.put(receiver, end.receive(packet, self.now))
        return True

    def read(self, who: int) -> bool:
        frame, out = self.ends[who].take(self.now)
        self.put(who, out)
        if frame is not None:
            self.received[who].append(bytes(frame))
        return frame is not None

    def send(self, who: int, frame: bytes) -> bool:
        end = self.ends[who]
        if end.state is not State.OPEN or not end.has_room(len(frame)):
            return False
        self.put(who, end.send([frame], self.now))
        return True

    def later(self, seconds: float) -> None:
        self.now += seconds
        for who, end in enumerate(self.ends):
            due = end.deadline()
            if due is not None and due <= self.now and (who == 0 or self.accepted):
                self.put(who, end.tick(self.now))

    def disconnect(self, who: int) -> None:
        """What the broker held for this end is gone; it comes back."""
        self.wires[who].clear()
        self.put(who, self.ends[who].resumed(self.now))

    def open(self) -> Pair:
        self.put(0, self.ends[0].connect())
        self.settle()
        assert [end.state for end in self.ends] == [State.OPEN, State.OPEN]
        return self

    def settle(self) -> None:
        while self.deliver(0) or self.deliver(1):
            pass


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.02, 0.2]),
    repeats=st.sampled_from([0.0, 0.1]),
    swaps=st.sampled_from([0.0, 0.1]),
    cuts=st.sampled_from([0.0, 0.01]),
)
def test_all_frames_arrive_once_and_in_order_whatever_the_broker_does(seed, loss, repeats, swaps, cuts):
    pair = Pair(SessionConfig(**{**_fields(SMALL), "silence_limit_s": 1e6, "half_open_s": 1e6}), seed=seed)
    pair.loss, pair.repeats, pair.swaps = loss, repeats, swaps
    choose = pair.random
    frames = [
        [choose.randbytes(choose.choice([0, 1, 50, 399, 400, 401, 1500])) for _ in range(40)] for _ in "ab"
    ]
    sent = [0, 0]
    pair.put(0, pair.ends[0].connect())
    for _ in range(30_000):
        who = choose.randrange(2)
        step = choose.random()
        if step < 0.3 and sent[who] < 40:
            sent[who] += pair.send(who, frames[who][sent[who]])
        elif step < 0.6:
            pair.deliver(who)
        elif step < 0.8:
            pair.read(who)
        elif step < 0.8 + cuts:
            pair.disconnect(who)
        elif step > 0.9:
            pair.later(choose.random() * 0.3)
        for end in pair.ends:
            # What the peer can make an end hold: a window, a frame over it, heads.
            assert end.held_bytes <= 2 * (SMALL.window_bytes + SMALL.frame_bytes) + 24 * HEAD_BYTES
        if all(len(got) == 40 for got in pair.received):
            break
    assert [end.error for end in pair.ends] == [None, None]
    assert pair.received[1] == frames[0]
    assert pair.received[0] == frames[1]


def _fields(config: SessionConfig) -> dict[str, float]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


@settings(max_examples=200)
@given(
    packets=st.lists(
        st.binary(max_size=80)
        | st.builds(
            head,
            st.sampled_from(Kind),
            st.integers(0, 255),
            st.just(ID),
            st.integers(0, 2**64 - 1) | st.integers(0, 4),
            st.integers(0, 2**64 - 1) | st.integers(0, 4),
            st.integers(0, 4),
        ),
        max_size=20,
    )
)
def test_no_packet_raises_anything_but_a_protocol_error(packets):
    pair = Pair().open()
    pair.send(1, b"frame")
    for data in packets:
        try:
            packet = parse(data)
        except ProtocolError:
            continue
        pair.ends[1].receive(packet, pair.now)
        pair.ends[1].take(pair.now)


def test_a_lost_packet_is_asked_for_at_once_and_sent_again():
    pair = Pair().open()
    pair.send(0, b"one")
    pair.wires[1].clear()
    pair.send(0, b"two")
    pair.deliver(1)
    assert parse(pair.wires[0][-1]).flags & GAP
    pair.settle()
    assert [pair.read(1), pair.read(1)] == [True, True]
    assert pair.received[1] == [b"one", b"two"]


def test_the_last_packet_is_sent_again_after_a_pause():
    pair = Pair().open()
    pair.send(0, b"last")
    pair.wires[1].clear()
    pair.later(0.4)
    assert not pair.wires[1]
    pair.later(0.2)
    pair.settle()
    assert pair.read(1)
    assert pair.ends[0].resent == 1


def test_a_slow_reader_stops_the_sender_and_reading_frees_it():
    pair = Pair().open()
    count = 0
    while pair.send(0, bytes(400)):
        pair.settle()
        count += 1
    assert count * 410 <= SMALL.window_bytes
    for _ in range(60):
        pair.later(0.5)
        pair.settle()
    assert not pair.send(0, bytes(400))
    assert pair.ends[0].error is None
    while pair.read(1):
        pair.settle()
    pair.later(0.2)
    pair.settle()
    assert pair.send(0, bytes(400))


def test_a_sender_over_the_window_is_cut_off():
    pair = Pair(SMALL).open()
    pair.ends[0]._peer = Terms(1 << 20, 1 << 20, 1500, 1)
    for _ in range(20):
        pair.send(0, bytes(400))
    pair.settle()
    assert isinstance(pair.ends[1].error, ProtocolError)
    assert pair.ends[0].finished


def test_a_peer_that_stays_silent_ends_the_session_at_the_limit():
    pair = Pair().open()
    for _ in range(29):
        pair.later(0.5)
        pair.wires[0].clear()
    assert pair.ends[0].error is None
    pair.later(1.0)
    assert isinstance(pair.ends[0].error, LinkLost)


def test_an_absent_peer_ends_the_session_sooner_unless_it_comes_back():
    pair = Pair().open()
    end = pair.ends[0]
    end.absent(pair.now)
    end.absent(pair.now + 5.9)
    assert end.live
    pair.send(1, b"back")
    pair.settle()
    end.absent(pair.now + 7)
    assert end.live
    end.absent(pair.now + 14)
    assert end.finished


def test_a_connect_that_nobody_confirms_ends_half_open():
    pair = Pair()
    pair.put(0, pair.ends[0].connect())
    pair.deliver(1)
    assert pair.ends[1].state is State.HALF_OPEN
    pair.wires[0].clear()
    pair.later(SMALL.half_open_s)
    assert pair.ends[1].finished


def test_a_repeated_connect_is_answered_and_opens_no_second_session():
    pair = Pair()
    pair.put(0, [*pair.ends[0].connect(), *pair.ends[0].connect()])
    pair.settle()
    pair.send(0, b"once")
    pair.settle()
    assert pair.read(1)
    assert not pair.read(1)


def test_replayed_frames_are_counted_and_dropped():
    pair = Pair().open()
    pair.send(0, b"frame")
    copy = pair.wires[1][0]
    pair.settle()
    pair.wires[1].append(copy)
    pair.settle()
    assert [pair.read(1), pair.read(1)] == [True, False]
    assert pair.ends[1].duplicates == 1


def test_close_ends_both_ends_behind_the_frames():
    pair = Pair().open()
    pair.send(0, b"before")
    pair.put(0, pair.ends[0].close(pair.now))
    pair.settle()
    assert [end.state for end in pair.ends] == [State.ENDED, State.ENDED]
    assert pair.read(1)
    with pytest.raises(LinkLost):
        pair.ends[1].send([b"late"], pair.now)


def test_a_lost_close_is_sent_again():
    pair = Pair().open()
    pair.put(0, pair.ends[0].close(pair.now))
    pair.wires[1].clear()
    pair.later(0.6)
    pair.settle()
    assert [end.state for end in pair.ends] == [State.ENDED, State.ENDED]


def test_frames_over_the_limit_and_terms_without_room_are_refused():
    pair = Pair().open()
    with pytest.raises(LimitExceeded, match="1500"):
        pair.ends[0].send([bytes(1501)], pair.now)
    for terms in (Terms(0, 0, 0, 1), Terms(10, 1, 11, 1), Terms(10, 1, 10, 3)):
        with pytest.raises(ProtocolError):
            parse_terms(terms.pack())
    with pytest.raises(ProtocolError):
        parse_terms(b"short")


@pytest.mark.parametrize(
    "data", [b"", bytes(HEAD_BYTES - 1), bytes(HEAD_BYTES), head(Kind.ACK, 0, ID, 0, 1, 2), b"\xff" * 60]
)
def test_what_is_no_packet_is_a_protocol_error(data):
    with pytest.raises(ProtocolError):
        parse(data)


def test_an_acknowledgement_of_what_was_not_sent_ends_the_session():
    pair = Pair().open()
    out = pair.ends[1].receive(parse(head(Kind.ACK, FROM_DIALLER, ID, 0, 7, 7)), pair.now)
    assert isinstance(pair.ends[1].error, ProtocolError)
    assert [made.kind for made in out] == [Kind.ABORT]
