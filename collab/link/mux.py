"""Many messages over one connection: a sans-IO multiplexer.

Messages are cut into chunks that fit the transport's frames.  Control calls go
before tensors, tensors before blobs; within the tensor channel large messages
take turns, so a small tensor does not wait behind a large one.  Windows bound the
bytes in flight per channel: what is not yet in flight can still be overtaken.

Frame layout (little-endian)::

    0  u8   type: 1 hello, 2 data, 3 window, 4 ping, 5 pong, 6 bye,
          7 joined (by a relay)
    1  u8   channel: 0 control, 1 tensors, 2 blobs
    2  u8   flags of data: 1 first, 2 last
    3  u8   zero
    4  u32  message number, per channel and direction
    8  u64  data: total bytes of the message; window: bytes received so far;
            ping and pong: opaque; joined: longest frame that is handed on
    16      hello, data: bytes; bye: reason for people, or nothing
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from collab.codec.wire import Buffer
from collab.errors import LimitExceeded, ProtocolError

_HEAD: Final = struct.Struct("<BBBxIQ")
HEAD_BYTES: Final = _HEAD.size
_FIRST, _LAST = 1, 2
_MIN_WINDOW: Final = 64 * 1024


class Type(IntEnum):
    """Frame types."""

    HELLO = 1
    DATA = 2
    WINDOW = 3
    PING = 4
    PONG = 5
    BYE = 6
    JOINED = 7


class Channel(IntEnum):
    """Channels in the order of their priority."""

    CONTROL = 0
    TENSORS = 1
    BLOBS = 2


class Message(NamedTuple):
    """A complete message that arrived."""

    channel: Channel
    data: Buffer


@dataclass(frozen=True)
class MuxLimits:
    """Bounds on what a peer may make this end hold."""

    message_bytes: tuple[int, int, int] = (16 << 20, 256 << 20, 16 << 20)
    """Longest message by channel."""
    partial_bytes: tuple[int, int, int] = (32 << 20, 512 << 20, 32 << 20)
    """Memory reserved for unfinished messages, by channel."""
    partial_messages: int = 4096
    queued_bytes: int = 512 << 20
    """Bytes that may wait to be sent, on all channels; a peer that reads nothing cannot pile up more."""
    window_bytes: tuple[int, int, int] = (0, 8 << 20, 1 << 20)
    """Bytes in flight by channel; 0 means unbounded."""


@dataclass(slots=True)
class _Outgoing:
    number: int
    total: int
    parts: deque[memoryview]
    sent: Callable[[], None] | None
    started: bool = False


@dataclass(slots=True)
class _Incoming:
    data: memoryview
    filled: int = 0


@dataclass(slots=True)
class _Lane:
    """One channel's state in both directions."""

    queue: deque[_Outgoing] = field(default_factory=deque)
    next_number: int = 0
    sent: int = 0
    acknowledged: int = 0
    window: int = 0
    partial: dict[int, _Incoming] = field(default_factory=dict)
    partial_bytes: int = 0
    received: int = 0
    reported: int = 0


def head(type_: Type, channel: int = 0, flags: int = 0, number: int = 0, value: int = 0) -> bytes:
    """A frame's head."""
    return _HEAD.pack(type_, channel, flags, number & 0xFFFFFFFF, value)


class Mux:
    """Cuts outgoing messages into frames and joins incoming ones; does no I/O."""

    def __init__(self, max_frame_bytes: int, limits: MuxLimits = MuxLimits()) -> None:
        self._chunk = max_frame_bytes - HEAD_BYTES
        self._limits = limits
        self._lanes = tuple(_Lane() for _ in Channel)
        self._urgent: dict[bytes, bytes] = {}
        self._peer_limit = limits.message_bytes
        self._queued = 0

    def accept_hello(self, max_message_bytes: int, tensor_window: int, blob_window: int) -> None:
        """Keep to what the peer's hello allows."""
        control, tensors, blobs = self._limits.message_bytes
        self._peer_limit = (control, min(tensors, max_message_bytes), min(blobs, max_message_bytes))
        for channel, window in ((Channel.TENSORS, tensor_window), (Channel.BLOBS, blob_window)):
            if window:
                self._lanes[channel].window = max(window, _MIN_WINDOW)

    def send(self, channel: Channel, parts: Sequence[Buffer], sent: Callable[[], None] | None = None) -> None:
        """Queue a message; the buffers must stay as they are until it is sent.

        ``sent`` is called when the message's last frame has been taken.  Raises
        `LimitExceeded` if the peer does not take messages of that size.
        """
        views = deque(memoryview(part) for part in parts if len(part))
        total = sum(map(len, views))
        if total > self._peer_limit[channel]:
            raise LimitExceeded(
                f"message of {total} bytes is over the {self._peer_limit[channel]} bytes that this link takes"
            )
        if self._queued + total > self._limits.queued_bytes:
            raise LimitExceeded(f"{self._queued} bytes wait for this link already; it is too slow or stuck")
        self._queued += total
        lane = self._lanes[channel]
        lane.queue.append(_Outgoing(lane.next_number, total, views, sent))
        lane.next_number += 1

    def send_frame(self, frame: bytes) -> None:
        """Queue a frame of its own before everything else.

        It replaces one of the same type and channel that still waits: of pings, pongs and
        windows only the newest counts, and a peer that reads nothing cannot pile them up.
        """
        self._urgent[frame[:2]] = frame

    @property
    def sent_bytes(self) -> int:
        """Bytes of messages that were cut into frames so far."""
        return sum(lane.sent for lane in self._lanes)

    @property
    def received_bytes(self) -> int:
        """Bytes of messages that arrived so far."""
        return sum(lane.received for lane in self._lanes)

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait to be sent."""
        return self._queued

    def next_frame(self) -> list[Buffer] | None:
        """Buffers of the next frame to send, or None if nothing may be sent now."""
        if self._urgent:
            return [self._urgent.pop(next(iter(self._urgent)))]
        for channel, lane in enumerate(self._lanes):
            if lane.queue:
                room = lane.window - (lane.sent - lane.acknowledged) if lane.window else self._chunk
                if room > 0:
                    return self._chunk_of(channel, lane, min(self._chunk, room))
        return None

    def _chunk_of(self, channel: int, lane: _Lane, room: int) -> list[Buffer]:
        out = lane.queue.popleft()
        flags = 0 if out.started else _FIRST
        out.started = True
        taken: list[Buffer] = []
        size = 0
        while out.parts and size < room:
            part = out.parts.popleft()
            if len(part) > room - size:
                out.parts.appendleft(part[room - size :])
                part = part[: room - size]
            taken.append(part)
            size += len(part)
        lane.sent += size
        self._queued -= size
        if not out.parts:
            flags |= _LAST
            if out.sent is not None:
                out.sent()
        elif channel == Channel.TENSORS:
            lane.queue.append(out)
        else:
            lane.queue.appendleft(out)
        return [head(Type.DATA, channel, flags, out.number, out.total), *taken]

    def receive(self, channel: int, flags: int, number: int, total: int, chunk: memoryview) -> Message | None:
        """Take a data frame; returns the message that it completes.

        Raises `ProtocolError` or `LimitExceeded`; the link cannot go on then.
        """
        if channel >= len(self._lanes):
            raise ProtocolError(f"frame: channel {channel} is not known")
        lane = self._lanes[channel]
        lane.received += len(chunk)
        if flags & _FIRST and flags & _LAST:
            if len(chunk) != total:
                raise ProtocolError(f"frame: {len(chunk)} bytes where {total} were announced")
            if total > self._limits.message_bytes[channel]:
                raise LimitExceeded(f"frame: message of {total} bytes is over the limit")
            return Message(Channel(channel), chunk)
        incoming = self._begin(channel, lane, number, total) if flags & _FIRST else lane.partial.get(number)
        if incoming is None:
            raise ProtocolError(f"frame: message {number} was never begun")
        end = incoming.filled + len(chunk)
        if end > len(incoming.data) or total != len(incoming.data):
            raise ProtocolError(f"frame: message {number} is longer than announced")
        incoming.data[incoming.filled : end] = chunk
        incoming.filled = end
        if not flags & _LAST:
            return None
        del lane.partial[number]
        lane.partial_bytes -= total
        if end != total:
            raise ProtocolError(f"frame: message {number} is shorter than announced")
        return Message(Channel(channel), incoming.data)

    def _begin(self, channel: int, lane: _Lane, number: int, total: int) -> _Incoming:
        limits = self._limits
        if number in lane.partial:
            raise ProtocolError(f"frame: message {number} was begun twice")
        if total > limits.message_bytes[channel]:
            raise LimitExceeded(f"frame: message of {total} bytes is over {limits.message_bytes[channel]}")
        if lane.partial_bytes + total > limits.partial_bytes[channel]:
            raise LimitExceeded(
                f"frame: unfinished messages would take over {limits.partial_bytes[channel]} bytes"
            )
        if len(lane.partial) >= limits.partial_messages:
            raise LimitExceeded(f"frame: over {limits.partial_messages} unfinished messages")
        lane.partial_bytes += total
        # Not zeroed: the system hands out the pages as they are filled.
        lane.partial[number] = incoming = _Incoming(np.empty(total, np.uint8).data)
        return incoming

    def window(self, channel: int, received: int) -> None:
        """Take a window frame; raises `ProtocolError` for bytes that were never sent."""
        if channel >= len(self._lanes) or received > self._lanes[channel].sent:
            raise ProtocolError("frame: a window acknowledges what was not sent")
        lane = self._lanes[channel]
        lane.acknowledged = max(lane.acknowledged, received)

    def windows_due(self) -> Iterator[bytes]:
        """Window frames that this end should send now."""
        for channel, lane in enumerate(self._lanes):
            window = self._limits.window_bytes[channel]
            if window and lane.received - lane.reported >= max(window // 4, 1):
                lane.reported = lane.received
                yield head(Type.WINDOW, channel, value=lane.received)


def parse(frame: Buffer) -> tuple[Type, int, int, int, int, memoryview]:
    """Type, channel, flags, number, value and body of a frame; raises `ProtocolError`."""
    if len(frame) < HEAD_BYTES:
        raise ProtocolError(f"frame of {len(frame)} bytes is too short")
    type_, channel, flags, number, value = _HEAD.unpack_from(frame)
    try:
        kind = Type(type_)
    except ValueError:
        raise ProtocolError(f"frame: type {type_} is not known") from None
    return kind, channel, flags, number, value, memoryview(frame)[HEAD_BYTES:]
