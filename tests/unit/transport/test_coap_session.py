"""Sessions over CoAP/UDP on a simulated network with a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collab.transport.coap.handshake import Dial, Door, Hello, created
from collab.transport.coap.message import ECHO, parse
from collab.transport.coap.session import GOODBYE_S, SILENCE_S, Session, State
from collab.transport.coap.wire import (
    BLOCK_BYTES,
    FRAME_COST_BYTES,
    MAX_FRAME_BYTES,
    WINDOW_BYTES,
    Peer,
    resource,
)

NEAR, FAR = resource(b"near-------"), resource(b"far--------")


def pair(now: float = 0.0) -> tuple[Session, Session]:
    return (
        Session(NEAR, Peer(FAR, b"secret"), WINDOW_BYTES, now),
        Session(FAR, Peer(NEAR, b"SECRET"), WINDOW_BYTES, now),
    )


class Net:
    """Two sessions and what is on its way between them."""

    def __init__(self, seed=0, loss=0.0, duplicate=0.0, delay_s=0.01, spread_s=0.0):
        self.now = 0.0
        self.ends = pair()
        self.loss, self.duplicate, self.delay_s, self.spread_s = loss, duplicate, delay_s, spread_s
        self.chance = random.Random(seed)
        self.flying: list[tuple[float, int, int, bytes]] = []
        self.count = 0
        self.dropped = 0
        self.reads = True
        self.received: tuple[list[bytes], list[bytes]] = ([], [])
        self.most_held = 0

    def flush(self, at: int) -> None:
        for datagram in self.ends[at].datagrams(self.now):
            for _ in range(1 + (self.chance.random() < self.duplicate)):
                self.count += 1
                if self.chance.random() < self.loss:
                    self.dropped += 1
                    continue
                arrives = self.now + self.delay_s + self.chance.random() * self.spread_s
                heapq.heappush(self.flying, (arrives, self.count, 1 - at, datagram))

    def step(self) -> None:
        """On to the next event."""
        due = [self.flying[0][0]] if self.flying else []
        due += [at for end in self.ends if (at := end.deadline()) is not None]
        assert due, "nothing will ever happen"
        self.now = max(self.now, min(due))
        for end in self.ends:
            if (at := end.deadline()) is not None and at <= self.now:
                end.tick(self.now)
        while self.flying and self.flying[0][0] <= self.now:
            _, _, to, datagram = heapq.heappop(self.flying)
            self.ends[to].receive(datagram, self.now)
        self.settle()

    def settle(self) -> None:
        for at, end in enumerate(self.ends):
            self.most_held = max(self.most_held, end.receiver.held_bytes)
            while self.reads and end.receiver.ready:
                self.received[at].append(bytes(end.take()))
            self.flush(at)

    def until(self, done, within_s=600.0) -> None:
        while not done():
            self.step()
            assert self.now < within_s, f"not done after {within_s} simulated seconds"


def frames_of(sizes: list[int]) -> list[bytes]:
    return [random.Random(i).randbytes(size) for i, size in enumerate(sizes)]


SIZES = st.lists(
    st.one_of(
        st.sampled_from([0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 20 * BLOCK_BYTES]),
        st.integers(0, 60_000),
    ),
    max_size=12,
)


@given(
    SIZES,
    SIZES,
    st.integers(0, 2**32),
    st.floats(0, 0.4),
    st.floats(0, 0.5),
    st.floats(0, 0.2),
    st.floats(0, 0.3),
)
def test_frames_arrive_in_order_and_once_over_any_network(there, back, seed, loss, twice, delay, spread):
    net = Net(seed, loss, twice, delay, spread)
    want = (frames_of(back), frames_of(there))
    for end, frames in zip(net.ends, reversed(want), strict=True):
        for frame in frames:
            end.send(frame)
    net.settle()
    net.until(lambda: net.received == want or not all(end.is_open for end in net.ends))
    # Under heavy loss a run of losses may look like a dead peer; nothing else may end it.
    assert net.received == want or loss > 0.1
    for got, sent in zip(net.received, want, strict=True):
        assert got == sent[: len(got)]
    assert net.most_held <= WINDOW_BYTES


@pytest.mark.parametrize("loss", [0.0, 0.001, 0.01, 0.05])
def test_a_megabyte_makes_progress_at_every_loss_rate(loss):
    net = Net(seed=5, loss=loss)
    body = frames_of([MAX_FRAME_BYTES] * 4)
    for frame in body:
        net.ends[0].send(frame)
    net.settle()
    net.until(lambda: len(net.received[1]) == 4)
    assert net.received[1] == body
    # Stop-and-wait takes a round trip of 20 ms a block; the first round trip is a guess of 333 ms.
    assert net.now < 1024 * 0.02 / (50 if loss <= 0.001 else 10)


def test_reordering_alone_costs_few_repetitions():
    net = Net(seed=3, delay_s=0.01, spread_s=0.005)
    for frame in frames_of([MAX_FRAME_BYTES] * 4):
        net.ends[0].send(frame)
    net.settle()
    net.until(lambda: len(net.received[1]) == 4)
    assert net.ends[0].sender.sent < 1.5 * 4 * MAX_FRAME_BYTES / BLOCK_BYTES


def test_a_reader_that_stops_holds_a_window_and_goes_on_where_it_stopped():
    net = Net()
    net.reads = False
    frames = frames_of([MAX_FRAME_BYTES] * 12)
    for frame in frames:
        net.ends[0].send(frame)
    net.settle()
    net.until(lambda: net.now > 30)
    assert WINDOW_BYTES / 2 < net.ends[1].receiver.held_bytes <= WINDOW_BYTES
    assert all(end.is_open for end in net.ends)
    net.reads = True
    net.settle()
    net.until(lambda: len(net.received[1]) == 12)
    assert net.received[1] == frames
    assert net.ends[1].receiver.held_bytes == 0


def test_many_small_frames_count_for_what_they_cost():
    net = Net()
    net.reads = False
    for _ in range(10_000):
        net.ends[0].send(b"x")
    net.settle()
    net.until(lambda: net.now > 5)
    assert net.ends[1].receiver.held_bytes <= WINDOW_BYTES
    net.reads = True
    net.settle()
    net.until(lambda: len(net.received[1]) == 10_000)
    assert FRAME_COST_BYTES > 0


def test_total_loss_ends_both_ends_within_the_limit():
    net = Net()
    net.ends[0].send(b"hello")
    net.settle()
    net.until(lambda: net.received[1] == [b"hello"])
    began, net.loss = net.now, 1.0
    net.ends[0].send(b"into the void")
    net.settle()
    net.until(lambda: not any(end.is_open for end in net.ends))
    assert SILENCE_S <= net.now - began + 0.1 <= SILENCE_S + 1
    assert "silent" in net.ends[0].cause


def test_an_idle_connection_stays_and_says_little():
    net = Net()
    net.until(lambda: net.now > 120)
    assert all(end.is_open for end in net.ends)
    assert net.count < 300


@given(st.integers(0, 2**32), st.floats(0, 0.3))
def test_close_delivers_what_was_sent_and_then_tells_the_other_end(seed, loss):
    net = Net(seed, loss)
    frames = frames_of([5, 3000, 0])
    for frame in frames:
        net.ends[0].send(frame)
    net.ends[0].close(net.now)
    net.settle()
    net.until(lambda: net.ends[0].state is State.OVER)
    assert net.now <= 2 + 2 * GOODBYE_S
    if loss < 0.05:
        assert net.received[1] == frames
        assert net.ends[1].state is State.OVER


def test_abort_tells_the_other_end_at_once():
    net = Net()
    net.ends[0].send(bytes(100_000))
    net.ends[0].abort(net.now)
    net.settle()
    net.until(lambda: all(end.state is State.OVER for end in net.ends))
    assert net.now < 0.1


def test_a_forged_refusal_ends_nothing_while_the_other_end_answers():
    net = Net()
    for _ in range(20):
        net.ends[0].refused(net.now)
        net.settle()
        end = net.now + 0.5
        net.until(lambda end=end: net.now > end)
    assert net.ends[0].is_open
    net.loss = 1.0
    net.flying.clear()
    net.ends[0].refused(net.now)
    began = net.now
    net.until(lambda: not net.ends[0].is_open)
    assert net.now - began < 2


@given(st.data())
def test_no_mutated_datagram_harms_a_session(data):
    """Bytes change, but the resource and the secrets of the connection stay right."""
    net = Net()
    net.ends[0].send(bytes(5000))
    net.ends[1].send(b"short")
    seen: list[tuple[int, bytes]] = []
    for at in (0, 1):
        seen += [(1 - at, datagram) for datagram in net.ends[at].datagrams(net.now)]
    for to, datagram in list(seen):
        net.ends[to].receive(datagram, net.now)
        seen += [(1 - to, answer) for answer in net.ends[to].datagrams(net.now + 0.02)]
    for _ in range(20):
        to, datagram = data.draw(st.sampled_from(seen))
        mutated = bytearray(datagram)
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(10, len(mutated) - 1))
            mutated[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(12, len(mutated)))
        net.ends[to].receive(bytes(mutated[:cut]), net.now)
        assert net.ends[to].receiver.held_bytes <= WINDOW_BYTES
        net.ends[to].datagrams(net.now)


@given(st.binary(max_size=200))
def test_random_options_and_payloads_reserve_nothing_beyond_the_window(junk):
    _, far = pair()
    for code in (1, 2, 3):
        far.receive(Peer(FAR, b"secret").request(code, 7, junk), 0.0)
    far.receive(bytes((0x58, 0x5F, 0, 0)) + b"SECRET\x00\x00" + junk, 0.0)
    assert far.receiver.held_bytes <= WINDOW_BYTES


# --- the handshake -----------------------------------------------------------


def fixed(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def test_a_listener_keeps_nothing_until_an_address_has_proven_itself():
    door, dial = Door(fixed), Dial(fixed, random.Random(1), 0.0)
    (hello,) = dial.datagrams(0.0)
    challenge = door.answer(parse(hello), b"place", 0.0)
    assert isinstance(challenge, bytes)
    assert len(challenge) <= len(hello)
    dial.receive(parse(challenge), 0.01)
    (proven,) = dial.datagrams(0.01)
    assert parse(proven).option(ECHO) is not None
    # Only this address, this hello, this process, and for a while.
    assert isinstance(door.answer(parse(proven), b"elsewhere", 0.02), bytes)
    assert isinstance(door.answer(parse(proven), b"place", 60.0), bytes)
    assert isinstance(Door(lambda n: b"k" * n).answer(parse(proven), b"place", 0.02), bytes)
    accepted = door.answer(parse(proven), b"place", 0.02)
    assert isinstance(accepted, Hello)
    dial.receive(parse(created(parse(proven), b"n" * 11)), 0.03)
    assert dial.peer is not None
    assert dial.peer.resource == resource(b"n" * 11)


def test_a_dial_repeats_itself_with_growing_pauses_and_gives_up():
    dial = Dial(fixed, random.Random(1), 0.0)
    sent = []
    while not dial.done:
        now = dial.deadline()
        sent += [now] * len(dial.datagrams(now))
    pauses = [b - a for a, b in itertools.pairwise(sent)]
    assert len(sent) == 5
    assert 1 <= pauses[0] <= 1.5
    assert pauses[1:] == pytest.approx([2 * pause for pause in pauses[:-1]])
    assert dial.problem == "no answer"


@given(st.binary(max_size=120))
def test_no_answer_to_a_stranger_is_longer_than_what_it_sent(junk):
    from collab.errors import ProtocolError

    door = Door(fixed)
    for data in (junk, b"\x40\x02\x00\x01\xb6collab\x04link\xff" + junk):
        try:
            answer = door.answer(parse(data), b"place", 0.0)
        except ProtocolError:
            continue
        assert answer is None or len(answer) <= len(data)
