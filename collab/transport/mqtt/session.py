"""One end of a session over a broker, without I/O and without a clock.

A broker keeps order, but it may restart, lose what it held, or repeat it.  So packets
are numbered, acknowledged cumulatively and sent again from the first missing one
(go-back-N: a receiver keeps nothing out of order, so its memory is its window's).
A sync asks what has arrived; it is sent after a reconnect, when acknowledgements stay
away, and as a sign of life.  Every method that may have to send returns what to send.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from collab.codec.wire import Buffer
from collab.errors import CollabError, LimitExceeded, LinkLost, PeerUnreachable, ProtocolError
from collab.transport.mqtt.packet import (
    FROM_DIALLER,
    GAP,
    MORE,
    REPLY,
    RESUMED,
    Kind,
    Packet,
    Terms,
    head,
    parse_terms,
    parse_text,
    text,
)


class State(Enum):
    """Where a session stands."""

    CONNECTING = "dialled, not answered"
    HALF_OPEN = "accepted, the dialler has not gone on"
    OPEN = "open"
    CLOSING = "closed here, not acknowledged"
    ENDED = "ended"


_STREAM: Final = frozenset({Kind.DATA, Kind.ACK, Kind.SYNC, Kind.CLOSE, Kind.ABORT})
TAKES: Final = {
    State.CONNECTING: frozenset({Kind.ACCEPT, Kind.REFUSE, Kind.ABORT}),
    State.HALF_OPEN: _STREAM | {Kind.CONNECT},
    State.OPEN: _STREAM | {Kind.CONNECT, Kind.ACCEPT},
    State.CLOSING: _STREAM | {Kind.CONNECT, Kind.ACCEPT},
    State.ENDED: frozenset[Kind](),
}
"""Kinds of packets that mean something in each state; others are dropped as late."""


@dataclass(frozen=True)
class SessionConfig:
    """Times and bounds of a session; times in seconds."""

    window_bytes: int = 8 << 20
    """Bytes that the other end may have sent and the reader here not taken."""
    window_packets: int = 1024
    frame_bytes: int = 1 << 20
    """Longest frame; a window holds at least one."""
    packet_overhead_bytes: int = 64
    """What a packet counts beside its bytes."""
    ack_delay_s: float = 0.1
    retry_s: float = 0.5
    """Between syncs while acknowledgements stay away; doubles up to ``ping_s``."""
    ping_s: float = 2.0
    silence_limit_s: float = 15.0
    absent_limit_s: float = 6.0
    """As ``silence_limit_s``, where the broker itself says that nobody listens at the other end."""
    half_open_s: float = 5.0


class Out(NamedTuple):
    """A packet to be published."""

    kind: Kind
    data: bytes


class Session:
    """The state of one end; ``now`` is monotonic time in seconds."""

    def __init__(
        self, session: bytes, *, dialler: bool, qos: int, config: SessionConfig, chunk_bytes: int, now: float
    ) -> None:
        self.id = session
        self.dialler = dialler
        self.state = State.CONNECTING if dialler else State.HALF_OPEN
        self.error: CollabError | None = None
        """Why it ended."""
        self.duplicates = 0
        self.resent = 0
        self.chunk_bytes = chunk_bytes
        self._config = config
        self._flag = FROM_DIALLER if dialler else 0
        self._terms = Terms(config.window_bytes, config.window_packets, config.frame_bytes, qos)
        self._peer = Terms(config.frame_bytes, 1, config.frame_bytes, qos)
        # Sending: numbers up to `_acked` have arrived there, up to `_freed` their reader has taken.
        self._sent = self._acked = self._freed = 0
        self._unacked: deque[tuple[int, Out]] = deque()
        self._untaken: deque[tuple[int, int]] = deque()
        self._in_flight = 0
        # Receiving: numbers up to `_received` have arrived, up to `_taken` were taken.
        self._received = self._taken = 0
        self._inbox: deque[tuple[int, int, Buffer]] = deque()
        self._partial: list[Buffer] = []
        self._partial_bytes = self._unread = 0
        self._told_received = self._told_taken = 0
        self._untold = 0
        self._gap_told = -1
        # Time.
        self._began = self._heard = self._synced = now
        self._retry_s = config.retry_s
        self._ack_due: float | None = None
        self._absent: float | None = None

    @property
    def live(self) -> bool:
        """Whether frames can be sent."""
        return self.state in (State.OPEN, State.HALF_OPEN)

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be sent or received over the broker."""
        return self.state is State.ENDED

    @property
    def held_bytes(self) -> int:
        """Memory held for the other end: frames not taken here, packets not acknowledged there."""
        return self._unread + sum(len(out.data) for _, out in self._unacked)

    # --- this end --------------------------------------------------------------

    def connect(self) -> list[Out]:
        """Ask the other end for a session, or ask again."""
        return [self._make(Kind.CONNECT, body=self._terms.pack())]

    def accept(self, packet: Packet) -> list[Out]:
        """Take a connect; raises `ProtocolError` for terms that make no sense."""
        self._peer = parse_terms(packet.body)
        return [self._make(Kind.ACCEPT, body=self._terms.pack())]

    @property
    def frame_bytes(self) -> int:
        """Longest frame that both ends take."""
        return min(self._config.frame_bytes, self._peer.frame_bytes)

    def has_room(self, size: int) -> bool:
        """Whether the window takes a frame of this size now."""
        if not self._untaken:
            return True
        packets = -(-size // self.chunk_bytes) or 1
        return (
            self._in_flight + size + packets * self._config.packet_overhead_bytes <= self._peer.window_bytes
            and len(self._untaken) + packets <= self._peer.window_packets
        )

    def send(self, parts: Sequence[Buffer], now: float) -> list[Out]:
        """Send a frame for which `has_room`; the buffers are copied.

        Raises `LimitExceeded` for a frame over `frame_bytes` and `LinkLost` after the end.
        """
        size = sum(map(len, parts))
        if size > self.frame_bytes:
            raise LimitExceeded(f"frame of {size} bytes is over {self.frame_bytes}")
        if not self.live:
            raise self.error or LinkLost("it has ended")
        if not self._unacked:
            # From here on an acknowledgement is awaited.
            self._synced = max(self._synced, now)
        out = []
        chunks = [parts] if size <= self.chunk_bytes else _chunks(parts, self.chunk_bytes)
        for number, chunk in enumerate(chunks, 1):
            out.append(self._number(Kind.DATA, MORE if number < len(chunks) else 0, chunk))
        self._told()
        return out

    def take(self, now: float) -> tuple[Buffer | None, list[Out]]:
        """The next frame, None if there is none."""
        if not self._inbox:
            return None, []
        self._taken, size, data = self._inbox.popleft()
        self._unread -= size
        self._untold += size
        return data, self._ack_if_due(now)

    def close(self, now: float) -> list[Out]:
        """End it behind what was sent; it is `finished` when the other end has that."""
        self._drop_inbox()
        if not self.live:
            return self.abort("closed")
        self.state, self.error = State.CLOSING, LinkLost("it was ended here")
        self._synced = now
        return [self._number(Kind.CLOSE, 0, ())]

    def abort(self, reason: str = "ended by the other end") -> list[Out]:
        """End it now."""
        self._drop_inbox()
        if self.finished:
            return []
        out = [self._make(Kind.ABORT, body=text(reason))]
        self._end(LinkLost("it was ended here"))
        return out

    def resumed(self, now: float) -> list[Out]:
        """This end is back at the broker after a loss; what was under way may be lost."""
        if self.finished:
            return []
        self._heard = max(self._heard, now - self._config.silence_limit_s / 2)
        self._absent = None
        return self.connect() if self.state is State.CONNECTING else [self._sync(now, RESUMED)]

    def absent(self, now: float) -> None:
        """The broker says that nobody listens at the other end."""
        if self._absent is None:
            self._absent = now
        elif now - self._absent > self._config.absent_limit_s:
            self._end(LinkLost("the other end has left the broker"))

    # --- time ------------------------------------------------------------------

    def deadline(self) -> float | None:
        """When to call `tick` next at the latest."""
        if self.finished:
            return None
        config = self._config
        if self.state is State.HALF_OPEN:
            return self._began + config.half_open_s
        due = min(self._heard + config.silence_limit_s, self._next_sync())
        return due if self._ack_due is None else min(due, self._ack_due)

    def _next_sync(self) -> float:
        if self.state is State.CONNECTING or self._unacked or self._untaken:
            return self._synced + self._retry_s
        return max(self._heard, self._synced) + self._config.ping_s

    def tick(self, now: float) -> list[Out]:
        """Do what is due."""
        config = self._config
        if self.finished:
            return []
        if self.state is State.HALF_OPEN and now - self._began >= config.half_open_s:
            return self.abort("nothing came after the connect")
        if now - self._heard >= config.silence_limit_s:
            self._end(LinkLost(f"no sign of life for {now - self._heard:.1f} s"))
            return []
        out = []
        if self._ack_due is not None and now >= self._ack_due:
            out.append(self._ack())
        if self.state is not State.HALF_OPEN and now >= self._next_sync():
            self._retry_s = min(2 * self._retry_s, config.ping_s)
            if self.state is State.CONNECTING:
                self._synced = now
                return self.connect()
            out.append(self._sync(now))
        return out

    # --- the other end -----------------------------------------------------------

    def receive(self, packet: Packet, now: float) -> list[Out]:
        """Take a packet of this session.  What the protocol forbids ends the session."""
        if packet.kind not in TAKES[self.state]:
            return []
        self._heard, self._absent = now, None
        try:
            return self._dispatch(packet, now)
        except ProtocolError as error:
            out = [self._make(Kind.ABORT, body=text(str(error)))]
            self._end(error)
            return out

    def _dispatch(self, packet: Packet, now: float) -> list[Out]:
        kind = packet.kind
        if kind is Kind.CONNECT:  # the accept was lost
            return [] if self.dialler else self.accept(packet)
        if kind is Kind.ACCEPT:
            return self._accepted(packet, now)
        if kind is Kind.REFUSE:
            self._end(PeerUnreachable(f"refused: {parse_text(packet.body)}"))
            return []
        if kind is Kind.ABORT:
            self._end(LinkLost(parse_text(packet.body) or "ended by the other end"))
            return []
        if self.state is State.HALF_OPEN:
            self.state = State.OPEN
        self._absorb(packet.ack, packet.taken)
        if kind is Kind.DATA or kind is Kind.CLOSE:
            return self._take_numbered(packet, now)
        if self.finished:
            return []
        out = []
        behind = self._acked < (self._sent if packet.flags & RESUMED else packet.seq)
        if packet.flags & GAP or (packet.flags & (REPLY | RESUMED) and behind and packet.ack == self._acked):
            out += self._resend(now)
        if kind is Kind.SYNC:
            out.append(self._ack(REPLY, packet.seq))
        return out

    def _accepted(self, packet: Packet, now: float) -> list[Out]:
        if self.state is not State.CONNECTING:
            return []
        self._peer = parse_terms(packet.body)
        self.state, self._retry_s = State.OPEN, self._config.retry_s
        self._synced = now
        return [self._ack()]

    def _absorb(self, ack: int, taken: int) -> None:
        if ack > self._sent:
            raise ProtocolError("mqtt: a packet acknowledges what was not sent")
        if ack > self._acked:
            self._acked = ack
            # Progress: asking would gain nothing before the next pause.
            self._retry_s, self._synced = self._config.retry_s, self._heard
            while self._unacked and self._unacked[0][0] <= ack:
                self._unacked.popleft()
        if taken > self._freed:
            self._freed = taken
            while self._untaken and self._untaken[0][0] <= taken:
                self._in_flight -= self._untaken.popleft()[1]
        if self.state is State.CLOSING and self._acked == self._sent:
            self._end(LinkLost("it was ended here"))

    def _take_numbered(self, packet: Packet, now: float) -> list[Out]:
        if packet.seq <= self._received:
            self.duplicates += 1
            return [] if self.finished else [self._ack()]
        if packet.seq > self._received + 1:
            if self._gap_told == self._received or self.finished:
                return []
            self._gap_told = self._received
            return [self._ack(GAP)]
        self._received = packet.seq
        if packet.kind is Kind.CLOSE:
            out = [self._ack()]
            self._end(LinkLost("the other end closed it"))
            return out
        if self.state is not State.OPEN:  # closed here: nobody reads any more
            self._taken = self._received
            return [] if self.finished else self._ack_if_due(now)
        self._store(packet)
        return self._ack_if_due(now)

    def _store(self, packet: Packet) -> None:
        cost = len(packet.body) + self._config.packet_overhead_bytes
        self._unread += cost
        self._partial_bytes += cost
        self._partial.append(packet.body)
        config = self._config
        # A frame larger than the rest of the window is let in when the window is empty.
        if self._unread > config.window_bytes + config.frame_bytes + config.packet_overhead_bytes:
            raise ProtocolError(f"mqtt: the other end sends over the window of {config.window_bytes} bytes")
        if self._received - self._taken > config.window_packets + len(self._partial):
            raise ProtocolError(
                f"mqtt: the other end sends over the window of {config.window_packets} packets"
            )
        if sum(map(len, self._partial)) > config.frame_bytes:
            raise ProtocolError(f"mqtt: a frame is over {config.frame_bytes} bytes")
        if not packet.flags & MORE:
            frame = self._partial[0] if len(self._partial) == 1 else b"".join(self._partial)
            self._inbox.append((packet.seq, self._partial_bytes, frame))
            self._partial, self._partial_bytes = [], 0

    def _ack_if_due(self, now: float) -> list[Out]:
        if self.finished:
            return []
        config = self._config
        behind = max(self._received - self._told_received, self._taken - self._told_taken)
        if self._untold * 4 >= config.window_bytes or behind * 4 >= config.window_packets:
            return [self._ack()]
        if self._ack_due is None and behind:
            self._ack_due = now + config.ack_delay_s
        return []

    # --- packets -----------------------------------------------------------------

    def _make(self, kind: Kind, flags: int = 0, seq: int = 0, body: bytes = b"") -> Out:
        start = head(kind, flags | self._flag, self.id, seq, self._received, self._taken)
        return Out(kind, start + body)

    def _number(self, kind: Kind, flags: int, parts: Sequence[Buffer]) -> Out:
        self._sent += 1
        start = head(kind, flags | self._flag, self.id, self._sent, self._received, self._taken)
        out = Out(kind, b"".join((start, *parts)))
        cost = len(out.data) - len(start) + self._config.packet_overhead_bytes
        self._unacked.append((self._sent, out))
        self._untaken.append((self._sent, cost))
        self._in_flight += cost
        return out

    def _told(self) -> None:
        self._told_received, self._told_taken = self._received, self._taken
        self._untold = 0
        self._ack_due = None

    def _ack(self, flags: int = 0, seq: int = 0) -> Out:
        self._told()
        return self._make(Kind.ACK, flags, seq)

    def _sync(self, now: float, flags: int = 0) -> Out:
        self._synced = now
        self._told()
        return self._make(Kind.SYNC, flags, self._sent)

    def _resend(self, now: float) -> list[Out]:
        self._synced = now
        self.resent += len(self._unacked)
        return [out for _, out in self._unacked]

    def _drop_inbox(self) -> None:
        self._inbox.clear()
        self._partial = []
        self._unread = self._partial_bytes = 0

    def _end(self, error: CollabError) -> None:
        if not self.finished:
            self.error = self.error or error
            self.state = State.ENDED
            self._unacked.clear()
            self._untaken.clear()
            self._partial = []


def _chunks(parts: Sequence[Buffer], size: int) -> list[list[Buffer]]:
    """The parts as pieces of ``size`` bytes, the last one shorter; nothing is copied."""
    chunks: list[list[Buffer]] = [[]]
    room = size
    for part in parts:
        view = memoryview(part)
        while len(view):
            if not room:
                chunks.append([])
                room = size
            piece, view = view[:room], view[room:]
            chunks[-1].append(piece)
            room -= len(piece)
    return chunks
