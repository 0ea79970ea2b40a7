"""The receiving half of a link over CoAP/UDP: blocks in, whole frames in order out, sans-IO."""

from __future__ import annotations

from collections import deque
from typing import Final

from collab.errors import ProtocolError
from collab.transport.coap.blocks import Block, encode_missing, read_block
from collab.transport.coap.message import (
    CHANGED,
    CONTENT_FORMAT,
    CONTINUE,
    INCOMPLETE,
    MISSING_BLOCKS,
    Q_BLOCK1,
    REQUEST_TAG,
    SIZE1,
    Option,
    encode_options,
    find,
    read_uint,
    uint,
)
from collab.transport.coap.recovery import ACK_DELAY_S
from collab.transport.coap.wire import (
    BLOCK_BYTES,
    FRAME_COST_BYTES,
    LIMIT,
    MAX_FRAME_BYTES,
    MOST_FRAMES,
    RANDOM_BYTES,
    SZX,
    WINDOW_BYTES,
)

MAX_PAYLOADS: Final = 10
"""Blocks after which the receiver says that it has them (RFC 9177 7.2)."""


class _Arriving:
    """A frame of which blocks are there."""

    __slots__ = ("blocks", "data", "first", "have", "left", "next", "silent", "size", "token", "urgent")

    def __init__(self, size: int) -> None:
        self.size = size
        self.blocks = max(-(-size // BLOCK_BYTES), 1)
        self.data = bytearray(size)
        self.have = bytearray(self.blocks)
        self.left = self.blocks
        self.first = 0
        """All blocks before this one are there."""
        self.next = 0
        """Behind the last block that is there."""
        self.token = b""
        """Of the last request."""
        self.silent = 0
        """Requests since the last answer."""
        self.urgent = False

    def put(self, block: Block, payload: bytes) -> None:
        """Take a block in; raises `ProtocolError` if it is no block of this frame."""
        at = block.number * BLOCK_BYTES
        last = block.number == self.blocks - 1
        if block.number >= self.blocks or block.more == last or block.szx != SZX:
            raise ProtocolError("coap: a block that its body does not have")
        if len(payload) != (self.size - at if last else BLOCK_BYTES):
            raise ProtocolError("coap: a block of the wrong size")
        self.silent += 1
        if self.have[block.number]:
            self.urgent = True  # an answer was lost
            return
        self.have[block.number] = 1
        self.data[at : at + len(payload)] = payload
        self.left -= 1
        if block.number != self.next:
            self.urgent = True
        self.next = max(self.next, block.number + 1)
        while self.first < self.blocks and self.have[self.first]:
            self.first += 1

    def missing(self) -> list[int]:
        """Blocks that were overtaken."""
        have = self.have
        return [block for block in range(self.first, self.next) if not have[block]]


class Receiver:
    """Reassembles frames and says which blocks are there."""

    def __init__(self) -> None:
        self._arriving: dict[int, _Arriving] = {}
        self._complete: dict[int, bytes | bytearray] = {}
        self._next = 0
        """First frame that is not complete."""
        self._frames: deque[bytes | bytearray] = deque()
        """Complete and in order, for the reader."""
        self.held_bytes = 0
        """Cost of all frames here, complete or not."""
        self._read = 0
        """Cost of all frames that were read."""
        self._told = WINDOW_BYTES
        self._touched: dict[int, _Arriving] = {}
        self._answers: list[tuple[int, int, bytes, bytes]] = []
        """Frame, code, token and the bytes behind it."""
        self._answer_at: float | None = None

    # --- for the reader -------------------------------------------------------

    @property
    def limit(self) -> int:
        """How far the window reaches."""
        return self._read + WINDOW_BYTES

    @property
    def limit_is_old(self) -> bool:
        """Whether the other end should hear of the window soon."""
        return self.limit - self._told >= WINDOW_BYTES // 4

    def told(self) -> None:
        """The other end is being told of the window."""
        self._told = self.limit

    @property
    def ready(self) -> bool:
        """Whether a frame can be read."""
        return bool(self._frames)

    def take(self) -> bytes | bytearray:
        """The next frame; there must be one."""
        frame = self._frames.popleft()
        cost = len(frame) + FRAME_COST_BYTES
        self.held_bytes -= cost
        self._read += cost
        return frame

    def drop(self) -> None:
        """Nobody will read any more."""
        self._arriving.clear()
        self._complete.clear()
        self._frames.clear()
        self._touched.clear()

    # --- for the network ------------------------------------------------------

    def posted(self, options: list[Option], payload: bytes, token: bytes, now: float) -> None:
        """A request brought a frame or a block; raises `ProtocolError` for what is neither."""
        tag = find(options, REQUEST_TAG)
        if tag is None or len(tag) != RANDOM_BYTES:
            raise ProtocolError("coap: a body without a Request-Tag")
        number = int.from_bytes(tag, "big")
        if number < self._next or number in self._complete:
            self._done(number, token)
            return
        if number >= self._next + MOST_FRAMES:
            raise ProtocolError("coap: a frame far ahead")
        value = find(options, Q_BLOCK1)
        block = read_block(value) if value is not None else Block(0, False, SZX)
        size = read_uint(find(options, SIZE1) or b"", 4) if value is not None else len(payload)
        frame = self._arriving.get(number) or self._start(size)
        if frame.size != size:
            raise ProtocolError("coap: the size of a body changed")
        frame.put(block, payload)
        frame.token = token
        if number not in self._arriving:
            self._arriving[number] = frame
            self.held_bytes += size + FRAME_COST_BYTES
        if frame.left:
            self._touched[number] = frame
            if self._answer_at is None:
                self._answer_at = now + ACK_DELAY_S
        else:
            self._finish(number, frame)

    def _start(self, size: int) -> _Arriving:
        if size > MAX_FRAME_BYTES:
            raise ProtocolError(f"coap: a body of {size} bytes is over {MAX_FRAME_BYTES}")
        if self.held_bytes + size + FRAME_COST_BYTES > WINDOW_BYTES:
            raise ProtocolError("coap: a body beyond the window")
        return _Arriving(size)

    def _finish(self, number: int, frame: _Arriving) -> None:
        del self._arriving[number]
        self._touched.pop(number, None)
        self._complete[number] = frame.data
        self._done(number, frame.token)
        while self._next in self._complete:
            self._frames.append(self._complete.pop(self._next))
            self._next += 1

    def _done(self, number: int, token: bytes) -> None:
        self._answers.append((number, CHANGED, token, encode_options(((LIMIT, uint(self.limit)),))))

    def answers(self, now: float) -> list[tuple[int, bytes, bytes]]:
        """Responses that are due: code, token, and the bytes behind it."""
        due = bool(self._answers) or (self._answer_at is not None and now >= self._answer_at)
        if not due and not any(
            frame.urgent or frame.silent >= MAX_PAYLOADS for frame in self._touched.values()
        ):
            return []
        # All that is there is told at once and in order, lest an answer overtake another
        # and what it is about be taken for lost.
        out, self._answers = self._answers, []
        for number, frame in self._touched.items():
            out.append((number, *self._progress(frame)))
            frame.silent, frame.urgent = 0, False
        self._touched.clear()
        self._answer_at = None
        self.told()
        out.sort(key=lambda one: one[0])
        return [(code, token, rest) for _, code, token, rest in out]

    def _progress(self, frame: _Arriving) -> tuple[int, bytes, bytes]:
        missing = frame.missing()
        upto = Block(max(frame.next - 1, 0), frame.next < frame.blocks, SZX).encode()
        limit = (LIMIT, uint(self.limit))
        if not missing:
            return CONTINUE, frame.token, encode_options(((Q_BLOCK1, upto), limit))
        options = ((CONTENT_FORMAT, uint(MISSING_BLOCKS)), (Q_BLOCK1, upto), limit)
        return INCOMPLETE, frame.token, encode_options(options) + b"\xff" + encode_missing(missing)

    def deadline(self) -> float | None:
        """When `answers` wants to be called."""
        return self._answer_at
